"""Random keys from seeds of 64 bits, and the generator that a run trains with."""

import jax
import numpy as np
import pytest

from vdm.api import build
from vdm.config.compatibility import differing_fields
from vdm.devices.keys import root_key
from vdm.runs import states
from vdm.runs.run import build_run


def data(key):
    return np.asarray(jax.random.key_data(key))


@pytest.mark.parametrize("seed", [0, 5, 2**31, 2**32 - 1])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_small_seeds_have_the_keys_of_jax(seed, impl):
    np.testing.assert_array_equal(data(root_key(seed, impl)), data(jax.random.key(seed, impl=impl)))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_every_bit_of_a_seed_counts(impl):
    seeds = [5, 5 + 2**32, 5 + 2**33, 5 + 2**63]
    assert len({data(root_key(seed, impl)).tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"it must be from 0 to 2\^64 - 1"):
        root_key(seed)


def test_seeds_that_agree_in_their_lower_bits_differ_in_parameters_and_steps(make_tiny_config):
    runs = [build_run(make_tiny_config(seed=seed), "unused") for seed in (1, 1 + 2**32)]
    low, high = (jax.tree.leaves(states.initial_state(run).params) for run in runs)
    assert not all(np.array_equal(a, b) for a, b in zip(low, high, strict=True))
    assert not np.array_equal(*(data(run.step_key) for run in runs))


@pytest.mark.parametrize("field", ["seed", "eval__seed", "sample__seed", "compress__seed"])
def test_a_seed_of_a_config_that_is_too_large_is_refused(make_tiny_config, field):
    with pytest.raises(ValueError, match=rf"{field.replace('__', '.')} = .* below 2\^64"):
        build_run(make_tiny_config(**{field: 2**64}), "unused")


def test_the_default_generator_of_the_process_changes_no_number(make_tiny_config):
    # rbg makes other numbers, and under vmap those of an example depend on its batch.
    def results(bpd_sizes, sample_sizes):
        model = build(make_tiny_config())
        images = model.split("test").examples[:20]
        bpd = [model.bpd(images, batch_size=size).per_image for size in bpd_sizes]
        samples = [model.sample(5, num_steps=2, batch_size=size) for size in sample_sizes]
        return jax.device_get(model.params), bpd, samples

    with jax.default_prng_impl("threefry2x32"):
        params, (bpd,), (samples,) = results((20,), (5,))
    with jax.default_prng_impl("rbg"):
        other_params, other_bpd, other_samples = results((8, 20), (2, 5))
    jax.tree.map(np.testing.assert_array_equal, params, other_params)
    for found in other_bpd:
        np.testing.assert_allclose(found, bpd, rtol=1e-5)  # float32
    for found in other_samples:
        np.testing.assert_array_equal(found, samples)


def test_the_generator_of_training_is_a_field_that_a_workdir_keeps(make_tiny_config):
    ours, theirs = (
        build_run(make_tiny_config(train__prng_impl=impl), "unused")
        for impl in ("threefry2x32", "rbg")
    )
    assert jax.random.key_impl(theirs.step_key) == "rbg"
    assert jax.random.key_impl(theirs.init_key) == jax.random.key_impl(ours.step_key)
    (difference,) = differing_fields(ours.resolved, theirs.resolved)
    assert difference == "train.prng_impl: here 'threefry2x32', there 'rbg'"
