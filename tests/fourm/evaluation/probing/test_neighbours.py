"""The nearest training samples, and what they answer together."""

import numpy as np

from fourm.evaluation.probing.neighbours import (
    TEMPERATURE,
    Neighbours,
    ask_neighbours,
    find_neighbours,
    vote,
)


def test_neighbours_are_those_of_a_naive_search():
    rng = np.random.default_rng(0)
    training, asked = rng.normal(size=(700, 5)), rng.normal(size=(600, 5))
    found = find_neighbours(training, asked, 7)
    for row in (0, 511, 512, 599):
        cosine = training @ asked[row] / np.linalg.norm(training, axis=1)
        cosine /= np.linalg.norm(asked[row])
        order = np.argsort(-cosine)[:7]
        assert found.index[row].tolist() == order.tolist()
        np.testing.assert_allclose(found.weight[row], np.exp(cosine[order] / TEMPERATURE))


def test_no_sample_is_its_own_neighbour():
    training = np.random.default_rng(1).normal(size=(600, 3))
    found = find_neighbours(training, training, 2, leave_out_self=True)
    assert (found.index != np.arange(600)[:, None]).all()


def test_votes_count_by_their_weight():
    neighbours = Neighbours(np.array([[0, 1, 2]]), np.array([[5.0, 2.0, 2.0]]))
    assert vote(neighbours, np.array(["a", "b", "b"]), "class", 3).tolist() == ["a"]
    labels = np.array([[True, False], [False, True], [False, True]])
    assert vote(neighbours, labels, "several", 3).tolist() == [[True, False]]
    numbers = np.array([1.0, 10.0, 100.0])
    np.testing.assert_allclose(vote(neighbours, numbers, "number", 2), [25 / 7])


def test_the_number_of_neighbours_is_chosen_on_training_samples():
    rng = np.random.default_rng(2)
    numbers = np.repeat(np.arange(4), 8)  # 7 others alike: twenty neighbours outvote them
    features = np.eye(4)[numbers] + 0.6 * rng.normal(size=(32, 4))
    found = ask_neighbours(features, numbers, np.eye(4), "class", (1, 7, 500))
    assert sorted(found.by_k) == [1, 7, 31]
    assert found.by_k[found.k].tolist() == [0, 1, 2, 3]
