"""The notebooks are committed without outputs, and run from top to bottom."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# What a notebook leaves behind, by its variables; it asserts its claims in its own cells too.
CLAIMS = {
    "tour": [
        "(same == images).all()",
        "bits.stderr_images > bits.stderr_monte_carlo > 0",
        "bpd_of['vdm'] < bpd_of['this page'] < bpd_of['pixel_histograms']",
        "weighted.mean < fifty_steps.mean",
        "ancestral.shape == solver.shape == (32, 8, 8, 1)",
        "len(content) < len(zipped)",
    ],
    "learned_snr": [
        "list(checkpoints) == [100, 200, 300, 400, 500]",
        "max(found, key=lambda k: found[k].summary()['denoising_variance']) == 'beta_linear'",
        "np.ptp([e.summary()['bpd'] for e in found.values()]) < 0.1",
        "diagnosis.optimal_variance < found['variance'].summary()['denoising_variance']",
        "rows[-1]['ratio'] < 0.5 < rows[0]['ratio'] < 2",
    ],
    "ladder": [
        "len(rungs) == 11",
        "np.all(np.diff(history) >= -1e-9)",
        "0.64 < gap.min() < 0.75",
        "1.9 < gaps[-2] / gaps[-1] < 2.1",
        "distances[-1] < 1e-4 < distances[0]",
    ],
}


def test_there_are_claims_for_each_notebook():
    assert [path.stem for path in NOTEBOOKS] == sorted(CLAIMS)


@each_notebook
def test_committed_notebook_is_stripped_and_valid(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each_notebook
def test_notebook_names_no_place_on_a_machine(path):
    text = path.read_text()
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp|work|mnt|usr|var)/|[A-Z]:\\\\", text)


@each_notebook
def test_links_and_pictures_of_a_notebook_exist(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link


# Fewer draws and smaller batches than a reader is shown, by notebook; its claims must hold with
# these too.
SMALL_BATCHES = ("\n\nmodel = vdm.train(", "\nconfig.train.batch_size = 32\n\nmodel = vdm.train(")
FEWER_DRAWS = {
    "tour": [
        SMALL_BATCHES,
        ("draws=100", "draws=25"),
        ("bpd(images, draws=50", "bpd(images, draws=10"),
    ],
    "learned_snr": [SMALL_BATCHES, ("draws=128", "draws=32")],
    "ladder": [],
}


def with_fewer_draws(name, cell):
    """The cell for a quick execution, and how many of the replacements it has."""
    found = [pair for pair in FEWER_DRAWS[name] if pair[0] in cell.source]
    for shown, quick in found:
        cell.source = cell.source.replace(shown, quick)
    return len(found)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """{name of a notebook: its executed cells}, with a last one of its claims.

    One kernel executes all, so that they share imports and what is compiled; its variables are
    removed between two notebooks. `ladder` is the last, as it turns to float64.
    """
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    together, spans = nbformat.v4.new_notebook(), {}
    for path in sorted(NOTEBOOKS, key=lambda path: path.stem == "ladder"):
        name, cells = path.stem, nbformat.read(path, as_version=4).cells
        assert sum(with_fewer_draws(name, cell) for cell in cells) == len(FEWER_DRAWS[name])
        checks = "\n".join(f"assert {claim}, {claim!r}" for claim in CLAIMS[name])
        cells.append(nbformat.v4.new_code_cell(checks))
        begin = len(together.cells)
        together.cells += [*cells, nbformat.v4.new_code_cell("%reset -f")]
        spans[name] = slice(begin, begin + len(cells))
    before = sorted((ROOT / "notebooks").iterdir())
    with pytest.MonkeyPatch.context() as patch:
        # The kernel inherits the cache of compilations, but not conftest's least optimisation: it
        # computes much.
        patch.delenv("XLA_FLAGS", raising=False)
        patch.setenv("PYTHONPATH", str(ROOT))
        # A kernel that is killed does not remove its temporary folders.
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("kernel")))
        folder = {"metadata": {"path": str(ROOT / "notebooks")}}
        nbclient.NotebookClient(
            together, timeout=3600, resources=folder, allow_errors=True
        ).execute()
    assert sorted((ROOT / "notebooks").iterdir()) == before, "a notebook writes where it lies"
    return {name: together.cells[span] for name, span in spans.items()}


@pytest.mark.slow
@each_notebook
def test_notebook_runs_and_its_claims_hold(path, executed):
    outputs = [output for cell in executed[path.stem] for output in cell.get("outputs", [])]
    errors = [output for output in outputs if output.output_type == "error"]
    assert not errors, "\n".join(errors[0].traceback)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
