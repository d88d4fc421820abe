"""Crops, flips and turns that treat all modalities of a sample alike, so that they stay aligned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from data_pipeline.augment import AugmentConfig
from data_pipeline.sources.source import (
    CROPS,
    METADATA,
    NO_MODALITIES,
    NOTES,
    Note,
    Sample,
    Source,
    file_of,
    key_of,
    state_of,
)
from data_pipeline.sources.windows import aspect_of, crops_of
from tokenizers.base import (
    AUGMENTED,
    REFERENCES,
    Choices,
    Crop,
    Mended,
    Values,
    centre_crop,
    largest_window,
)
from tokenizers.settings.checked import Checked, name_knob

WHOLE = Crop(0.0, 0.0, 1.0, 1.0, flip=False)

LEAST_SHOWN = 0.1
"""Share of a picture that a view should show; if it can't, that is noted."""


@dataclass(frozen=True)
class CropConfig(Checked):
    """How samples are cut to one size; see `TransformedSource`."""

    size: int = 64
    """Height in pixels of everything that is a picture; its width, too, unless that is given."""
    width: int = 0
    """Width in pixels; 0 for squares. Samples are cut to this aspect ratio, never stretched."""
    views: int = 0
    """Versions of every training sample: the largest window in the middle, and further random ones.
    0: chosen when a run begins, the more the fewer samples there are; elsewhere 1."""
    scale: tuple[float, float] = (0.4, 1.0)
    """Smallest and largest area of a random window, as a share of the one in the middle."""
    flip: bool = True
    """Mirror half of the random windows."""
    turn: bool = False
    """Turn random windows by 0 to 3 right angles: for square pictures without an upper side, such
    as those taken from above."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How pictures of random views are changed where they are shown."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size, self.width or self.size

    def check_knobs(self, knob: str) -> None:
        self.augment.check_views(self.views, knob)
        if self.width < 0:
            raise ValueError(
                f"{name_knob(knob, 'width')} is {self.width}; at least 1 is allowed, or 0 for "
                "squares."
            )
        if self.turn and self.shape[0] != self.shape[1]:
            raise ValueError(
                f"{name_knob(knob, 'turn')} is true and pictures are {self.shape[0]} pixels high "
                f"and {self.shape[1]} wide, which a turn by a right angle swaps; set it to false, "
                f"or {name_knob(knob, 'width')} to 0 for squares."
            )
        if self.size < 1 or self.views < 0:
            raise ValueError(
                f"{name_knob(knob, 'size')} is {self.size} and {name_knob(knob, 'views')} "
                f"{self.views}; both must be at least 1, or views 0 to have them chosen."
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"{name_knob(knob, 'scale')} is {self.scale[0]} {self.scale[1]}; it must be two "
                "shares of the window in the middle, the smaller first, above 0 and at most 1."
            )

    def apply(
        self,
        source: Source,
        values: dict[str, Values],
        sizes: Mapping[str, tuple[int, int]],
        seed: int,
        with_views: bool,
    ) -> "TransformedSource":
        """Returns the source with all samples cut; without views, just in the middle."""
        return TransformedSource(
            source,
            values,
            sizes,
            views=max(self.views, 1) if with_views else 1,
            crop_scale=self.scale,
            flip=self.flip,
            turn=self.turn,
            seed=seed,
            augment=self.augment,
        )


class TransformedSource:
    """A source whose samples are checked, cut and resized, once or in several views.

    View 0 of a sample is its largest centred window of the aspect ratio that the result has. Every
    further view is a smaller such window at a random place, mirrored in half of the cases, and
    turned where that is asked for. A value that would be wrong there is missing. Of several values
    of a modality each view has one. A value that can't be used is left out, and `NOTES` of the
    sample say why. Pixels stay square, so shapes are never stretched.
    The views of one sample follow each other: sample `index // views`, view `index % views`. A
    view depends on the seed and the index alone.
    """

    def __init__(
        self,
        source: Source,
        values: dict[str, Values],
        size: tuple[int, int] | Mapping[str, tuple[int, int]],
        views: int = 1,
        crop_scale: tuple[float, float] = (0.4, 1.0),
        flip: bool = True,
        turn: bool = False,
        seed: int = 0,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008  Frozen, so it may be shared.
    ):
        """Wraps a source.

        Args:
            source: Of raw samples.
            values: The modalities to keep; others are dropped. `metadata` always stays.
            size: Height and width of the result in pixels; by modality if they differ, which
                they may in resolution but not in aspect ratio.
            views: How many times each sample appears.
            crop_scale: Smallest and largest area of a random window, as a share of the largest
                centred one.
            flip: Whether random views are mirrored in half of the cases.
            turn: Whether random views are turned by 0 to 3 right angles; for squares only.
            seed: Of the random views.
            augment: How pictures of the random views are changed where they are shown.

        Raises:
            ValueError: If views, size, crop_scale, turn or augment make no sense.
        """
        low, high = crop_scale
        sizes = size if isinstance(size, Mapping) else dict.fromkeys(values, size)
        if views < 1 or min(map(min, sizes.values()), default=1) < 1 or not 0 < low <= high <= 1:
            raise ValueError(
                f"The crops got views={views}, size={size}, crop_scale={crop_scale}; views and "
                "size are at least 1, and crop_scale two shares with 0 < smallest <= largest <= 1."
            )
        self.source = source
        self._values = values
        self._sizes = sizes
        self.views = views
        self._crop_scale = crop_scale
        self._flip = flip
        self._turn = turn
        self._aspect = aspect_of(sizes)
        if turn and self._aspect != (1, 1):
            raise ValueError(
                f"The crops got turn=True and size={size}; only squares can be turned."
            )
        self._seed, self._augment = seed, augment
        self.augmented = augment.names(values) if views > 1 else ()
        """The modalities that some views show changed."""

    def __len__(self) -> int:
        return self.views * len(self.source)

    @cached_property
    def keys(self) -> list[str]:
        """Names of the samples, if the source has such; those of further views have a number."""
        return [
            key if view == 0 else f"{key} (view {view})"
            for key in getattr(self.source, "keys", ())
            for view in range(self.views)
        ]

    def state_of(self, index: int) -> str:
        return state_of(self.source, index // self.views)

    def __getitem__(self, index: int) -> Sample:
        """Returns one view of one sample.

        Raises:
            IndexError: If `index` is not in [0, length).
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Returns several views; each sample that they come from is read once."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"Index {index} is not in [0, {len(self)}).")
        others = {int(index): self._other_of(int(index)) for index in indices}
        shown = [int(index) // self.views for index in indices]
        shown += [other for other in others.values() if other is not None]
        originals = list(dict.fromkeys(shown))
        samples = self.read(originals)
        checked = {
            original: self.check(sample, original)
            for original, sample in zip(originals, samples, strict=True)
        }
        firsts: dict[int | None, Sample] = {
            other: self.view(checked[other], other * self.views)
            for other in others.values()
            if other is not None
        }
        return [
            self.view(checked[int(index) // self.views], int(index), firsts.get(others[int(index)]))
            for index in indices
        ]

    def _other_of(self, index: int) -> int | None:
        """Returns the sample of which a view shows a patch; None where it shows none."""
        if not self.augmented or not index % self.views:
            return None
        key = self._seed, *divmod(index, self.views)
        return self._augment.other_of(key, len(self.source))

    def read(self, originals: list[int]) -> list[Sample]:
        """Returns raw samples; one that can't be read at all has a note and nothing else."""
        try:
            return self.source.__getitems__(originals)
        except MemoryError:
            raise
        except Exception:  # Whatever a library raises on damaged data: it is one of these samples.
            return [self._read_one(original) for original in originals]

    def _read_one(self, original: int) -> Sample:
        try:
            return self.source[original]
        except MemoryError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            return {NOTES: [Note("unreadable", "", key_of(self.source, original), "", reason)]}

    def check(self, sample: Sample, original: int) -> Sample:
        """Returns a raw sample's values in canonical form; those of no use have a note instead.

        Several values of a modality stay several.
        """
        key = key_of(self.source, original)
        place = f"sample {key!r}" if hasattr(self.source, "keys") else f"sample {key}"
        notes: list[Note] = list(sample.get(NOTES, ()))
        checked: Sample = {}
        for name, values in self._values.items():
            # Some values can be computed from those of another modality.
            given = name if name in sample else getattr(values, "computed_from", "")
            if given not in sample:
                continue
            value = sample[given]
            if isinstance(value, Mended):
                notes.append(Note("mended", name, key, self._file(original, name), value.how))
                value = value.value
            usable = []
            for each in value if isinstance(value, Choices) else (value,):
                try:
                    usable.append(values.check(each, f"{name} of {place}"))
                    notes += self._odd(values, each, original, name)
                except ValueError as error:
                    reason = str(error)
            if len(usable) < (len(value) if isinstance(value, Choices) else 1):
                kind = "one of several not used" if usable else "unusable"
                notes.append(Note(kind, name, key, self._file(original, name), reason))
            if usable:
                checked[name] = Choices(usable) if isinstance(value, Choices) else usable[0]
        if CROPS in sample:
            notes += self._take_windows(checked, sample[CROPS], original, key)
        notes += self._take_misaligned(checked, original, key, place)
        if METADATA in sample:
            checked[METADATA] = sample[METADATA]
        height, width = self._shape_of(checked)
        window = largest_window((height, width), self._aspect)
        if window[0] * window[1] < LEAST_SHOWN * height * width:
            reason = (
                f"of {height}x{width} pixels, of which a view shows at most "
                f"{window[0]:.0f}x{window[1]:.0f}"
            )
            notes.append(Note("mostly cut away", "", key, "", reason))
        if notes:
            checked[NOTES] = notes
        return checked

    def _odd(self, values: Values, value: Any, original: int, name: str) -> list[Note]:
        """Returns a note if a value became unknown in part though nothing in it says so."""
        ask = getattr(values, "taken_as_unknown", None)
        if how := ask(value) if ask else "":
            key = key_of(self.source, original)
            return [Note("mended", name, key, self._file(original, name), how)]
        return []

    def _file(self, original: int, name: str) -> str:
        return file_of(self.source, original, name)

    def _take_misaligned(self, sample: Sample, original: int, key: str, place: str) -> list[Note]:
        """Removes the pictures that can't show what the first one shows; returns why."""
        shapes = {
            name: value.shape[:2]
            for name, value in sample.items()
            if name not in NO_MODALITIES
            and _is_picture(value, self._values[name])
            and not (CROPS in sample and self._is_of_view(name))
        }
        notes = []
        # Crops are shares of height and width: they fit any resolution but one aspect ratio.
        # A tolerance of a pixel lets through what was rounded when it was resized.
        for name, (height, width) in shapes.items():
            first, (first_height, first_width) = next(iter(shapes.items()))
            if abs(height * first_width - width * first_height) > max(
                height, width, *shapes[first]
            ):
                reason = (
                    f"{name} of {place} is {height}x{width} but {first} is "
                    f"{first_height}x{first_width}; aligned modalities may differ in resolution "
                    "but must show the same picture, of one aspect ratio."
                )
                file = self._file(original, name)
                notes.append(Note("misaligned", name, key, file, reason))
                del sample[name]
        return notes

    def _take_windows(
        self, sample: Sample, windows: np.ndarray | None, original: int, key: str
    ) -> list[Note]:
        """Adds the crops of windows that are given, and removes what is not of all; returns why."""
        reason, crops = "its sample has no crop settings that can be used", Choices()
        if windows is not None:
            try:
                crops = Choices(crops_of(windows, self._shape_if_seen(sample, True)))
                reason = f"has another number of views than its sample's {len(crops)} crop settings"
            except ValueError as error:
                reason = str(error)
        notes = []
        for name in [name for name in sample if self._is_of_view(name)]:
            count = len(sample[name]) if isinstance(sample[name], Choices) else 1
            if count != len(crops):
                notes.append(Note("unusable", name, key, self._file(original, name), reason))
                del sample[name]
        if crops:
            sample[CROPS] = crops
        return notes

    def _is_of_view(self, name: str) -> bool:
        return name not in NO_MODALITIES and getattr(self._values[name], "is_of_view", False)

    def view(self, sample: Sample, index: int, other: Sample | None = None) -> Sample:
        """Returns a checked sample as the view `index` shows it, perhaps with a patch of the first
        view of another one."""
        is_given = CROPS in sample
        crop = (
            self._choose(sample[CROPS], index)
            if is_given
            else self._crop(self._shape_of(sample), index)
        )
        seen = {
            name: value
            if name in NO_MODALITIES
            else self._values[name].crop(
                self._choose(value, index),
                WHOLE if is_given and self._is_of_view(name) else crop,
                self._sizes[name],
            )
            for name, value in sample.items()
            if name != CROPS
        }
        seen = {name: value for name, value in seen.items() if value is not None}
        if self.views == 1 and (references := self._references(sample, crop)):
            seen[REFERENCES] = references
        if self.augmented and index % self.views:
            key = self._seed, *divmod(index, self.views)
            seen[AUGMENTED] = self._augment.apply(seen, self._values, key, other)
        return seen

    def _references(self, sample: Sample, crop: Crop) -> dict[str, Choices]:
        """Returns all texts of the modalities that have several."""
        return {
            name: Choices(self._values[name].crop(each, crop, self._sizes[name]) for each in value)
            for name, value in sample.items()
            if isinstance(value, Choices) and all(isinstance(each, str) for each in value)
        }

    def _choose(self, value: Any, index: int) -> Any:
        """Returns a view's own of several values: the first in view 0, and others in turn."""
        original, view = divmod(index, self.views)
        if not isinstance(value, Choices):
            return value
        if view % len(value) == 0:
            return value[0]
        sequence = np.random.SeedSequence([self._seed, original, self.views])
        random = np.random.Generator(np.random.Philox(sequence))
        return value[1 + random.permutation(len(value) - 1)[view % len(value) - 1]]

    def _crop(self, shape: tuple[int, int], index: int) -> Crop:
        height, width = shape
        window = largest_window(shape, self._aspect)
        if index % self.views == 0:
            return centre_crop(shape, self._aspect)
        original, view = divmod(index, self.views)
        sequence = np.random.SeedSequence([self._seed, original, view])
        random = np.random.Generator(np.random.Philox(sequence))
        # Always five draws, so that no option changes what the others mean.
        area, vertical, horizontal, mirror, turns = random.random(5)
        low, high = self._crop_scale
        share = np.sqrt(low + (high - low) * area)
        window = window[0] * share, window[1] * share
        top, left = vertical * (height - window[0]), horizontal * (width - window[1])
        return Crop(
            float(top / height),
            float(left / width),
            float(window[0] / height),
            float(window[1] / width),
            flip=bool(self._flip and mirror < 0.5),
            quarter_turns=int(4 * turns) if self._turn else 0,
        )

    def _shape_of(self, sample: Sample) -> tuple[int, int]:
        """Returns height and width of the first dense modality; those wanted if there is none."""
        return self._shape_if_seen(sample, CROPS in sample) or self._aspect

    def _shape_if_seen(self, sample: Sample, has_windows: bool) -> tuple[int, int] | None:
        for name, value in sample.items():
            if has_windows and self._is_of_view(name):
                continue
            if name in self._values and _is_picture(value, self._values[name]):
                return value.shape[0], value.shape[1]
        return None


def _is_picture(value: Any, values: Values) -> bool:
    """Tells what has a height and a width; vectors have two axes, too, but no place."""
    has_axes = isinstance(value, np.ndarray) and value.ndim >= 2
    return has_axes and getattr(values, "is_picture", True)
