"""What is in a scene: solids, ground, light and camera, all drawn from one key.

World: x to the right, y away from the camera, z up; the ground is z = 0 and the camera
stands above the origin. Walking round the scene is the same as turning the ground, the
solids and the light about the z axis, so the camera always looks along +y.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

SHAPES = ("sphere", "cube", "cylinder", "cone")

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.09, 0.09),
    "orange": (1.00, 0.50, 0.03),
    "yellow": (0.98, 0.88, 0.08),
    "green": (0.10, 0.62, 0.13),
    "cyan": (0.08, 0.82, 0.84),
    "blue": (0.10, 0.22, 0.92),
    "purple": (0.50, 0.10, 0.72),
    "pink": (1.00, 0.45, 0.70),
}
"""Names and surface colours, far apart in hue so that shading does not confuse them."""

COLOR_NAMES = tuple(COLORS)

UNSEEN_PAIRS = (
    ("yellow", "sphere"),
    ("purple", "cube"),
    ("orange", "cylinder"),
    ("cyan", "cone"),
)
"""Colour and shape pairs that only the split `test_unseen_pairs` shows."""

LARGE_DIAMETER = 2.3
SMALL_DIAMETER = 1.45
"""Metres. At the distances that occur about 17 to 27 and 11 to 17 pixels of 64."""

DEPTH_SPAN = 3.4
"""Metres along the view axis in which solids stand, from where the picture's bottom begins."""

NUM_CANDIDATES = 32
"""Places tried for each solid."""


class Solids(NamedTuple):
    """The solids of a scene, from the nearest to the farthest, absent ones last.

    Attributes:
        is_present: Whether the solid exists.
        shape: Index into `SHAPES`.
        color: Index into `COLOR_NAMES`.
        is_large: Large or small.
        is_shiny: Shiny or matt.
        diameter: Metres.
        position: Middle of the base on the ground (x, y), metres.
        yaw: Turn about the z axis, radians.
    """

    is_present: Bool[Array, "*batch solids"]
    shape: Int[Array, "*batch solids"]
    color: Int[Array, "*batch solids"]
    is_large: Bool[Array, "*batch solids"]
    is_shiny: Bool[Array, "*batch solids"]
    diameter: Float[Array, "*batch solids"]
    position: Float[Array, "*batch solids 2"]
    yaw: Float[Array, "*batch solids"]


class Camera(NamedTuple):
    """A pinhole camera.

    Attributes:
        height: Metres above the ground.
        pitch: Radians below the horizontal.
        focal: Focal length as a fraction of the side of a square of the picture's area.
    """

    height: Float[Array, "*batch"]
    pitch: Float[Array, "*batch"]
    focal: Float[Array, "*batch"]


class Surroundings(NamedTuple):
    """Light, ground and sky.

    Attributes:
        light: Unit vector towards the light.
        ground: Colour of the ground in full light, 0 to 1.
        sky: Colour of the sky at the horizon, 0 to 1.
        pattern: 0 plain, 1 stripes, 2 checker.
        pattern_size: Width of a stripe, metres.
        pattern_turn: Direction of the stripes, radians.
        pattern_shift: Where the pattern starts (x, y), in stripes.
    """

    light: Float[Array, "*batch 3"]
    ground: Float[Array, "*batch 3"]
    sky: Float[Array, "*batch 3"]
    pattern: Int[Array, "*batch"]
    pattern_size: Float[Array, "*batch"]
    pattern_turn: Float[Array, "*batch"]
    pattern_shift: Float[Array, "*batch 2"]


class Scene(NamedTuple):
    """Everything there is to know of a scene.

    Attributes:
        relation_choice: Uniform in [0, 1); picks which of the true relations is told.
    """

    solids: Solids
    camera: Camera
    surroundings: Surroundings
    relation_choice: Float[Array, "*batch"]


