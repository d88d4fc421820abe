"""Built-in procedural scenes: solids on a ground, with every modality exact and aligned.

Nothing is stored or downloaded: sample `index` of a split is computed from
(seed, split, index), so any length costs nothing and any order gives the same bits.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from data_pipeline.sources.scenes.language import describe
from data_pipeline.sources.scenes.ray_caster import Picture, render
from data_pipeline.sources.scenes.sampler import SHAPES, Scene, sample_scene
from data_pipeline.sources.source import Sample
from tokenizers.settings.checked import Checked, name_knob

SEMSEG_CLASSES = ("sky", "ground", *SHAPES)
"""Names of the classes of `semseg`; those of `boxes` are `SHAPES`."""

SPLITS = ("train", "validation", "test", "test_unseen_pairs")
"""A split's place here is part of its scenes' keys: never reorder, only append."""

MOST_STRETCHED = 2
"""Times that pictures may be as wide as high, or as high as wide."""

PIXELS_PER_BATCH = 32 * 64**2
"""Pixels rendered at once: enough to fill the cores, few enough to stay in their cache."""

BATCHES_UNDER_WAY = 3
"""While one is put into words the next ones are rendered."""


@dataclass(frozen=True)
class ScenesData(Checked):
    """Procedural scenes of one to four solids (`rgb`, `depth`, `normals`, `semseg`,
    `instances`, `caption`, `boxes`, `distance`)."""

    num_train: int = 16_000
    """Scenes to train on."""
    num_validation: int = 512
    """Scenes to choose settings on."""
    num_test: int = 1024
    """Scenes of `test`, and as many of `test_unseen_pairs`."""
    image_size: int = 64
    """Height in pixels; the width, too, unless that is given."""
    image_width: int = 0
    """Width in pixels; 0 for squares. Solids have the size that they have in a square of as many
    pixels."""
    seed: int = 0
    """Another seed gives other scenes."""
    max_objects: int = 4
    """A scene has 1 to this many solids, each number as often."""

    def check_knobs(self, knob: str) -> None:
        for name in ("num_train", "num_validation", "num_test", "seed"):
            if not 0 <= getattr(self, name) < 2**31:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be 0 to 2**31 - 1."
                )
        if not 16 <= self.image_size <= 512:
            raise ValueError(
                f"{name_knob(knob, 'image_size')} is {self.image_size}; it must be 16 to 512 "
                "pixels."
            )
        least, most = -(-self.image_size // MOST_STRETCHED), MOST_STRETCHED * self.image_size
        if self.image_width and not least <= self.image_width <= most:
            raise ValueError(
                f"{name_knob(knob, 'image_width')} is {self.image_width}; it must be {least} to "
                f"{most} pixels beside a height of {self.image_size}, or 0 for squares."
            )
        if not 1 <= self.max_objects <= 4:
            raise ValueError(
                f"{name_knob(knob, 'max_objects')} is {self.max_objects}; it must be 1 to 4."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.image_size, self.image_width or self.image_size

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def open(self, split: str) -> "SceneSource":
        """Returns one split; see `DataConfig.open`."""
        lengths = (self.num_train, self.num_validation, self.num_test, self.num_test)
        if split not in SPLITS:
            raise ValueError(
                f"The scenes have no split {split!r}; choose one of {', '.join(SPLITS)}."
            )
        return SceneSource(self, split, lengths[SPLITS.index(split)])


class SceneSource:
    """One split of the scenes; a `Source`."""

    def __init__(self, config: ScenesData, split: str, length: int):
        self._config = config
        self._length = length
        with jax.set_mesh(_host_mesh()):
            split_key = jax.random.fold_in(jax.random.key(config.seed), SPLITS.index(split))
        self._split_key = split_key
        self._with_unseen = np.bool_(split == "test_unseen_pairs")
        self._batch = max(1, PIXELS_PER_BATCH // math.prod(config.shape))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Returns several scenes; many at once are computed much faster than one by one."""
        for index in indices:
            if not 0 <= index < self._length:
                raise IndexError(
                    f"Scene {index} was asked of a split of {self._length}; give 0 to"
                    f" {self._length - 1}, or raise the split's length in the data's settings."
                )
        samples: list[Sample] = []
        for scenes, picture, count in self._compute(np.asarray(indices, np.int32)):
            described = describe(picture.instances, picture.depth, scenes)
            for place in range(count):
                # Copies, so that a sample kept does not keep its whole batch.
                views = {name: value[place].copy() for name, value in picture._asdict().items()}
                samples.append({**views, **described[place]})
        return samples

    def _compute(self, indices: Int[np.ndarray, "samples"]) -> Iterator[tuple[Scene, Picture, int]]:
        """Yields batches as numpy arrays, with how many of their scenes were asked for.

        All batches have one size, so that one compiled program makes every scene and a
        scene's bits do not depend on which others it was asked for with.
        """
        under_way: deque[tuple[Scene, Picture, int]] = deque()
        for start in range(0, len(indices), self._batch):
            some = indices[start : start + self._batch]
            padded = np.pad(some, (0, self._batch - len(some)), mode="edge")
            with jax.set_mesh(_host_mesh()):
                scenes, picture = _compute_batch(
                    self._split_key,
                    padded,
                    self._with_unseen,
                    self._config.shape,
                    self._config.max_objects,
                )
            under_way.append((scenes, picture, len(some)))
            if len(under_way) == BATCHES_UNDER_WAY:
                yield jax.tree.map(np.asarray, under_way.popleft())
        while under_way:
            yield jax.tree.map(np.asarray, under_way.popleft())


@cache
def _host_mesh() -> jax.sharding.Mesh:
    """Returns the CPU alone, or the default device where JAX was started without one.

    Whatever devices the model is spread over, the host makes the data: the same bits
    beside any accelerator, which keeps its time and memory for the model.
    """
    try:
        devices = jax.local_devices(backend="cpu")
    except RuntimeError:
        devices = jax.local_devices()
    return jax.sharding.Mesh(devices[:1], ("host",))


@partial(jax.jit, static_argnames=("shape", "max_objects"))
def _compute_batch(
    split_key: Key[Array, ""],
    indices: Int[Array | np.ndarray, "batch"],
    with_unseen: Bool[Array | np.ndarray | np.bool_, ""],
    shape: tuple[int, int],
    max_objects: int,
) -> tuple[Scene, Picture]:
    keys = jax.vmap(lambda index: jax.random.fold_in(split_key, index))(indices)
    scenes = jax.vmap(lambda key: sample_scene(key, with_unseen, max_objects, shape))(keys)
    return scenes, render(scenes, shape)
