"""Components that most masking mixtures are made of."""

from collections.abc import Mapping, Sequence

from fourm.masking.mixture import MaskingComponent


def one_to_all(
    source: str,
    targets: Mapping[str, float],
    *,
    num_inputs: int,
    num_targets: int,
    weight: float = 1.0,
) -> MaskingComponent:
    """Shows the whole of one modality and asks for all others.

    Symmetric Dirichlets almost never show one full modality, which is how the model will be
    used most.
    """
    return MaskingComponent(
        inputs={source: 1.0},
        targets={name: alpha for name, alpha in targets.items() if name != source},
        num_inputs=(num_inputs, num_inputs),
        num_targets=(num_targets, num_targets),
        keep="all",
        weight=weight,
    )


def complete_from(
    sources: Sequence[str], target: str, *, num_inputs: int, num_targets: int, weight: float = 1.0
) -> MaskingComponent:
    """Shows some modalities with part of another, and asks for the rest of the other.

    These are the states that step-by-step generation goes through.
    """
    return MaskingComponent(
        # Enough of a share for short sources to be shown whole; what they leave is the target's.
        inputs={**{name: 4.0 for name in sources}, target: 1.0},
        targets={target: 1.0},
        num_inputs=(3 * num_inputs // 8, num_inputs),
        num_targets=(num_targets, num_targets),
        keep="all",
        weight=weight,
    )


def any_to_any(
    alphas: Mapping[str, float],
    *,
    num_inputs: tuple[int, int],
    num_targets: int,
    concentration: float = 0.3,
    weight: float = 1.0,
) -> MaskingComponent:
    """Shows random parts of random modalities and asks for random parts of all."""
    return MaskingComponent(
        inputs={name: concentration for name in alphas},
        targets=dict(alphas),
        num_inputs=num_inputs,
        num_targets=(num_targets, num_targets),
        keep="random",
        weight=weight,
    )
