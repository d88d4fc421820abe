"""One training step, for tokenizers and model alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from optax.contrib import MuonDimensionNumbers, muon

from fourm.devices.layout import Layout, precisions
from fourm.training.sharded_muon import update_whole_matrices
from tokenizers.settings.checked import Checked, name_knob

Metrics = dict[str, Float[Array, ""]]
LossFn = Callable[[Any, Any, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]
"""(model, batch, key) -> (loss, metrics). May change the model's non-parameter variables.

One that divides by what it counts in the batch, other than samples, is a `CountedLoss`.
"""


@runtime_checkable
class CountedLoss(Protocol):
    """A loss that divides by what it counts in a batch, such as targets.

    Where a batch is cut into slices, the whole batch is counted first, and each slice divides by
    the counts of the whole batch: the sum over the slices is the loss of the whole batch.
    """

    def count(self, batch: Any, key: Key[Array, ""]) -> PyTree:
        """Returns what the loss divides by, of a batch or all devices' shares of one."""

    def __call__(
        self, model: Any, batch: Any, key: Key[Array, ""], totals: PyTree | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns loss and metrics; with `totals`, what a slice contributes to their sums."""


StepMetrics = dict[str, Float[Array, ""] | Bool[Array, "parameters"]]
"""The metrics of a step, and `IS_FINITE`."""

IS_FINITE = "gradient_is_finite"
"""Of every parameter, in the order of `parameter_names`."""


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """AdamW (Loshchilov and Hutter 2019) or Muon, with linear warm-up and cosine decay."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon, which orthogonalises the updates of kernels (Jordan et al. 2024) and leaves
    the rest to AdamW: about half the steps for the same loss in short runs."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps of linear warm-up, at most half of all."""
    final_fraction: float = 0.02
    """Learning rate at the last step over its peak."""
    weight_decay: float = 0.05
    """Decoupled weight decay, on matrices (kernels and tables) only."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.95
    """Decay of the second moment."""
    muon_scale: float = 4.0
    """Learning rate of kernels over `learning_rate`, under muon; updates have the root mean square
    that AdamW's have at equal rates (Liu et al. 2025, section 2.2)."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient; larger ones are scaled down to it. 0 = off."""

    def check_knobs(self, knob: str) -> None:
        for name, is_allowed, allowed in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "positive and finite"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "0 to 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more and finite"),
            ("b1", 0 <= self.b1 < 1, "at least 0 and below 1"),
            ("b2", 0 <= self.b2 < 1, "at least 0 and below 1"),
            ("muon_scale", 0 < self.muon_scale < math.inf, "positive and finite"),
            ("clip_norm", 0 <= self.clip_norm < math.inf, "0 (off) or positive and finite"),
        ):
            if not is_allowed:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be {allowed}."
                )


class TrainState(NamedTuple):
    """All that changes while training.

    Attributes:
        step: Steps taken.
        params: Trained parameters.
        average: Exponential moving average of the parameters, what is used afterwards.
        opt_state: The optimizer's moments.
        variables: Everything else in the model, such as codebooks that follow an average.
    """

    step: Int[Array, ""]
    params: PyTree
    average: PyTree
    opt_state: PyTree
    variables: PyTree


def last_name(path: tuple) -> str:
    """Returns a parameter's own name from its path in the tree."""
    return str(getattr(path[-1], "key", path[-1]))


