"""What a train step draws: times, noises and the labels that it withholds, each by its own key."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.vectors import BATCH, KEY, MODEL, Small, params_of
from vdm.diffusion.elbo import ElboTerms, Estimate
from vdm.diffusion.likelihood import Gaussian
from vdm.models.vdm import VDM
from vdm.nn.schedules import Linear
from vdm.training.gradient import Objective, draw, make_gradient
from vdm.typing import NO_LABEL

LINE = Linear(-8.0, 5.0)
LABELS_SEEN = []


class Labelled(nn.Module):
    """A network that records the labels it is given."""

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        jax.debug.callback(lambda labels: LABELS_SEEN.append(np.asarray(labels)), labels)
        return z * self.param("scale", nn.initializers.ones, ())


def test_times_of_a_batch_are_low_discrepancy_and_noises_differ():
    def drawn(params):
        return draw(MODEL, Objective(), params, BATCH, KEY).inputs.draws

    t, eps, eps_0, *_ = jax.jit(drawn)(params_of(MODEL))
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 32, atol=1e-6)
    assert abs(np.corrcoef(eps.ravel(), eps_0.ravel())[0, 1]) < 0.3


def test_labels_are_withheld_at_random():
    model = VDM(LINE, Labelled(), Gaussian(), (2,), num_classes=10, label_dropout=0.25)
    batch = {"examples": jnp.zeros((4000, 2)), "labels": jnp.arange(4000) % 10}
    gradient = jax.jit(make_gradient(model, Objective()))
    params = params_of(model)
    LABELS_SEEN.clear()
    for key in (KEY, jax.random.key(6)):
        gradient(params, batch, key)
    jax.effects_barrier()
    first, other = LABELS_SEEN[-2:]
    for seen in (first, other):
        withheld = seen == NO_LABEL
        assert abs(withheld.mean() - 0.25) < 0.028  # 4 standard errors
        np.testing.assert_array_equal(seen[~withheld], np.asarray(batch["labels"])[~withheld])
    assert not np.array_equal(first, other)


def test_every_draw_of_a_step_has_a_key_of_its_own(monkeypatch):
    # If the labels to withhold were drawn with the key of the times, the two would be dependent,
    # and neither the bound nor the share of withheld labels would show it.
    used = {"uniform": [], "normal": [], "bernoulli": [], "split": [], "fold_in": []}

    def noted(name):
        original = getattr(jax.random, name)

        def call(key, *args, **kwargs):
            used[name].append(tuple(np.ravel(jax.random.key_data(key)).tolist()))
            return original(key, *args, **kwargs)

        return call

    class Seen(Exception):
        """Everything is drawn except the masks of dropout, whose key is given to `elbo_at`."""

    class Spy(VDM):
        def elbo_at(self, params, data, draws, levels, labels, dropout_key, augmented):
            jax.random.bernoulli(dropout_key)
            raise Seen

    model = Spy(LINE, Small(), Gaussian(), (6,), num_classes=5, label_dropout=0.5)
    params = params_of(VDM(LINE, Small(), Gaussian(), (6,)))
    gradient = make_gradient(model, Objective())
    for name in used:
        monkeypatch.setattr(jax.random, name, noted(name))
    with pytest.raises(Seen):
        gradient(params, BATCH | {"labels": jnp.arange(32) % 5}, KEY)
    parents = {*used.pop("split"), *used.pop("fold_in")}
    assert {name: len(keys) for name, keys in used.items()} == {
        "uniform": 1, "normal": 2, "bernoulli": 2
    }  # fmt: skip
    keys = [key for keys in used.values() for key in keys]
    assert len({*keys, *parents}) == len(keys) + len(parents), used


def test_labels_are_withheld_whatever_the_time():
    # The same claim by the draws themselves: over many steps, whether the label of an example is
    # withheld tells nothing about its time.
    class Spy(VDM):
        """A model whose terms are the time of an example and whether its label is withheld."""

        def elbo_at(self, params, data, draws, levels, labels, dropout_key, augmented):
            withheld = (labels == NO_LABEL).astype(jnp.float32)
            zero = jnp.zeros_like(draws.t)
            return Estimate(ElboTerms(draws.t, withheld, zero), zero, levels)

    model = Spy(LINE, Small(), Gaussian(), (6,), num_classes=5, label_dropout=0.5)
    batch = {"examples": jnp.zeros((1, 6)), "labels": jnp.zeros(1, jnp.int32)}
    gradient = make_gradient(model, Objective())
    params = params_of(VDM(LINE, Small(), Gaussian(), (6,)))

    @jax.jit
    @jax.vmap
    def metrics(i):
        return gradient(params, batch, jax.random.fold_in(KEY, i))[1]

    found = metrics(jnp.arange(200))
    t, withheld = found["bpd_reconstruction"], found["bpd_prior"]
    assert len(np.unique(t)) == 200
    assert len(np.unique(withheld)) == 2
    assert abs(np.corrcoef(t, withheld)[0, 1]) < 0.28  # 4 standard errors of 200 pairs
