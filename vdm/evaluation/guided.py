"""Guidance of samples: config.sample.guidance.

A guidance is called as (model, params, labels) and returns a denoiser, which takes the place of the
model's own.
"""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Int

from vdm.diffusion import guidance
from vdm.diffusion.codes import CodesDenoiser, guided_log_probs
from vdm.diffusion.samplers import Sampler
from vdm.models.classifier import NoisyClassifier
from vdm.models.vdm import VDM
from vdm.typing import NO_LABEL, Denoiser, Params


class Guidance(Protocol):
    """A way to guide samples. It is frozen and hashable, because samplers are compiled for it."""

    @property
    def passes(self) -> int:
        """The number of passes through the model's network in each call of the denoiser."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes of labels that the guidance itself needs; 0 if it needs none."""
        ...

    def check(self, model: VDM) -> None:
        """Raises ValueError if the model cannot be guided in this way."""
        ...

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """Returns the denoiser for these labels."""
        ...


@dataclasses.dataclass(frozen=True)
class Unguided:
    """No guidance: the model itself, conditional on the labels if it was trained with labels."""

    passes = 1
    num_classes = 0

    def check(self, model: VDM) -> None:
        """Accepts every model."""

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """Returns the denoiser of the model."""
        return model.denoiser(params, labels if model.num_classes else None)


@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance of the given strength (`vdm.diffusion.guidance.classifier_free`)."""

    strength: float = 2.0
    passes = 2
    num_classes = 0

    def check(self, model: VDM) -> None:
        """Requires a model that was trained with and without labels."""
        if not (model.num_classes and model.label_dropout):
            raise ValueError(
                "sample.guidance.name = 'classifier_free' needs a model that was trained with and "
                "without labels: model.class_conditional = True and model.label_dropout = 0.1, say"
            )

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """Returns a denoiser that evaluates the network with and without the label."""
        without = model.denoiser(params, jnp.full_like(labels, NO_LABEL))
        conditional = model.denoiser(params, labels)
        eps_hat = guidance.classifier_free(conditional, without, self.strength)
        if not isinstance(conditional, CodesDenoiser) or not isinstance(without, CodesDenoiser):
            return eps_hat
        log_probs = guided_log_probs(conditional.log_probs, without.log_probs, self.strength)
        return CodesDenoiser(eps_hat, log_probs)


@dataclasses.dataclass(frozen=True)
class Classified:
    """Classifier guidance: follows the gradient of a noise-conditioned classifier.

    The classifier's parameters are params["classifier"] (--mode=classifier trains them). The model
    is used without labels if it was trained for that, otherwise with the same labels.
    """

    classifier: NoisyClassifier | None
    strength: float = 1.0
    passes = 1

    @property
    def num_classes(self) -> int:
        """The number of classes of the classifier."""
        return self.classifier.num_classes if self.classifier else 0

    def check(self, model: VDM) -> None:
        """Requires data with labels, and a model whose latents are noisy data."""
        if self.classifier is None:
            raise ValueError(
                "sample.guidance.name = 'classifier': the data set has no labels: choose 'none'"
            )
        if "noisy_data" not in model.supports:
            raise ValueError(
                "sample.guidance.name = 'classifier' reads noisy data, which the latents of "
                "this model are not: choose 'none' or 'classifier_free'"
            )

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """Returns a denoiser with one pass through the model and the classifier's gradient."""
        assert self.classifier is not None
        given = jnp.full_like(labels, NO_LABEL) if model.label_dropout else labels
        denoiser = model.denoiser(params, given if model.num_classes else None)
        log_prob = self.classifier.log_prob(params["classifier"], labels)
        return guidance.classifier(denoiser, log_prob, self.strength)


def check_guided_codes(guidance: Guidance, model: VDM, sampler: Sampler) -> None:
    """Raises ValueError if samples draw codes by their probabilities, which classifier guidance, a
    change of eps_hat alone, does not give."""
    drawn = sampler.needs == "code_probabilities" or model.network_decodes
    if drawn and isinstance(guidance, Classified):
        raise ValueError(
            "sample.guidance.name = 'classifier' guides eps_hat, not the probability of each code, "
            "from which sample.name = 'mixture_ancestral' and model.decoder = 'network' draw: "
            "choose 'none' or 'classifier_free', or another sampler with model.decoder = 'bayes'"
        )
