"""Microbatches give the gradient of the whole batch, one part after another."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.training import vectors
from tests.training.vectors import KEY, assert_close, params_of
from vdm.devices import sharding
from vdm.diffusion import weightings
from vdm.diffusion.elbo import ElboTerms
from vdm.nn.schedules import Polynomial
from vdm.training import microbatches
from vdm.training.gradient import Objective, make_gradient, make_plain_gradient
from vdm.training.microbatches import Microbatches

MODEL = vectors.MODEL
BATCH = vectors.BATCH | {"labels": jnp.arange(32) % 5}


def gradient(model, parts, *args):
    compiled = jax.jit(make_gradient(model, Objective(*args), parts))
    return without_zeros(compiled(params_of(model), BATCH, KEY))


def without_zeros(result):
    """The result of a gradient without the derivatives by omega_s and of_step, which are 0 for the
    Gaussian kernel: it reads them only through the weight."""
    grads, metrics, estimate = result
    levels = estimate.grad_levels
    assert not any(map(np.any, jax.tree.leaves((levels.omega_s, levels.of_step))))
    levels = levels._replace(omega_s=None, of_step=None)
    return grads, metrics, estimate._replace(grad_levels=levels)


@functools.cache  # the same for both forms of microbatches
def whole_gradient(model, *args):
    return gradient(model, Microbatches(), *args)


@pytest.mark.usefixtures("form")
def test_means_are_of_all_rows_and_rows_come_back_in_order():
    def gradient_of(rows, key):
        del key
        return {"mean": jnp.mean(rows, axis=0)}, 2 * rows

    rows = jax.random.normal(KEY, (12, 3))
    means, doubled = jax.jit(lambda rows: Microbatches(3)(gradient_of, rows, KEY))(rows)
    np.testing.assert_allclose(means["mean"], jnp.mean(rows, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(doubled, 2 * rows)


@pytest.fixture(params=["unrolled", "loop"])
def form(request, monkeypatch):
    """The two ways in which microbatches are compiled: on the CPU, and on accelerators."""
    if request.param == "loop":
        monkeypatch.setattr(microbatches.Microbatches, "_platform", "gpu")


@pytest.mark.slow
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(
    ("args", "changes"),
    [
        ((0, "variance", weightings.sigmoid()), {}),
        ((0, "variance_stratified"), {"num_classes": 5, "label_dropout": 0.3}),
        ((10, "bound", weightings.min_snr()), {}),
    ],
)
def test_microbatches_give_the_gradient_of_the_whole_batch(args, changes):
    model = dataclasses.replace(MODEL, **changes)
    assert_close(gradient(model, Microbatches(4), *args), whole_gradient(model, *args))


@pytest.mark.slow
def test_each_dimension_with_its_own_schedule():
    schedule = Polynomial(-8.0, 5.0, learn_ends=True, per_dimension=True, dims=(6,))
    model = dataclasses.replace(MODEL, schedule=schedule)
    assert_close(gradient(model, Microbatches(2), 0), whole_gradient(model, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("form")
def test_microbatches_on_several_devices():
    mesh = sharding.build_mesh(4, 2)
    compiled = jax.jit(make_gradient(MODEL, Objective(0, "variance"), Microbatches(4, mesh)))
    got = compiled(params_of(MODEL), sharding.put_batch(jax.device_get(BATCH), mesh), KEY)
    assert_close(jax.device_get(without_zeros(got)), whole_gradient(MODEL, 0, "variance"))


def test_no_row_leaves_its_device_and_all_come_back_in_order():
    mesh = sharding.build_mesh(4)
    rows = jax.device_put(jnp.arange(32), sharding.split_batch(mesh))
    parts = Microbatches(2, mesh)
    cut = jax.jit(parts._cut, out_shardings=NamedSharding(mesh, PartitionSpec(None, "data")))
    compiled = cut.lower(rows).compile()
    assert "all-to-all" not in compiled.as_text()
    assert "collective-permute" not in compiled.as_text()
    before = {s.device: set(np.ravel(s.data).tolist()) for s in rows.addressable_shards}
    after = {s.device: set(np.ravel(s.data).tolist()) for s in compiled(rows).addressable_shards}
    assert before == after
    np.testing.assert_array_equal(jax.jit(parts._join)(compiled(rows)), np.arange(32))
    np.testing.assert_array_equal(Microbatches(2)._cut(jnp.arange(6)), [[0, 1, 2], [3, 4, 5]])


@dataclasses.dataclass(frozen=True)
class Scale:
    """A model without a schedule; its key moves every term, dropout one of them."""

    def elbo(self, params, data, keys, dropout_key):
        noise = jax.vmap(lambda key: jax.random.normal(key, (6,)))(keys)
        nats = jnp.sum((data - params["a"] * noise) ** 2, axis=1)
        kept = jax.random.bernoulli(dropout_key, 0.5, nats.shape)
        prior = jnp.square(params["a"]) * jnp.ones_like(nats)
        return ElboTerms(nats, prior, nats * kept)

    dims = (6,)


def test_a_model_without_a_schedule():
    params = {"a": jnp.float32(0.7)}

    def metrics_of(count):
        plain = jax.jit(make_plain_gradient(Scale(), Microbatches(count)))
        return plain(params, BATCH, KEY)[1]

    one, four = metrics_of(1), metrics_of(4)
    np.testing.assert_allclose(four["bpd_reconstruction"], one["bpd_reconstruction"], rtol=1e-5)
    np.testing.assert_allclose(four["bpd_prior"], one["bpd_prior"], rtol=1e-5)
    assert (
        four["bpd_denoising"] != one["bpd_denoising"]
    )  # each microbatch has its own masks of dropout


def test_every_microbatch_has_masks_of_its_own():
    seen = []

    def spy(rows, key):
        seen.append(key)
        return jnp.mean(rows), rows

    Microbatches(4)(spy, jnp.arange(8.0), KEY)
    bits = {tuple(jax.random.key_data(key).tolist()) for key in seen}
    assert len(bits) == 4
    Microbatches(1)(spy, jnp.arange(8.0), KEY)
    assert seen[-1] is KEY
    with pytest.raises(ValueError, match="3 microbatches of 8 examples on 1 devices"):
        Microbatches(3)(spy, jnp.arange(8.0), KEY)
