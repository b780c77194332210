"""The Markov chain of latents that the codec uses: noise levels, grids, evaluations of the model.

z_i, i = 0 ... T, is the latent at time i / T, or at the i-th of chosen levels. Everything that
encoder and decoder must compute identically, to the last bit, is computed here and in `steps`: the
network with one compiled function for each batch size, everything else in float64 with NumPy, from
the float32 values of the schedule and the network.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm.compression.lattice import Gaussians
from vdm.compression.limits import KERNELS
from vdm.devices import sharding
from vdm.diffusion.codes import log_probs_of
from vdm.diffusion.grids import equal_times
from vdm.diffusion.interning import kept
from vdm.diffusion.least_bound import FINE, fine_levels
from vdm.diffusion.likelihood import codes_to_x
from vdm.models.interface import num_codes, require
from vdm.models.vdm import VDM, compiled_schedule
from vdm.typing import Params

LEAST_STEP = 1e-5
"""The least increase of omega from one latent to the next. If a schedule were constant somewhere,
the Gaussians of that step would have no width."""

FINEST = 2.0**-18
"""The smallest permitted cell; a step of 1e-4 in omega at omega_0 = -13.3 needs it."""

LEAST_LOG_PROB = -80.0
"""A code's log probability, if the network gives less."""


class Levels:
    """The noise levels: alpha, sigma of q(z_i | x) and the Gaussians of every step.

    At each step these are scalars, or have the shape of an example if every dimension has its own
    omega.

    Attributes:
        cell: h of every latent: a power of two, at most 1 / cells_per_std times the standard
            deviations of q(z_i | z_{i-1}) and of p(z_i | z_{i+1}).
    """

    def __init__(self, omegas: np.ndarray, cells_per_std: float) -> None:
        """Computes the levels from omegas, float32 [T + 1] or [T + 1, *dims].

        `omegas` is changed in place so that it rises by LEAST_STEP or more. Raises ValueError if it
        is not finite, or so flat that a step needs cells below FINEST.
        """
        if not np.isfinite(omegas).all():
            raise ValueError(
                "omega(t) is not finite, as the schedule's parameters are not: take another "
                "checkpoint (eval.step)"
            )
        for i in range(1, len(omegas)):
            omegas[i] = np.maximum(omegas[i], omegas[i - 1] + np.float32(LEAST_STEP))
        self.omegas = omegas
        omega = omegas.astype(np.float64)
        below, above = omega[:-1], omega[1:]
        self.alpha, self.sigma = (np.exp(-0.5 * np.logaddexp(0, sign * omega)) for sign in (1, -1))
        # q(z_t | z_s) and q(z_s | z_t, x) as in vdm.diffusion.noise; entry i - 1 is step i
        lost = -np.expm1(below - above)
        self.alpha_ratio = self.alpha[1:] / self.alpha[:-1]
        self.shrink = self.sigma[1:] * lost
        self._forward_std = np.concatenate([self.sigma[:1], self.sigma[1:] * np.sqrt(lost)])
        self._reverse_std = np.concatenate(
            [self.sigma[:-1] * np.sqrt(lost), np.ones_like(omega[:1])]
        )
        least = np.minimum(self._forward_std, self._reverse_std)
        self.cell = np.exp2(np.floor(np.log2(least / cells_per_std)))
        if self.cell.min() < FINEST:
            raise ValueError(
                f"compress.num_steps = {self.num_steps} with compress.cells = {cells_per_std}: the "
                f"narrowest step needs cells below {FINEST:g}, the finest grid; take fewer of these"
            )

    @property
    def num_steps(self) -> int:
        """The number of steps T."""
        return len(self.omegas) - 1

    def last(self) -> Gaussians:
        """The Gaussians of q(z_T | x)."""
        return Gaussians(self.sigma[-1], self.cell[-1])

    def forward(self, i: int) -> Gaussians:
        """The Gaussians of q(z_i | z_{i-1}), and for i = 0 of q(z_0 | x)."""
        return Gaussians(self._forward_std[i], self.cell[i])

    def reverse(self, i: int) -> Gaussians:
        """The Gaussians of q(z_i | z_{i+1}, x) and p(z_i | z_{i+1}), which have the same variance,
        and for i = T of p(z_T)."""
        return Gaussians(self._reverse_std[i], self.cell[i])

    def posterior_mean(self, i: int, z: np.ndarray, eps: np.ndarray) -> np.ndarray:
        """The mean of q(z_{i-1} | z_i, x) for x = (z_i - sigma_i eps) / alpha_i; for the network's
        eps_hat, the mean of p(z_{i-1} | z_i)."""
        return (z - self.shrink[i - 1] * eps) / self.alpha_ratio[i - 1]

    def mean_at(self, i: int, z: np.ndarray, x: np.ndarray | float) -> np.ndarray:
        """The mean of q(z_{i-1} | z_i, x)."""
        return self.posterior_mean(i, z, (z - self.alpha[i] * x) / self.sigma[i])

    def position(self, i: int, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, Any]:
        """How far z_{i-1} lies from the mean of q(z_{i-1} | z_i, x = 0), and how far that mean
        moves with x, c of `vdm.diffusion.kernels`; both in standard deviations of q."""
        std = self._reverse_std[i - 1]
        moves = self.shrink[i - 1] * self.alpha[i] / self.sigma[i] / self.alpha_ratio[i - 1]
        return (below - self.mean_at(i, above, 0.0)) / std, moves / std


