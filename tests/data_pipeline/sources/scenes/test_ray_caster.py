"""Checks the pictures against geometry worked out another way, in the camera's frame."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sources.scenes.ray_caster import FIRST_SOLID, GROUND, GROUND_END, SKY, render
from data_pipeline.sources.scenes.sampler import SHAPES, Scene, sample_scene

pytestmark = pytest.mark.slow

SIZE = 64
NUM_SCENES = 64
jitted_render = jax.jit(partial(render, shape=(SIZE, SIZE)))


@pytest.fixture(scope="module")
def scenes() -> Scene:
    keys = jax.random.split(jax.random.key(0), NUM_SCENES)
    return jax.jit(jax.vmap(partial(sample_scene, with_unseen=jnp.array(False), max_solids=4)))(
        keys
    )


@pytest.fixture(scope="module")
def pictures(scenes):
    return jax.tree.map(np.asarray, jitted_render(scenes))


def points_of(scenes: Scene, pictures) -> np.ndarray:
    """Returns every pixel's point [scene, y, x, 3]: x right, y up, z towards the viewer."""
    depth = pictures.depth.astype(np.float64)
    height, width = depth.shape[1:]
    # In pixels, from the middle. Pixels are square.
    right, down = np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    focal = np.asarray(scenes.camera.focal)[:, None, None] * np.sqrt(height * width)
    return np.stack([right * depth / focal, -down[:, None] * depth / focal, -depth], -1)


@pytest.fixture(scope="module")
def points(scenes, pictures) -> np.ndarray:
    return points_of(scenes, pictures)


def to_world(scenes: Scene, vectors: np.ndarray) -> np.ndarray:
    """Turns vectors [scene, y, x, 3] from the camera's axes to the world's."""
    pitch = np.asarray(scenes.camera.pitch, np.float64)
    cos, sin, one, zero = np.cos(pitch), np.sin(pitch), np.ones(NUM_SCENES), np.zeros(NUM_SCENES)
    right, up, back = [one, zero, zero], [zero, sin, cos], [zero, -cos, sin]
    axes = np.stack([np.stack(axis, -1) for axis in (right, up, back)], 1)
    return np.einsum("syxa,saw->syxw", vectors, axes)


def world_of(scenes: Scene, points: np.ndarray) -> np.ndarray:
    camera = np.zeros((NUM_SCENES, 1, 1, 3))
    camera[..., 2] = np.asarray(scenes.camera.height)[:, None, None]
    return to_world(scenes, points) + camera


@pytest.fixture(scope="module")
def world(scenes, points) -> np.ndarray:
    return world_of(scenes, points)


def of_solid(scenes: Scene, pictures, shape: str):
    """Yields (scene, mask, diameter, middle of the base) of every visible solid of a shape."""
    solids = jax.tree.map(np.asarray, scenes.solids)
    for scene in range(NUM_SCENES):
        for solid in range(solids.shape.shape[1]):
            mask = pictures.instances[scene] == solid + 1
            if mask.any() and SHAPES[solids.shape[scene, solid]] == shape:
                yield scene, mask, solids.diameter[scene, solid], solids.position[scene, solid]


def test_ground_points_lie_on_the_ground(pictures, world):
    np.testing.assert_allclose(world[pictures.semseg == GROUND][:, 2], 0.0, atol=2e-5)


def test_ground_reaches_to_its_end_and_no_farther(pictures):
    ground = np.where(pictures.semseg == GROUND, pictures.depth, 0.0)
    assert (ground.max((1, 2)) > GROUND_END - 1.5).all() and ground.max() < GROUND_END


def test_sphere_points_and_normals_are_those_of_a_sphere(scenes, pictures, world):
    normals, found = to_world(scenes, pictures.normals), 0
    for scene, mask, diameter, base in of_solid(scenes, pictures, "sphere"):
        away = world[scene][mask] - [*base, diameter / 2]
        np.testing.assert_allclose(np.linalg.norm(away, axis=-1), diameter / 2, rtol=1e-4)
        np.testing.assert_allclose(normals[scene][mask], away / (diameter / 2), atol=2e-3)
        found += 1
    assert found > 10


def test_wide_pictures_show_round_spheres_none_of_them_cut_at_the_sides():
    shape, keys = (24, 40), jax.random.split(jax.random.key(1), NUM_SCENES)
    draw = partial(sample_scene, with_unseen=jnp.array(False), max_solids=4, shape=shape)
    scenes = jax.jit(jax.vmap(draw))(keys)
    pictures = jax.tree.map(np.asarray, jax.jit(partial(render, shape=shape))(scenes))
    world, found = world_of(scenes, points_of(scenes, pictures)), 0
    for scene, mask, diameter, base in of_solid(scenes, pictures, "sphere"):
        away = world[scene][mask] - [*base, diameter / 2]
        np.testing.assert_allclose(np.linalg.norm(away, axis=-1), diameter / 2, rtol=1e-4)
        assert not mask[:, [0, -1]].any() and not mask[-1].any()
        found += 1
    assert found > 10


def test_cone_points_narrow_evenly_to_the_tip(scenes, pictures, world):
    for scene, mask, diameter, base in of_solid(scenes, pictures, "cone"):
        x, y, z = (world[scene][mask] - [*base, 0.0]).T
        np.testing.assert_allclose(np.hypot(x, y) / 0.53 + z / 1.15, diameter, rtol=1e-3)


