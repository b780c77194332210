"""The ladder's figure."""

from pathlib import Path

import numpy as np

from vdm.io.plots import make_figure, save_figure


def plot_samples(path: Path, samples: dict[str, np.ndarray], num_codes: int) -> None:
    """A line of samples for each rung: codes [num, height, width, 1]."""
    figure, (axes,) = make_figure(6.75, 0.4 * len(samples) + 0.2)
    lines = [np.concatenate(list(codes[:, :, :, 0]), axis=1) for codes in samples.values()]
    gap = np.zeros((1, lines[0].shape[1]))
    stacked = np.concatenate([part for line in lines for part in (line, gap)][:-1])
    axes.imshow(
        stacked / (num_codes - 1),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="auto",
    )
    height = lines[0].shape[0]
    axes.set_yticks([(height + 1) * i + (height - 1) / 2 for i in range(len(samples))])
    axes.set_yticklabels(list(samples))
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save_figure(figure, path)
