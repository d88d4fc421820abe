import numpy as np
import pytest

from tokenizers.spread import evenly_spread, spread_order


@pytest.mark.parametrize(("total", "most"), [(500, 60), (100, 99), (7, 7), (3, 9), (0, 4), (5, 0)])
def test_a_few_of_many_are_at_equal_distances(total: int, most: int):
    chosen = evenly_spread(total, most)
    assert len(chosen) == len(set(chosen.tolist())) == min(total, most)
    distances = np.diff(np.append(chosen, total) if len(chosen) else chosen)
    assert not len(distances) or max(distances) - min(distances) <= 1


def test_of_samples_that_lie_by_class_every_class_has_its_share():
    labels = np.repeat(np.arange(5), 100)
    for count in (5, 60, 300, 499):
        shares = np.bincount(labels[evenly_spread(500, count)], minlength=5)
        assert max(shares) - min(shares) <= 1


def test_every_beginning_of_the_order_lies_spread_over_all():
    for total in (1, 2, 37, 64, 1000):
        order = spread_order(total)
        assert sorted(order.tolist()) == list(range(total))
        for count in (8, 32):
            if total >= 4 * count:
                quarters = np.bincount(order[:count] * 4 // total, minlength=4)
                assert min(quarters) >= count // 8
