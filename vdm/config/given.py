"""Refuses values that the user gave but that would have no effect.

A config lists the keyword arguments of every built-in component, and `vdm.config.registry.build`
ignores those that the chosen component does not accept, so that changing `name` is enough for an
ablation. A value that the user chose must not be ignored in the same way.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from vdm.config.files import built_in_configs
from vdm.config.options import EvalOptions, complete, field_at
from vdm.config.registry import OPTIMIZERS, TABLES, lookup
from vdm.evaluation.estimators import Estimator, ProbabilityFlow
from vdm.models.interface import has_noise_levels
from vdm.models.latent_variable import AnyModel

_ABSENT = object()


def check_given(
    config: ConfigDict, given: Collection[str] | None = None, own_file: bool = False
) -> None:
    """Raises ValueError for a given kwarg that the chosen component does not accept, and for a
    given warm-up that is longer than the run.

    Args:
        given: the fields that the user set, such as "optim.kwargs.clip". None: all fields whose
            value is neither a default of a built-in component nor that of a built-in config.
        own_file: whether such fields count too if they come from the user's own file, unless
            `given` chooses the component, or the length of the run: that is an ablation.
    """
    config = complete(config)

    def is_given(group: str, key: str, value: Any, chosen: str) -> bool:
        if given is not None and f"{group}.kwargs.{key}" in given:
            return True
        counts = given is None or (own_file and chosen not in given)
        return counts and _plain(value) not in _usual_values(group, key)

    for group, table in TABLES.items():
        component = field_at(config, group)
        parameters = inspect.signature(lookup(group, component.name, table)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for key in sorted(set(component.kwargs) - set(parameters)):
            value = component.kwargs[key]
            takers = [name for name, other in table.items() if _default(other, key) is not _ABSENT]
            chosen = f"{group}.name"
            if takers and is_given(group, key, value, chosen):  # `build` refuses unknown ones
                raise ValueError(
                    f"{group}.kwargs.{key} = {value!r} would have no effect: {group}.name = "
                    f"{component.name!r} does not accept it; leave it out, or choose "
                    f"{' or '.join(map(repr, takers))}"
                )
    optim, num_steps = config.optim, config.train.num_steps
    warmup = optim.kwargs.get("warmup_steps", 0)
    if (
        optim.name in OPTIMIZERS
        and warmup > num_steps
        and is_given("optim", "warmup_steps", warmup, "train.num_steps")
    ):
        raise ValueError(
            f"optim.kwargs.warmup_steps = {warmup} is longer than the run of train.num_steps = "
            f"{num_steps}: the learning rate would never be reached; choose a shorter warm-up"
        )


def check_ode(
    options: EvalOptions, estimator: Estimator, model: AnyModel, given: Collection[str]
) -> None:
    """Raises ValueError for a given field of eval.ode that has no effect on the chosen bound."""
    for field in sorted(field for field in given if field.startswith("eval.ode.")):
        name = field.removeprefix("eval.ode.")
        if not isinstance(estimator, ProbabilityFlow):
            why = f"eval.bound = {options.bound!r} solves no ODE"
            steps = " and eval.num_steps = 0" if options.num_steps else ""
            remedy = f", or choose eval.bound = 'ode-decoder'{steps}" if _has_flow(model) else ""
        elif name == "tolerance" and estimator.solver.num_steps:
            why = f"the solver takes eval.ode.num_steps = {estimator.solver.num_steps} fixed steps"
            remedy = ", or set eval.ode.num_steps = 0"
        elif name == "probes" and estimator.solver.divergence == "exact":
            why = f"the divergence is exact with eval.ode.divergence = {options.ode.divergence!r}"
            remedy = ", or set eval.ode.divergence = 'hutchinson'"
        else:
            continue
        value = getattr(options.ode, name)
        raise ValueError(f"{field} = {value!r} would have no effect: {why}; leave it out{remedy}")


def _has_flow(model: AnyModel) -> bool:
    """Returns whether the model has the bounds ode-*."""
    if not has_noise_levels(model) or model.multivariate:
        return False
    return "probability_flow" in model.supports


def _default(constructor: Callable, key: str) -> Any:
    """Returns the default of a parameter; _ABSENT if the constructor has no such parameter."""
    parameters = inspect.signature(constructor).parameters
    return parameters[key].default if key in parameters else _ABSENT


def _usual_values(group: str, key: str) -> list[Any]:
    """Returns the defaults of a kwarg in built-in components and its values in built-in configs."""
    defaults = [_default(constructor, key) for constructor in TABLES[group].values()]
    listed = [field_at(c, f"{group}.kwargs").get(key, _ABSENT) for c in built_in_configs()]
    return [_plain(value) for value in defaults + listed]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