def parameter_names(params: PyTree) -> list[str]:
    """Returns the path of every parameter.

    Example:
        >>> parameter_names({"norm": {"scale": 1.0, "bias": 0.0}})
        ['norm.bias', 'norm.scale']
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def is_matrix(path: tuple, _: Array) -> bool:
    """True for kernels and tables, by name: stacked layers give norm scales two axes too."""
    return last_name(path).endswith(("kernel", "table", "embedding"))


def muon_axes(path: tuple, leaf: Array) -> MuonDimensionNumbers | None:
    """Names the axes of a kernel, stacked or not; None for what AdamW updates."""
    is_kernel = last_name(path) == "kernel"
    return MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1) if is_kernel else None


def build_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Builds the learning rate as a function of the step."""
    warmup = max(1, min(config.warmup_steps, steps // 2))
    peak = config.learning_rate
    return optax.warmup_cosine_decay_schedule(
        peak / warmup, peak, warmup, max(steps, warmup + 1), peak * config.final_fraction
    )


def build_optimizer(
    config: OptimizerConfig, steps: int, layout: Layout
) -> optax.GradientTransformation:
    """Builds the optimizer, clipping included, for a run of `steps` steps.

    Args:
        config: Which, and its settings.
        steps: What the learning rate depends on.
        layout: Where what it updates lies.
    """
    schedule = build_schedule(config, steps)

    def decays(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(is_matrix, params)

    match config.name:
        case "adamw":
            optimizer = optax.adamw(
                schedule,
                b1=config.b1,
                b2=config.b2,
                weight_decay=config.weight_decay,
                mask=decays,
            )
        case "muon":
            kernels = muon(
                lambda step: config.muon_scale * schedule(step),
                weight_decay=config.weight_decay,
                muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(
                    muon_axes, params
                ),
                consistent_rms=0.2,
            )
            # optax's muon has an AdamW for the rest, too, but one that decays norms and biases.
            others = optax.adamw(
                schedule,
                b1=config.b1,
                b2=config.b2,
                weight_decay=config.weight_decay,
                mask=decays,
                nesterov=True,
            )
            optimizer = optax.partition(
                {"kernel": update_whole_matrices(kernels, layout), "other": others},
                lambda params: jax.tree_util.tree_map_with_path(
                    lambda path, _: "kernel" if last_name(path) == "kernel" else "other", params
                ),
            )
        case _:
            raise ValueError(f"There is no optimizer {config.name!r}; there are adamw and muon.")
    if config.clip_norm <= 0:
        return optimizer
    return optax.chain(clip_by_global_norm(config.clip_norm), optimizer)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales gradients of a larger global norm down to `limit`.

    `update` may be told the norm, which costs a pass over memory. One factor multiplies them all,
    which is fused into the update. optax divides every number, and XLA keeps the quotients in
    memory, as divisions are too expensive to recompute in each of their uses.
    """

    def update(gradient: PyTree, state: optax.EmptyState, params: PyTree = None, norm=None, **_):
        norm = optax.global_norm(gradient) if norm is None else norm
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def create_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, layout: Layout
) -> tuple[nnx.GraphDef, TrainState]:
    """Splits a model into its definition and the state that training changes.

    Args:
        model: What it holds becomes part of the state, wherever it lies already.
        optimizer: As from `build_optimizer`.
        layout: Where the state lies.
    """
    graph, params, variables = nnx.split(model, nnx.Param, ...)
    params, variables = layout.place((nnx.to_pure_dict(params), nnx.to_pure_dict(variables)))
    rest = layout.create(partial(init_optimizer_state, optimizer), params)
    return graph, TrainState(params=params, variables=variables, **rest)


def init_optimizer_state(
    optimizer: optax.GradientTransformation, params: PyTree
) -> dict[str, PyTree]:
    """Returns the parts of a `TrainState` that follow from the parameters, before any step."""
    return {
        "step": jnp.zeros((), jnp.int32),
        # A copy: the step donates its buffers, and one buffer can't be donated twice.
        "average": jax.tree.map(jnp.copy, params),
        "opt_state": optimizer.init(params),
    }


def describe_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, layout: Layout
) -> TrainState:
    """Returns types, shapes and places of what `create_state` would make; nothing is made."""
    _, params, variables = nnx.split(model, nnx.Param, ...)
    params, variables = nnx.to_pure_dict(params), nnx.to_pure_dict(variables)
    rest = jax.eval_shape(partial(init_optimizer_state, optimizer), params)
    shapes = TrainState(params=params, variables=variables, **rest)
    return layout.describe(shapes)


def merge_state(model: nnx.Module, state: TrainState, use_average: bool = True) -> None:
    """Writes trained parameters and variables back into `model`."""
    params, variables = nnx.state(model, nnx.Param), nnx.state(model, nnx.Not(nnx.Param))
    nnx.replace_by_pure_dict(params, state.average if use_average else state.params)
    nnx.replace_by_pure_dict(variables, state.variables)
    nnx.update(model, params, variables)


def make_loss(
    model: nnx.Module, loss_fn: LossFn, layout: Layout
) -> Callable[..., tuple[Array, tuple[Metrics, PyTree]]]:
    """Returns (params, variables, batch, key) -> (loss, (metrics, variables)) of a state's parts.

    A fifth argument goes on to the loss as its fourth, see `CountedLoss`.

    Args:
        model: Gives the structure; its values are not used.
        loss_fn: The loss; `make_train_step` says what several devices ask of it.
        layout: Where the parts and batches lie.
    """
    graph, params_like, variables_like = nnx.split(model, nnx.Param, ...)
    dtypes = precisions(model)
    params_like = layout.gather_when_used(params_like, dtypes)
    variables_like = layout.gather_when_used(variables_like, dtypes)

    def build(params, variables):
        filled = jax.tree.map(lambda x: x, params_like), jax.tree.map(lambda x: x, variables_like)
        nnx.replace_by_pure_dict(filled[0], params)
        nnx.replace_by_pure_dict(filled[1], variables)
        return nnx.merge(graph, *filled)

    def compute_loss(params, variables, batch, key, *totals):
        merged = build(params, variables)
        loss, metrics = loss_fn(merged, batch, key, *totals)
        # As they are stored: reading them could gather them.
        variables = nnx.to_pure_dict(
            nnx.state(merged, nnx.Not(nnx.Param)), lambda variable: variable.get_raw_value()
        )
        return loss, ({"loss": loss, **metrics}, variables)

    return layout.share_loss(compute_loss)


def make_train_step(
    model: nnx.Module,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    average_decay: float,
    accumulation: int = 1,
) -> Callable[[TrainState, PyTree, Key[Array, ""]], tuple[TrainState, StepMetrics]]:
    """Returns the jitted step (state, batch, seed key) -> (state, metrics).

    The state is split once and `jax.jit`ted rather than `nnx.jit`ted, whose call costs
    several times more. The state's buffers are donated.

    A step whose loss or gradient is not finite is skipped: nothing of the state changes but the
    count of steps, and the metric `skipped` is 1 instead of 0. The optimizer counts updates, so
    the learning rate stays where it was. `IS_FINITE` says which parameters have a finite gradient.

    Args:
        model: Gives the structure; its values are not used.
        loss_fn: The loss; its key is the seed key folded with the step.
        optimizer: As from `build_optimizer`.
        layout: Where state and batches lie. On several, `loss_fn` is
            given a share of the batch, adds up over all (`Layout.add_up`), and must leave
            variables as they are.
        average_decay: Decay of the moving average of parameters, approached as
            (1 + step) / (10 + step) in the first steps.
        accumulation: Slices into which a batch is cut. Loss, metrics and gradient are those of
            the whole batch but for rounding: sums over the slices of a `CountedLoss`, means over
            those of any other, which must be a mean over samples.

    Raises:
        ValueError: When it is first called with slices, if `loss_fn` has metrics of targets but
            isn't a `CountedLoss`.
    """
    gradient_fn = jax.value_and_grad(make_loss(model, loss_fn, layout), has_aux=True)

    def accumulate(params, variables, batch, key):
        # Every slice gets the same key: masks are keyed by the sample's index as well, and so are
        # the same however a batch is cut.
        is_counted = isinstance(loss_fn, CountedLoss)
        totals = [layout.share_count(loss_fn.count)(batch, key)] if is_counted else []

        def slice_gradient(carry, part):
            total, variables = carry
            (_, (metrics, variables)), gradient = gradient_fn(params, variables, part, key, *totals)
            return (jax.tree.map(jnp.add, total, gradient), variables), metrics

        # Every so many rows, not so many on end: so each device has its share of every slice.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )
        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, variables), metrics = jax.lax.scan(slice_gradient, (zeros, variables), parts)
        metrics = {name: values.sum() for name, values in metrics.items()}
        if is_counted:
            return total, variables, metrics
        if any(name.startswith("targets/") for name in metrics):
            raise ValueError(
                "A loss that counts targets must be a CountedLoss where a batch is cut into "
                "slices; a MaskedLoss is one."
            )
        means = jax.tree.map(lambda x: x / accumulation, (total, metrics))
        return means[0], variables, means[1]

    def update(state: TrainState, gradient: PyTree, norm: Array, variables: PyTree) -> TrainState:
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            gradient, state.opt_state, state.params, norm=norm
        )
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(average_decay, (1 + count) / (10 + count))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        return TrainState(state.step + 1, params, average, opt_state, variables)

    def skip(state: TrainState, gradient: PyTree, norm: Array, variables: PyTree) -> TrainState:
        return state._replace(step=state.step + 1)

    def step(state: TrainState, batch: PyTree, seed_key: Key[Array, ""]):
        key = jax.random.fold_in(seed_key, state.step)
        if accumulation == 1:
            (_, (metrics, variables)), gradient = gradient_fn(
                state.params, state.variables, batch, key
            )
        else:
            gradient, variables, metrics = accumulate(state.params, state.variables, batch, key)
        squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient)]
        norm = jnp.sqrt(sum(squares))
        is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        # A choice number by number would read and write everything once more.
        state = jax.lax.cond(is_finite, update, skip, state, gradient, norm, variables)
        skipped = 1.0 - is_finite.astype(jnp.float32)
        metrics |= {"gradient_norm": norm, "skipped": skipped}
        metrics[IS_FINITE] = jnp.isfinite(jnp.stack(squares))
        return layout.keep_in_place(state), metrics

    return jax.jit(step, donate_argnums=0)
