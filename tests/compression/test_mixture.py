"""Files with the mixture kernel and the network's decoder come back, and are as small as the bound
says: of independent codes, the entropy in any number of steps."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.compression.chain import Chain
from vdm.compression.codec import Codec
from vdm.compression.lattice import DamagedError, Stack, random_words
from vdm.compression.steps import _Posterior
from vdm.devices import sharding
from vdm.diffusion.least_bound import FINE, fine_levels
from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Linear, Polynomial

PRIOR = (0.55, 0.05, 0.02, 0.3, 0.08)


class Constant(nn.Module):
    """With prediction "codes", the exact denoiser of independent codes of these probabilities."""

    probabilities: tuple[float, ...]

    def __call__(self, z, omega, labels=None, train=False):
        logits = jnp.log(jnp.asarray(self.probabilities))
        return jnp.broadcast_to(logits, (*z.shape, len(self.probabilities)))


def independent(probabilities=PRIOR, omega_0=-8.0, **fields):
    """The model of independent codes in 16 dimensions."""
    return VDM(
        Linear(omega_0, 9.0), Constant(probabilities), Discretised(len(probabilities)), (16,),
        prediction="codes", **fields,
    )  # fmt: skip


def learned(num_classes=0, **fields):
    """An MLP of five codes with random parameters."""
    network = MLP(width=8, num_blocks=1, num_classes=num_classes, outputs_per_dim=5)
    return VDM(
        Linear(-4.0, 5.0), network, Discretised(5), (6,),
        prediction="codes", num_classes=num_classes, **fields,
    )  # fmt: skip


def chain_of(model, num_steps, chosen=()):
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    params["network"] = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params["network"]
    )
    return Chain(model, params, sharding.build_mesh(1), num_steps, 1, chosen=chosen)


def draw(probabilities, count, dims=16):
    rng = np.random.default_rng(3)
    return rng.choice(len(probabilities), (count, dims), p=probabilities)


def assert_exact(codec, codes, labels=None):
    coded = codec.encode(codes, labels)
    found, found_labels, _ = codec.decode(coded, len(codes))
    np.testing.assert_array_equal(found, codes)
    if labels is not None:
        np.testing.assert_array_equal(found_labels, labels)
    return coded


@pytest.mark.parametrize("order", ["bit_swap", "top_down"])
@pytest.mark.parametrize("decoder", ["bayes", "network"])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_any_codes_come_back(num_classes, decoder, order):
    model = learned(num_classes, reverse="mixture", decoder_rule=decoder)
    codes = np.random.default_rng(0).integers(0, 5, (30, 6))
    codes[10:20] = 4
    labels = np.arange(30) % 3 if num_classes else None
    assert_exact(Codec(chain_of(model, 3), order, 8), codes, labels)


def test_the_labels_reach_both_the_kernel_and_the_decoder():
    chain = chain_of(learned(3, reverse="mixture", decoder_rule="network"), 3)
    for one, other in (
        chain.log_probs(2, np.ones((2, 6)), np.array([0, 2])),
        chain.probabilities(np.ones((2, 6)), np.array([0, 2])),
    ):
        assert (one != other).any()


def test_the_network_decodes_with_the_gaussian_kernel_too():
    model = learned(decoder_rule="network")
    assert_exact(
        Codec(chain_of(model, 3), lanes=8), np.random.default_rng(0).integers(0, 5, (9, 6))
    )


@pytest.mark.parametrize("order", ["bit_swap", "top_down"])
@pytest.mark.parametrize(("decoder", "omega_0"), [("bayes", -8.0), ("network", -1.0)])
def test_independent_codes_take_their_entropy_in_two_steps(decoder, omega_0, order):
    # The kernel is the exact reverse process, so that every path has the weight p(x).
    codes = draw(PRIOR, 150)
    bits = -np.log2(PRIOR)[codes].mean()
    fields = {"omega_0": omega_0, "decoder_rule": decoder}
    coded = assert_exact(Codec(chain_of(independent(reverse="mixture", **fields), 2), order), codes)
    assert coded.ideal_bits / codes.size == pytest.approx(bits, abs=2e-3)
    # A word, the sizes of the batches, and the grid.
    assert abs(coded.net_bits - coded.ideal_bits) < 40 + 1e-3 * codes.size
    gaussian = Codec(chain_of(independent(**fields), 2), order).encode(codes[:40])
    assert gaussian.ideal_bits / codes[:40].size > bits + 0.1


def nearly_impossible():
    """The probabilities of 256 codes, of which two are likely."""
    probabilities = np.full(256, 1e-9)
    probabilities[[3, 200]] = 0.5
    return probabilities / probabilities.sum()


def test_many_codes_that_are_nearly_impossible_cost_nothing():
    fields = {"reverse": "mixture", "decoder_rule": "network"}
    codes = draw(nearly_impossible(), 300)
    chain = chain_of(independent(tuple(nearly_impossible().tolist()), **fields), 50)
    coded = assert_exact(Codec(chain), codes)
    assert coded.ideal_bits / codes.size == pytest.approx(1, abs=2e-3)
    # Words and sizes of batches: 40 bits. Drawn by the coder's probabilities, they cost 0.02 more.
    assert abs(coded.net_bits - coded.ideal_bits) < 40 + 4e-3 * codes.size


def test_files_of_version_2_drew_codes_by_the_coders_probabilities():
    chain = chain_of(independent(tuple(nearly_impossible().tolist()), reverse="mixture"), 20)
    codes = draw(nearly_impossible(), 100)
    coded = assert_exact(Codec(chain, exact_draws=False), codes)
    assert coded.net_bits > codes.size * 1.003
    with pytest.raises(DamagedError):
        Codec(chain).decode(coded, len(codes))


def test_the_posterior_of_a_code_is_bayes_rule():
    chain = chain_of(independent(reverse="mixture"), 4)
    rng, levels, i = np.random.default_rng(5), chain.levels, 3
    above = rng.normal(size=(2, 16))
    x = chain.x_of_codes[rng.integers(0, 5, (2, 16))]
    std = np.sqrt(-np.expm1(levels.omegas[i - 1] - levels.omegas[i])) * levels.sigma[i - 1]
    below = levels.mean_at(i, above, x) + std * rng.normal(size=x.shape)
    log_probs = chain.log_probs(i, above, None)
    posterior = _Posterior(chain, i, below, above, log_probs)
    for n in range(2):
        distance = below[n][:, None] - levels.mean_at(i, above[n][:, None], chain.x_of_codes)
        expected = np.exp(log_probs[n]) * np.exp(-0.5 * (distance / std) ** 2)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(posterior.table(n), expected, rtol=1e-6, atol=1e-12)


def test_a_network_of_nan_is_coded_without_loss():
    model = independent((np.nan,) * 5, reverse="mixture", decoder_rule="network")
    assert_exact(Codec(chain_of(model, 2)), draw(PRIOR, 5))


def test_the_bits_of_drawn_codes_are_subtracted():
    chain = chain_of(independent(reverse="mixture"), 4)
    rng, stack = np.random.default_rng(6), Stack(random_words(500, 0))
    above, below = rng.normal(size=(2, 3, 16))
    posterior = _Posterior(chain, 2, below, above, chain.log_probs(2, above, None))
    codes = posterior.draw(stack)
    assert stack.ideal_bits < -1
    posterior.undraw(stack, codes)
    assert stack.ideal_bits == pytest.approx(0, abs=1e-9)


def test_chosen_levels_are_those_of_the_steps():
    chosen = (100, 400, 401, 1000)
    model = learned(reverse="mixture", decoder_rule="network")
    chain = chain_of(model, 3, chosen)
    np.testing.assert_allclose(chain.levels.omegas, fine_levels(-4.0, 5.0)[list(chosen)], atol=1e-5)
    assert_exact(Codec(chain), np.random.default_rng(0).integers(0, 5, (9, 6)))
    for wrong in ((0, 1, 2), (0, 1, 1, 2), (0, 5, 9, FINE + 1), (-1, 5, 9, 10)):
        with pytest.raises(ValueError, match=r"chosen levels for T = 3: they must be T \+ 1"):
            chain_of(model, 3, wrong)
    each = Polynomial(-4.0, 5.0, per_dimension=True, dims=(6,))
    with pytest.raises(ValueError, match=r"compress\.grid\.name = 'equal_times'"):
        chain_of(dataclasses.replace(model, schedule=each), 3, chosen)
    chain = chain_of(dataclasses.replace(model, schedule=each), 3)
    assert_exact(Codec(chain), np.random.default_rng(0).integers(0, 5, (9, 6)))


def test_what_has_no_code_is_refused():
    with pytest.raises(ValueError, match="choose 'gaussian' or 'mixture'"):
        chain_of(learned(reverse="gaussian_fitted"), 2)
    other = VDM(Linear(-4.0, 5.0), MLP(width=8), Discretised(5), (6,), reverse="mixture")
    with pytest.raises(ValueError, match=r"model\.prediction = 'codes'"):
        chain_of(other, 2)


def test_the_probe_knows_kernel_decoder_and_levels():
    fields = [{}, {"reverse": "mixture"}, {"decoder_rule": "network"},
              {"reverse": "mixture", "decoder_rule": "network"}]  # fmt: skip
    probes = [chain_of(learned(**given), 2).probe() for given in fields]
    probes.append(chain_of(learned(), 2, (0, 500, 1000)).probe())
    assert len(set(probes)) == 5
