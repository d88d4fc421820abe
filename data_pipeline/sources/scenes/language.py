"""What is said of a scene: caption, boxes, distance and facts for probing, all from its picture.

Only visible solids are spoken of, and they are listed from left to right.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from data_pipeline.sources.scenes.sampler import COLOR_NAMES, SHAPES, Scene, extents
from tokenizers.base import Boxes

RELATIONS = ("left of", "right of", "in front of", "behind")

SIDE_MARGIN = 0.10
"""Widths between the middles of two boxes before one is "left of" the other."""

DEPTH_MARGIN = 1.0
"""Metres between two solids along the view axis before one is "in front of" the other.

More than the difference of their radii, so middles and front faces agree.
"""

VISIBLE_PIXELS = 24 / 64**2
"""Part of the picture that a solid must cover to count as visible."""


class Views(NamedTuple):
    """How the solids of a batch of scenes appear in their pictures.

    Attributes:
        pixels: Number of visible pixels.
        is_visible: Whether these are enough to speak of the solid.
        corners: Tight box as `Boxes.corners`; zero without any pixel.
        distance: Metres from the camera to the nearest visible point; infinite without one.
    """

    pixels: Int[np.ndarray, "batch solids"]
    is_visible: Bool[np.ndarray, "batch solids"]
    corners: Float[np.ndarray, "batch solids 4"]
    distance: Float[np.ndarray, "batch solids"]

    @property
    def middle(self) -> Float[np.ndarray, "batch solids"]:
        """Middle of each box from the left, in widths."""
        return (self.corners[..., 0] + self.corners[..., 2]) / 2


def view_solids(
    instances: UInt8[np.ndarray, "batch height width"],
    depth: Float[np.ndarray, "batch height width"],
    focal: Float[np.ndarray, "batch"],
    num_solids: int,
) -> Views:
    """Measures every solid in the picture.

    Args:
        instances: 0 for none, else 1 + index of the solid.
        depth: Metres along the view axis.
        focal: Focal length in sides of a square of the picture's area.
        num_solids: Number of solids, visible or not.
    """
    height, width = instances.shape[1:]
    per_solid = [_view_one(instances == 1 + solid) for solid in range(num_solids)]
    pixels, corners = (np.stack(values, 1) for values in zip(*per_solid, strict=True))
    tall, wide = extents((height, width))
    x = (wide * ((np.arange(width) + 0.5) / width - 0.5))[None, None, :] / focal[:, None, None]
    y = (tall * ((np.arange(height) + 0.5) / height - 0.5))[None, :, None]
    along_ray = depth * np.sqrt(1.0 + x**2 + (y / focal[:, None, None]) ** 2, dtype=np.float32)
    distance = [
        np.where(instances == 1 + solid, along_ray, np.inf).min((1, 2))
        for solid in range(num_solids)
    ]
    return Views(
        pixels=pixels,
        is_visible=pixels >= VISIBLE_PIXELS * height * width,
        corners=corners,
        distance=np.stack(distance, 1).astype(np.float32),
    )


def _view_one(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixel count [batch] and box [batch, 4] of a mask [batch, height, width]."""
    columns, rows = mask.any(1), mask.any(2)
    height, width = mask.shape[1:]
    low_x, high_x = columns.argmax(1), width - columns[:, ::-1].argmax(1)
    low_y, high_y = rows.argmax(1), height - rows[:, ::-1].argmax(1)
    corners = np.stack([low_x / width, low_y / height, high_x / width, high_y / height], 1)
    pixels = np.count_nonzero(mask, (1, 2))
    return pixels, np.where(pixels[:, None] > 0, corners, 0.0).astype(np.float32)


def find_relations(
    views: Views,
    depth: Float[np.ndarray, "batch solids"],
    color: Int[np.ndarray, "batch solids"],
    shape: Int[np.ndarray, "batch solids"],
) -> Bool[np.ndarray, "batch solids solids relations"]:
    """Returns which relations hold clearly between solids that a name singles out.

    Entry [b, i, j, r] says whether solid i is `RELATIONS[r]` solid j. Solids that share
    colour and shape with another visible one have no entry: "the red sphere" would be
    either.

    Args:
        views: From `view_solids`.
        depth: Metres along the view axis to the middle of each solid.
        color: Index into `COLOR_NAMES`.
        shape: Index into `SHAPES`.
    """
    name = color * len(SHAPES) + shape
    shares = (name[:, :, None] == name[:, None, :]) & views.is_visible[:, None, :]
    is_named = views.is_visible & (shares.sum(-1) == 1)
    rightwards = views.middle[:, None, :] - views.middle[:, :, None]
    backwards = depth[:, None, :] - depth[:, :, None]
    holds = np.stack(
        [
            rightwards >= SIDE_MARGIN,
            rightwards <= -SIDE_MARGIN,
            backwards >= DEPTH_MARGIN,
            backwards <= -DEPTH_MARGIN,
        ],
        axis=-1,
    )
    return holds & is_named[:, :, None, None] & is_named[:, None, :, None]