def test_cylinder_points_lie_on_its_side_or_its_top(scenes, pictures, world):
    for scene, mask, diameter, base in of_solid(scenes, pictures, "cylinder"):
        x, y, z = (world[scene][mask] - [*base, 0.0]).T / diameter
        on_side = np.abs(np.hypot(x, y) - 0.42) < 1e-3
        on_top = (np.abs(z - 0.95) < 1e-3) & (np.hypot(x, y) < 0.421)
        assert (on_side | on_top).all() and on_top.any() and on_side.any()


def test_cube_normals_are_three_directions_at_right_angles(scenes, pictures):
    normals = to_world(scenes, pictures.normals)
    for scene, mask, _, _ in of_solid(scenes, pictures, "cube"):
        faces = np.unique(normals[scene][mask].round(3) + 0.0, axis=0)
        assert len(faces) <= 3
        np.testing.assert_allclose(faces @ faces.T, np.eye(len(faces)), atol=2e-3)


def test_normals_are_unit_vectors_that_face_the_camera(pictures, points):
    is_valid = pictures.depth > 0
    np.testing.assert_allclose(np.linalg.norm(pictures.normals[is_valid], axis=-1), 1, atol=1e-5)
    assert (np.sum(pictures.normals * points, -1)[is_valid] < 1e-3).all()


def test_normals_agree_with_differences_of_depth(pictures, points):
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    up = points[:, :-2, 1:-1] - points[:, 2:, 1:-1]
    expected = np.cross(across, up)
    expected /= np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-9)
    cosine = np.sum(expected * pictures.normals[:, 1:-1, 1:-1], -1)
    labels = pictures.semseg.astype(int) * 8 + pictures.instances
    middle = labels[:, 1:-1, 1:-1]
    neighbours = (
        labels[:, 1:-1, 2:],
        labels[:, 1:-1, :-2],
        labels[:, 2:, 1:-1],
        labels[:, :-2, 1:-1],
    )
    is_inside = np.all([middle == other for other in neighbours], axis=0)
    for label in range(GROUND, FIRST_SOLID + len(SHAPES)):
        angle = np.degrees(np.arccos(np.clip(cosine[is_inside & (middle // 8 == label)], -1, 1)))
        assert np.median(angle) < (0.1 if label == GROUND else 2.5), label


@pytest.mark.slow
@pytest.mark.parametrize("depths", [(6.0, 9.0), (9.0, 6.0)])
def test_the_nearer_solid_hides_the_farther_in_any_order(scenes, depths):
    def show(is_present: list[bool]) -> np.ndarray:
        spheres = scenes.solids._replace(
            is_present=jnp.tile(jnp.array([*is_present, False, False]), (NUM_SCENES, 1)),
            shape=jnp.full((NUM_SCENES, 4), SHAPES.index("sphere")),
            diameter=jnp.full((NUM_SCENES, 4), 2.0),
            position=jnp.tile(jnp.array([[0.0, y] for y in (*depths, 0, 0)]), (NUM_SCENES, 1, 1)),
        )
        return np.asarray(jitted_render(scenes._replace(solids=spheres)).instances)

    near = int(np.argmin(depths))
    both = show([True, True])
    is_near = show([near == 0, near == 1]) == near + 1
    is_far = show([near == 1, near == 0]) == 2 - near
    np.testing.assert_array_equal(both == near + 1, is_near)
    np.testing.assert_array_equal(both == 2 - near, is_far & ~is_near)
    assert (is_far & is_near).any((1, 2)).all()


def test_shadows_fall_where_a_solid_stands_before_the_light(scenes, pictures, world):
    # A sphere shades the ground points whose ray to the light passes its middle closely.
    light = np.asarray(scenes.surroundings.light, np.float64)
    plain = np.asarray(scenes.surroundings.pattern) == 0
    only_spheres = (
        (np.asarray(scenes.solids.shape) == 0) | ~np.asarray(scenes.solids.is_present)
    ).all(1)
    checked = 0
    for scene in np.nonzero(plain & only_spheres)[0]:
        shaded = np.zeros((SIZE, SIZE))
        for solid in np.nonzero(np.asarray(scenes.solids.is_present)[scene])[0]:
            diameter = float(scenes.solids.diameter[scene, solid])
            to_middle = [*np.asarray(scenes.solids.position[scene, solid]), diameter / 2] - world[
                scene
            ]
            off_ray = np.linalg.norm(np.cross(to_middle, light[scene]), axis=-1)
            # 1 well inside the shadow, 0 well outside: the blur leaves its rim between.
            shaded = np.maximum(
                shaded, np.clip((0.75 * diameter - off_ray) / (0.5 * diameter), 0, 1)
            )
        is_ground = pictures.semseg[scene] == GROUND
        inner = is_ground & np.roll(is_ground, 2, 0) & np.roll(is_ground, -2, 0)
        inner &= np.roll(is_ground, 2, 1) & np.roll(is_ground, -2, 1)
        grey = pictures.rgb[scene].mean(-1)
        if (inner & (shaded > 0.9)).any():
            assert grey[inner & (shaded > 0.9)].max() < grey[inner & (shaded == 0)].min()
            checked += 1
    assert checked >= 1


def test_sky_is_above_the_ground(pictures):
    assert (pictures.semseg[:, 0] == SKY).mean() > 0.9 and not (pictures.semseg[:, -1] == SKY).any()
