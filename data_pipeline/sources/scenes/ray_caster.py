"""Pictures of scenes by casting one ray per pixel, with exact depth, normals and labels.

Every solid is convex and stands on the ground, so a ray is inside it on one interval:
where it is between floor and top, and inside the side. The sides of sphere, cylinder and
cone are one family, x^2 + y^2 = a + b z + c z^2; the cube's is two pairs of planes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from data_pipeline.sources.scenes.sampler import (
    COLORS,
    SHAPES,
    Camera,
    Scene,
    Solids,
    Surroundings,
    extents,
)

SKY, GROUND, FIRST_SOLID = 0, 1, 2
"""Class of a pixel; a solid's is `FIRST_SOLID` + its shape."""

GROUND_END = 14.0
"""Metres along the view axis at which the ground ends and the sky begins.

Near a true horizon depth changes without bound from one pixel to the next.
"""

AMBIENT, DIRECT = 0.50, 0.60
"""Light on a surface from all around, and from the lamp straight above it."""


class Picture(NamedTuple):
    """Aligned views of a scene.

    Attributes:
        rgb: 0 to 255.
        depth: Metres along the view axis, 0 in the sky.
        normals: Unit vectors in the camera's frame, x right, y up, z towards the viewer;
            zero in the sky.
        semseg: `SKY`, `GROUND` or `FIRST_SOLID` + shape.
        instances: 0 where there is no solid, else 1 + its index.
    """

    rgb: UInt8[Array, "*batch height width 3"]
    depth: Float[Array, "*batch height width"]
    normals: Float[Array, "*batch height width 3"]
    semseg: UInt8[Array, "*batch height width"]
    instances: UInt8[Array, "*batch height width"]


class _Body(NamedTuple):
    """One solid, ready for intersection: its floor's middle, turn, height and side."""

    is_present: Array
    is_cube: Array
    x: Array
    y: Array
    cos: Array
    sin: Array
    top: Array
    half_width: Array
    a: Array
    b: Array
    c: Array


class _Hit(NamedTuple):
    """What a ray meets first, per pixel: depth, normal in the world, solid (or -1)."""

    depth: Array
    normal_x: Array
    normal_y: Array
    normal_z: Array
    solid: Array


Vector = tuple[Array, Array, Array]
"""x, y and z as separate arrays: a last axis of three would defeat vector instructions."""


def _dot(first: Vector, second: Vector) -> Array:
    return sum(a * b for a, b in zip(first, second, strict=True))


def _make_bodies(solids: Solids) -> _Body:
    """Returns bodies with a leading axis of solids."""
    width = solids.diameter
    # Cubes and cylinders are a little narrower: about the same picture area for all.
    table = {
        "sphere": (1.0, 1.0),
        "cube": (0.80, 0.80),
        "cylinder": (0.84, 0.95),
        "cone": (1.06, 1.15),
    }
    factors = jnp.array([table[shape] for shape in SHAPES])[solids.shape]
    radius, top = 0.5 * factors[:, 0] * width, factors[:, 1] * width
    zero = jnp.zeros_like(top)
    by_shape = {
        "sphere": (zero, 2 * radius, zero - 1),
        "cube": (zero, zero, zero),
        "cylinder": (radius**2, zero, zero),
        "cone": (radius**2, -2 * radius**2 / top, (radius / top) ** 2),
    }
    sides = jnp.stack([jnp.stack(by_shape[shape]) for shape in SHAPES])  # [shape, 3, solid]
    a, b, c = sides[solids.shape, :, jnp.arange(len(top))].T
    return _Body(
        is_present=solids.is_present,
        is_cube=solids.shape == SHAPES.index("cube"),
        x=solids.position[:, 0],
        y=solids.position[:, 1],
        cos=jnp.cos(solids.yaw),
        sin=jnp.sin(solids.yaw),
        top=top,
        half_width=radius,
        a=a,
        b=b,
        c=c,
    )


def _slab(origin: Array, inverse: Array, low: Array | float, high: Array) -> tuple[Array, Array]:
    """Returns where a ray enters and leaves low <= coordinate <= high."""
    first, second = (low - origin) * inverse, (high - origin) * inverse
    return jnp.minimum(first, second), jnp.maximum(first, second)


def _turn(body: _Body, x: Array, y: Array) -> tuple[Array, Array]:
    """Returns the world's x and y along the body's own axes."""
    return body.cos * x + body.sin * y, body.cos * y - body.sin * x


class _Crossing(NamedTuple):
    """Where rays are inside a body, in lengths of their direction, and how they came in.

    The ray as the body sees it comes along, for the normal.
    """

    enter: Array
    leave: Array
    enter_floor_or_top: Array
    enter_x: Array
    enter_y: Array
    local_origin: Vector
    local_direction: Vector


