"""Samplers, which turn noise into data, and the scan over their steps.

A sampler is a tuple of pure functions (`Sampler`); each constructor here returns one, the same one
for the same arguments, so that what was compiled for it is found again. A step goes from omega_t
down to omega_s < omega_t with any denoiser, guided or not, so every sampler runs on any grid and
with any guidance. Deterministic samplers solve the probability-flow ODE, random ones the reverse
SDE or Langevin dynamics. Those with Langevin steps are in `vdm.diffusion.langevin`, the adaptive
ODE solver is in `vdm.diffusion.flow`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vdm.diffusion.codes import draw_codes
from vdm.diffusion.interning import interned
from vdm.diffusion.kernels import guess
from vdm.diffusion.likelihood import codes_to_x
from vdm.diffusion.noise import NoiseFn, alpha, fresh_noise, level, posterior, sigma, transition
from vdm.typing import Denoiser, EndPoint, Kernel, OmegaGrid, PyTree


def evaluate(
    denoiser: Denoiser, z: Float[Array, "batch *dims"], omega: EndPoint
) -> Float[Array, "batch *dims"]:
    """Calls the denoiser with one noise level for the whole batch."""
    return denoiser(z, jnp.broadcast_to(omega, z.shape if omega.ndim else z.shape[:1]))


def reverse_step(
    denoiser: Denoiser, z_t: Float[Array, "batch *dims"], omega_s: EndPoint, omega_t: EndPoint
) -> tuple[Float[Array, "batch *dims"], Float[Array, "..."]]:
    """Returns the mean and variance of p(z_s | z_t): those of q(z_s | z_t, x) at the denoiser's
    estimate of x (VDM Eq. 31-33)."""
    return posterior(z_t, evaluate(denoiser, z_t, omega_t), omega_s, omega_t)


class Interval(NamedTuple):
    """One step from omega_t to omega_s. last: whether it is the last step. noise: k -> the k-th
    standard normal draw [batch, *dims] of this step. kernel: p(z_s | z_t) of the model."""

    omega_s: EndPoint
    omega_t: EndPoint
    last: Bool[Array, ""]
    noise: NoiseFn
    kernel: Kernel = reverse_step


Step = Callable[[Denoiser, Array, PyTree, Interval], tuple[Array, PyTree]]


class Sampler(NamedTuple):
    """A rule for stepping from z_t to z_s.

    step: (denoiser, z_t [batch, *dims], memory, interval) -> (z_s, memory).
    init: z_1 -> the memory before the first step.
    evaluations: denoiser calls per step; 0 if the number varies, and then the memory must be the
        number of calls so far for each example.
    deterministic: whether z_0 is a function of z_1.
    needs: what it asks of a model (`vdm.models.interface`): the reverse steps of the bound, a
        denoiser that is a score, or one that gives the probabilities of codes.
    """

    step: Step
    init: Callable[[Array], PyTree] = lambda z_1: ()
    evaluations: int = 1
    deterministic: bool = False
    needs: str = "score"


class Trajectory(NamedTuple):
    """The result z_0, the number of denoiser calls for each example, and frames: evenly spaced
    latents on the way that end with z_0 (none unless asked for)."""

    z_0: Float[Array, "batch *dims"]
    evaluations: Int[Array, " batch"]
    frames: Float[Array, "frames batch *dims"]


def run_chain(
    z_1: Float[Array, "batch *dims"],
    noise_at: NoiseFn,
    omegas: OmegaGrid,
    denoiser: Denoiser,
    sampler: Sampler,
    num_frames: int = 0,
    kernel: Kernel = reverse_step,
) -> Trajectory:
    """Runs a sampler from z_1 down the increasing grid `omegas` of T + 1 values, or T + 1 for each
    dimension. kernel: the reverse step of the model, which the ancestral sampler draws from.

    The steps are i = T ... 1; the k-th noise of step i has the index i + k (T + 1), k = 0, 1, ...
    """
    num_steps = omegas.shape[0] - 1

    def body(carry: tuple, index: Array) -> tuple[tuple, None]:
        z_t, memory, frames = carry
        interval = Interval(
            level(omegas, index - 1),
            level(omegas, index),
            index == 1,
            lambda k: noise_at(index + k * (num_steps + 1)),
            kernel,
        )
        z_s, memory = sampler.step(denoiser, z_t, memory, interval)
        if num_frames:  # Several latents share a frame; the last one written stays.
            frames = frames.at[(num_steps - index) * num_frames // num_steps].set(z_s)
        return (z_s, memory, frames), None

    frames = jnp.zeros((min(num_frames, num_steps), *z_1.shape), z_1.dtype)
    num_frames = frames.shape[0]
    steps = jnp.arange(num_steps, 0, -1)
    (z_0, memory, frames), _ = jax.lax.scan(body, (z_1, sampler.init(z_1), frames), steps)
    fixed = jnp.full(z_1.shape[:1], num_steps * sampler.evaluations, jnp.int32)
    return Trajectory(z_0, fixed if sampler.evaluations else memory, frames)


def sample(
    keys: Key[Array, " batch"],
    dims: tuple[int, ...],
    omegas: OmegaGrid,
    denoiser: Denoiser,
    sampler: Sampler,
) -> Float[Array, "batch *dims"]:
    """Draws z_1 ~ N(0, I) for every key and runs the sampler to z_0.

    Each sample has its own key, so it does not depend on the batch it is drawn in.
    """
    return run_chain(
        first_latent(keys, dims), fresh_noise(keys, dims), omegas, denoiser, sampler
    ).z_0


def first_latent(keys: Key[Array, " batch"], dims: tuple[int, ...]) -> Float[Array, "batch *dims"]:
    """Draws z_1 ~ N(0, I), using the noise of index 0, which no step uses."""
    return fresh_noise(keys, dims)(jnp.zeros((), jnp.int32))


def without_last(noise: Array, last: Bool[Array, ""], last_noise: bool) -> Array:
    """Returns the noise of a step, set to zero in the last step unless `last_noise`."""
    return noise if last_noise else jnp.where(last, jnp.zeros_like(noise), noise)


VARIANCES = ("posterior", "forward")


@interned
def ancestral(variance: str = "posterior", last_noise: bool = True) -> Sampler:
    """The ancestral sampler: each step draws from p(z_s | z_t) = N(mean of q(z_s | z_t, x_hat),
    variance) (VDM Eq. 33).

    variance: "posterior" is sigma_s^2 c of q(z_s | z_t, x), DDPM's beta-tilde, which is right for
        data at a single point; "forward" is sigma_{t|s}^2 of q(z_t | z_s), DDPM's beta, which is
        right for data N(0, I) (DDPM section 3.2).
    last_noise: False omits the noise of the last step, as DDPM's algorithm 2 does.
    """
    if variance not in VARIANCES:
        raise ValueError(f"unknown variance {variance!r}; known: {', '.join(VARIANCES)}")

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        mean, var = i.kernel(denoiser, z_t, i.omega_s, i.omega_t)
        if variance == "forward":
            _, var = transition(i.omega_s, i.omega_t)
        noise = without_last(i.noise(jnp.int32(0)), i.last, last_noise)
        return mean + jnp.sqrt(var) * noise, memory

    return Sampler(step, needs="reverse_steps")


@interned
def mixture_ancestral() -> Sampler:
    """The ancestral sampler of the mixture kernel: in each step every dimension draws a code
    k ~ p(code k | z_t), and z_s ~ q(z_s | z_t, x_k). The codes at the end are draws from
    p(data | z_0). This is the process whose bound `vdm.diffusion.kernels.Mixture` computes."""

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        log_probs = guess(denoiser, z_t, i.omega_t, True).log_probs
        assert log_probs is not None
        codes = draw_codes(log_probs, i.noise(jnp.int32(1)))
        x = codes_to_x(codes, log_probs.shape[-1])
        eps = (z_t - alpha(i.omega_t) * x) / sigma(i.omega_t)
        mean, variance = posterior(z_t, eps, i.omega_s, i.omega_t)
        return mean + jnp.sqrt(variance) * i.noise(jnp.int32(0)), memory

    return Sampler(step, needs="code_probabilities")


@interned
def ddim(eta: float = 0.0) -> Sampler:
    """The DDIM sampler, z_s = alpha_s x_hat + sqrt(sigma_s^2 - var) eps_hat + sqrt(var) noise,
    where var is eta^2 times the posterior's variance (DDIM Eq. 12 and 16): eta = 0 is
    deterministic, eta = 1 is the ancestral sampler."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: it must be in [0, 1], from deterministic to ancestral")

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        eps_hat = evaluate(denoiser, z_t, i.omega_t)
        x_hat = (z_t - sigma(i.omega_t) * eps_hat) / alpha(i.omega_t)
        # sigma_s^2 - var = sigma_s^2 (1 - eta^2 c)
        c = -(eta**2) * jnp.expm1(i.omega_s - i.omega_t)
        mean = alpha(i.omega_s) * x_hat + sigma(i.omega_s) * jnp.sqrt(1 - c) * eps_hat
        if eta == 0:
            return mean, memory
        return mean + sigma(i.omega_s) * jnp.sqrt(c) * i.noise(jnp.int32(0)), memory

    return Sampler(step, deterministic=eta == 0)


