"""What learned tokenizers of dense values share: encode and decode in chunks, save and load."""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from tokenizers.base import RawBatch, check_ids
from tokenizers.images.quantizers import LinearlyMovedQuantizer, Quantizer, VectorQuantizer
from tokenizers.images.several_codes import SeveralCodes
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import check_finite, load_folder, read_part, save_folder
from tokenizers.values import KINDS
from tokenizers.values.dense import DenseValues, evenly_spaced

CHUNK_TOKENS = 8192
"""Tokens encoded or decoded at once."""


class Statistic(nnx.Variable):
    """A number of the normalisation."""


class DenseTokenizer(nnx.Module):
    """Raw dense values <-> a grid of ids, or a row of them.

    A kind says how pictures become ids (`tokenize`), and ids or distributions over ids become
    pictures again (`detokenize`, `detokenize_expected`), as pure functions of arrays.
    """

    special = None
    config_type: ClassVar[type]
    """Class of the settings."""
    saved_as: ClassVar[str]
    """What `save` calls this kind."""
    quantizer: Quantizer
    """What makes latents codes."""
    token_shape: tuple[int, int]
    vocab_size: int

    def __init__(
        self,
        config: Any,
        values: Any,
        statistics: dict[str, np.ndarray],
        grid: tuple[int, int],
    ):
        """Args:
        config: The settings; they have a `patch_size`.
        values: What the raw numbers mean.
        statistics: The normalisation, fitted by `values`.
        grid: Patches (down, across) of a picture.
        """
        self.config, self.values, self.grid = config, values, grid
        self.statistics = nnx.Dict(
            {name: Statistic(jnp.asarray(value)) for name, value in statistics.items()}
        )

    @classmethod
    def fitted(cls, config: Any, values: Any, training: RawBatch, key: Array) -> "DenseTokenizer":
        """Returns a tokenizer with fitted normalisation and untrained weights.

        The codes of a learned codebook are spread over what the untrained encoder makes of samples.

        Args:
            config: Of the kind's `config_type`.
            values: What the raw numbers mean.
            training: Samples that passed `values.check`, all of one size.
            key: Source of the initial weights.

        Raises:
            ValueError: If patches do not tile the samples.
        """
        grid = cls.grid_of(config, training)
        init_key, code_key = jax.random.split(key)
        statistics = values.fit_statistics(training)
        tokenizer = cls(config, values, statistics, grid, nnx.Rngs(init_key))
        quantizer = tokenizer.quantizer
        if isinstance(quantizer, VectorQuantizer | LinearlyMovedQuantizer | SeveralCodes):
            latents = _latents(*nnx.split(tokenizer), evenly_spaced(training, 64))
            quantizer.spread(latents.reshape(-1, quantizer.dim), code_key)
        return tokenizer

    @classmethod
    def grid_of(cls, config: Any, training: RawBatch) -> tuple[int, int]:
        """Returns the patches (down, across) of samples.

        Raises:
            ValueError: If patches do not tile them.
        """
        return require_tiling(training, config.patch_size)

    @abstractmethod
    def latents(self, raw: Shaped[Array, "batch y x ..."]) -> Float[Array, "batch gy gx dim"]:
        """Returns what the encoder makes of raw values, before the quantiser."""

    @abstractmethod
    def tokenize(self, raw: Shaped[Array, "batch y x ..."]) -> Int[Array, "batch ty tx"]:
        """Returns the ids of raw values."""

    @abstractmethod
    def detokenize(self, ids: Int[Array, "batch ty tx"]) -> Float[Array, "batch y x outputs"]:
        """Returns what ids stand for, in the channels that `values.denormalize` takes."""

    @abstractmethod
    def detokenize_expected(
        self, probabilities: Float[Array, "batch ty tx vocab"]
    ) -> Float[Array, "batch y x outputs"]:
        """Returns what the mean code under `probabilities` stands for, in the same channels."""

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the values, in pixels."""
        return self.grid[0] * self.config.patch_size, self.grid[1] * self.config.patch_size

    @property
    def value_shape(self) -> tuple[int, int]:
        """First two axes of a value."""
        return self.picture_size

    def encode(self, values: RawBatch) -> Int[np.ndarray, "batch *tokens"]:
        if not len(values):
            return np.zeros((0, *self.token_shape), np.int32)
        shape = np.shape(values[0])
        if shape[:2] != self.value_shape:
            raise ValueError(f"A value has shape {shape}; this tokenizer takes {self.value_shape}.")
        return self._in_chunks(_encode, values)

    def decode(self, ids: Int[np.ndarray, "batch *tokens"]) -> np.ndarray:
        return self._in_chunks(_decode, self.check_ids(ids))

    def check_ids(self, ids: Int[np.ndarray, "batch *tokens"]) -> Int[np.ndarray, "batch *tokens"]:
        """Returns ids as int32, or says what is wrong with them."""
        ids = np.asarray(ids, np.int32)
        if ids.shape[1:] != self.token_shape:
            raise ValueError(
                f"Ids have shape {ids.shape[1:]}; this tokenizer takes {self.token_shape}."
            )
        check_ids(ids, self.vocab_size)
        return ids

    def decode_expected(
        self, probabilities: Float[np.ndarray | Array, "batch *tokens vocab"]
    ) -> np.ndarray:
        if probabilities.shape[1:] != (*self.token_shape, self.vocab_size):
            raise ValueError(
                f"Probabilities have shape {probabilities.shape[1:]}; this tokenizer takes "
                f"{(*self.token_shape, self.vocab_size)}."
            )
        return self._in_chunks(_decode_expected, probabilities)

    def _in_chunks(self, function: Callable, batch: RawBatch | Array) -> np.ndarray:
        """Applies a compiled function to parts of one fixed size, so that it compiles once."""
        graph, state = nnx.split(self)
        size = self._chunk_size(len(batch))
        where = jnp if isinstance(batch, jax.Array) else np
        parts = []
        for start in range(0, max(len(batch), 1), size):
            part = where.asarray(batch[start : start + size])
            filler = where.zeros((size - len(part), *part.shape[1:]), part.dtype)
            answer = np.asarray(function(graph, state, where.concatenate([part, filler])))
            parts.append(answer[: len(part)])
        return np.concatenate(parts)

    def _chunk_size(self, count: int) -> int:
        """Returns how many of `count` samples go through at once."""
        return max(1, CHUNK_TOKENS // int(np.prod(self.token_shape)))

    def save(self, folder: Path) -> None:
        description = {
            "tokenizer": self.saved_as,
            "config": dataclasses.asdict(self.config),
            "kind": type(self.values).__name__,
            "values": to_part(self.values),
            "grid": list(self.grid),
        }
        arrays = {name: np.asarray(variable[...]) for name, variable in variables(self).items()}
        save_folder(folder, description, arrays)

    @classmethod
    def load(cls, folder: Path, values: Any = None) -> "DenseTokenizer":
        """Returns the tokenizer that `save` wrote.

        Args:
            folder: Where it was saved.
            values: The meaning of the raw numbers; those that were saved by default.
        """
        description, arrays, _ = load_folder(folder)
        check_finite(arrays, folder)
        config = read_part(description, "config", cls.config_type, folder)
        if values is None:
            kind = read_part(description, "kind", str, folder)
            if kind not in KINDS and "from" not in read_part(description, "values", dict, folder):
                raise ValueError(
                    f"{folder} holds a tokenizer for {kind!r}, not one of {', '.join(KINDS)}; pass "
                    "values= to load it."
                )
            values = read_part(description, "values", KINDS.get(kind, DenseValues), folder)
        grid = read_part(description, "grid", tuple[int, int], folder)
        statistics = {
            name.split("/")[1]: value
            for name, value in arrays.items()
            if name.startswith("statistics/")
        }
        tokenizer = nnx.eval_shape(lambda: cls(config, values, statistics, grid, nnx.Rngs(0)))
        expected = variables(tokenizer)
        shapes = {name: variable.get_value().shape for name, variable in expected.items()}
        if shapes != {name: value.shape for name, value in arrays.items()}:
            raise ValueError(f"The arrays in {folder} do not fit its description; train it again.")
        for name, variable in expected.items():
            variable.set_value(jnp.asarray(arrays[name]))
        return tokenizer

    def at_grid(self, grid: tuple[int, int]) -> "DenseTokenizer":
        """Returns the same tokenizer for pictures of another size: `grid` patches.

        The weights are shared; where positions are stored, they are interpolated.
        """
        statistics = {name: np.asarray(value) for name, value in self._statistics.items()}
        other = nnx.eval_shape(
            lambda: type(self)(self.config, self.values, statistics, grid, nnx.Rngs(0))
        )
        ours = variables(self)
        for name, variable in variables(other).items():
            variable.set_value(ours[name].get_value())
        return other

    @property
    def _statistics(self) -> dict[str, Array]:
        return {name: value[...] for name, value in self.statistics.items()}


def require_tiling(training: RawBatch, patch_size: int) -> tuple[int, int]:
    """Returns the grid of patches of samples.

    Raises:
        ValueError: If patches do not tile them.
    """
    shape = np.shape(training[0])[:2]
    wrong = [length for length in shape if length % patch_size or not length]
    if wrong:
        raise ValueError(
            f"Samples are {shape[0]} pixels high and {shape[1]} wide, which patches of "
            f"{patch_size} do not tile; change patch_size or the size of the samples."
        )
    return shape[0] // patch_size, shape[1] // patch_size


def variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Returns everything that makes a module what it is, by path."""
    return {"/".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(module))}


@functools.partial(jax.jit, static_argnums=0)
def _latents(graph, state, raw):
    return nnx.merge(graph, state).latents(raw)


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph, state, raw):
    return nnx.merge(graph, state).tokenize(raw)


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph, state, ids):
    model = nnx.merge(graph, state)
    return model.values.denormalize(model.detokenize(ids), model._statistics)


@functools.partial(jax.jit, static_argnums=0)
def _decode_expected(graph, state, probabilities):
    model = nnx.merge(graph, state)
    output = model.detokenize_expected(probabilities)
    return model.values.denormalize(output, model._statistics)