def _cross(body: _Body, origin: Vector, direction: Vector) -> _Crossing:
    """Intersects rays with one body; the ray is inside where enter < t < leave."""
    away_x, away_y = origin[0] - body.x, origin[1] - body.y
    ox, oy = _turn(body, away_x, away_y)
    dx, dy = _turn(body, direction[0], direction[1])
    oz, dz = origin[2], direction[2]
    enter_z, leave_z = _slab(oz, 1.0 / dz, 0.0, body.top)
    enter_x, leave_x = _slab(ox, 1.0 / dx, -body.half_width, body.half_width)
    enter_y, leave_y = _slab(oy, 1.0 / dy, -body.half_width, body.half_width)

    # The round side: p t^2 + 2 q t + r <= 0, solved without cancellation.
    p = dx * dx + dy * dy - body.c * dz * dz
    q = ox * dx + oy * dy - (0.5 * body.b + body.c * oz) * dz
    r = ox * ox + oy * oy - body.a - (body.b + body.c * oz) * oz
    discriminant = q * q - p * r
    stable = -(q + jnp.where(q < 0, -1.0, 1.0) * jnp.sqrt(jnp.maximum(discriminant, 0.0)))
    root, other = stable / p, r / stable
    first, second = jnp.minimum(root, other), jnp.maximum(root, other)
    # A ray steeper than a cone's side leaves its mirror image first and enters it second
    # when it falls; the floor-to-top interval does the rest.
    falls = dz < 0
    enter_round = jnp.where(p > 0, first, jnp.where(falls, second, -jnp.inf))
    leave_round = jnp.where(p > 0, second, jnp.where(falls, jnp.inf, first))
    enter_round = jnp.where(discriminant > 0, enter_round, jnp.inf)

    enter_side = jnp.where(body.is_cube, jnp.maximum(enter_x, enter_y), enter_round)
    leave_side = jnp.where(body.is_cube, jnp.minimum(leave_x, leave_y), leave_round)
    return _Crossing(
        enter=jnp.maximum(enter_side, enter_z),
        leave=jnp.minimum(leave_side, leave_z),
        enter_floor_or_top=enter_z > enter_side,
        enter_x=enter_x,
        enter_y=enter_y,
        local_origin=(ox, oy, oz),
        local_direction=(dx, dy, dz),
    )


def _nearest_hit(hit: _Hit, body: _Body, solid: Array, origin: Vector, direction: Vector) -> _Hit:
    """Returns the nearer of `hit` and where the ray enters `body`."""
    crossing = _cross(body, origin, direction)
    t = crossing.enter
    is_nearer = body.is_present & (t < crossing.leave) & (t > 0) & (t < hit.depth)

    x, y, z = (
        o + t * d for o, d in zip(crossing.local_origin, crossing.local_direction, strict=True)
    )
    by_x = crossing.enter_x > crossing.enter_y
    dx, dy, dz = crossing.local_direction
    nx = jnp.where(body.is_cube, jnp.where(by_x, -jnp.sign(dx), 0.0), x)
    ny = jnp.where(body.is_cube, jnp.where(by_x, 0.0, -jnp.sign(dy)), y)
    nz = jnp.where(body.is_cube, 0.0, -0.5 * body.b - body.c * z)
    scale = jax.lax.rsqrt(jnp.maximum(nx * nx + ny * ny + nz * nz, 1e-12))
    flat = crossing.enter_floor_or_top
    nx, ny = jnp.where(flat, 0.0, nx * scale), jnp.where(flat, 0.0, ny * scale)
    nz = jnp.where(flat, -jnp.sign(dz), nz * scale)
    found = _Hit(t, body.cos * nx - body.sin * ny, body.sin * nx + body.cos * ny, nz, solid)
    return jax.tree.map(lambda new, old: jnp.where(is_nearer, new, old), found, hit)


def _rays(camera: Camera, shape: tuple[int, int]) -> Vector:
    """Returns directions [height, width] scaled so that a ray's length is its depth."""
    offsets = (
        ((jnp.arange(length) + 0.5) / length - 0.5) * extent
        for length, extent in zip(shape, extents(shape), strict=True)
    )
    down, right = offsets
    across = jnp.broadcast_to(right[None, :] / camera.focal, shape)
    up = -jnp.broadcast_to(down[:, None] / camera.focal, shape)
    cos, sin = jnp.cos(camera.pitch), jnp.sin(camera.pitch)
    return across, cos + up * sin, -sin + up * cos


def _ground_color(surroundings: Surroundings, x: Array, y: Array, depth: Array) -> Vector:
    """Returns the colour of the ground at (x, y): a faint pattern that fades far away."""
    cos, sin = jnp.cos(surroundings.pattern_turn), jnp.sin(surroundings.pattern_turn)
    across = (cos * x + sin * y) / surroundings.pattern_size + surroundings.pattern_shift[0]
    along = (cos * y - sin * x) / surroundings.pattern_size + surroundings.pattern_shift[1]
    stripes = jnp.clip(3.0 * jnp.sin(jnp.pi * across), -1.0, 1.0)
    other = jnp.clip(3.0 * jnp.sin(jnp.pi * along), -1.0, 1.0)
    sign = jnp.where(surroundings.pattern == 1, stripes, stripes * other)
    strength = jnp.where(surroundings.pattern == 0, 0.0, 0.09)
    shade = 1.0 + strength * sign * jnp.clip(1.3 - depth / GROUND_END, 0.0, 1.0)
    return tuple(surroundings.ground[channel] * shade for channel in range(3))


