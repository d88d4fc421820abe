import numpy as np

from data_pipeline.sources.scenes.language import (
    RELATIONS,
    Views,
    choose_relation,
    find_relations,
    view_solids,
    write_caption,
)
from data_pipeline.sources.scenes.sampler import COLOR_NAMES, SHAPES

RED, GREEN, BLUE = (COLOR_NAMES.index(name) for name in ("red", "green", "blue"))
SPHERE, CUBE, CONE = (SHAPES.index(name) for name in ("sphere", "cube", "cone"))


def make_views(middles: list[float], is_visible: list[bool]) -> Views:
    x = np.array([middles], np.float32)
    corners = np.stack([x - 0.05, x * 0, x + 0.05, x * 0 + 1], -1)
    seen = np.array([is_visible])
    return Views(pixels=seen * 50, is_visible=seen, corners=corners, distance=x)


def relations(middles, is_visible, depth, color, shape) -> set[tuple[int, str, int]]:
    holds = find_relations(
        make_views(middles, is_visible),
        np.array([depth], np.float32),
        np.array([color]),
        np.array([shape]),
    )
    return {(int(i), RELATIONS[r], int(j)) for _, i, j, r in zip(*np.nonzero(holds), strict=True)}


def test_relations_need_a_clear_margin():
    color, shape = [RED, BLUE], [SPHERE, CUBE]
    assert relations([0.5, 0.55], [True] * 2, [6.0, 6.5], color, shape) == set()
    assert relations([0.2, 0.8], [True] * 2, [6.0, 8.0], color, shape) == {
        (0, "left of", 1),
        (1, "right of", 0),
        (0, "in front of", 1),
        (1, "behind", 0),
    }


def test_relations_leave_out_hidden_and_ambiguous_solids():
    middles, depth = [0.1, 0.5, 0.9], [6.0, 6.0, 6.0]
    twins = dict(color=[RED, RED, BLUE], shape=[SPHERE, SPHERE, CUBE])
    assert relations(middles, [True] * 3, depth, **twins) == set()
    # A twin that nobody sees is no reason for silence.
    assert relations(middles, [True, False, True], depth, **twins) == {
        (0, "left of", 2),
        (2, "right of", 0),
    }


def test_every_true_relation_is_chosen_as_often():
    holds = np.zeros((300, 2, 2, 4), bool)
    holds[:, 0, 1, 0] = holds[:, 1, 0, 1] = holds[:, 1, 0, 3] = True
    chosen = choose_relation(holds, np.linspace(0, 1, 300, endpoint=False).astype(np.float32))
    found, counts = np.unique(chosen, axis=0, return_counts=True)
    assert found.tolist() == [[0, 1, 0], [1, 0, 1], [1, 0, 3]]
    assert counts.tolist() == [100, 100, 100]


def test_no_relation_is_chosen_where_none_is_true():
    nothing = np.zeros((1, 2, 2, 4), bool)
    assert choose_relation(nothing, np.array([0.7], np.float32)).tolist() == [[-1, -1, -1]]


def test_captions_follow_the_grammar():
    attributes = dict(
        color=np.array([BLUE, RED, GREEN]),
        shape=np.array([CUBE, SPHERE, CONE]),
        is_large=np.array([False, True, True]),
        is_shiny=np.array([True, False, False]),
    )
    assert write_caption(**attributes, order=np.array([1, 0, 2]), relation=np.array([1, 0, 0])) == (
        "a large red sphere, a small shiny blue cube and a large green cone."
        " the red sphere is left of the blue cube."
    )
    alone = write_caption(**attributes, order=np.array([2]), relation=np.array([-1, -1, -1]))
    assert alone == "a large green cone."


def test_views_measure_masks():
    instances = np.zeros((1, 16, 16), np.uint8)
    instances[0, 2:6, 8:14] = 2
    depth = np.full((1, 16, 16), 3.0, np.float32)
    views = view_solids(instances, depth, np.array([1.0], np.float32), num_solids=2)
    assert views.pixels.tolist() == [[0, 24]]
    assert views.is_visible.tolist() == [[False, True]]
    np.testing.assert_allclose(views.corners[0, 1], [8 / 16, 2 / 16, 14 / 16, 6 / 16])
    # The nearest point is that nearest the middle of the picture: half a pixel to the
    # right of it and two and a half above.
    expected = 3.0 * np.sqrt(1 + (0.5 / 16) ** 2 + (2.5 / 16) ** 2)
    np.testing.assert_allclose(views.distance[0, 1], expected, rtol=1e-6)
    assert np.isinf(views.distance[0, 0])
