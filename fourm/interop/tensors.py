"""Files of named tensors, and how the tensors in them lie compared with ours.

Linear layers are stored [outputs, inputs] there and [inputs, outputs] here, patches channels first
there and channels last here. A layout is the pair of rearrangements between the two; neither
changes a bit.
"""

import ast
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from tokenizers.storage.folders import check_finite

WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
"""What words mean in the metadata of a file, where everything is a string."""

Tensors = dict[str, np.ndarray]

SUFFIX, INDEX = ".safetensors", ".safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors that are read, all into float32."""


class Layout(NamedTuple):
    """How a tensor lies in the file and here."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape in the file of what has `shape` here."""
        return self.to_theirs(np.broadcast_to(np.float32(0), shape)).shape


class Place(NamedTuple):
    """Where one of our arrays is in the file."""

    name: str
    layout: Layout


Places = dict[str, Place]
"""Places by the path of our array."""

SAME = Layout(lambda a: a, lambda a: a)
LINEAR = Layout(np.transpose, np.transpose)
POINTWISE = Layout(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
CONVOLUTION = Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
POSITIONS = Layout(lambda a: a[0].transpose(1, 2, 0), lambda a: a.transpose(2, 0, 1)[None])


def patches_in(channels: int, size: int) -> Layout:
    """Returns the layout of a convolution that takes whole patches to single vectors."""
    return Layout(
        lambda a: a.transpose(2, 3, 1, 0).reshape(size * size * channels, -1),
        lambda a: a.reshape(size, size, channels, -1).transpose(3, 2, 0, 1),
    )


def patches_out(channels: int, size: int) -> Layout:
    """Returns the layout of a linear layer's kernel, or of its bias, whose outputs are patches."""

    def to_ours(a: np.ndarray) -> np.ndarray:
        rows = a.reshape(channels, size, size, *a.shape[1:])
        return np.moveaxis(rows, 0, 2).reshape(size * size * channels, *a.shape[1:]).T

    def to_theirs(a: np.ndarray) -> np.ndarray:
        rows = a.T.reshape(size, size, channels, *a.T.shape[1:])
        return np.moveaxis(rows, 2, 0).reshape(channels * size * size, *a.T.shape[1:])

    return Layout(to_ours, to_theirs)


def linear(ours: str, theirs: str, layout: Layout = LINEAR, has_bias: bool = True) -> Places:
    """Returns the places of a layer: a kernel, and mostly a bias."""
    places = {f"{ours}/kernel": Place(f"{theirs}.weight", layout)}
    return places | ({f"{ours}/bias": Place(f"{theirs}.bias", SAME)} if has_bias else {})


def norm(ours: str, theirs: str) -> Places:
    """Returns the places of a normalisation: a scale and a bias."""
    return {
        f"{ours}/scale": Place(f"{theirs}.weight", SAME),
        f"{ours}/bias": Place(f"{theirs}.bias", SAME),
    }


def variables(module: nnx.Module | nnx.State) -> dict[str, nnx.Variable]:
    """Returns the variables of a module by path."""
    state = module if isinstance(module, nnx.State) else nnx.state(module)
    return {"/".join(map(str, path)): value for path, value in nnx.to_flat_state(state)}


def load(module: nnx.Module, places: Places, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Fills a module from a file's tensors and returns those that it did not need.

    Args:
        module: To fill; may be abstract. Variables that have no place are left alone.
        places: Where its arrays are.
        tensors: By name.

    Raises:
        ValueError: If tensors are missing or of another shape, with their names.
    """
    ours = variables(module)
    shapes = {
        place.name: place.layout.shape_in_file(ours[path].get_value().shape)
        for path, place in places.items()
    }
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise ValueError(f"The file lacks the tensors {_list(missing)}; download it again.")
    wrong = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in shapes.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise ValueError(
            f"Tensors don't have the shape that the configuration gives them: {_list(wrong)}."
        )
    for path, place in places.items():
        array = place.layout.to_ours(tensors[place.name].astype(np.float32, copy=False))
        ours[path].set_value(jnp.asarray(array))
    return {name: array for name, array in tensors.items() if name not in shapes}


def export(module: nnx.Module | nnx.State, places: Places) -> Tensors:
    """Returns a module's arrays, or gradients of them, as they lie in a file."""
    ours = variables(module)
    return {
        place.name: np.ascontiguousarray(place.layout.to_theirs(np.asarray(ours[path].get_value())))
        for path, place in places.items()
        if path in ours
    }


def require_none(leftover: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if tensors are left over, with their names."""
    if leftover:
        raise ValueError(
            f"The file has tensors that its configuration does not call for: {_list(leftover)}."
        )


def parse_value(text: str) -> Any:
    """Returns what a string of a file's metadata stands for: a word, a number, a list.

    Example:
        >>> [parse_value(text) for text in ("True", "4.0", "['caption', 'det']", "[a, b]", "SiLU")]
        [True, 4.0, ['caption', 'det'], ['a', 'b'], 'SiLU']
    """
    if text in WORDS:
        return WORDS[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text.startswith("[") and text.endswith("]"):  # A list of bare words, as YAML has them.
            return [parse_value(word.strip()) for word in text[1:-1].split(",") if word.strip()]
        return text


class Weights:
    """The tensors of a .safetensors file, or of several that an index names; read one by one."""

    def __init__(self, path: Path):
        """Looks at the files; no tensor is read.

        Args:
            path: A .safetensors file, an index of several (.safetensors.index.json), or a folder
                with a model.safetensors or with its index.

        Raises:
            ValueError: If there are none, they are damaged, or index and files don't agree.
        """
        self.file = find_weights(path)
        """The file, or the index."""
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        """As safetensors writes them, such as "BF16"."""
        self._files: dict[str, Path] = {}
        is_index = self.file.name.endswith(INDEX)
        named = _read_index(self.file) if is_index else {}
        for file in sorted(set(named.values())) if is_index else [self.file]:
            self._look_at(file)
        wrong = [name for name in self._files if named.get(name) != self._files[name]]
        missing = [name for name in named if name not in self._files]
        if is_index and (wrong or missing):
            raise ValueError(
                f"{self.file} does not name its files' tensors as they are, such as "
                f"{(missing or wrong)[0]}; download them again."
            )

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in float32.

        Raises:
            ValueError: If it is not one of floating-point numbers, or has some that are not finite.
        """
        if self.dtypes[name] not in FLOATS:
            raise ValueError(
                f"The tensor {name} of {self._files[name]} has the type {self.dtypes[name]}; "
                f"weights must be {', '.join(FLOATS)}: this is no file of this model."
            )
        # Opened anew for each: what has been read of an open file stays in memory.
        with safe_open(self._files[name], framework="numpy") as archive:
            array = archive.get_tensor(name).astype(np.float32, copy=False)
        check_finite({name: array}, self._files[name])
        return array

    def _look_at(self, file: Path) -> None:
        try:
            with safe_open(file, framework="numpy") as archive:
                self.metadata |= archive.metadata() or {}
                for name in archive.keys():  # noqa: SIM118
                    if name in self._files:
                        raise ValueError(
                            f"The tensor {name} is both in {self._files[name]} and in {file}; "
                            "download them again."
                        )
                    part = archive.get_slice(name)
                    self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), part.get_dtype()
                    self._files[name] = file
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} can't be read ({error}); download it again.") from error


def _read_index(index: Path) -> dict[str, Path]:
    """Returns the file of every tensor that an index names."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        is_usable = bool(named) and all(isinstance(file, str) for file in named.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_usable = False
    if not is_usable:
        raise ValueError(
            f"{index} is no index, whose weight_map names the file of every tensor; download it "
            "again."
        )
    files = {}
    for name, file in named.items():
        # Out of the index's folder leads no name.
        if Path(file).name != file or "\\" in file or not file.endswith(SUFFIX):
            raise ValueError(
                f"{index} names {file!r} for {name}; only {SUFFIX} files beside it are read."
            )
        files[name] = index.with_name(file)
        if not files[name].is_file():
            raise ValueError(f"{index} names {file}, which is not beside it; download it, too.")
    return files


def find_weights(path: Path) -> Path:
    """Returns the file of weights, or the index of several, that is meant by a file or a folder.

    Raises:
        ValueError: If there is none, or it is something else.
    """
    inside = (path / f"model{ending}" for ending in (SUFFIX, INDEX)) if path.is_dir() else [path]
    for file in inside:
        if file.is_file() and file.name.endswith((SUFFIX, INDEX)):
            return file
    raise ValueError(
        f"{path} is no {SUFFIX} file, nor a folder with a model{SUFFIX} or a model{INDEX}; other "
        "formats are not read, as pickles can run code."
    )


def read_settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns the configuration of a model as it was written.

    Args:
        file: Its weights. A config.json beside them counts before their metadata.
        metadata: Of the file, all strings.

    Raises:
        ValueError: If there is none, or it can't be read.
    """
    beside = file.with_name("config.json")
    if beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{beside} can't be read ({error}); download it again.") from error
    else:
        config = {name: parse_value(text) for name, text in metadata.items() if name != "format"}
    if not isinstance(config, dict) or not config:
        raise ValueError(
            f"{file} says nothing about its model; put the config.json it came with beside it."
        )
    return config


def read_file(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Returns the tensors and the configuration of a model.

    Args:
        path: As `Weights` takes it. The configuration is a config.json beside the file, else the
            file's own metadata.

    Raises:
        ValueError: If there is no such file, it is something else, or its tensors are not finite.
    """
    weights = Weights(path)
    tensors = {name: weights.read(name) for name in weights.shapes}
    return tensors, read_settings(weights.file, weights.metadata)


def _list(names: Mapping[str, Any] | list[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(shown[:8]) + more
