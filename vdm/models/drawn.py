"""Samples of a model: from the last latent of a chain to examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vdm.diffusion.codes import draw_codes
from vdm.diffusion.kernels import guess
from vdm.diffusion.samplers import Sampler, Trajectory
from vdm.typing import Denoiser, EndPoint, Likelihood


class Drawn(NamedTuple):
    """A batch of samples.

    data: the examples. finite: whether z_0 was finite, which integer codes no longer show.
    evaluations: the number of calls of the denoiser for each example. frames: intermediate latents,
    decoded as if they were z_0.
    """

    data: Shaped[Array, "batch *dims"]
    finite: Bool[Array, " batch"]
    evaluations: Int[Array, " batch"]
    frames: Shaped[Array, "frames batch *dims"]


def decode(
    chain: Trajectory,
    omega_0: EndPoint,
    noise: Float[Array, "batch *dims"],
    sampler: Sampler,
    denoiser: Denoiser,
    likelihood: Likelihood,
    network_decodes: bool,
) -> Drawn:
    """Turns the end of a chain, z_0, into examples.

    If the sampler is that of the mixture kernel, or the network is the decoder, they are drawn from
    p(data | z_0) by the noise; otherwise, and of a deterministic sampler, they are the most likely.
    Frames are decoded by the likelihood.
    """
    frames = jax.vmap(lambda z: likelihood.decode(z, omega_0))(chain.frames)
    evaluations, log_probs = chain.evaluations, None
    if network_decodes:
        log_probs = guess(denoiser, chain.z_0, omega_0, True).log_probs
        evaluations += 1
    elif sampler.needs == "code_probabilities":
        of_codes: Any = likelihood
        log_probs = of_codes.log_probs(chain.z_0, omega_0)
    if log_probs is None:
        data = likelihood.decode(chain.z_0, omega_0)
    elif sampler.deterministic:
        data = jnp.argmax(log_probs, axis=-1)
    else:
        data = draw_codes(log_probs, noise)
    return Drawn(data, finite(chain.z_0), evaluations, frames)


def finite(values: Shaped[Array, "batch *dims"]) -> Bool[Array, " batch"]:
    """Returns whether all numbers of each example are finite."""
    return jnp.all(jnp.isfinite(values), axis=tuple(range(1, values.ndim)))
