"""The figure of the ladder."""

from pathlib import Path

import numpy as np

from vdm.io.plots import PAGE, make_figure, save_figure


def plot_samples(path: Path, samples: dict[str, np.ndarray], num_codes: int) -> None:
    """Draws one row of samples for each rung, codes [num, height, width, 1], separated by white."""
    figure, (axes,) = make_figure(PAGE, 0.385 * len(samples) + 0.1)
    white = ((0, 0), (0, 1), (0, 1))
    lines = [
        np.concatenate(
            list(np.pad(codes[:, :, :, 0], white, constant_values=num_codes - 1)), axis=1
        )
        for codes in samples.values()
    ]
    axes.imshow(
        np.concatenate(lines)[:-1, :-1] / (num_codes - 1),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    height = lines[0].shape[0]
    axes.set_yticks([height * i + height / 2 - 1 for i in range(len(samples))])
    axes.set_yticklabels([name.replace("inf", "∞").replace("_", " ") for name in samples])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save_figure(figure, path)
