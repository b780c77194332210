"""The train step: draw times and noise, the bound, its gradient, the update."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from vdm.diffusion import timesteps
from vdm.diffusion.elbo import draw, to_bpd
from vdm.model import VDM
from vdm.training.optim import ema_update
from vdm.training.state import TrainState
from vdm.typing import Params, PRNGKey

Batch = dict[str, Array]
Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_loss(
    model: VDM, num_steps: int
) -> Callable[[Params, Batch, PRNGKey], tuple[Array, Metrics]]:
    """(params, batch, key) -> mean bits/dim of the negative bound, and what to log of it."""
    num_dims = math.prod(model.dims)

    def loss(params: Params, batch: Batch, key: PRNGKey) -> tuple[Array, Metrics]:
        data = batch["examples"]
        key_t, key_noise, key_dropout = jax.random.split(key, 3)
        draws = draw(key_noise, timesteps.low_discrepancy(key_t, data.shape[0]), model.dims)
        labels = batch["labels"] if model.num_classes else None
        estimate = model.elbo(params, data, draws, num_steps, labels, key_dropout)
        terms, levels = estimate.terms, estimate.levels
        reconstruction, prior, denoising = (to_bpd(jnp.mean(nats), num_dims) for nats in terms)
        bpd = reconstruction + prior + denoising
        metrics = {
            "bpd": bpd,
            "bpd_reconstruction": reconstruction,
            "bpd_prior": prior,
            "bpd_denoising": denoising,
            "denoising_variance": jnp.var(to_bpd(terms.denoising_matching, num_dims)),
            "omega_0": levels.omega_0,
            "omega_1": levels.omega_1,
        }
        return bpd, metrics

    return loss


def make_train_step(
    model: VDM,
    optimizer: optax.GradientTransformation,
    run_key: PRNGKey,
    num_steps: int,
    ema_rate: float,
    ema_warmup: bool,
) -> TrainStep:
    """The compiled step; `num_steps` is the T of the bound trained on (0: continuous time).

    The state is donated: the arrays passed in are gone after the call. Randomness is
    fold_in(run_key, step), so a resumed run repeats the draws of the undisturbed one.
    """
    gradient = jax.value_and_grad(make_loss(model, num_steps), has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(run_key, state.step)
        (_, metrics), grads = gradient(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=ema_update(state.ema_params, params, state.step, ema_rate, ema_warmup),
            opt_state=opt_state,
        )
        return new_state, metrics | {"grad_norm": optax.tree.norm(grads)}

    return jax.jit(train_step, donate_argnums=0)
