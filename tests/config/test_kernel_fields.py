"""model.kernel and model.decoder: what they need, and what of a workdir they may change."""

from pathlib import Path

import pytest

from vdm.api import load_config
from vdm.config.compatibility import computed_fields, differing_fields, model_fields
from vdm.models.vdm import VDM
from vdm.runs.run import build_run

MIXTURE = {"model.kernel": "mixture"}
NETWORK = {"model.decoder": "network"}
FITTED = {"model.kernel": "gaussian_fitted"}


def config_with(changes):
    config = load_config("configs/digits.py")
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.kernel": "mixtur"}, "did you mean 'mixture'"),
        ({"model.decoder": "net"}, "unknown model.decoder 'net'"),
        (MIXTURE | {"model.prediction": "eps"}, "model.kernel = 'mixture' needs the prob.*'codes'"),
        (NETWORK | {"model.prediction": "x"}, "model.decoder = 'network' needs .*choose 'codes'"),
        (FITTED | {"model.num_steps": 5}, "fitted to a trained network.*model.num_steps = 0"),
        (
            FITTED | {"schedule.name": "polynomial", "schedule.kwargs.per_dimension": True},
            "needs one omega for all dimensions.*'mixture'",
        ),
        (
            MIXTURE | {"model.num_steps": 5, "weighting.name": "simple"},
            "weighting.name = 'simple' weights squared errors.*choose 'bound'",
        ),
        (NETWORK | {"eval.bound": "ode-decoder"}, "set model.decoder = 'bayes'"),
        ({"sample.name": "mixture_ancestral", "model.prediction": "eps"}, "prediction = 'codes'"),
        (MIXTURE | {"model.name": "experiments.ladder.vae:VAE"}, "model.kernel = 'mixture' needs"),
    ],
)
def test_what_a_kernel_or_decoder_lacks_is_said_before_anything_is_written(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        build_run(config_with(changes), Path("unused"))
    assert "\n" not in str(refused.value)


def test_a_family_with_levels_of_its_own_has_no_mixture_kernel():
    changes = MIXTURE | {"model.name": "tests.families.data_schedule:DataSchedule"}
    with pytest.raises(ValueError, match=r"model\.kernel = 'mixture' needs"):
        build_run(config_with(changes), Path("unused"))


def plain(schedule, network, likelihood, dims):
    """A family of the user's own that does not know of kernels."""
    return VDM(schedule, network, likelihood, dims, prediction="codes")


def test_a_family_that_does_not_take_them_is_not_given_them_in_silence():
    own = {"model.name": f"{__name__}:plain"}
    build_run(config_with(own), Path("unused"))
    with pytest.raises(ValueError, match=r"does not take them; let it have .*decoder_rule"):
        build_run(config_with(own | MIXTURE), Path("unused"))


def test_of_a_model_of_continuous_time_both_may_be_chosen_later():
    plain, other = config_with({}), config_with(MIXTURE | NETWORK)
    assert not differing_fields(other.to_dict(), plain.to_dict())
    assert model_fields(other.to_dict()) == model_fields(plain.to_dict())
    assert computed_fields(other.to_dict()) != computed_fields(plain.to_dict())
    run = build_run(other, Path("unused"))
    assert (run.vdm.reverse, run.vdm.network_decodes) == ("mixture", True)


def test_of_a_model_of_T_steps_they_are_part():
    steps = {"model.num_steps": 5, "model.kernel": "gaussian"}
    plain, other = config_with(steps), config_with(steps | MIXTURE | NETWORK)
    fields = [line.partition(":")[0] for line in differing_fields(other.to_dict(), plain.to_dict())]
    assert fields == ["model.decoder", "model.kernel"]
