"""Figures show the numbers they were given, without touching matplotlib's global state."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.programs import run_python
from vdm.evaluation.diagnostics import diagnose
from vdm.io import plots
from vdm.io.plots import (
    plot_comparison,
    plot_loss_density,
    plot_points,
    plot_schedule,
)

T = np.linspace(0.0, 1.0, 50)
RUNS = [
    {"run": "runs/a", "bpd": 3.0, "stderr_images": 0.1},
    {"run": "runs/b", "bpd": 2.5, "stderr_images": None, "difference": -0.5,
     "difference_stderr_images": 0.02},
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The matplotlib figures, recorded instead of saved."""
    figures: list = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def draw_all(folder: Path) -> None:
    rng = np.random.default_rng(0)
    plot_schedule(folder / "omega.png", T, -8 + 13 * T**2, -8 + 13 * T)
    omega = rng.uniform(-8, 5, 400)
    density = rng.chisquare(3, 400)
    plot_loss_density(
        folder / "loss_density.png", diagnose(omega, density, 13 * density), T, -8 + 13 * T
    )
    plot_points(folder / "points.png", rng.normal(size=(99, 2)), rng.normal(size=(50, 2)))
    plot_comparison(folder / "compare.png", RUNS)


@pytest.fixture(scope="module")
def folder_of_another_process(tmp_path_factory):
    """All figures, drawn by a process that checks its imports."""
    folder = tmp_path_factory.mktemp("figures")
    script = """
        import sys
        import vdm.io.plots, vdm.io.images, vdm.io.metrics_log, vdm.io.atomic
        heavy = {"matplotlib", "PIL", "tensorboardX", "jax", "orbax"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        from pathlib import Path
        from tests.io.test_plots import draw_all
        draw_all(Path(sys.argv[1]))
        assert "matplotlib.pyplot" not in sys.modules
    """
    done = run_python(script, folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def test_figures_are_png_of_printable_size(folder_of_another_process):
    names = sorted(os.listdir(folder_of_another_process))
    assert names == ["compare.png", "loss_density.png", "omega.png", "points.png"]
    for path in folder_of_another_process.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 3.4 <= image.width / 300 <= 7.0
            assert round(image.info["dpi"][0]) == 300


def test_import_is_light_and_drawing_leaves_pyplot_alone(folder_of_another_process):
    assert any(folder_of_another_process.iterdir())  # the process has checked it, and drawn


def test_schedule_figure_shows_omega_and_snr_of_both(tmp_path, drawn):
    omega, initial = -8 + 13 * T**2, -8 + 13 * T
    plot_schedule(tmp_path / "omega.png", T, omega, initial)
    left, right = drawn[0].axes
    for axes, function in ((left, lambda w: w), (right, lambda w: np.exp(-w))):
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_allclose(lines["learned"].get_ydata(), function(omega))
        np.testing.assert_allclose(lines["initial"].get_ydata(), function(initial))
        assert lines["learned"].get_linestyle() != lines["initial"].get_linestyle()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")


def test_loss_density_shows_the_diagnosis(tmp_path, drawn):
    omega = np.linspace(-8.0, 5.0, 4000)
    found = diagnose(omega, 1 / (1 + np.exp(omega)), np.ones(4000) + omega)
    plot_loss_density(tmp_path / "a.png", found, [0.0, 0.5, 1.0], [-8.0, 0.0, 5.0])
    left, middle, right = drawn[0].axes
    assert (
        left.get_title() == f"integral {found.integral:.3f} ± {found.integral_stderr:.3f} bits/dim"
    )
    np.testing.assert_array_equal(left.lines[0].get_ydata(), found.density)
    shares = middle.patches[0].get_data().values * np.diff(found.edges)
    np.testing.assert_allclose(shares.sum(), 1.0)
    np.testing.assert_array_equal(right.lines[0].get_xdata(), found.optimal_t)
    np.testing.assert_array_equal(right.lines[1].get_ydata(), [-8.0, 0.0, 5.0])


def test_a_bin_of_one_draw_has_no_interval_and_the_others_keep_theirs(tmp_path, drawn):
    omega = np.concatenate([[0.0], np.ones(100), [2.0, 3.0]])
    found = diagnose(omega, np.arange(103.0), np.ones(103))
    plot_loss_density(tmp_path / "a.png", found, [0.0, 1.0], [0.0, 3.0])
    left = drawn[0].axes[0]
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [0.0, 51.5])
    np.testing.assert_allclose(left.get_ylim(), [0.0, 1.35 * (51.5 + found.half_width[1])])


def test_a_schedule_for_each_dimension_is_drawn_as_median_and_range(tmp_path, drawn):
    t = np.linspace(0.0, 1.0, 5)
    omega = np.stack([t - 1, t, t + 3], axis=1)
    plot_schedule(tmp_path / "a.png", t, omega, omega)
    left = drawn[0].axes[0]
    np.testing.assert_array_equal(left.lines[1].get_ydata(), t)
    low, high = left.collections[0].get_datalim(left.transData).intervaly
    np.testing.assert_allclose([low, high], [-1.0, 4.0])


def test_points_beyond_the_data_are_counted_not_hidden(tmp_path, drawn):
    data = np.array([[-1.0, 0.0], [1.0, 0.5]])
    plot_points(tmp_path / "a.png", np.array([[0.0, 0.0], [50.0, 0.0]]), data)
    left, right = drawn[0].axes
    assert left.get_title() == "2 data points"
    assert right.get_title() == "2 samples (1 outside)"
    assert left.get_xlim() == right.get_xlim()
    assert left.get_xlim()[1] < 2.0
    np.testing.assert_array_equal(left.collections[0].get_offsets(), data)


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plot_points(path, np.ones((3, 3)), np.ones((3, 2))),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, draw: Callable[[Path], None]):
    with pytest.raises(ValueError, match=r"must be \[n, 2\]"):
        draw(tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_a_comparison_shows_each_run_and_its_interval(tmp_path, drawn):
    plot_comparison(tmp_path / "compare.png", RUNS)
    left, right = drawn[-1].axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    (interval,) = right.containers[0][2][0].get_segments()
    np.testing.assert_allclose(interval[:, 0], [-0.5 - 1.96 * 0.02, -0.5 + 1.96 * 0.02])
    plot_comparison(tmp_path / "few.png", [{"run": "a", "bpd": 3.0, "stderr_images": 0.1}], 4.3)
    (interval,) = drawn[-1].axes[0].containers[0][2][0].get_segments()
    np.testing.assert_allclose(interval[:, 0], [3.0 - 0.43, 3.0 + 0.43])
    points = left.containers[0][0]
    np.testing.assert_array_equal(points.get_xdata(), [3.0, 2.5])
