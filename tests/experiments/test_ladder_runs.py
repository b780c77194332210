"""Runs of the learned rungs: training, evaluation, samples, and what is refused."""

import dataclasses
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import vdm
from experiments.ladder.rungs import RUNGS as RUNGS_OF_TABLE
from experiments.ladder.rungs import changed
from experiments.ladder.vae import VAE
from vdm.config.build import build_model, build_source
from vdm.diffusion.elbo import ElboTerms
from vdm.runs import classifier, evaluate, train
from vdm.runs.run import build_run, open_run

RUNGS = {
    "vae": {"model__name": "experiments.ladder.vae:VAE"},
    "hvae": {"model__name": "experiments.ladder.hvae:HierarchicalVAE"},
}
KWARGS = {"width": 8, "num_blocks": 0, "latent_dim": 2}


@pytest.mark.parametrize("rung", ["vae", pytest.param("hvae", marks=pytest.mark.slow)])
def test_rung_trains_evaluates_and_samples_through_the_loops(rung, make_tiny_config, tmp_path):
    config = make_tiny_config(**RUNGS[rung], train__num_steps=4, train__eval_every=0)
    config.model.kwargs = KWARGS
    train.train(open_run(config, tmp_path / "whole"))
    report = json.loads((tmp_path / "whole" / "eval.json").read_text())
    levels = {"vae": 1, "hvae": 2}[rung]
    assert report["bound"] == "elbo"
    assert report["num_levels"] == levels
    assert report["num_steps"] is report["omega_0"] is None
    terms = [report[f"bpd_{name}"] for name in ("reconstruction", "prior", "denoising")]
    np.testing.assert_allclose(sum(terms), report["bpd"], rtol=1e-6)
    assert not (tmp_path / "whole" / "omega.png").exists()
    assert (tmp_path / "whole" / "samples.png").is_file()
    trained = vdm.load(tmp_path / "whole")
    written = json.loads((tmp_path / "whole" / "samples.json").read_text())
    assert "name" not in written
    codes = np.load(tmp_path / "whole" / "samples.npz")["samples"]
    assert trained.sample(2).shape == (2, 8, 8, 1)
    assert np.isfinite(trained.bpd(codes[:2], draws=2).mean)
    with pytest.raises(ValueError, match=r"needs a noise level omega\(t\).*VAE does not have"):
        trained.omega(np.array([0.5]))
    with pytest.raises(ValueError, match="no steps"):
        trained.sample(2, num_steps=5)
    with pytest.raises(ValueError, match=r"choose model\.name = 'vdm'"):
        classifier.train_classifier(open_run(config, tmp_path / "whole"))
    assert not (tmp_path / "whole" / "classifier").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model__class_conditional", True),
        ("weighting__name", "simple"),
        ("eval__bound", "iw-8"),
        ("eval__num_steps", 8),
        ("model__num_steps", 8),
        ("sample__interpolate", 2),
        ("sample__num_frames", 3),
    ],
)
def test_what_needs_noise_levels_is_refused(field, value, make_tiny_config, tmp_path):
    config = make_tiny_config(**RUNGS["vae"], **{field: value})
    config.model.kwargs = KWARGS
    with pytest.raises(ValueError, match=field.replace("__", r"\.")):
        build_run(config, tmp_path)


@pytest.mark.slow
def test_latent_vdm_runs_with_a_learned_schedule_and_importance_weights(make_tiny_config, tmp_path):
    config = make_tiny_config(
        model__name="experiments.ladder.latent_vdm:LatentVDM",
        model__kwargs=KWARGS,
        model__prediction="v",
        network__name="mlp",
        network__kwargs={"width": 8, "num_blocks": 0, "fourier": False},
        train__num_steps=3,
        train__eval_every=0,
        sample__name="heun",
    )
    train.train(open_run(config, tmp_path))
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["num_dims"] == 64
    assert (tmp_path / "omega.png").is_file()
    config.eval.bound, config.eval.num_steps = "iw-2", 3
    evaluate.evaluate_run(open_run(config, tmp_path))
    assert json.loads((tmp_path / "eval.json").read_text())["K"] == 2
    config.eval.bound, config.eval.num_steps, config.eval.ode.num_steps = "ode-decoder", 0, 2
    evaluate.evaluate_run(open_run(config, tmp_path))
    assert json.loads((tmp_path / "eval.json").read_text())["bound"] == "ode-decoder"
    config.eval.bound, config.eval.num_steps = "ode-uniform", 0
    with pytest.raises(ValueError, match="flow of this model is of latents"):
        build_run(config, tmp_path)
    config.eval.bound, config.sample.guidance.name = "elbo", "classifier"
    with pytest.raises(ValueError, match="reads noisy data"):
        build_run(config, tmp_path)
    config.sample.guidance.name = "none"
    with pytest.raises(ValueError, match="latents of this model are not"):
        classifier.train_classifier(open_run(config, tmp_path))
    config.schedule.name, config.schedule.kwargs.per_dimension = "polynomial", True
    with pytest.raises(ValueError, match="omega for each dimension of the data"):
        build_run(config, tmp_path)


@dataclasses.dataclass(frozen=True)
class Wrong(VAE):
    """A model whose bound is a single number for the whole batch."""

    def elbo(self, *args):
        return ElboTerms(*(jnp.mean(term) for term in super().elbo(*args).by_name.values()))


@pytest.mark.parametrize(
    ("name", "kwargs", "match"),
    [
        ("vdm", {"num_steps": 10}, r"model\.kwargs\.num_steps: the model gets this"),
        ("vdm", {"schedule": "linear"}, "from the schedule group"),
        ("vdm", {"dims": (2,)}, r"model\.kwargs\.dims: .* from the data group"),
        (f"{__name__}:Wrong", {}, r"elbo of two examples of Wrong returns shapes \[\(\)"),
    ],
)
def test_a_model_of_ones_own_is_checked_before_anything_is_written(
    name, kwargs, match, make_tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Wrong.__module__])
    config = make_tiny_config(model__name=name)
    config.model.kwargs = kwargs
    with pytest.raises(ValueError, match=match):
        build_run(config, tmp_path)


def test_changes_of_a_rung_name_fields_that_there_are(make_tiny_config):
    config = make_tiny_config()
    assert changed(config, {"train.num_steps": 7, "model.kwargs": KWARGS}).train.num_steps == 7
    assert config.train.num_steps == 30
    with pytest.raises(ValueError, match=r"no field train\.num_step$"):
        changed(config, {"train.num_step": 7})
    for changes in RUNGS_OF_TABLE.values():
        build_model(changed(config, changes), build_source(config.data))