def _pair_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (color, shape) indices of all, of the common and of the unseen pairs."""
    pairs = [(c, s) for c in range(len(COLOR_NAMES)) for s in range(len(SHAPES))]
    unseen = [(COLOR_NAMES.index(color), SHAPES.index(shape)) for color, shape in UNSEEN_PAIRS]
    common = [pair for pair in pairs if pair not in unseen]
    return np.array(pairs), np.array(common), np.array(unseen)


def extents(shape: tuple[int, int]) -> tuple[float, float]:
    """Returns height and width of a picture as fractions of the side of a square of its area."""
    height, width = shape
    side = math.sqrt(height * width)
    return height / side, width / side


def sample_scene(
    key: Key[Array, ""],
    with_unseen: Bool[Array, ""],
    max_solids: int,
    shape: tuple[int, int] = (1, 1),
) -> Scene:
    """Draws a scene.

    Args:
        key: The scene's own key.
        with_unseen: Whether the nearest solid takes one of `UNSEEN_PAIRS` and the others
            any pair; otherwise no solid has one of them.
        max_solids: The number of solids is uniform in 1 to this.
        shape: Height and width of the picture that solids are to be in, or in proportion.
    """
    # One draw per part: every call of the generator would add to the compile time.
    camera_key, solids_key, surroundings_key, relation_key = jax.random.split(key, 4)
    camera = _make_camera(jax.random.uniform(camera_key, (3,)))
    solid_draws = jax.random.uniform(solids_key, (6 + 2 * NUM_CANDIDATES, max_solids))
    return Scene(
        solids=_make_solids(solid_draws, camera, with_unseen, shape),
        camera=camera,
        surroundings=_make_surroundings(jax.random.uniform(surroundings_key, (13,))),
        relation_choice=jax.random.uniform(relation_key),
    )


def _make_camera(draws: Float[Array, "3"]) -> Camera:
    height, pitch, focal = draws
    return Camera(
        height=4.4 + 0.9 * height,
        pitch=jnp.deg2rad(29.0 + 6.0 * pitch),
        focal=1.02 + 0.14 * focal,
    )


def _make_surroundings(draws: Float[Array, "13"]) -> Surroundings:
    azimuth, elevation, grey, red, green, blue, sky_grey, sky_blue, *pattern = draws
    kind, size, turn, shift_x, shift_y = pattern
    # The light stands behind the camera or to its side: what faces the camera is lit.
    azimuth = jnp.deg2rad(-180.0 + 180.0 * azimuth)
    elevation = jnp.deg2rad(38.0 + 24.0 * elevation)
    light = jnp.stack(
        [
            jnp.cos(azimuth) * jnp.cos(elevation),
            jnp.sin(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
        ]
    )
    # Ground and sky are muted: a grey with a little colour, the sky the lighter one.
    return Surroundings(
        light=light,
        ground=0.40 + 0.16 * grey + 0.05 * jnp.stack([red, green, blue]),
        sky=jnp.array([0.68, 0.73, 0.77]) + 0.12 * sky_grey + 0.05 * sky_blue * jnp.arange(3) / 2,
        pattern=_pick(kind, 3),
        pattern_size=1.4 + 0.9 * size,
        pattern_turn=jnp.pi * turn,
        pattern_shift=2.0 * jnp.stack([shift_x, shift_y]),
    )


def _pick(draw: Float[Array, "..."], number: int) -> Int[Array, "..."]:
    """Turns uniforms in [0, 1) into integers 0 to `number` - 1."""
    return jnp.minimum((draw * number).astype(jnp.int32), number - 1)


def _make_solids(
    draws: Float[Array, "draws solids"],
    camera: Camera,
    with_unseen: Bool[Array, ""],
    shape: tuple[int, int],
) -> Solids:
    number, size, pair, unseen_pair, gloss, turn = draws[:6]
    is_present = jnp.arange(len(size)) <= _pick(number[0], len(size))
    # Large ones are placed first, while there is room.
    is_large = jnp.sort((size < 0.5) & is_present, descending=True)
    diameter = jnp.where(is_large, LARGE_DIAMETER, SMALL_DIAMETER)
    position, depth = _place(draws[6:].T, camera, diameter, is_present, shape)

    order = jnp.argsort(jnp.where(is_present, depth, jnp.inf))
    color, kind = _pick_pairs(pair, unseen_pair[0], with_unseen)
    return Solids(
        is_present=is_present[order],
        shape=kind,
        color=color,
        is_large=is_large[order],
        is_shiny=gloss < 0.5,
        diameter=diameter[order],
        position=position[order],
        yaw=0.5 * jnp.pi * turn,
    )


def _pick_pairs(
    draw: Float[Array, "solids"], unseen_draw: Float[Array, ""], with_unseen: Bool[Array, ""]
) -> tuple[Int[Array, "solids"], Int[Array, "solids"]]:
    """Returns colours and shapes; with `with_unseen` the first pair is an unseen one."""
    every, common, unseen = (jnp.asarray(table, jnp.int32) for table in _pair_tables())
    from_any = every[_pick(draw, len(every))]
    from_any = from_any.at[0].set(unseen[_pick(unseen_draw, len(unseen))])
    pairs = jnp.where(with_unseen, from_any, common[_pick(draw, len(common))])
    return pairs[:, 0], pairs[:, 1]


def _place(
    draws: Float[Array, "solids draws"],
    camera: Camera,
    diameter: Float[Array, "solids"],
    is_present: Bool[Array, "solids"],
    shape: tuple[int, int],
) -> tuple[Float[Array, "solids 2"], Float[Array, "solids"]]:
    """Places solids one after another, each at the best of a few random places.

    Best means clear of those already placed, both on the ground and in the picture
    (Mitchell's best-candidate sampling, SIGGRAPH 1991), so that no drawing is rejected
    and little is hidden.

    Returns:
        position: (x, y) on the ground, metres.
        depth: Metres along the view axis.
    """
    max_solids = len(diameter)
    across, away = jnp.split(draws, 2, axis=1)  # [solids, candidates]
    half_height, half_width = (0.5 * extent / camera.focal for extent in extents(shape))
    sin, cos = jnp.sin(camera.pitch), jnp.cos(camera.pitch)
    nearest = camera.height / (sin + half_height * cos) + 0.5 * diameter[:, None]
    farthest = nearest[-1:] + DEPTH_SPAN
    depth = nearest + (farthest - nearest) * away
    # Whole solids: a cube's corner sticks out by 0.57 diameters, its front is nearer.
    room = half_width * (depth - 0.5 * diameter[:, None]) - 0.57 * diameter[:, None]
    room = jnp.maximum(room, 0.0)
    x = (2.0 * across - 1.0) * room
    y = (depth - camera.height * sin) / cos
    # The middle of the solid in the picture, in sides of a square of its area.
    raised = camera.height - 0.5 * diameter[:, None]
    picture_x = camera.focal * x / depth
    picture_y = camera.focal * (raised - depth * sin) / depth
    picture_radius = 0.5 * camera.focal * diameter[:, None] / depth

    def place_one(placed, candidates):
        chosen, is_placed = placed
        index, radius, *options = candidates
        options = jnp.stack(options, -1)  # [candidates, (x, y, depth, picture x, y, radius)]
        ground = jnp.linalg.norm(options[:, None, :2] - chosen[None, :, :2], axis=-1)
        ground_gap = ground / (radius + 0.5 * diameter)
        picture = jnp.linalg.norm(options[:, None, 3:5] - chosen[None, :, 3:5], axis=-1)
        picture_gap = picture / (options[:, None, 5] + chosen[None, :, 5])
        gap = jnp.minimum(ground_gap / 1.15, picture_gap / 0.95)
        # Beyond "clear" farther is not better, or everything would sit in the corners.
        gap = jnp.where(is_placed, jnp.minimum(gap, 1.0), 1.0).min(axis=1)
        best = options[jnp.argmax(gap)]
        return (chosen.at[index].set(best), is_placed.at[index].set(is_present[index])), None

    start = (jnp.zeros((max_solids, 6)), jnp.zeros(max_solids, bool))
    candidates = (jnp.arange(max_solids), diameter / 2, x, y, depth)
    candidates += (picture_x, picture_y, picture_radius)
    (chosen, _), _ = jax.lax.scan(place_one, start, candidates)
    return chosen[:, :2], chosen[:, 2]
