"""Samples: their labels, guidance, rows between two latents, and frames on the way."""

from dataclasses import fields

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.devices import sharding
from vdm.diffusion.grids import equal_omegas
from vdm.diffusion.likelihood import Discretised, Gaussian
from vdm.diffusion.samplers import ancestral, ddim, heun
from vdm.evaluation.calls import Parts
from vdm.evaluation.guided import Classified, ClassifierFree, Unguided
from vdm.evaluation.samples import Sampling, draw_samples, sample_dtype
from vdm.models.classifier import NoisyClassifier
from vdm.models.vdm import VDM
from vdm.nn.schedules import Linear
from vdm.typing import NO_LABEL


class Shift(nn.Module):
    """The exact eps_hat if x is the label, or 0 without a label."""

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        x = 0.0 if labels is None else jnp.where(labels == NO_LABEL, 0, labels).astype(z.dtype)
        x = jnp.broadcast_to(x, z.shape[:1])[:, None]
        alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(s * omega))[:, None] for s in (-1, 1))
        return (z - alpha * x) / sigma


class Slope(nn.Module):
    """Logits of three labels, linear in z."""

    @nn.compact
    def __call__(self, z, omega, train=False):
        return z.sum(axis=1, keepdims=True) * jnp.arange(3.0)[None]


MESH = sharding.build_mesh(1)
PARAMS = {"network": {}, "schedule": {}}


def model(**changes):
    return VDM(Linear(-10.0, 8.0, learn_ends=False), Shift(), Gaussian(), (2,), **changes)


def draw(num_samples, vdm=None, params=PARAMS, **settings):
    settings = {"sampler": ddim(), "num_steps": 20} | settings
    sampling, parts = (
        record(**{f.name: settings.pop(f.name) for f in fields(record) if f.name in settings})
        for record in (Sampling, Parts)
    )
    return draw_samples(
        vdm or model(), params, num_samples, MESH, sampling, parts=parts, **settings
    )


def test_conditional_samples_are_of_their_labels():
    drawn = draw(5, model(num_classes=3))
    np.testing.assert_array_equal(drawn.labels, [0, 1, 2, 0, 1])
    # what is left of z_1 is sigma_0 / sigma_1 of it
    np.testing.assert_allclose(drawn.data, drawn.labels[:, None] * np.ones(2), atol=0.05)
    given = draw(2, model(num_classes=3), labels=np.array([2, 2]))
    np.testing.assert_allclose(given.data, 2.0, atol=0.05)


def test_classifier_free_guidance_goes_beyond_the_label():
    vdm = model(num_classes=3, label_dropout=0.1)
    drawn = draw(3, vdm, guidance=ClassifierFree(1.5))
    np.testing.assert_allclose(drawn.data, 1.5 * drawn.labels[:, None] * np.ones(2), atol=0.05)
    assert drawn.network_evaluations == 40
    assert draw(3, vdm, sampler=heun()).network_evaluations == 40


def test_guidance_refuses_models_that_lack_what_it_needs():
    with pytest.raises(ValueError, match=r"model\.label_dropout = 0\.1"):
        ClassifierFree(2.0).check(model(num_classes=3))
    with pytest.raises(ValueError, match="has no labels"):
        Classified(None, 1.0).check(model())
    Unguided().check(model())
    ClassifierFree(2.0).check(model(num_classes=3, label_dropout=0.1))


def test_a_classifier_guides_models_with_and_without_labels():
    classifier = NoisyClassifier(Slope(), (2,), 3)
    params = PARAMS | {"classifier": {"network": {}}}
    log_probs = classifier.log_probs({"network": {}}, jnp.ones((4, 2)), jnp.zeros(4))
    np.testing.assert_allclose(jnp.exp(log_probs).sum(axis=1), 1.0, rtol=1e-6)
    means = []
    for vdm in (model(), model(num_classes=3, label_dropout=0.1), model(num_classes=3)):
        drawn = draw(6, vdm, params, guidance=Classified(classifier, 300.0), sampler=ancestral())
        np.testing.assert_array_equal(drawn.labels, [0, 1, 2, 0, 1, 2])
        means.append([drawn.data[drawn.labels == y].mean() for y in range(3)])
        assert drawn.network_evaluations == 20
    assert means[0][0] < -0.02 < 0.02 < means[0][2]  # towards less and more of sum(z)
    np.testing.assert_allclose(means[1], means[0], rtol=1e-5)  # the label is withheld from it
    assert means[2][2] > 1.5  # conditional on the label, and guided


