"""Shapes that are impossible, and positions of grids and sequences."""

import numpy as np
import pytest

from fourm.model.config import ModelConfig
from fourm.model.positions import sincos_positions
from tests.fourm.tiny import SPACE, change_config

pytestmark = pytest.mark.xdist_group("fourm/model/test_transformer")


def test_positions_of_a_grid_are_sines_and_cosines_of_row_and_column():
    table, dim = sincos_positions(SPACE["picture"], 16), 16
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    for place in range(12):
        row, column = divmod(place, 4)
        blocks = [np.sin(row * omega), np.cos(row * omega)]
        blocks += [np.sin(column * omega), np.cos(column * omega)]
        np.testing.assert_allclose(table[place], np.concatenate(blocks), atol=1e-6)


def test_positions_of_a_sequence_are_sines_and_cosines_of_the_place():
    table = sincos_positions(SPACE["text"], 16)
    angles = np.arange(12)[:, None] * 10000.0 ** (-np.arange(8) / 8)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(table, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(dim=30, num_heads=4),
            r"ModelConfig.dim is 30; .* by 4 .* and by ModelConfig.num_heads, 4",
        ),
        (dict(dim=18, num_heads=2), r"ModelConfig.dim is 18; it must be divisible by 4"),
        (dict(encoder_layers=0), r"ModelConfig.encoder_layers is 0; it must be 1 to 1024"),
        (dict(decoder_layers=0), r"ModelConfig.decoder_layers is 0; it must be 1 to 1024"),
        (dict(registers_in_context=True), r"raise ModelConfig.num_registers from 0"),
    ],
)
def test_an_impossible_shape_gets_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        change_config(ModelConfig(), **changes)
