"""The denoiser that a model's network makes, whatever the network predicts."""

from typing import TYPE_CHECKING, Any

from jaxtyping import Array, Bool, Int

from vdm.diffusion.codes import CodesDenoiser
from vdm.diffusion.predictions import convert
from vdm.diffusion.schedule_algebra import next_omega
from vdm.typing import Denoiser, Params, PRNGKey

if TYPE_CHECKING:
    from vdm.models.vdm import VDM


def make_denoiser(
    model: "VDM",
    params: Params,
    labels: Int[Array, " batch"] | None,
    dropout_key: PRNGKey | None,
    augmented: Bool[Array, " batch"] | None,
) -> Denoiser:
    """Returns the function that `VDM.denoiser` describes."""
    flag: Any = {} if augmented is None else {"augmented": augmented}

    def output_at(z_t: Array, omega: Array) -> Any:
        return model.network.apply(
            {"params": params["network"]},
            z_t,
            omega,
            labels,
            train=dropout_key is not None,
            rngs={} if dropout_key is None else {"dropout": dropout_key},
            **flag,
        )

    def eps_hat(z_t: Array, omega: Array) -> Array:
        output = output_at(z_t, omega)
        if model.prediction == "codes":
            return model.head.eps_hat(output, z_t, omega)
        omega_s = None
        if model.prediction == "next_mean":
            if not model.num_steps:
                raise ValueError(
                    "prediction 'next_mean' is the mean of a step of 1/T: give num_steps = T"
                )
            omega_s = next_omega(model.schedule_fn(params), omega, model.num_steps)
        return convert(output, model.prediction, "eps", z_t, omega, omega_s)

    if model.prediction != "codes":
        return eps_hat
    sums: Any = getattr(model.head, "at", None)
    return CodesDenoiser(
        eps_hat,
        lambda z_t, omega: model.head.log_probs(output_at(z_t, omega), z_t, omega),
        sums and (lambda z_t, omega: sums(output_at(z_t, omega), z_t, omega)),
    )
