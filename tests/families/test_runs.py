"""Families as a user has them: a dotted path in a config, from training to compression."""

import json

import numpy as np
import pytest

import vdm
from experiments.ladder.vae import VAE
from tests.families.data_schedule import DataSchedule
from vdm import main as program
from vdm.models.interface import OWN_LATENTS
from vdm.models.vdm import VDM
from vdm.runs.run import build_run

FAMILIES = {
    "encoder_in_time": "tests.families.encoder_in_time:EncoderInTime",
    "data_schedule": "tests.families.data_schedule:DataSchedule",
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_evaluated_and_sampled_by_its_config(
    make_tiny_config, tmp_path, family
):
    config = make_tiny_config(
        model__name=FAMILIES[family], train__num_steps=6, train__save_every=3, train__log_every=3,
        train__eval_every=0, train__accumulate=2, schedule__train="bound",
    )  # fmt: skip
    before = vdm.build(config).params
    trained = vdm.train(config, tmp_path)
    report = json.loads((tmp_path / "eval.json").read_text())
    terms = [report[f"bpd_{name}"] for name in ("reconstruction", "prior", "denoising")]
    more = report.get("bpd_auxiliary", 0.0)
    assert np.isclose(report["bpd"], sum(terms) + more, rtol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    if family == "data_schedule":
        assert report["omega_0"] is None  # each example has its own path
        assert not (tmp_path / "omega.png").exists()
        assert more > 0
        assert "train/bpd_auxiliary" in lines[0]
        moved = trained.params["schedule"]["posterior"]
        assert all(abs(float(value)) > 1e-5 for value in moved.values())
        assert abs(float(trained.params["network"]["context_gain"])) > 0
    else:
        assert float(trained.params["network"]["strength"]) != 0
        assert (tmp_path / "loss_density.png").exists()
    assert before["network"].keys() == trained.params["network"].keys()
    assert trained.sample(3, num_steps=2).shape == (3, 8, 8, 1)
    images = trained.split().examples[:2]
    assert np.isfinite(trained.bpd(images, num_steps=5, draws=2).mean)
    for refused, needs in (
        (lambda: trained.bpd(images, bound="iw-2", num_steps=3), "the weight of a path"),
        (lambda: trained.bpd(images, bound="ode-decoder"), "a density by its probability-flow"),
        (lambda: trained.sample(2, sampler="ddim"), "a denoiser that is the score"),
        (lambda: trained.compress(images), "the steps p"),
    ):
        with pytest.raises(ValueError, match=rf"needs {needs}.*does not have") as raised:
            refused()
        assert "\n" not in str(raised.value)


def test_a_family_that_has_lost_its_bound_is_refused_before_anything_is_written(
    make_tiny_config, tmp_path, capsys
):
    name = "tests.families.test_runs:OnlyEncodes"
    with pytest.raises(
        ValueError, match=rf"model.name = '{name}' needs .*overrides encode.*elbo_at"
    ):
        vdm.train(make_tiny_config(model__name=name), tmp_path / "run")
    flags = [f"--config.model.name={FAMILIES['encoder_in_time']}", "--config.sample.name=heun"]
    argv = ["vdm.main", "--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", *flags]
    assert program.main(argv) == 2
    assert "sample.name = 'heun' needs a denoiser that is the score" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class OnlyEncodes(VDM):
    """Its data depend on the noise level, which its bound ignores."""

    def encode(self, params, data, omega):
        return super().encode(params, data, omega) * (1 + omega)


class Nameless(DataSchedule):
    """Its bound has a fourth term that it does not name."""

    more_terms = ()


class TakesTheNetwork(DataSchedule):
    """Its noise levels read parameters that have no gradient through them."""

    keeps = frozenset({"reverse_steps"})

    def levels(self, params, t, num_steps, data=None, key=None):
        return super().levels(params["network"], t, num_steps, data, key)


@pytest.mark.parametrize(
    ("family", "message"),
    [("Nameless", r"the terms \['auxiliary'\] in addition .* name each of them there"),
     ("TakesTheNetwork", "KeyError: 'network'")],
)  # fmt: skip
def test_a_family_that_cannot_be_trained_is_refused_before_anything_is_written(
    make_tiny_config, tmp_path, family, message
):
    name = f"tests.families.test_runs:{family}"
    with pytest.raises(ValueError, match=rf"model.name = '{name}': .*{message}"):
        vdm.train(make_tiny_config(model__name=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class SaysWhatItIs(VAE):
    """A model without noise levels that declares its capability."""

    supports = OWN_LATENTS


def test_a_model_without_noise_levels_may_say_so(make_tiny_config, tmp_path):
    name = "tests.families.test_runs:SaysWhatItIs"
    assert build_run(make_tiny_config(model__name=name), tmp_path).model.supports == OWN_LATENTS
