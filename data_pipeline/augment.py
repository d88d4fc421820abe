"""Changes to pictures that are shown and never asked: colours, blur, noise, holes and patches.

Crops and flips hold for all modalities alike, and for what is asked. What is here is done to
single modalities of a view, to what the model reads of them alone.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipeline.sources.source import Sample
from tokenizers.base import Values
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.values import Colors, Distances, Reals

LUMINANCE = np.array([0.2989, 0.587, 0.114])
"""Of red, green and blue, as torchvision has it."""
REACH = 4.0
"""Standard deviations at which a blur ends."""


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How pictures of random views are changed where they are shown; nothing by default.

    View 0 of a sample stays as it is, and what is asked of any view. Colours change as in
    torchvision's ColorJitter, in a random order; blur, noise, a hole, and a patch of another sample
    follow.
    """

    modalities: tuple[str, ...] = ()
    """Which modalities are changed: pictures in colour, real-valued channels or distances; all that
    are in colour by default. Each is changed by itself."""
    brightness: float = 0.0
    """Colours are multiplied by 1 - this to 1 + this."""
    contrast: float = 0.0
    """How far they are from the mean grey is multiplied by 1 - this to 1 + this."""
    saturation: float = 0.0
    """How far they are from their own grey is multiplied by 1 - this to 1 + this."""
    hue: float = 0.0
    """Hues turn by at most this part of a circle, at most 0.5."""
    blur: float = 0.0
    """How many of the pictures are blurred, 0 to 1."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of a blur, in pixels."""
    noise: dict[str, float] = field(default_factory=dict)
    """Standard deviation of noise by modality, in its own unit: of 0 to 255 in colours, metres in
    distances."""
    cut_out: float = 0.0
    """Area of a window of the picture that is filled with the mean of the picture, as a share."""
    cut_mix: float = 0.0
    """Area of a window that is filled with what another sample shows there, as a share: of the
    first view of a random one, at the same place in all modalities that are changed (Yun et al.
    2019; what is asked is not mixed)."""

    def check_knobs(self, knob: str) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be finite and not "
                    "negative."
                )
        for name, most in (("hue", 0.5), ("blur", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be 0 to {most}."
                )
        low, high = self.blur_sigma
        if not 0 < low <= high < np.inf:
            raise ValueError(
                f"{name_knob(knob, 'blur_sigma')} is {low} {high}; it must be two positive numbers "
                "of pixels, the smaller first."
            )
        for name, deviation in self.noise.items():
            if not 0 <= deviation < np.inf:
                raise ValueError(
                    f"{name_knob(knob, 'noise')}.{name} is {deviation}; it must be finite and not "
                    "negative."
                )
        for name in ("cut_out", "cut_mix"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name_knob(knob, name)} is {getattr(self, name)}; it must be a share of the "
                    "picture, at least 0 and below 1."
                )

    @property
    def is_on(self) -> bool:
        """True if anything is changed."""
        areas = self.cut_out or self.cut_mix
        return self.changes_colors or bool(self.blur or areas or any(self.noise.values()))

    @property
    def changes_colors(self) -> bool:
        """True if colours are changed as such."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    def names(self, values: Mapping[str, Values], knob: str = "--crops.augment") -> tuple[str, ...]:
        """Returns which modalities are changed, none where nothing is on.

        Args:
            values: By modality.
            knob: Where this is set, for errors.

        Raises:
            ValueError: If a modality that is named is not there or can't be changed.
        """
        colors = [name for name, each in values.items() if isinstance(each, Colors)]
        chosen = self.modalities or tuple(colors)
        for name in self.modalities:
            if name not in values:
                raise ValueError(
                    f"{name_knob(knob, 'modalities')} names {name!r}; the modalities are "
                    f"{', '.join(values)}."
                )
            if not isinstance(values[name], Colors | Reals | Distances):
                raise ValueError(
                    f"{name_knob(knob, 'modalities')} names {name!r}, whose values are "
                    f"{type(values[name]).__name__}; only Colors, Reals and Distances are changed."
                )
        for name in self.noise:
            if name not in chosen:
                raise ValueError(
                    f"{name_knob(knob, 'noise')} names {name!r}; the modalities that are changed "
                    f"are {', '.join(chosen) or 'none'}: see {name_knob(knob, 'modalities')}."
                )
        if not self.is_on:
            return ()
        if not chosen:
            raise ValueError(
                f"{knob} is set and no modality is in colour; name others in "
                f"{name_knob(knob, 'modalities')}."
            )
        return chosen

    def check_views(self, views: int, knob: str) -> None:
        """Raises ValueError if there is no view that may be changed; 0 are still to be chosen."""
        if self.is_on and views == 1:
            raise ValueError(
                f"{name_knob(knob, 'augment')} is set and {name_knob(knob, 'views')} is 1; the "
                "first view is never changed: set it to at least 2, or to 0 to have it chosen."
            )

    def other_of(self, key: tuple[int, int, int], count: int) -> int | None:
        """Returns the sample of which a view shows a patch; None where it shows none.

        Args:
            key: Seed, sample and view.
            count: Samples that there are.
        """
        if not self.cut_mix or count < 2:
            return None
        place_and_other = draws_of(*key, MIXED).random(3)
        return (key[1] + 1 + int(place_and_other[2] * (count - 1))) % count

    def apply(
        self,
        sample: Sample,
        values: Mapping[str, Values],
        key: tuple[int, int, int],
        other: Sample | None = None,
    ) -> Sample:
        """Returns changed values of those modalities of a view that are changed.

        Args:
            sample: The view, in which nothing is changed.
            values: By modality.
            key: Seed, sample and view. Each modality has draws of its own besides.
            other: The first view of the sample that `other_of` names. Modalities that it lacks show
                no patch.
        """
        changed = {
            name: augment_picture(sample[name], values[name], self, name, key)
            for name in self.names(values)
            if name in sample
        }
        if other is None:
            return changed
        top, left, _ = draws_of(*key, MIXED).random(3)
        for name in changed.keys() & other.keys():
            window = window_of(changed[name].shape, self.cut_mix, (top, left))
            # As a whole: what is unknown in the other is unknown here.
            changed[name][window] = other[name][window]
        return changed


MIXED = "cut_mix"
"""Names the draws of a patch among those of a view."""


def draws_of(seed: int, sample: int, view: int, name: str) -> np.random.Generator:
    """Returns the draws of one modality of a view, or of what is named otherwise."""
    sequence = np.random.SeedSequence([seed, sample, view, zlib.crc32(name.encode())])
    return np.random.Generator(np.random.Philox(sequence))


def augment_picture(
    picture: np.ndarray,
    values: Any,
    config: AugmentConfig,
    name: str,
    key: tuple[int, int, int],
) -> np.ndarray:
    """Returns a changed picture, of the same type and shape; what is unknown stays unknown.

    Args:
        picture: As `values.check` returns it.
        values: Colors, Reals or Distances.
        config: What is changed, and how much.
        name: Of the modality.
        key: Seed, sample and view.
    """
    random = draws_of(*key, name)
    # Always the same draws, so that no option changes what the others mean.
    factors, order = random.uniform(-1, 1, 4), random.permutation(4)
    is_blurred, sigma, top, left = random.random(4)
    changed = picture.astype(np.float64)
    is_known = picture > 0 if isinstance(values, Distances) else np.isfinite(picture)
    if isinstance(values, Colors) and config.changes_colors:
        changed = jitter(changed, config, factors, order)
    if is_blurred < config.blur:
        low, high = config.blur_sigma
        changed = blur_known(changed, is_known, low + (high - low) * sigma)
    if deviation := config.noise.get(name, 0.0):
        noisy = changed + deviation * random.standard_normal(changed.shape)
        # What would be no distance any more stays as it was.
        changed = np.where(noisy > 0, noisy, changed) if isinstance(values, Distances) else noisy
    if config.cut_out:
        changed = cut_out(changed, is_known, config.cut_out, (top, left))
    if isinstance(values, Colors):
        return np.clip(np.round(changed), 0, 255).astype(np.uint8)
    return np.where(is_known, changed, picture).astype(picture.dtype)


def jitter(
    colors: Float[np.ndarray, "y x 3"] | UInt8[np.ndarray, "y x 3"],
    config: AugmentConfig,
    factors: Float[np.ndarray, "4"],
    order: np.ndarray,
) -> Float[np.ndarray, "y x 3"]:
    """Returns colours of another brightness, contrast, saturation and hue, 0 to 255.

    Args:
        colors: 0 to 255.
        config: How much they change at most.
        factors: -1 to 1, by how much of that each of the four changes.
        order: The numbers of the four, in the order in which they change.
    """
    for number in order:
        share = factors[number]
        match int(number):
            case 0 if config.brightness:
                colors = blend(colors, np.zeros(3), config.brightness, share)
            case 1 if config.contrast:
                colors = blend(colors, (colors @ LUMINANCE).mean(), config.contrast, share)
            case 2 if config.saturation:
                colors = blend(colors, (colors @ LUMINANCE)[..., None], config.saturation, share)
            case 3 if config.hue:
                colors = turn_hue(colors, config.hue * share)
    return colors


def blend(colors: np.ndarray, other: Any, most: float, share: float) -> Float[np.ndarray, "y x 3"]:
    """Returns colours further from others, or nearer to them, than they are."""
    # Factors below 0 are cut off as in torchvision, before they are drawn.
    low, high = max(0.0, 1 - most), 1 + most
    factor = low + (high - low) * (share + 1) / 2
    return np.clip(other + factor * (colors - other), 0, 255)


def turn_hue(colors: np.ndarray, turn: float) -> Float[np.ndarray, "y x 3"]:
    """Returns colours of the same saturation and value in HSV, their hues turned.

    Args:
        colors: 0 to 255.
        turn: Part of a circle; 1/3 makes red green.
    """
    most, least = colors.max(axis=-1), colors.min(axis=-1)
    spread = np.where(most > least, most - least, 1)
    red, green, blue = np.moveaxis(colors, -1, 0)
    sixth = np.select(
        [most == red, most == green],
        [(green - blue) / spread, 2 + (blue - red) / spread],
        4 + (red - green) / spread,
    )
    # Smith 1978: how far each channel falls below the value, by its distance from the hue.
    distance = (np.array([5.0, 3.0, 1.0]) + (sixth + 6 * turn)[..., None]) % 6
    falls = np.clip(np.minimum(distance, 4 - distance), 0, 1)
    return most[..., None] - (most - least)[..., None] * falls


def blur_known(
    picture: np.ndarray, is_known: Bool[np.ndarray, "y x ..."], sigma: float
) -> np.ndarray:
    """Returns a picture blurred by a Gaussian; what is unknown has no part in it."""
    from scipy.ndimage import gaussian_filter  # Takes long to import, and few need it.

    def blur(numbers: np.ndarray) -> np.ndarray:
        return gaussian_filter(numbers, sigma, axes=(0, 1), truncate=REACH)

    if is_known.all():
        return blur(picture)
    weights = blur(is_known.astype(np.float64))
    sums = blur(np.where(is_known, picture, 0.0))
    return np.where(is_known, sums / np.where(is_known, weights, 1.0), picture)


def cut_out(
    picture: np.ndarray,
    is_known: Bool[np.ndarray, "y x ..."],
    area: float,
    place: tuple[float, float],
) -> np.ndarray:
    """Returns a picture in which a window is filled with the mean of what is known.

    Args:
        picture: With channels or without.
        is_known: Where numbers mean something; elsewhere they stay.
        area: Of the window, as a share.
        place: Where it is, 0 to 1: at the top or at the bottom, and on the left or on the right.
    """
    window = window_of(picture.shape, area, place)
    count = np.maximum(is_known.sum(axis=(0, 1)), 1)
    mean = np.where(is_known, picture, 0.0).sum(axis=(0, 1)) / count
    changed = picture.copy()
    changed[window] = np.where(is_known[window], mean, picture[window])
    return changed


def window_of(
    shape: tuple[int, ...], area: float, place: tuple[float, float]
) -> tuple[slice, slice]:
    """Returns rows and columns of a window with the picture's aspect ratio; see `cut_out`."""
    lengths = [max(1, round(side * area**0.5)) for side in shape[:2]]
    starts = [
        int(share * (side - length + 1))
        for share, side, length in zip(place, shape[:2], lengths, strict=True)
    ]
    rows, columns = (
        slice(start, start + length) for start, length in zip(starts, lengths, strict=True)
    )
    return rows, columns