@interned
def euler_maruyama(last_noise: bool = True) -> Sampler:
    """Solves the reverse SDE by the Euler-Maruyama method in omega.

    Forward, with omega as the time: dz = -1/2 sigma^2 z domega + sigma dW. Backward: dz =
    (-1/2 sigma^2 z + sigma eps_hat) domega + sigma dW (Song et al. 2021, arXiv:2011.13456, Eq. 6,
    with the score -eps_hat / sigma).
    """

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        h, s = i.omega_t - i.omega_s, sigma(i.omega_t)
        drift = 0.5 * s**2 * z_t - s * evaluate(denoiser, z_t, i.omega_t)
        noise = without_last(i.noise(jnp.int32(0)), i.last, last_noise)
        return z_t + h * drift + s * jnp.sqrt(h) * noise, memory

    return Sampler(step)


@interned
def heun() -> Sampler:
    """Solves the probability-flow ODE by Heun's second-order method in the variables of Karras et
    al. 2022 (arXiv:2206.00364, algorithm 1): with u = z / alpha and r = sigma / alpha the ODE is
    du/dr = eps_hat, and an Euler step of it is a DDIM step."""

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        ratio = alpha(i.omega_s) / alpha(i.omega_t)
        change = sigma(i.omega_s) - ratio * sigma(i.omega_t)  # The change of r times alpha_s.
        first = evaluate(denoiser, z_t, i.omega_t)
        second = evaluate(denoiser, ratio * z_t + change * first, i.omega_s)
        return ratio * z_t + 0.5 * change * (first + second), memory

    return Sampler(step, evaluations=2, deterministic=True)


