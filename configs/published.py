"""The published 4M models: what their configurations say, without their weights.

Sizes and modalities are those of ml-4m's `fm_{base,large,xlarge}_*_swiglu_nobias` and of its
configurations `4m-{b,l,xl}_mod{7,21}_500b` and `4m-l_mod7_500b--sr_448_100b`.
`fourm.interop.fm.build_abstract` makes our model of them.
"""

from typing import Any, Literal

Modalities = Literal["7", "21", "sr"]

MASKED = ("rgb", "depth", "semseg", "normal", "clip")
"""Pictures that both resolutions have as tokens."""

TOKENS_224 = tuple(f"tok_{name}@224" for name in MASKED)
TOKENS_448 = tuple(f"tok_{name}@448" for name in MASKED)

MORE_OF_21 = (
    "metadata",
    "human_poses",
    "tok_dinov2@224",
    "tok_dinov2_global",
    "tok_imagebind@224",
    "tok_imagebind_global",
    "tok_sam_edge@224",
    "tok_canny_edge@224",
    "color_palette",
    "sam_instance",
)

DOMAINS: dict[Modalities, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "7": (("caption", "det", "rgb@224", *TOKENS_224), ("caption", "det", *TOKENS_224)),
    "21": (
        ("caption", "t5_caption", "det", "rgb@224", *TOKENS_224, *MORE_OF_21),
        ("caption", "det", *TOKENS_224, *MORE_OF_21),
    ),
    # From 224 to 448 pixels, 784 tokens each.
    "sr": (("caption", "det", "rgb@224", *TOKENS_224, "rgb@448", *TOKENS_448), TOKENS_448),
}
"""What is read and what is predicted, in alphabetical order in the files."""


def _published(modalities: Modalities, dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    inputs, targets = DOMAINS[modalities]
    return {
        "domains_in": sorted(inputs),
        "domains_out": sorted(targets),
        "image_size": 224,
        "patch_size": 16,
        "norm_bias": False,
        "act_layer": "SiLU",
        "dim": dim,
        "encoder_depth": depth,
        "decoder_depth": depth,
        "num_heads": num_heads,
        "qkv_bias": False,
        "proj_bias": False,
        "mlp_bias": False,
        "gated_mlp": True,
    }


def fourm_b(modalities: Modalities = "7") -> dict[str, Any]:
    """4M-7 B, 4M-21 B: 198M parameters without embeddings and heads."""
    return _published(modalities, dim=768, depth=12, num_heads=12)


def fourm_l(modalities: Modalities = "7") -> dict[str, Any]:
    """4M-7 L, 4M-21 L, and 4M-7-SR L for super-resolution: 705M parameters."""
    return _published(modalities, dim=1024, depth=24, num_heads=16)


def fourm_xl(modalities: Modalities = "7") -> dict[str, Any]:
    """4M-7 XL, 4M-21 XL: 2.8B parameters."""
    return _published(modalities, dim=2048, depth=24, num_heads=32)
