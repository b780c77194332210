"""What a subclass of VDM still supports, by the methods that it overrides."""

import dataclasses
from collections.abc import Callable

import pytest

from vdm.diffusion.likelihood import Gaussian
from vdm.models.interface import CAPABILITIES, capabilities_of, require, supports
from vdm.models.vdm import VDM
from vdm.nn import schedules
from vdm.nn.mlp import MLP

ALL = frozenset(CAPABILITIES)


class OwnBound(VDM):
    def elbo_at(self, *args, **kwargs):
        raise AssertionError


class OwnPaths(VDM):
    def path_log_weight(self, *args, **kwargs):
        raise AssertionError


def test_what_is_asked_of_a_capability_are_methods_of_the_model():
    for meaning, computed_by, rests_on in CAPABILITIES.values():
        assert meaning
        for method in {computed_by, *rests_on} - {"", "latents_are_data"}:
            assert hasattr(VDM, method), method


def test_the_model_itself_has_them_all_and_a_plain_subclass_too():
    class Plain(VDM):
        def denoiser(self, *args, **kwargs):
            raise AssertionError

    assert capabilities_of(VDM) == capabilities_of(Plain) == ALL


def test_each_override_loses_what_rests_on_it():
    for method in {m for c in CAPABILITIES.values() for m in c.rests_on}:
        changed = type("Changed", (VDM,), {method: lambda self: None})
        gone = {
            name
            for name, (_, computed_by, rests_on) in CAPABILITIES.items()
            if method in rests_on and method != computed_by
        }
        assert capabilities_of(changed) == ALL - gone, method
        assert gone, method


def test_a_method_that_computes_it_gives_a_capability_back_in_its_own_line_only():
    class Both(OwnBound):
        def path_log_weight(self, *args, **kwargs):
            raise AssertionError

    class Mixed(OwnPaths, OwnBound):
        """Its path weights were derived for the plain model."""

    assert "importance_weighted" not in capabilities_of(OwnBound)
    assert "importance_weighted" in capabilities_of(Both)
    assert "importance_weighted" not in capabilities_of(Mixed)


def test_a_field_is_an_override_as_a_method_is():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class WithField(VDM):
        kernel: Callable

    assert "noise_levels" not in capabilities_of(WithField)


def test_a_model_that_says_less_in_supports_gets_nothing_back():
    class Less(OwnBound):
        @property
        def supports(self):
            return super().supports - {"schedule"}

    model = Less(schedules.Linear(-4.0, 3.0), MLP(8), Gaussian(), (2,))
    assert supports(model) == capabilities_of(OwnBound) - {"schedule"}
    with pytest.raises(ValueError, match=r"x needs the weight .*\(it overrides elbo_at\)"):
        require(model, "importance_weighted", "x")


@pytest.mark.parametrize("keeps", ["score", ("scores",), {"score", "all"}])
def test_keeps_that_names_no_capability_is_refused(keeps):
    changed = type("Changed", (OwnBound,), {"keeps": keeps})
    with pytest.raises(ValueError, match=r"Changed\.keeps = .* names among noise_levels"):
        capabilities_of(changed)
    assert "score" in capabilities_of(type("Kept", (OwnBound,), {"keeps": ("score",)}))
