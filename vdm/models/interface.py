"""The capabilities of a model: what it can compute, and what a subclass of `VDM` still can.

Training, evaluation, sampling and the codec never ask for the class of a model. They ask whether it
has a capability, such as "probability_flow" (`require`, `supports`). `VDM` has all of them.

The code of each capability was derived for particular methods of `VDM`. A subclass that overrides
one of these methods defines a different model, for which the inherited code would compute a wrong
number without a word. It therefore loses the capability, unless it also overrides the method that
computes it, or lists the capability in its class attribute `keeps` because the derivation still
holds. Using a capability that a model does not have raises a ValueError of one line.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from vdm.models.vdm import VDM


class Capability(NamedTuple):
    """One capability and the methods of `VDM` behind it.

    meaning: what a model with this capability has, as error messages put it.
    computed_by: the method that computes it; "" for a property that no single method computes.
    rests_on: the methods that its derivation relies on.
    """

    meaning: str
    computed_by: str
    rests_on: frozenset[str]


CAPABILITIES: Mapping[str, Capability] = MappingProxyType(
    {
        "noise_levels": Capability(
            "an evidence lower bound over noise levels",
            "elbo_at", frozenset({"elbo", "encode", "kernel"}),
        ),
        "schedule": Capability(
            "a noise level omega(t) that depends on the time alone",
            "schedule_fn", frozenset({"levels"}),
        ),
        "importance_weighted": Capability(
            "the weight of a path through its latents",
            "path_log_weight", frozenset({"elbo", "elbo_at", "encode", "kernel", "levels"}),
        ),
        "score": Capability(
            "a denoiser that is the score of its noisy data",
            "", frozenset({"elbo", "elbo_at", "encode", "levels"}),
        ),
        "probability_flow": Capability(
            "a density by its probability-flow ODE",
            "flow_bound", frozenset({"elbo", "elbo_at", "encode", "levels"}),
        ),
        "reverse_steps": Capability(
            "the reverse step p(z_s | z_t) of the ancestral sampler",
            "sample", frozenset({"elbo", "elbo_at", "levels"}),
        ),
        "lossless_codec": Capability(
            "the steps p(z_s | z_t) and q(z_s | z_t, x) of bits-back coding",
            "", frozenset({"elbo", "elbo_at", "encode", "kernel", "levels"}),
        ),
        "code_probabilities": Capability(
            "the probability of each code given z_t (model.prediction = 'codes')",
            "", frozenset(
                {"elbo", "elbo_at", "encode", "kernel", "latent_dims", "levels", "likelihood_of"}
            ),
        ),
        "noisy_data": Capability(
            "latents that are noisy data",
            # The last is what an earlier version asked a model for.
            "", frozenset({"encode", "latent_dims", "latents_are_data", "likelihood_of"}),
        ),
    }
)  # fmt: skip
"""Name -> capability, for all that a `VDM` has."""

OWN_LATENTS = frozenset({"latent_variables"})
"""The capabilities of a `LatentVariableModel`, which has its own `elbo` and `sample`."""


def supports(model: Any) -> frozenset[str]:
    """Returns the names of the model's capabilities: some of `CAPABILITIES`, or `OWN_LATENTS`."""
    return getattr(model, "supports", OWN_LATENTS)


def has_noise_levels(model: Any) -> "TypeIs[VDM]":
    """Whether the model has the interface of `VDM`; otherwise it is a `LatentVariableModel`."""
    return "noise_levels" in supports(model)


def num_classes(model: Any) -> int:
    """The number of label classes of the model; 0 for an unconditional one."""
    return getattr(model, "num_classes", 0)


def num_codes(model: Any) -> int:
    """The number of integer codes of the model's data; 0 for real numbers."""
    return getattr(model.likelihood, "num_codes", 0)


def capabilities_of(model: type) -> frozenset[str]:
    """Returns the names of the capabilities that `VDM` or a subclass of it has.

    The rule above is applied to one class after the other, from the base class to the given one. A
    class gives a capability back that itself or one of its base classes lost, not one that another
    branch of multiple inheritance did. ValueError for a `keeps` that names no capabilities.
    """
    lost: dict[str, type] = {}
    for cls in reversed(list(_subclasses(model))):
        own = _defined_in(cls)
        keeps = vars(cls).get("keeps", frozenset())
        if isinstance(keeps, str) or not set(keeps) <= CAPABILITIES.keys():
            raise ValueError(
                f"{cls.__name__}.keeps = {keeps!r}: it must be a set of names among "
                f"{', '.join(CAPABILITIES)}"
            )
        for name, (_, computed_by, rests_on) in CAPABILITIES.items():
            if computed_by in own or name in keeps:
                if name in lost and issubclass(cls, lost[name]):
                    del lost[name]
            elif rests_on & own:
                lost[name] = cls
    return frozenset(CAPABILITIES.keys() - lost.keys())


def require(model: Any, capability: str, asked_by: str) -> None:
    """Raises ValueError if the model does not have the capability.

    asked_by: the setting or function that needs it, such as "eval.bound = 'iw-4'"; the message
    begins with it.
    """
    if capability in supports(model):
        return
    meaning, computed_by, rests_on = CAPABILITIES[capability]
    classes = _subclasses(type(model))
    overridden = sorted({method for cls in classes for method in rests_on & _defined_in(cls)})
    why, remedy = "", ""
    if overridden and hasattr(model, "supports"):
        why = f" (it overrides {', '.join(overridden)})"
        remedy = f", or let it override {computed_by} too" if computed_by else ""
    raise ValueError(
        f"{asked_by} needs {meaning}, which model {type(model).__name__} does not have{why}: it "
        f"supports {', '.join(sorted(supports(model)))}; choose model.name = 'vdm'{remedy}"
    )


def check_terms(model: "VDM", more: Collection[str]) -> None:
    """Raises ValueError unless the further terms of an estimate of the bound are those that the
    model names: a term without a name would be missing from the number that is reported."""
    if set(more) != set(model.more_terms):
        raise ValueError(
            f"the bound of {type(model).__name__} has the terms {sorted(more)} in addition to the "
            f"three, and its more_terms = {tuple(model.more_terms)}: name each of them there"
        )


def _subclasses(model: type) -> Iterator[type]:
    """Yields the class and its base classes that derive from the one with all capabilities."""
    for cls in model.__mro__:
        if "HAS_ALL_CAPABILITIES" in vars(cls):
            return
        yield cls


def _defined_in(cls: type) -> set[str]:
    """Returns the names of the methods, properties and dataclass fields of the class itself."""
    return vars(cls).keys() | inspect.get_annotations(cls).keys()
