"""The arithmetic of training in NumPy and float64, written from its definitions alone.

Nothing here comes from the library; it is given arrays. Definitions: 4M (Mizrahi et al. 2023,
section 3), RMSNorm (Zhang and Sennrich 2019), SwiGLU (Shazeer 2020), AdamW (Loshchilov and Hutter
2019).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tests.reference.tape import Value, choose, differentiate, softmax, wrap


class Range(NamedTuple):
    """A modality in the space of tokens."""

    name: str
    first_id: int
    vocab_size: int
    is_sequence: bool
    first_position: int
    token_shape: tuple[int, ...]


class Slots(NamedTuple):
    """Inputs or targets [batch, slots]; `previous` of targets alone."""

    ids: np.ndarray
    modality: np.ndarray
    position: np.ndarray
    is_real: np.ndarray
    previous: np.ndarray | None = None


Tree = Mapping[str, "Tree | Value"]


def rms_norm(x: Value, scale: Value) -> Value:
    mean = (x * x).sum(-1) * (1 / x.array.shape[-1])
    return x * (mean + 1e-6).power(-0.5) * scale


def dense(x: Value, layer: Tree) -> Value:
    y = x @ layer["kernel"]
    return y + layer["bias"] if "bias" in layer else y


def attention(x: Value, context: Value, layer: Tree, heads: int, allowed: np.ndarray) -> Value:
    def split(value: Value) -> Value:
        batch, tokens, dim = value.array.shape
        return value.reshape(batch, tokens, heads, dim // heads)

    queries = rms_norm(split(dense(x, layer["query"])), layer["query_norm"]["scale"]).swap(1, 2)
    keys = rms_norm(split(dense(context, layer["key"])), layer["key_norm"]["scale"]).swap(1, 2)
    values = split(dense(context, layer["value"])).swap(1, 2)
    scores = (queries @ keys.swap(-1, -2)) * (1 / math.sqrt(queries.array.shape[-1]))
    weights = softmax(choose(allowed[:, None], scores, -1e30))
    # What may attend to nothing gets nothing.
    mixed = weights * allowed.any(-1)[:, None, :, None] @ values
    return dense(mixed.swap(1, 2).reshape(*x.array.shape), layer["out"])


def mlp(x: Value, layer: Tree) -> Value:
    gate = dense(x, layer["gate"])
    sigmoid = ((gate * -1.0).exp() + 1.0).power(-1.0)
    return dense(gate * sigmoid * dense(x, layer["up"]), layer["down"])


def norm_of(layer: Tree, name: str, x: Value) -> Value:
    return rms_norm(x, layer[name]["scale"])


def take_layer(tree, number: int):
    if isinstance(tree, Value):
        return tree[number]
    return {name: take_layer(part, number) for name, part in tree.items()}


def count_layers(tree) -> int:
    while not isinstance(tree, Value):
        tree = next(iter(tree.values()))
    return len(tree.array)


def cell_of(position: int, ranges: Sequence[Range]) -> tuple[float, ...] | None:
    """Returns the part of the picture that a token stands for: top, bottom, left, right."""
    for each in ranges:
        place = position - each.first_position
        if len(each.token_shape) == 2 and 0 <= place < math.prod(each.token_shape):
            height, width = each.token_shape
            row, column = divmod(place, width)
            return row / height, (row + 1) / height, column / width, (column + 1) / width
    return None


def shared_area(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> float:
    """Returns the area of what two parts of the picture have in common."""
    if one is None or other is None:
        return 0.0
    height = min(one[1], other[1]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[2], other[2])
    return max(height, 0.0) * max(width, 0.0)


def same_place(inputs: Slots, targets: Slots, ranges: Sequence[Range]) -> np.ndarray:
    """Returns what each target reads of each input [batch, targets, inputs]: the mean over what
    shares its part of the picture, by area."""
    shares = np.zeros((*targets.position.shape, inputs.position.shape[1]))
    for sample, target, shown in np.ndindex(*shares.shape):
        if inputs.is_real[sample, shown]:
            own = cell_of(int(targets.position[sample, target]), ranges)
            other = cell_of(int(inputs.position[sample, shown]), ranges)
            shares[sample, target, shown] = shared_area(own, other)
    total = shares.sum(-1, keepdims=True)
    return np.divide(shares, total, out=np.zeros_like(shares), where=total > 1e-9)


def offset_in(
    one: tuple[float, ...] | None, other: tuple[float, ...] | None
) -> tuple[float, float]:
    """Returns how far the middle of one part is below and right of another's, in quarters of the
    longer side."""
    if one is None or other is None:
        return 0.0, 0.0
    middle_y, middle_x = (one[0] + one[1]) / 2, (one[2] + one[3]) / 2
    other_y, other_x = (other[0] + other[1]) / 2, (other[2] + other[3]) / 2
    longer_y = max(one[1] - one[0], other[1] - other[0])
    longer_x = max(one[3] - one[2], other[3] - other[2])
    return 4 * (middle_y - other_y) / longer_y, 4 * (middle_x - other_x) / longer_x


def offsets(inputs: Slots, targets: Slots, ranges: Sequence[Range]) -> np.ndarray:
    """Returns how far each target lies below and right of each input
    [2, batch, targets, inputs]."""
    found = np.zeros((2, *targets.position.shape, inputs.position.shape[1]))
    for sample, target, shown in np.ndindex(*found.shape[1:]):
        own = cell_of(int(targets.position[sample, target]), ranges)
        other = cell_of(int(inputs.position[sample, shown]), ranges)
        found[:, sample, target, shown] = offset_in(own, other)
    return found


def features_of(params: Tree, inputs: Slots, targets: Slots, ranges: Sequence[Range], heads: int):
    """Returns the decoder's features [batch, targets, dim]."""

    def place(slots: Slots) -> Value:
        return params["modality_table"][slots.modality] + params["position_table"][slots.position]

    x = params["input_table"][inputs.ids] + place(inputs)
    shown = np.broadcast_to(inputs.is_real[:, None, :], (*inputs.ids.shape, inputs.ids.shape[1]))
    stack = params["encoder"]["layers"]
    for number in range(count_layers(stack)):
        layer = take_layer(stack, number)
        normed = norm_of(layer, "norm1", x)
        x = x + attention(normed, normed, layer["attention"], heads, shown)
        x = x + mlp(norm_of(layer, "norm2", x), layer["mlp"])
    context = dense(norm_of(params, "encoder_norm", x), params["context"]) + place(inputs)

    y = params["input_table"][targets.previous] + place(targets)
    shares = same_place(inputs, targets, ranges)
    y = y + dense(wrap(shares) @ context, params["same_place"])
    below, right = offsets(inputs, targets, ranges)
    kernel, dim = params["within_place"]["kernel"], context.array.shape[-1]
    for number, offset in enumerate((below, right, below * right)):
        part = kernel[number * dim : (number + 1) * dim]
        y = y + (wrap(shares * offset) @ context) @ part
    number_of = np.arange(targets.ids.shape[1])
    is_sequence = np.array([each.is_sequence for each in ranges])[targets.modality]
    own = targets.modality[:, :, None] == targets.modality[:, None, :]
    is_later = number_of[None, :] > number_of[:, None]
    own &= targets.is_real[:, None, :] & ~(is_sequence[:, :, None] & is_later)
    read = np.broadcast_to(
        inputs.is_real[:, None, :], (*targets.ids.shape, inputs.is_real.shape[1])
    )
    stack = params["decoder"]["layers"]
    for number in range(count_layers(stack)):
        layer = take_layer(stack, number)
        normed = norm_of(layer, "norm1", y)
        y = y + attention(normed, normed, layer["self_attention"], heads, own)
        queries, keys = norm_of(layer, "query_norm", y), norm_of(layer, "context_norm", context)
        y = y + attention(queries, keys, layer["cross_attention"], heads, read)
        y = y + mlp(norm_of(layer, "norm2", y), layer["mlp"])
    return norm_of(params, "decoder_norm", y)