@interned
def dpm_solver(stochastic: bool = False, noisy_below: float = 100.0) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): a second-order method with
    one evaluation per step, which extrapolates x_hat from this step and the one before.

    z_s = (sigma_s / sigma_t) z_t - alpha_s expm1(-h) D, where h = (omega_t - omega_s) / 2 is the
    step in log(alpha / sigma) and D = x_hat + (h / (2 h_before)) (x_hat - x_hat_before); in the
    first step D = x_hat.

    stochastic: their solver of the reverse SDE, an ancestral step with D in place of x_hat.
    noisy_below: stochastic steps begin here; those from omega_t >= noisy_below solve the ODE. Both
        have the same q(z_s) if the denoiser is ideal.
    """

    def init(z_1: Array) -> PyTree:
        return jnp.zeros_like(z_1), jnp.zeros_like(z_1)  # x_hat and h of the previous step

    def step(denoiser: Denoiser, z_t: Array, memory: PyTree, i: Interval) -> tuple[Array, PyTree]:
        x_before, h_before = memory
        h = jnp.broadcast_to(0.5 * (i.omega_t - i.omega_s), z_t.shape)
        eps_hat = evaluate(denoiser, z_t, i.omega_t)
        x_hat = (z_t - sigma(i.omega_t) * eps_hat) / alpha(i.omega_t)
        first = h_before == 0
        slope = jnp.where(first, 0.0, 0.5 * h / jnp.where(first, 1.0, h_before))
        extrapolated = x_hat + slope * (x_hat - x_before)
        ratio = sigma(i.omega_s) / sigma(i.omega_t)
        z_s = ratio * z_t - alpha(i.omega_s) * jnp.expm1(-h) * extrapolated
        if stochastic:
            eps_of_mean = (z_t - alpha(i.omega_t) * extrapolated) / sigma(i.omega_t)
            mean, variance = posterior(z_t, eps_of_mean, i.omega_s, i.omega_t)
            noisy = mean + jnp.sqrt(variance) * i.noise(jnp.int32(0))
            z_s = jnp.where(i.omega_t < noisy_below, noisy, z_s)
        return z_s, (x_hat, h)

    return Sampler(step, init, deterministic=not stochastic)
