"""What a model can do, by name, and what becomes of that in a subclass.

Training, evaluation, sampling and the codec ask for a capability, never for the class of a model.
A capability is computed by one method of `VDM` and rests on others. A subclass that overrides one
of the others describes another model, and loses the capability unless it also overrides the method
that computes it, or names it in its class attribute `keeps`. What a model does not support is
refused in one line.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from vdm.models.vdm import VDM


class Capability(NamedTuple):
    """One thing that a model may be able to do.

    meaning: what such a model has. computed_by: the method that computes it, "" for a fact that
    none computes. rests_on: the methods that it was derived for.
    """

    meaning: str
    computed_by: str
    rests_on: frozenset[str]


CAPABILITIES: Mapping[str, Capability] = MappingProxyType(
    {
        "noise_levels": Capability(
            "an evidence lower bound over noise levels",
            "elbo_at", frozenset({"encode", "kernel"}),
        ),
        "schedule": Capability(
            "a noise level omega(t) of the time alone",
            "schedule_fn", frozenset({"levels"}),
        ),
        "importance_weighted": Capability(
            "the weight of a path through its latents",
            "path_log_weight", frozenset({"elbo_at", "encode", "kernel", "levels"}),
        ),
        "probability_flow": Capability(
            "a denoiser that is the score of its noisy data, and with it a probability-flow ODE",
            "flow_bound", frozenset({"elbo_at", "encode", "levels"}),
        ),
        "reverse_steps": Capability(
            "the reverse step p(z_s | z_t) of the ancestral sampler",
            "sample", frozenset({"elbo_at", "levels"}),
        ),
        "lossless_codec": Capability(
            "the steps p(z_s | z_t) and q(z_s | z_t, x) of bits-back coding",
            "", frozenset({"elbo_at", "encode", "kernel", "levels"}),
        ),
        "noisy_data": Capability(
            "latents that are data with noise",
            # The last is what an earlier version asked a model for.
            "", frozenset({"encode", "latent_dims", "latents_are_data"}),
        ),
    }
)  # fmt: skip
"""What a `VDM` can do."""

OWN_LATENTS = frozenset({"latent_variables"})
"""What a `LatentVariableModel` can do: a bound and samples of its own, from keys alone."""


def supports(model: Any) -> frozenset[str]:
    """The names of what the model can do: of `CAPABILITIES`, or `OWN_LATENTS`."""
    return getattr(model, "supports", OWN_LATENTS)


def has_noise_levels(model: Any) -> "TypeIs[VDM]":
    """Whether the model is a `VDM` or of its kind; else it is a `LatentVariableModel`."""
    return "noise_levels" in supports(model)


def num_classes(model: Any) -> int:
    """The number of label classes of the model; 0 for an unconditional one."""
    return getattr(model, "num_classes", 0)


def num_codes(model: Any) -> int:
    """The number of integer codes of the model's data; 0 for real numbers."""
    return getattr(model.likelihood, "num_codes", 0)


def left_of(model: type) -> frozenset[str]:
    """What a class still supports of `CAPABILITIES`, all of which its base class has."""
    left = set(CAPABILITIES)
    for cls in reversed(list(_subclasses(model))):
        own = vars(cls)
        for name, (_, computed_by, rests_on) in CAPABILITIES.items():
            if computed_by in own:
                left.add(name)
            elif rests_on & own.keys():
                left.discard(name)
        left |= own.get("keeps", frozenset())
    return frozenset(left)


def require(model: Any, capability: str, asked_by: str) -> None:
    """Raises ValueError where the model lacks a capability that `asked_by` needs, such as
    "eval.bound = 'iw-4'"."""
    if capability in supports(model):
        return
    meaning, computed_by, rests_on = CAPABILITIES[capability]
    own = sorted({part for cls in _subclasses(type(model)) for part in rests_on & vars(cls).keys()})
    why, remedy = "", ""
    if own and hasattr(model, "supports"):
        why = f" (it overrides {', '.join(own)})"
        remedy = f", or let it override {computed_by} too" if computed_by else ""
    raise ValueError(
        f"{asked_by} needs {meaning}, which model {type(model).__name__} does not have{why}: it "
        f"supports {', '.join(sorted(supports(model)))}; choose model.name = 'vdm'{remedy}"
    )


def _subclasses(model: type) -> Iterator[type]:
    """The class and those that it derives from, up to the one that defines `supports`."""
    for cls in model.__mro__:
        if "supports" in vars(cls):
            return
        yield cls