def weigh(average: str, weights: Mapping[str, float], counts: Mapping[str, int]) -> dict:
    """Returns what a target of each modality counts: the loss is a mean over what is there."""
    there = {name: weights.get(name, 1.0) for name, count in counts.items() if count}
    if average == "modalities":
        return {name: weight / sum(there.values()) / counts[name] for name, weight in there.items()}
    total = sum(weight * counts[name] for name, weight in there.items())
    return {name: weight / total for name, weight in there.items()}


class Step(NamedTuple):
    """One training step: metrics by name, the gradient, and what parameters and average become."""

    metrics: dict[str, float]
    gradient: dict
    params: dict
    average: dict


def loss_of(
    params: Tree,
    inputs: Slots,
    targets: Slots,
    ranges: Sequence[Range],
    heads: int,
    average: str,
    weights: Mapping[str, float],
) -> tuple[Value, dict[str, float]]:
    """Returns the loss in nats, and metrics by name: NaN for a modality without targets."""
    features = features_of(params, inputs, targets, ranges, heads)
    rows = {
        each.name: np.nonzero(targets.is_real & (targets.modality == number))
        for number, each in enumerate(ranges)
    }
    each_counts = weigh(average, weights, {name: len(where[0]) for name, where in rows.items()})
    loss, metrics = Value(0.0), {}
    for each in ranges:
        where = rows[each.name]
        count = metrics[f"targets/{each.name}"] = len(where[0])
        if not count:
            metrics |= {f"loss/{each.name}": math.nan, f"accuracy/{each.name}": math.nan}
            continue
        table = params["output_table"][each.first_id : each.first_id + each.vocab_size]
        probabilities = softmax(features[where] @ table.swap(0, 1))
        right = targets.ids[where] - each.first_id
        nll = probabilities[np.arange(count), right].log() * -1.0
        loss = loss + nll.sum() * each_counts[each.name]
        metrics[f"loss/{each.name}"] = nll.array.mean()
        is_best = probabilities.array.max(1) <= probabilities.array[np.arange(count), right]
        metrics[f"accuracy/{each.name}"] = is_best.mean()
    metrics["loss"] = float(loss.array.reshape(()))
    return loss, metrics


