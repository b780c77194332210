"""The training step of the noise-conditioned classifier, on the cross-entropy of the labels of
noisy examples (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4)."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from vdm.devices import sharding
from vdm.diffusion.noise import diffuse, expand
from vdm.models.classifier import NoisyClassifier
from vdm.training.gradient import Batch, Metrics, check_batch
from vdm.training.optim import ema_update
from vdm.training.state import TrainState
from vdm.training.step import TrainStep
from vdm.typing import EndPoint, Likelihood, Params, PRNGKey

EMA_RATE = 0.999
"""Low, and used with warm-up, because a classifier is trained for hundreds of steps only."""


def make_classifier_step(
    classifier: NoisyClassifier,
    likelihood: Likelihood,
    omega_ends: tuple[EndPoint, EndPoint],
    optimizer: optax.GradientTransformation,
    run_key: PRNGKey,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Returns the compiled step, which descends the mean of -log p(label | z_t) over the batch.

    Its metrics are that mean in nats ("cross_entropy"), and the share of examples whose label is
    the most likely one ("accuracy"). omega is uniform between the ends, so that no schedule or grid
    is favoured. Randomness is fold_in(run_key, step).

    likelihood: encodes the examples. mesh: where the state lives; None for one device.
    """

    def train_step(
        state: TrainState, batch: Batch, run_key: PRNGKey, omega_0: EndPoint, omega_1: EndPoint
    ) -> tuple[TrainState, Metrics]:
        check_batch(batch, classifier.dims)
        keys = jax.random.split(jax.random.fold_in(run_key, state.step), 3)
        x = likelihood.encode(batch["examples"])
        eps = jax.random.normal(keys[0], x.shape, x.dtype)
        u = jax.random.uniform(keys[1], x.shape[:1], x.dtype)
        omega = omega_0 + (expand(u, x) if omega_0.ndim else u) * (omega_1 - omega_0)

        def loss(params: Params) -> tuple[Array, Array]:
            log_probs = classifier.log_probs(params, diffuse(x, eps, omega), omega, keys[2])
            label_log_probs = jnp.take_along_axis(log_probs, batch["labels"][:, None], axis=-1)
            return -jnp.mean(label_log_probs), log_probs

        (nats, log_probs), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=ema_update(state.ema_params, params, state.step, EMA_RATE, warmup=True),
            opt_state=opt_state,
        )
        hit = jnp.argmax(log_probs, axis=-1) == batch["labels"]
        return new_state, {"cross_entropy": nats, "accuracy": jnp.mean(hit, dtype=nats.dtype)}

    arrays = sharding.put_everywhere((run_key, *omega_ends), mesh)
    return TrainStep(jax.jit(train_step, donate_argnums=0), arrays)
