"""Guidance of a model's samples: config.sample.guidance.

A guidance is called as (model, params, labels) -> denoiser, and says how many passes through the
model's network one call of that denoiser takes, and of how many classes its labels are (0: those
of the model, if any).
"""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Int

from vdm.diffusion import guidance
from vdm.models.classifier import NoisyClassifier
from vdm.models.vdm import VDM
from vdm.typing import NO_LABEL, Denoiser, Params


class Guidance(Protocol):
    """Frozen and hashable: a compiled sampler is made for it."""

    @property
    def passes(self) -> int:
        """Of the model's network, in each call of the denoiser."""
        ...

    @property
    def num_classes(self) -> int:
        """Of the labels that it needs beside those of the model; 0: none."""
        ...

    def check(self, model: VDM) -> None:
        """ValueError where the model cannot be guided so."""
        ...

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """The denoiser for these labels."""
        ...


@dataclasses.dataclass(frozen=True)
class Unguided:
    """The model as it is, conditional on the labels if it was trained so."""

    passes = 1
    num_classes = 0

    def check(self, model: VDM) -> None:
        """Fits every model."""

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """The model's own."""
        return model.denoiser(params, labels if model.num_classes else None)


@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """Away from the model without a label, `strength` times as far as the label goes."""

    strength: float = 2.0
    passes = 2
    num_classes = 0

    def check(self, model: VDM) -> None:
        """It takes a model that knows labels and their absence."""
        if not (model.num_classes and model.label_dropout):
            raise ValueError(
                "sample.guidance.name = 'classifier_free' needs a model that was trained with and "
                "without labels: model.class_conditional = True and model.label_dropout = 0.1, say"
            )

    def __call__(self, model: VDM, params: Params, labels: Int[Array, " batch"]) -> Denoiser:
        """Two passes through the network."""
        without = model.denoiser(params, jnp.full_like(labels, NO_LABEL))
        return guidance.classifier_free(model.denoiser(params, labels), without, self.strength)


@dataclasses.dataclass(frozen=True)
class Classified:
    """Up the gradient of a noise-conditioned classifier, whose parameters are
    params["classifier"] (--mode=classifier trains it); the model is the one without labels where it
    knows that, else it is conditional on them too."""

    classifier: NoisyClassifier | None
    strength: float = 1.0
    passes = 1

    @property
    def num_classes(self) -> int:
        """Those of the classifier."""
        return self.classifier.num_classes if self.classifier else 0

    def check(self, model: VDM) -> None:
        """It takes data with labels."""
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
        """One pass through the model, and one through the classifier and back."""
        assert self.classifier is not None
        given = jnp.full_like(labels, NO_LABEL) if model.label_dropout else labels
        denoiser = model.denoiser(params, given if model.num_classes else None)
        log_prob = self.classifier.log_prob(params["classifier"], labels)
        return guidance.classifier(denoiser, log_prob, self.strength)
