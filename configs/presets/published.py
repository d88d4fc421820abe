"""The published 4M models: what their configurations say, without their weights.

Sizes and modalities are those of ml-4m's `fm_{base,large,xlarge}_*_swiglu_nobias` and of its
configurations `4m-{b,l,xl}_mod{7,21}_500b` and `4m-l_mod7_500b--sr_448_100b`.
`fourm.interop.transformer.weights.build_abstract` makes our model of them, and `mixture` masks as
they were trained.
"""

from typing import Any, Literal

from fourm.masking.mixture import MaskingComponent, MaskingConfig

Modalities = Literal["7", "21", "sr"]

PICTURES = ("rgb", "depth", "semseg", "normal", "clip")
"""Pictures that both resolutions have as tokens."""

TOKENS_224 = tuple(f"tok_{name}@224" for name in PICTURES)
TOKENS_448 = tuple(f"tok_{name}@448" for name in PICTURES)

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


def mixture(modalities: Modalities = "7") -> MaskingConfig:
    """How the published models were shown and asked what they learnt, by ml-4m's rules."""
    inputs, targets = DOMAINS[modalities]
    match modalities:
        case "7":
            components = [
                _component({"rgb@224": 1000.0}, _each(targets, 0.5), 128),
                _component(_each(inputs, 0.5), _each(targets, 0.5), 128),
            ]
        case "21":
            # The budget that T5 embeddings win as a target is lost: they are never predicted.
            asked = (*targets, "t5_caption")
            symmetric = [
                _component(_each(inputs, alpha), _each(asked, alpha), 256)
                for alpha in (0.01, 0.1, 1.0, 10.0)
            ]
            from_rgb = _component({"rgb@224": 1000.0}, _each(asked, 0.5), 256)
            from_text = [
                _component(
                    _each(inputs, 0.05, without=other) | {text: 5.0},
                    _each(asked, 0.5, without=text),
                    256,
                    weight=0.5,
                    kept=text,
                )
                for text, other in (("caption", "t5_caption"), ("t5_caption", "caption"))
            ]
            components = [*symmetric, from_rgb, *from_text]
        case "sr":
            components = [
                _component(
                    _each(inputs, 0.05) | {"tok_rgb@224": 5.0, "tok_rgb@448": 5.0},
                    _each(targets, 0.05) | {"tok_rgb@448": 5.0},
                    1024,
                ),
                _component(
                    _each(inputs, 0.05) | {"caption": 5.0},
                    _each(targets, 1.0),
                    1024,
                    kept="caption",
                ),
                _component(_each(inputs, 0.2), _each(targets, 1.0), 1024),
                _component(_each(inputs, 1.0), _each(targets, 1.0), 1024),
            ]
    return MaskingConfig(tuple(components), rules="ml4m")


def _each(names: tuple[str, ...], alpha: float, without: str = "") -> dict[str, float]:
    return {name: alpha for name in names if name != without}


def _component(
    inputs: dict[str, float],
    targets: dict[str, float],
    budget: int,
    weight: float = 1.0,
    kept: str = "",
) -> MaskingComponent:
    keep_of = {"color_palette": "binary"} if "color_palette" in {**inputs, **targets} else {}
    return MaskingComponent(
        inputs=inputs,
        targets=targets,
        # Super-resolution shows as few as 64 tokens.
        num_inputs=(64 if budget == 1024 else budget, budget),
        num_targets=(budget, budget),
        weight=weight,
        keep_of=keep_of | ({kept: "all"} if kept else {}),
    )