class _Functions(NamedTuple):
    """The compiled functions of a model.

    Attributes:
        eps_hat: (params, batch, omega) -> the network's estimate of the noise.
        encode: (params, batch) -> x, to which noise is added.
        probabilities: (params, batch, omega_0) -> p(code | z_0) for every code, by the likelihood.
        log_probs: (params, batch, omega) -> the network's log p(code | z) for every code.
    """

    eps_hat: Callable[[Params, dict, np.ndarray], jax.Array]
    encode: Callable[[Params, dict], jax.Array]
    probabilities: Callable[[Params, dict, np.ndarray], jax.Array]
    log_probs: Callable[[Params, dict, np.ndarray], jax.Array]


@kept  # so that the functions of a model are compiled only once
def _compiled(model: VDM) -> _Functions:
    def each(omega: jax.Array, batch: dict) -> jax.Array:
        return jnp.broadcast_to(omega, batch["z"].shape[:1] + omega.shape)

    def eps_hat(params: Params, batch: dict, omega: jax.Array) -> jax.Array:
        return model.denoiser(params, batch.get("labels"))(batch["z"], each(omega, batch))

    def log_probs(params: Params, batch: dict, omega: jax.Array) -> jax.Array:
        of_codes = log_probs_of(model.denoiser(params, batch.get("labels")))
        return of_codes(batch["z"], each(omega, batch))

    def encode(params: Params, batch: dict) -> jax.Array:
        return model.encode(params, batch["codes"], jnp.zeros(()))  # the same at every level

    def probabilities(params: Params, batch: dict, omega_0: jax.Array) -> jax.Array:
        likelihood: Any = model.likelihood_of(params)
        return jnp.exp(likelihood.log_probs(batch["z"], omega_0))

    # On a GPU, each process searches for the fastest kernels anew, and these differ in rounding.
    options = {"xla_gpu_deterministic_ops": True} if jax.default_backend() == "gpu" else None
    compiled = functools.partial(jax.jit, compiler_options=options)
    return _Functions(*map(compiled, (eps_hat, encode, probabilities, log_probs)))


