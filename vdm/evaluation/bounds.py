"""The bound that eval.bound names, with its settings."""

import math
import re

from vdm.diffusion.ode import Solver
from vdm.evaluation.estimators import (
    BOUNDS,
    Elbo,
    Estimator,
    ImportanceWeighted,
    PathElbo,
    ProbabilityFlow,
)
from vdm.model import VDM, AnyModel
from vdm.options import EvalOptions, check_choice

EXACT_DIVERGENCE = 16  # dimensions up to which eval.ode.divergence = "auto" is exact


def build_estimator(options: EvalOptions, model: AnyModel) -> Estimator:
    """The bound that options.bound names, for that model."""
    if not isinstance(model, VDM):
        if options.bound != "elbo" or options.num_steps:
            raise ValueError(
                f"eval.bound = {options.bound!r}, eval.num_steps = {options.num_steps}: a model "
                "without a schedule of noise has 'elbo' and 0"
            )
        return PathElbo(model.num_levels)
    weights = re.fullmatch(r"iw-([1-9]\d*)", options.bound)
    if options.bound == "elbo":
        return Elbo(options.num_steps)
    if weights:
        return ImportanceWeighted(options.num_steps, int(weights[1]))
    if options.bound.startswith("iw"):
        raise ValueError(
            f"eval.bound = {options.bound!r}: iw-K takes a positive number of paths for K, such as "
            "iw-64"
        )
    check_choice("eval.bound", options.bound, BOUNDS)
    if model.multivariate:
        raise ValueError(
            f"eval.bound = {options.bound!r}: the flow is solved in one omega for all dimensions, "
            "and each has its own in this schedule: choose 'elbo' or 'iw-K'"
        )
    kind, ode = options.bound.removeprefix("ode-"), options.ode
    if options.num_steps:
        raise ValueError(
            f"eval.bound = {options.bound!r} is of continuous time: set eval.num_steps = 0 (the "
            "steps of its solver are eval.ode.num_steps)"
        )
    if kind != "decoder" and not model.latents_are_data:
        raise ValueError(
            f"eval.bound = {options.bound!r}: the flow of this model is of latents, not of the "
            "data: choose 'ode-decoder'"
        )
    if kind != "decoder" and not hasattr(model.likelihood, "num_codes"):
        raise ValueError(
            f"eval.bound = {options.bound!r} is for integer codes: choose 'ode-decoder' for "
            "real-valued data"
        )
    divergence = ode.divergence
    if divergence == "auto":
        exact = math.prod(model.latent_dims) <= EXACT_DIVERGENCE
        divergence = "exact" if exact else "hutchinson"
    solver = Solver(ode.num_steps, ode.tolerance, ode.tolerance, divergence, ode.probes)
    return ProbabilityFlow(kind, solver)