def test_rows_lead_from_one_latent_to_another():
    rows = draw(8, interpolate=4)
    whole = draw(8, interpolate=4, batch_size=3)
    np.testing.assert_allclose(whole.data, rows.data, atol=1e-6)
    # sigma_0 / sigma_1 of z_1 is left where x is 0: latents are seen in the samples
    row = rows.data[:4]
    angles = np.pi / 2 * np.arange(4) / 3
    want = np.cos(angles)[:, None] * row[0] + np.sin(angles)[:, None] * row[3]
    np.testing.assert_allclose(row, want, rtol=1e-4)
    assert not np.allclose(rows.data[3], rows.data[4])
    np.testing.assert_array_equal(
        draw(8, model(num_classes=3), interpolate=4).labels, [0] * 4 + [1] * 4
    )


def test_rows_need_a_deterministic_sampler_and_a_number_that_divides():
    with pytest.raises(ValueError, match=r"choose sample\.name = 'ddim'"):
        draw(8, interpolate=4, sampler=ancestral())
    for count in (3, 1):
        with pytest.raises(ValueError, match="does not divide"):
            draw(8, interpolate=count)


def test_frames_end_with_the_samples_on_any_grid():
    drawn = draw(5, num_frames=4, grid=equal_omegas, batch_size=2)
    assert drawn.frames.shape == (4, 5, 2)
    np.testing.assert_array_equal(drawn.frames[-1], drawn.data)
    assert draw(5).frames.shape == (0, 5, 2)


def test_samples_that_are_not_finite_are_refused():
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, z, omega, labels=None, train=False):
            return z / 0.0

    vdm = VDM(Linear(-10.0, 8.0, learn_ends=False), Broken(), Gaussian(), (2,))
    with pytest.raises(ValueError, match="samples are not finite"):
        draw(2, vdm)


def coded(num_codes):
    schedule = Linear(-10.0, 8.0, learn_ends=False)
    return VDM(schedule, Shift(), Discretised(num_codes), (2,))


@pytest.mark.parametrize(
    ("num_codes", "dtype"),
    [(2, np.uint8), (256, np.uint8), (257, np.uint16), (70_000, np.uint32)],
)
def test_codes_are_kept_in_the_smallest_integers_that_hold_them(num_codes, dtype):
    drawn = draw(3, coded(num_codes), num_frames=2)
    assert drawn.data.dtype == drawn.frames.dtype == dtype
    assert drawn.data.max() < num_codes
    # x = 0 is in the middle
    np.testing.assert_allclose(drawn.data / num_codes, 0.5, atol=1 / num_codes + 0.05)
    assert draw(3).data.dtype == np.float32


@pytest.mark.parametrize("settings", [
    {"sampler": ancestral()}, {"num_frames": 3}, {"interpolate": 2},
    {"guidance": ClassifierFree(1.5)},
])  # fmt: skip
@pytest.mark.parametrize("vdm", [coded(17), model(num_classes=3, label_dropout=0.1)])
def test_samples_that_were_cut_off_are_completed_to_the_same_bits(vdm, settings):
    if "guidance" in settings and not vdm.num_classes:
        settings = {}
    parts = []
    whole = draw(10, vdm, batch_size=4, on_part=parts.append, **settings)
    assert [len(part) for part in parts] == [4, 4, 2]
    for done in (0, 1, 2, 3):
        computed, places = [], []
        finished = [np.frombuffer(part.tobytes(), part.dtype) for part in parts[:done]]
        resumed = draw(
            10, vdm, batch_size=4, finished=finished, on_part=computed.append,
            on_batch=lambda *place: places.append(place), **settings,  # noqa: B023
        )  # fmt: skip
        assert len(computed) == 3 - done
        assert places == [(0, 10), (4, 10), (8, 10), (10, 10)][done:]
        for ours, theirs in ((resumed.data, whole.data), (resumed.frames, whole.frames)):
            assert ours.tobytes() == theirs.tobytes()
        assert resumed.network_evaluations == whole.network_evaluations


def test_codes_that_the_likelihood_does_not_have_are_refused():
    class TooLarge(Discretised):
        def decode(self, z_0, omega_0):
            return super().decode(z_0, omega_0) + 250

    vdm = VDM(Linear(-10.0, 8.0, learn_ends=False), Shift(), TooLarge(17), (2,))
    assert sample_dtype(vdm, Sampling(ddim(), 20))["data"].base == np.uint8
    with pytest.raises(ValueError, match="codes are 0 to num_codes - 1"):
        draw(2, vdm)