def learning_rate(step: int, peak: float, warmup: int, steps: int, final: float) -> float:
    """Linear from peak / warmup to the peak, then half a cosine down to final * peak."""
    warmup = max(1, min(warmup, steps // 2))
    if step < warmup:
        return peak / warmup + (peak - peak / warmup) * step / warmup
    share = min(1.0, (step - warmup) / (max(steps, warmup + 1) - warmup))
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * share)) / 2)


def first_step(
    params: Mapping,
    *batch,
    rate: float,
    clip: float,
    decay: float,
    b1: float = 0.9,
    b2: float = 0.95,
    average_decay: float,
) -> Step:
    """Takes the first step of AdamW; `batch` and the rest are as `loss_of` takes them."""
    tape = map_tree(lambda path, leaf: wrap(leaf), params)
    loss, metrics = loss_of(tape, *batch)
    differentiate(loss)
    gradient = map_tree(lambda path, leaf: leaf.slope, tape)
    norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in leaves(gradient).values()))
    metrics["gradient_norm"] = norm
    clipped = map_tree(lambda path, leaf: leaf * min(1.0, clip / norm), gradient)
    grads, before = leaves(clipped), leaves(params)

    def update(path, leaf):
        g = grads[path]
        first, second = (1 - b1) * g / (1 - b1), (1 - b2) * g**2 / (1 - b2)
        is_decayed = path[-1].endswith(("kernel", "table"))
        change = first / (np.sqrt(second) + 1e-8) + (decay * leaf if is_decayed else 0.0)
        return leaf - rate * change

    new = map_tree(update, params)
    kept = min(average_decay, 1 / 10)  # (1 + step) / (10 + step)
    average = map_tree(lambda path, leaf: kept * before[path] + (1 - kept) * leaf, new)
    return Step(metrics, clipped, new, average)


def map_tree(function, tree, path=()):
    if isinstance(tree, Mapping):
        return {name: map_tree(function, part, (*path, name)) for name, part in tree.items()}
    return function(path, tree)


def leaves(tree) -> dict[tuple, np.ndarray]:
    found = {}
    map_tree(lambda path, leaf: found.__setitem__(path, leaf), tree)
    return found