def choose_relation(
    holds: Bool[np.ndarray, "batch solids solids relations"], choice: Float[np.ndarray, "batch"]
) -> Int[np.ndarray, "batch 3"]:
    """Returns (i, j, relation) of one true relation per scene, -1 where there is none.

    `choice` in [0, 1) picks among them, each as likely.
    """
    flat = holds.reshape(len(holds), -1)
    wanted = np.floor(choice * flat.sum(1)).astype(np.int64)
    found = (np.cumsum(flat, 1) > wanted[:, None]).argmax(1)
    chosen = np.stack(np.unravel_index(found, holds.shape[1:]), 1)
    return np.where(flat.any(1)[:, None], chosen, -1)


def write_caption(
    color: Int[np.ndarray, "solids"],
    shape: Int[np.ndarray, "solids"],
    is_large: Bool[np.ndarray, "solids"],
    is_shiny: Bool[np.ndarray, "solids"],
    order: Int[np.ndarray, "visible"],
    relation: Int[np.ndarray, "3"],
) -> str:
    """Writes one caption: the solids in the given order, then the relation unless it is -1."""
    names = [f"{COLOR_NAMES[c]} {SHAPES[s]}" for c, s in zip(color, shape, strict=True)]
    phrases = [
        f"a {'large' if is_large[i] else 'small'} {'shiny ' if is_shiny[i] else ''}{names[i]}"
        for i in order
    ]
    listed = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    subject, other, kind = relation
    if kind < 0:
        return f"{listed}."
    return f"{listed}. the {names[subject]} is {RELATIONS[kind]} the {names[other]}."


def describe(
    instances: UInt8[np.ndarray, "batch height width"],
    depth: Float[np.ndarray, "batch height width"],
    scenes: Scene,
) -> list[dict[str, Any]]:
    """Returns caption, boxes, distance and metadata of every scene of a batch.

    Args:
        instances: 0 for none, else 1 + index of the solid.
        depth: Metres along the view axis.
        scenes: A `Scene` with numpy arrays and a batch axis.
    """
    solids, camera = scenes.solids, scenes.camera
    views = view_solids(instances, depth, camera.focal, solids.shape.shape[1])
    solid_depth = solids.position[..., 1] * np.cos(camera.pitch)[:, None]
    solid_depth = solid_depth + (camera.height * np.sin(camera.pitch))[:, None]
    holds = find_relations(views, solid_depth, solids.color, solids.shape)
    relation = choose_relation(holds, scenes.relation_choice)

    is_visible = views.is_visible
    orders = np.argsort(np.where(is_visible, views.middle, np.inf), axis=1, kind="stable")
    counts = is_visible.sum(1)
    nearest = np.where(is_visible, views.distance, np.inf).min(1)
    dominant = np.where(is_visible, views.pixels, -1).argmax(1)
    has_shape = (is_visible[..., None] & (solids.shape[..., None] == np.arange(len(SHAPES)))).any(1)
    described = []
    for scene, count in enumerate(counts):
        order = orders[scene, :count]
        described.append(
            {
                "caption": write_caption(
                    solids.color[scene],
                    solids.shape[scene],
                    solids.is_large[scene],
                    solids.is_shiny[scene],
                    order,
                    relation[scene],
                ),
                "boxes": Boxes(
                    corners=views.corners[scene, order],
                    classes=solids.shape[scene, order].astype(np.int32),
                ),
                "distance": float(nearest[scene]),
                "metadata": {
                    "object_count": int(count),
                    "dominant_color": int(solids.color[scene, dominant[scene]]),
                    "dominant_shape": int(solids.shape[scene, dominant[scene]]),
                    **{
                        f"has_{name}": int(has_shape[scene, index])
                        for index, name in enumerate(SHAPES)
                    },
                    "has_shiny": int((is_visible & solids.is_shiny)[scene].any()),
                    "relation": RELATIONS[relation[scene, 2]] if relation[scene, 2] >= 0 else "",
                },
            }
        )
    return described
