"""The score network of VDM: a U-Net that never down-samples (VDM appendix B).

It consists of a first convolution, `num_blocks` blocks down, block-attention-block in the middle,
`num_blocks` + 1 blocks up, each with the skip of its level concatenated to its input, and a last
convolution that starts at zero. With `outputs_per_dim` = 1 (VDM) z is added to the result; with V
outputs for each dimension the result is the logits of V codes (model.prediction = "codes").

All blocks down are alike, and so are all blocks up: `scan` turns each group into a loop, `remat`
makes the backward pass recompute the inside of a block, and `dtype` computes everything but the
ends in bfloat16. The network accepts parameters stored per block or stacked (`vdm.nn.stacks`); it
initialises them per block.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from vdm.arguments import check_share
from vdm.nn.attention import Attention
from vdm.nn.blocks import Conditioning, ResidualBlock, check_image, group_norm
from vdm.nn.embeddings import (
    OMEGA_LOW,
    OMEGA_RANGE,
    fourier_features,
    fourier_frequencies,
    read_omega,
)
from vdm.nn.stacks import (
    Dtype,
    Remat,
    Scan,
    check_form,
    is_looped,
    rematerialised,
    run_stack,
    stack,
    stacked_name,
    unstack,
)
from vdm.typing import Params, PRNGKey


class UNet(nn.Module):
    """The network for images: (z_t [batch, height, width, channels], omega [batch] or of z_t's
    shape, labels, which images are augmented) -> the prediction, in z_t's shape, with one more axis
    if `outputs_per_dim` > 1.

    `num_codes`, `num_classes` (0: unconditional), `augmented` (whether the network is told which
    images are augmented) and `outputs_per_dim` follow from the data and the rest of the config.

    The published network has num_groups = 32, frequencies = (64, 128) for every V,
    label_as_scalar = True and, for end points other than -13.3 and 5, omega_low = omega_0 and
    omega_range = omega_1 - omega_0. num_groups = 0 depends on the width, frequencies = () on V.

    dtype: "float32" or "bfloat16" for the blocks and the first convolution. Always float32 are the
        parameters, the features of omega and z, the statistics of norms, the result, and the last
        norm and convolution, whose rounding would be that of the prediction.
    remat: what the backward pass recomputes: "none"; "blocks", whole blocks; "dots", everything
        except convolutions and dense layers (`vdm.nn.stacks`).
    scan: whether the blocks down, and those up, are a loop, which compiles in a fraction of the
        time: "on", "off", or "auto", on accelerators from 4 blocks on.
    With remat or scan, dropout draws other masks than without them.
    """

    num_codes: int
    num_classes: int = 0
    outputs_per_dim: int = 1
    augmented: bool = False
    width: int = 128
    num_blocks: int = 32
    dropout: float = 0.1
    fourier: bool = True
    omega_scale: float = 1000.0
    attention: Literal["middle", "all", "none"] = "middle"
    film: bool = False
    num_groups: int = 0
    frequencies: tuple[float, ...] = ()
    omega_low: float = OMEGA_LOW
    omega_range: float = OMEGA_RANGE
    label_as_scalar: bool = False
    dtype: Dtype = "float32"
    remat: Remat = "none"
    scan: Scan = "auto"

    def __post_init__(self) -> None:
        check_share("network.kwargs.dropout", self.dropout)
        super().__post_init__()

    @property
    def loops(self) -> dict[str, int]:
        """The stacks that are a loop (name -> number of blocks); the last block up is in none."""
        looped = is_looped(self.scan, self.num_blocks)
        return dict.fromkeys(("down", "up"), self.num_blocks) if looped else {}

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        omega: Float[Array, " b"] | Float[Array, "b h w c"],
        labels: Num[Array, " b"] | None = None,
        train: bool = False,
        augmented: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b h w *c"]:
        check_image(z, "network 'unet'", "network.name = 'mlp'")
        if self.attention not in ("middle", "all", "none"):
            raise ValueError(f"attention is 'middle', 'all' or 'none', not {self.attention!r}")
        check_form(self.dtype, self.remat, self.scan)
        # None instead of float32, because in float64 tests everything is float64.
        dtype = jnp.bfloat16 if self.dtype == "bfloat16" else None
        omega, inputs = read_omega(omega, self.omega_range)
        cond = Conditioning(
            self.width,
            self.num_classes,
            self.omega_scale,
            self.omega_low,
            self.omega_range,
            self.label_as_scalar,
            self.augmented,
            name="conditioning",
        )(omega, labels, augmented)
        groups = self.num_groups
        residual = {"features": self.width, "dropout": self.dropout, "film": self.film}
        parts = {"num_groups": groups, "dtype": dtype}

        def block(h: Array, name: str, attend: bool) -> Array:
            h = ResidualBlock(**residual, **parts, name=name)(h, cond, train)
            return Attention(**parts, name=f"{name}_attention")(h, train) if attend else h

        frequencies = self.frequencies or fourier_frequencies(self.num_codes)
        if self.fourier and frequencies:
            inputs.append(fourier_features(z, frequencies))
        h = jnp.concatenate([z, *inputs], axis=-1)
        h = nn.Conv(self.width, (3, 3), dtype=dtype, name="conv_in")(h)

        looped = is_looped(self.scan, self.num_blocks)
        everywhere, in_middle = self.attention == "all", self.attention != "none"
        stacked = stacked_name("down") in self.variables.get("params", {})
        if self.is_initializing() or not (looped or stacked or self.remat != "none"):
            skips = [h]
            for i in range(self.num_blocks):
                h = block(h, f"down_{i}", everywhere)
                skips.append(h)
            h = block(h, "middle_0", in_middle)
            h = block(h, "middle_1", False)
            for i in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), f"up_{i}", everywhere)
        else:
            h = self._stacks(h, cond, train, looped, residual | parts)

        # If the norm did this cast, it would do it twice and round each of two gradients.
        h = nn.swish(group_norm(h.astype(z.dtype), "norm_out", groups))
        outputs = z.shape[-1] * self.outputs_per_dim
        zeros = nn.initializers.zeros
        h = nn.Conv(outputs, (3, 3), kernel_init=zeros, name="conv_out")(h)
        return z + h if self.outputs_per_dim == 1 else h.reshape(*z.shape, self.outputs_per_dim)

    def _stacks(
        self,
        h: Float[Array, "b h w width"],
        cond: Float[Array, "b cond"],
        train: bool,
        looped: bool,
        settings: dict[str, Any],
    ) -> Float[Array, "b h w width"]:
        """Applies all blocks, down, middle and up, as functions of their parameters."""
        residual = ResidualBlock(**settings, parent=None)
        attention = Attention(settings["num_groups"], settings["dtype"], parent=None)

        def block(params: Params, h: Array, skip: Array | None, key: PRNGKey | None) -> Array:
            h = h if skip is None else jnp.concatenate([h, skip], axis=-1)
            rngs = {} if key is None else {"dropout": key}
            out: Any = residual.apply({"params": params["block"]}, h, cond, train, rngs=rngs)
            if "attention" in params:
                out = attention.apply({"params": params["attention"]}, out, train)
            return out

        def params_of(name: str, attend: bool) -> Params:
            params = self.variables["params"]
            with_attention = {"attention": params[f"{name}_attention"]} if attend else {}
            return {"block": params[name]} | with_attention

        num, everywhere = self.num_blocks, self.attention == "all"

        def params_of_stack(name: str) -> Params | list[Params]:
            if stacked_name(name) in self.variables["params"]:
                stacked = params_of(stacked_name(name), everywhere)
                return stacked if looped else unstack(stacked, num)
            per_block = [params_of(f"{name}_{i}", everywhere) for i in range(num)]
            return stack(per_block) if looped else per_block

        block = rematerialised(block, self.remat)
        down_keys, up_keys, keys = None, None, [None, None, None]
        if train and self.dropout:
            split = jax.random.split(self.make_rng("dropout"), 2 * num + 3)
            down_keys, up_keys, keys = split[:num], split[num : 2 * num], list(split[2 * num :])

        first = h
        h, skips = run_stack(block, params_of_stack("down"), h, None, down_keys)
        h = block(params_of("middle_0", self.attention != "none"), h, None, keys[0])
        h = block(params_of("middle_1", False), h, None, keys[1])
        h, _ = run_stack(block, params_of_stack("up"), h, skips, up_keys)
        return block(params_of(f"up_{num}", everywhere), h, first, keys[2])
