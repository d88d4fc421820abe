"""The mixture of ways to split a sample into what is shown and what is asked."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fourm.masking.spans import is_split_by_spans
from fourm.token_space import TokenSpace
from tokenizers.settings.checked import Checked, name_knob

Keep = Literal["random", "all", "binary"]
KEEPS: tuple[Keep, ...] = get_args(Keep)

Rules = Literal["ours", "ml4m"]
RULES: tuple[Rules, ...] = get_args(Rules)


@dataclass(frozen=True)
class MaskingComponent(Checked):
    """One way of splitting a sample into what is shown and what is asked."""

    inputs: dict[str, float] = field(default_factory=dict)
    """Dirichlet concentration per input modality. Small: one modality takes all; large: equal
    shares. Modalities left out are never shown."""
    targets: dict[str, float] = field(default_factory=dict)
    """The same for the tokens to be predicted. Modalities that are only ever read yield none."""
    num_inputs: tuple[int, int] = (64, 64)
    """Fewest and most tokens shown, both included; fewer where the sample has no more, or where
    nothing would be left to predict."""
    num_targets: tuple[int, int] = (96, 96)
    """Fewest and most tokens to be predicted."""
    keep: Keep = "random"
    """Share of a shown sequence that is kept: uniform in [0, 1], all that fits, or 0 or all."""
    weight: float = 1.0
    """How often this component is drawn, relative to the others."""
    keep_of: dict[str, Keep] = field(default_factory=dict)
    """Sequences with another rule than `keep`."""

    def check_knobs(self, knob: str) -> None:
        for side in ("inputs", "targets"):
            alphas = getattr(self, side)
            if not alphas:
                raise ValueError(f"{knob}.{side} names no modality; name at least one.")
            for name, alpha in alphas.items():
                if not 0 < alpha < math.inf:
                    raise ValueError(
                        f"{knob}.{side}.{name} is {alpha}; a Dirichlet concentration must be "
                        "positive and finite (leave the modality out to exclude it)."
                    )
            low, high = getattr(self, f"num_{side}")
            if not 1 <= low <= high:
                raise ValueError(
                    f"{name_knob(knob, f'num_{side}')} is {low} {high}; needs 1 <= low <= high."
                )
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"{knob}.weight is {self.weight}; it must be finite and not negative.")


@dataclass(frozen=True)
class Ml4mRules(Checked):
    """What the rules ml4m can do that ours can't."""

    chunk_sizes: dict[str, int] = field(default_factory=dict)
    """Sequences of which so many tokens in a row (the last perhaps fewer, the end by itself) are
    kept or dropped as one."""
    predict_all_hidden: tuple[int, ...] = ()
    """Numbers, from 0, of the components that ask for all that is not shown, of every modality,
    instead of drawing shares of a budget. As many as fit into `num_targets` are predicted."""

    def check_knobs(self, knob: str) -> None:
        for name, size in self.chunk_sizes.items():
            if size < 1:
                raise ValueError(
                    f"{name_knob(knob, 'chunk_sizes')}.{name} is {size}; it must be at least 1."
                )


