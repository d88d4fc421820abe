"""The shape of the transformer."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from tokenizers.settings.checked import Checked, name_knob

Dtype = Literal["auto", "float32", "bfloat16"]
Remat = Literal["none", "blocks", "everything", "auto"]
Activation = Literal["gelu", "silu", "relu", "geglu", "swiglu", "reglu"]
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "gelu": (partial(nnx.gelu, approximate=False), False),
    "silu": (nnx.silu, False),
    "relu": (nnx.relu, False),
    "geglu": (partial(nnx.gelu, approximate=False), True),
    "swiglu": (nnx.silu, True),
    "reglu": (nnx.relu, True),
}
"""Per activation its function, and whether the MLP is gated by it (Shazeer 2020)."""


BOUNDS = {
    "dim": (4, 2**16),
    "num_heads": (1, 2**12),
    "encoder_layers": (1, 2**10),
    "decoder_layers": (1, 2**10),
    "mlp_ratio": (0.01, 2**10),
    "num_registers": (0, 2**16),
    "embedding_std": (0, 2**10),
}
"""Least and largest value of knobs of the model: beyond are typing errors and damaged files."""


@dataclass(frozen=True)
class PublishedOptions(Checked):
    """What the published 4M models have differently; nobody else needs to set any of it."""

    qkv_bias: bool = False
    """Whether queries, keys and values have biases."""
    out_bias: bool = False
    """Whether the output projection of attention has a bias."""
    mlp_bias: bool = False
    """Whether the MLP has biases."""
    norm_bias: bool = False
    """Whether LayerNorm has biases; RMSNorm never has."""
    registers_in_context: bool = False
    """Whether the decoder attends to the encoder's output of the registers, too."""
    learned_positions: bool = True
    """Train the position table, which starts from sines and cosines."""
    separate_positions: tuple[str, ...] = ()
    """Modalities whose positions are learned from random values, apart in encoder and decoder:
    those whose tokens have a number but no place, such as codes of a global feature."""
    share_token_embeddings: bool = True
    """One table for the tokens that the encoder reads and for the preceding tokens (and the mask)
    that the decoder reads; off gives the decoder its own."""
    share_modality_embeddings: bool = True
    """One table for what a token's modality adds to it in encoder and decoder; off gives the
    decoder its own."""
    separate_targets: bool = True
    """Targets attend to targets of their own modality alone; off lets them attend to those of the
    modalities before theirs, too."""
    causal_targets: bool = False
    """No target attends to a later one; off spares the targets of grids, which say nothing to each
    other but where they are."""


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The shape of the transformer."""

    dim: int = 128
    """Width of the residual stream. 0: chosen when a run begins, with the number of heads and
    layers, from the number of samples and the machine."""
    num_heads: int = 4
    """Attention heads; dim must be divisible by it."""
    encoder_layers: int = 3
    """Blocks of the encoder."""
    decoder_layers: int = 3
    """Blocks of the decoder."""
    mlp_ratio: float = 4.0
    """Ratio of the hidden width of the MLP to dim. Gated MLPs take two thirds: equal cost."""
    activation: Activation = "swiglu"
    """MLP nonlinearity; those that end in "glu" are gated."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """Normalisation before each sublayer."""
    qk_norm: bool = True
    """Normalise queries and keys per head (Dehghani et al. 2023), for high learning rates."""
    num_registers: int = 0
    """Number of learned tokens that the encoder reads beside the sample's (Darcet et al. 2024)."""
    embedding_std: float = 0.5
    """Standard deviation of token and modality embeddings at the start. Small values let
    positions drown contents in short runs; the published models used 0.02."""
    same_place: bool = True
    """Start every target of a grid from what the encoder has at the same place, in whatever grids
    are shown there. Without it, attention has to find the place, which takes hundreds of steps."""
    within_place: bool = True
    """Where grids differ in size, start targets also from where within that place they lie."""
    inside_boxes: bool = True
    """Start targets of grids also from boxes around them."""
    fused_attention: bool = True
    """On GPUs, in half precision, attend by cuDNN's flash attention where its rules hold."""
    joined_products: bool = False
    """In half precision, multiply by the kernels of keys and values, and of gate and up, side by
    side: fewer and larger products, of kernels that are copied first."""
    scan_layers: bool = False
    """Scan over layers (compile time does not grow with depth) instead of unrolling them
    (faster steps on a CPU)."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it. blocks keeps what goes into
    each block: one more forward pass. everything keeps that of every few blocks only: two more
    (Chen et al. 2016). auto takes the first of these that fits the device when a training begins,
    and says which."""
    compute_dtype: Dtype = "auto"
    """Precision of activations. auto is bfloat16 on GPUs and TPUs and float32 on a CPU, and is
    settled when a model is made. Parameters, norms, softmax and loss stay float32."""

    published: PublishedOptions = field(default_factory=PublishedOptions)
    """What the published 4M models have differently."""

    EARLIER_DEFAULTS: ClassVar[dict[str, Any]] = {
        "same_place": False,
        "within_place": False,
        "inside_boxes": False,
    }

    @property
    def dtype(self) -> jnp.dtype:
        """Of activations, on this machine if that is left to it."""
        if self.compute_dtype == "auto":
            return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        return jnp.dtype(self.compute_dtype)

    @property
    def is_gated(self) -> bool:
        return ACTIVATIONS[self.activation][1]

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP."""
        hidden = int(self.dim * self.mlp_ratio)
        return int(2 * hidden / 3) if self.is_gated else hidden

    @staticmethod
    def from_earlier(stored: dict[str, Any]) -> dict[str, Any]:
        """Returns fields as this version names them, see `tokenizers.settings.plain`."""
        stored = dict(stored)
        if "use_bias" in stored:  # Once one knob stood for four.
            parts = ("qkv_bias", "out_bias", "mlp_bias", "norm_bias")
            stored |= dict.fromkeys(parts, stored.pop("use_bias"))
        if isinstance(stored.get("remat"), bool):  # Once this was a switch.
            stored["remat"] = "blocks" if stored["remat"] else "none"
        names = [each.name for each in fields(PublishedOptions) if each.name in stored]
        if names:  # Once these were knobs beside the others.
            moved = {name: stored.pop(name) for name in names}
            before = stored.get("published", {"class": PublishedOptions.__name__})
            stored["published"] = before | moved
        return stored

    def check_knobs(self, knob: str) -> None:
        for name, (least, most) in BOUNDS.items():
            is_open = name == "dim" and self.dim == 0
            if not is_open and not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be {least} to "
                    f"{most}."
                )
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(
                f"{name_knob(knob, 'dim')} is {self.dim}; it must be divisible by 4 (positions) "
                f"and by {name_knob(knob, 'num_heads')}, {self.num_heads}."
            )
        if self.published.registers_in_context and not self.num_registers:
            raise ValueError(
                f"{name_knob(knob, 'published.registers_in_context')} needs registers; raise "
                f"{name_knob(knob, 'num_registers')} from 0."
            )