def _blur(image: Float[Array, "height width"]) -> Float[Array, "height width"]:
    """Returns the picture through a lens: edges spread over the neighbouring pixels."""
    padded = jnp.pad(image, 1, mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]


def _render_one(scene: Scene, shape: tuple[int, int]) -> Picture:
    solids, camera, surroundings = scene.solids, scene.camera, scene.surroundings
    bodies = _make_bodies(solids)
    indices = jnp.arange(len(solids.shape))
    direction = _rays(camera, shape)
    origin = (jnp.float32(0), jnp.float32(0), camera.height)

    ground_depth = jnp.where(direction[2] < 0, -camera.height / direction[2], jnp.inf)
    ground_depth = jnp.where(ground_depth < GROUND_END, ground_depth, jnp.inf)
    nothing = jnp.zeros(shape)
    hit = _Hit(ground_depth, nothing, nothing, nothing + 1.0, jnp.full(shape, -1))

    # A scan, not a loop: unrolled, the compiler fuses the chain and computes it many times.
    def look(hit, item):
        body, index = item
        return _nearest_hit(hit, body, index, origin, direction), None

    hit, _ = jax.lax.scan(look, hit, (bodies, indices))
    is_sky = jnp.isinf(hit.depth)
    depth = jnp.where(is_sky, 0.0, hit.depth)
    point = tuple(o + depth * d for o, d in zip(origin, direction, strict=True))
    light = tuple(surroundings.light)

    # Shadow rays. Solids are convex: they shade themselves just where they face away.
    # The same scan collects each pixel's material.
    def shade(carry, item):
        in_shadow, material = carry
        body, solid, properties = item
        crossing = _cross(body, point, light)
        blocks = (crossing.enter < crossing.leave) & (crossing.leave > 0) & body.is_present
        is_own = hit.solid == solid
        material = tuple(
            jnp.where(is_own, new, old) for new, old in zip(properties, material, strict=True)
        )
        return (in_shadow | (blocks & ~is_own), material), None

    colors = jnp.array(list(COLORS.values()))[solids.color]
    properties = (*colors.T, solids.is_shiny.astype(jnp.float32), solids.shape + FIRST_SOLID)
    start = (*_ground_color(surroundings, point[0], point[1], depth), nothing)
    start += (jnp.full(shape, GROUND),)
    (in_shadow, material), _ = jax.lax.scan(
        shade, (jnp.zeros(shape, bool), start), (bodies, indices, properties)
    )
    *albedo, shininess, semseg = material

    normal = (hit.normal_x, hit.normal_y, hit.normal_z)
    facing = jnp.maximum(_dot(normal, light), 0.0)
    direct = jnp.where(in_shadow, 0.0, facing)
    brightness = AMBIENT * (0.85 + 0.15 * normal[2]) + DIRECT * direct
    gloss = shininess * _gloss(normal, light, direction, direct > 0)
    up = direction[2] / jnp.sqrt(_dot(direction, direction))
    darker = 1.0 - 0.6 * jnp.clip(up + 0.45, 0.0, 1.0)
    rgb = [
        _blur(jnp.where(is_sky, surroundings.sky[c] * darker, albedo[c] * brightness + gloss))
        for c in range(3)
    ]
    cos, sin = jnp.cos(camera.pitch), jnp.sin(camera.pitch)
    in_camera = (normal[0], sin * normal[1] + cos * normal[2], sin * normal[2] - cos * normal[1])
    return Picture(
        rgb=jnp.round(255.0 * jnp.clip(jnp.stack(rgb, -1), 0.0, 1.0)).astype(jnp.uint8),
        depth=depth,
        normals=jnp.where(is_sky[..., None], 0.0, jnp.stack(in_camera, -1)),
        semseg=jnp.where(is_sky, SKY, semseg).astype(jnp.uint8),
        instances=(hit.solid + 1).astype(jnp.uint8),
    )


def _gloss(normal: Vector, light: Vector, direction: Vector, is_lit: Bool[Array, "y x"]) -> Array:
    """Returns the mirror image of the lamp and, faintly, of the sky on a shiny surface."""
    along = _dot(normal, direction)
    length = jnp.sqrt(_dot(direction, direction))
    mirrored = tuple((d - 2.0 * along * n) / length for n, d in zip(normal, direction, strict=True))
    alignment = jnp.maximum(_dot(mirrored, light), 0.0)
    return jnp.where(is_lit, 0.65 * alignment**20, 0.0) + 0.15 * jnp.maximum(mirrored[2], 0.0)


def render(scenes: Scene, shape: tuple[int, int]) -> Picture:
    """Renders a batch of scenes in `shape`: (height, width). To be jitted by the caller."""
    return jax.vmap(lambda scene: _render_one(scene, shape))(scenes)