class Chain:
    """A model and its parameters with T steps, evaluated in batches of a few fixed sizes."""

    def __init__(
        self,
        model: VDM,
        params: Params,
        mesh: Mesh,
        num_steps: int,
        cells_per_std: float,
        shards: int = 0,
        chosen: tuple[int, ...] = (),
    ) -> None:
        """Prepares the noise levels and the compiled functions.

        Args:
            params: the parameters, which live on the mesh.
            num_steps: T.
            cells_per_std: the least number of grid cells per standard deviation.
            shards: into how many equal parts a batch is divided, a multiple of the number of
                devices (0: one for each device). The last bits of an example may depend on the size
                of a part, but not on the device that computes it.
            chosen: the T + 1 levels, as indices into `vdm.diffusion.least_bound.fine_levels`; ()
                for those of equal times.

        Raises:
            ValueError: the model is of real numbers or has another kernel, or the grid would be too
                fine.
        """
        if num_steps < 1 or cells_per_std < 1:
            raise ValueError(
                f"T = {num_steps} steps with {cells_per_std} cells per standard deviation: both "
                "must be at least 1"
            )
        check_codable(model, params)
        omegas = _omegas(model, params, num_steps, chosen)
        self.levels = Levels(np.array(omegas, np.float32), cells_per_std)
        self.mixture, self._network_decodes = model.reverse == "mixture", model.network_decodes
        self.num_codes = num_codes(model)
        self.dims, self.latent_dims = model.dims, model.latent_dims
        self.num_classes = model.num_classes
        self._params, self._mesh = params, mesh
        self._shards = shards or mesh.devices.size
        self._functions = _compiled(model)

    def eps_hat(self, i: int, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """The network's estimate at z_i, float64 [batch, *latent_dims]."""
        return self._at(self._functions.eps_hat, i, z, labels).astype(np.float64)

    def log_probs(self, i: int, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """The network's log p(code | z_i) for every code, float32 [batch, D, V]."""
        log_probs = self._at(self._functions.log_probs, i, z, labels)
        # Coding is lossless with any model, even one that gives NaN.
        log_probs = np.maximum(np.nan_to_num(log_probs, nan=0.0), LEAST_LOG_PROB)
        return log_probs.reshape(len(z), math.prod(self.dims), -1)

    def _at(
        self, function: Callable, i: int, z: np.ndarray, labels: np.ndarray | None
    ) -> np.ndarray:
        batch: dict[str, np.ndarray] = {"z": z.astype(np.float32)}
        if labels is not None:
            batch["labels"] = labels.astype(np.int32)
        return self._evaluate(function, batch, self.levels.omegas[i])

    @functools.cached_property
    def x_of_codes(self) -> np.ndarray:
        """x of every code, float64 [V]."""
        return np.asarray(codes_to_x(jnp.arange(self.num_codes), self.num_codes), np.float64)

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """The data x to which noise is added, float64 [batch, *latent_dims]."""
        batch = {"codes": codes.astype(np.int32)}
        return self._evaluate(self._functions.encode, batch).astype(np.float64)

    def probabilities(self, z_0: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """p(code | z_0) for every code, float32 [batch, D, V]."""
        if self._network_decodes:
            return np.exp(self.log_probs(0, z_0, labels))
        omega_0 = self.levels.omegas[0]
        if omega_0.ndim:
            omega_0 = omega_0[None]
        batch = {"z": z_0.astype(np.float32)}
        probabilities = self._evaluate(self._functions.probabilities, batch, omega_0)
        return probabilities.reshape(len(z_0), math.prod(self.dims), -1)

    def _evaluate(self, function: Callable, batch: dict[str, np.ndarray], *more: Any) -> np.ndarray:
        """Evaluates a function on a batch, padded with zeros to the next power of two to compile
        only a few sizes."""
        count = len(next(iter(batch.values())))
        size = -(-(1 << (count - 1).bit_length()) // self._shards) * self._shards
        filled = {
            key: np.concatenate([value, np.zeros((size - count, *value.shape[1:]), value.dtype)])
            for key, value in batch.items()
        }
        results, rows = [], size // self._shards * self._mesh.devices.size
        for start in range(0, size, rows):
            part = {key: value[start : start + rows] for key, value in filled.items()}
            # A single device takes the host's arrays in the call itself, in a fifth of the time.
            alone = self._mesh.devices.size == 1
            placed = part if alone else sharding.put_whole_batch(part, self._mesh)
            results.append(sharding.fetch(function(self._params, placed, *more)))
        return np.concatenate(results)[:count]

    def probe(self) -> bytes:
        """Four bytes that differ if this machine computes other numbers than another one: a hash of
        the noise levels, and of the network and p(code | z_0) at one latent."""
        z = np.cos(np.arange(math.prod(self.latent_dims))).reshape(1, *self.latent_dims)
        labels = np.zeros(1, np.int32) if self.num_classes else None
        digest = hashlib.sha256()
        for array in (self.levels.cell, self.levels.alpha_ratio, self.levels.shrink):
            digest.update(array.tobytes())
        said = (self.log_probs if self.mixture else self.eps_hat)(self.levels.num_steps, z, labels)
        # What follows from log p is computed in float64.
        digest.update((np.exp(said.astype(np.float64)) if self.mixture else said).tobytes())
        digest.update(self.probabilities(z, labels).tobytes())
        return digest.digest()[:4]


def check_codable(model: VDM, params: Params) -> None:
    """Raises ValueError for a model whose images cannot be coded."""
    require(model, "lossless_codec", "lossless compression")
    parts = (model.likelihood, model.likelihood_of(params))
    if not all(hasattr(part, "log_probs") for part in parts):
        raise ValueError(
            f"likelihood {type(model.likelihood).__name__} has no probability of each code "
            "(log_probs), which lossless compression needs: choose 'discretised'"
        )
    if model.reverse not in KERNELS:
        raise ValueError(
            f"model.kernel = {model.reverse!r} is for evaluation, and files are not coded with it: "
            f"choose {' or '.join(map(repr, KERNELS))}"
        )
    if model.reverse == "mixture" or model.network_decodes:
        require(model, "code_probabilities", "lossless compression with this kernel or decoder")


def _omegas(model: VDM, params: Params, num_steps: int, chosen: tuple[int, ...]) -> np.ndarray:
    """The noise levels, at equal times or chosen."""
    if not chosen:
        return jax.device_get(equal_times(model.schedule_fn(params), num_steps))
    if model.multivariate:
        raise ValueError(
            "chosen levels, as of compress.grid, need one omega for all dimensions, but in this "
            "schedule each has its own: choose compress.grid.name = 'equal_times'"
        )
    ends = compiled_schedule(model)(params["schedule"], np.array([0.0, 1.0], np.float32))
    fine = fine_levels(*jax.device_get(ends).tolist())
    steps = np.diff(chosen)
    if len(steps) != num_steps or steps.min() < 1 or chosen[0] < 0 or chosen[-1] > FINE:
        raise ValueError(
            f"{len(chosen)} chosen levels for T = {num_steps}: they must be T + 1 increasing "
            f"indices from 0 to {FINE}"
        )
    return fine[list(chosen)]