@dataclass(frozen=True)
class MaskingConfig(Checked):
    """A mixture of ways to split a sample."""

    components: tuple[MaskingComponent, ...] = ()
    """The mixture; if empty, it is chosen when a run begins."""
    ids_alone: float = 0.2
    """How often a grid whose tokens are described by numbers, too, is shown by its ids alone, as it
    is where the model itself made it."""
    rules: Rules = "ours"
    """How budgets and spans are drawn. ml4m repeats what ml-4m does, for training its published
    weights further just as they were trained; `fourm.masking.ml4m` lists how the two differ."""
    ml4m: Ml4mRules = field(default_factory=Ml4mRules)
    """What only the rules ml4m can do."""

    @staticmethod
    def from_earlier(stored: dict[str, Any]) -> dict[str, Any]:
        """Returns fields as this version names them, see `tokenizers.settings.plain`."""
        stored = dict(stored)
        if "chunk_sizes" in stored:  # Once these were knobs of the mixture and its components.
            moved = {"chunk_sizes": stored.pop("chunk_sizes")}
            components = [dict(each) for each in stored.get("components", ())]
            asking = [each.pop("ask_rest", False) for each in components]
            moved["predict_all_hidden"] = [n for n, asks in enumerate(asking) if asks]
            stored |= {"components": components, "ml4m": {"class": "Ml4mRules", **moved}}
        return stored

    @property
    def max_inputs(self) -> int:
        return max(component.num_inputs[1] for component in self.components)

    @property
    def max_targets(self) -> int:
        return max(component.num_targets[1] for component in self.components)

    def check_knobs(self, knob: str) -> None:
        if not 0 <= self.ids_alone <= 1:
            raise ValueError(
                f"{name_knob(knob, 'ids_alone')} is {self.ids_alone}; it must be 0 to 1."
            )
        if self.ml4m != Ml4mRules() and self.rules != "ml4m":
            raise ValueError(
                f"{name_knob(knob, 'ml4m')} needs {name_knob(knob, 'rules')} ml4m; ours drops "
                "single tokens and always draws a budget."
            )
        for number in self.ml4m.predict_all_hidden:
            if not 0 <= number < len(self.components):
                raise ValueError(
                    f"{name_knob(knob, 'ml4m.predict_all_hidden')} names component {number}; there "
                    f"are {len(self.components)}, counted from 0."
                )
        if self.components and not any(component.weight > 0 for component in self.components):
            raise ValueError("Every masking component has weight 0; give one a positive weight.")

    def check_fits(self, space: TokenSpace) -> None:
        """Raises ValueError, in one sentence, if the mixture can't be drawn in `space`."""
        if not self.components:
            raise ValueError(
                "The masking mixture is empty; MaskingConfig.components needs at least one."
            )
        for name in self.ml4m.chunk_sizes:
            if space[name].special is None:
                raise ValueError(
                    f"--masking.ml4m.chunk-sizes names {name}, which is not a sequence."
                )
        for number, component in enumerate(self.components):
            knob = f"--masking.components.{number}"
            for name in (*component.inputs, *component.targets):
                special = space[name].special
                if special is not None and special.num_sentinels < 2:
                    raise ValueError(
                        f"{name} has {special.num_sentinels} sentinel; span corruption needs "
                        f"at least 2: raise --modalities.{name}.tokenizer.num-sentinels."
                    )
            for name in component.inputs:
                if not space[name].is_input:
                    raise ValueError(f"{knob}.inputs names {name}, which this model can't read.")
            for name in component.keep_of:
                if not is_split_by_spans(space[name]):
                    raise ValueError(f"{knob}.keep-of names {name}, which is not a sequence.")


class ComponentArrays(NamedTuple):
    """A mixture component as arrays; with a leading axis, all of them."""

    inputs: Float[Array, "modalities"]
    targets: Float[Array, "modalities"]
    num_inputs: Int[Array, "2"]
    num_targets: Int[Array, "2"]
    keep: Int[Array, "modalities"]
    predict_all_hidden: Int[Array, ""]


def tabulate(space: TokenSpace, config: MaskingConfig) -> ComponentArrays:
    """Returns all components as arrays; concentration 0 for modalities left out."""
    components = config.components

    def table(side: str) -> Float[Array, "components modalities"]:
        return jnp.array([[getattr(c, side).get(n, 0.0) for n in space.names] for c in components])

    keep = [[KEEPS.index(c.keep_of.get(n, c.keep)) for n in space.names] for c in components]
    return ComponentArrays(
        inputs=table("inputs"),
        targets=table("targets"),
        num_inputs=jnp.array([c.num_inputs for c in components]),
        num_targets=jnp.array([c.num_targets for c in components]),
        keep=jnp.array(keep),
        predict_all_hidden=jnp.array(
            [int(n in config.ml4m.predict_all_hidden) for n in range(len(components))]
        ),
    )


def choose_by_weight(draw: Float[Array, ""], weights: Float[Array, "components"]) -> Int[Array, ""]:
    """Picks a component with a probability in proportion to its weight.

    Any is picked where all weights are 0. `draw` is uniform in [0, 1).
    """
    limits = jnp.cumsum(weights)
    chosen = jnp.sum(draw * limits[-1] >= limits)
    # Rounding may reach the end; the last component with a weight is right then.
    return jnp.minimum(chosen, jnp.argmax(limits))


def choose_between(draw: Float[Array, ""], limits: Int[Array, "2"]) -> Int[Array, ""]:
    """Picks an integer between two limits, both included, each equally likely."""
    low, high = limits
    return low + jnp.floor(draw * (high - low + 1)).astype(jnp.int32)


def choose_keep(
    draws: Float[Array, "modalities"], keep: Int[Array, "modalities"]
) -> Float[Array, "modalities"]:
    """Picks the share of each sequence that is kept, by the component's rules."""
    binary = (draws < 0.5).astype(jnp.float32)
    rules = {"random": draws, "all": jnp.ones_like(draws), "binary": binary}
    return jnp.select([keep == KEEPS.index(rule) for rule in rules], list(rules.values()))
