"""Counts the operations of convolutions and matrix products in a program before compilation."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from vdm.models.vdm import VDM


def forward_flops(model: VDM, batch_size: int) -> float:
    """The operations of one pass of the network over a batch; a multiplication and an addition
    count as two."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    z = jax.ShapeDtypeStruct((batch_size, *model.dims), jnp.float32)
    omega = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
    traced = jax.make_jaxpr(lambda p, z, omega: model.denoiser(p)(z, omega))(params, z, omega)
    return count(traced.jaxpr)


def count(jaxpr: Any) -> float:
    """The operations of a jaxpr and those inside it: a loop counts as often as it runs, and of
    several branches the most expensive one counts."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            out_features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * kernel.size / out_features
        elif name == "cond":
            total += max(count(branch.jaxpr) for branch in params["branches"])
        else:
            inner = [p for p in params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
            once = sum(count(getattr(p, "jaxpr", p)) for p in inner)
            total += once * params.get("length", 1)
    return total
