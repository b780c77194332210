"""The score network of VDM: a U-Net that never down-samples (VDM appendix B).

conv_in, `num_blocks` blocks down, block-attention-block in the middle, `num_blocks` + 1
blocks up, each fed the concatenated skip of its level, and a last convolution, zero at first.

With `outputs_per_dim` = 1 (VDM) z is added to it; with V outputs for each dimension it gives the
logits of V codes (model.prediction = "codes").

The blocks down are alike, and so are those up: `scan` makes a loop of either, `remat` lets the
backward pass compute again what lies inside a block, `dtype` has all of it but the ends computed in
bfloat16. It takes parameters of either form, each block's or stacked (`vdm.nn.stacks`), and starts
with each block's.
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
    rows_of,
    run_stack,
    stack,
    stacked_name,
)
from vdm.typing import Params, PRNGKey


class UNet(nn.Module):
    """(z_t [batch, height, width, channels], omega [batch] or of z_t's shape, labels, which images
    are augmented) -> the prediction, of z_t's shape, or with one axis more of `outputs_per_dim`.

    `num_codes`, `num_classes` (0: unconditional), `augmented` (whether it is told that) and
    `outputs_per_dim` are facts that the config fills in.

    The published network is num_groups = 32, frequencies = (64, 128) whatever V is,
    label_as_scalar = True and, for other end points than -13.3 and 5, omega_low = omega_0 and
    omega_range = omega_1 - omega_0. 0 groups and () choose by the width and by V.

    dtype: of the blocks and the first convolution, "float32" or "bfloat16". Parameters, the
    features of omega and z, the statistics of norms, the last norm and convolution, whose rounding
    would be that of the prediction, and what comes out are float32 with both.
    remat: what the backward pass computes again, "none", "blocks": all inside of a block, "dots":
    what is neither a convolution nor a dense layer (`vdm.nn.stacks`).
    scan: "on": a loop over the blocks down, and up, which compiles in a fraction of the time;
    "off"; "auto": on accelerators, from 4 blocks on.
    With remat or scan the masks of dropout are others than with neither.
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
        """The stacks of blocks that are a loop, with their lengths; the last block up is apart."""
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
        # None, not float32: in a test in float64 everything is.
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

        # The norm would do this twice, and its backward pass round each of two gradients.
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
        """All blocks, as functions of their parameters."""
        residual = ResidualBlock(**settings, parent=None)
        attention = Attention(settings["num_groups"], settings["dtype"], parent=None)

        def block(of: Params, h: Array, skip: Array | None, key: PRNGKey | None) -> Array:
            h = h if skip is None else jnp.concatenate([h, skip], axis=-1)
            rngs = {} if key is None else {"dropout": key}
            out: Any = residual.apply({"params": of["block"]}, h, cond, train, rngs=rngs)
            if "attention" in of:
                out = attention.apply({"params": of["attention"]}, out, train)
            return out

        def params_of(name: str, attend: bool) -> Params:
            params = self.variables["params"]
            with_attention = {"attention": params[f"{name}_attention"]} if attend else {}
            return {"block": params[name]} | with_attention

        num, everywhere = self.num_blocks, self.attention == "all"

        def params_of_stack(name: str) -> Params | list[Params]:
            if stacked_name(name) in self.variables["params"]:
                stacked = params_of(stacked_name(name), everywhere)
                return stacked if looped else rows_of(stacked, num)
            apart = [params_of(f"{name}_{i}", everywhere) for i in range(num)]
            return stack(apart) if looped else apart

        block = rematerialised(block, self.remat)
        down_keys, up_keys, keys = None, None, [None, None, None]
        if train and self.dropout:
            every = jax.random.split(self.make_rng("dropout"), 2 * num + 3)
            down_keys, up_keys, keys = every[:num], every[num : 2 * num], list(every[2 * num :])

        first = h
        h, skips = run_stack(block, params_of_stack("down"), h, None, down_keys)
        h = block(params_of("middle_0", self.attention != "none"), h, None, keys[0])
        h = block(params_of("middle_1", False), h, None, keys[1])
        h, _ = run_stack(block, params_of_stack("up"), h, skips, up_keys)
        return block(params_of(f"up_{num}", everywhere), h, first, keys[2])
