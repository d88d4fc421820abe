"""Sounds and columns of numbers, as the bytes of their files."""

import io
import wave

import numpy as np
import pytest

from tokenizers.content.sounds import read_columns, read_sound


def sound(steps=100, channels=2, width=2, rate=8000) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        most = 2 ** (8 * width - 1)
        numbers = np.linspace(-most, most - 1, steps * channels).astype(np.int64)
        if width == 1:
            numbers += 128
        raw = numbers.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
        file.writeframes(raw.tobytes())
    return content.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_sounds_of_any_number_of_bits_are_read_as_shares_of_the_largest(width):
    waves, rate = read_sound(sound(width=width))
    assert rate == 8000 and waves.shape == (100, 2) and waves.dtype == np.float32
    assert waves.min() == -1 and 0.98 < waves.max() <= 1
    np.testing.assert_allclose(waves.ravel(), np.linspace(-1, 1, 200), atol=0.02)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ID3\x03" + bytes(200), "is an MP3 sound, and no WAV sound"),
        (sound()[:-10], "is cut off: it has 434 bytes of 444"),
        (sound(steps=0), "holds no sound"),
    ],
)
def test_what_is_no_sound_gets_one_sentence(content, message):
    with pytest.raises(ValueError, match=message):
        read_sound(content)


def test_columns_of_numbers_are_read_with_or_without_heading():
    wanted = [[0.0, 1.5], [1.0, np.nan]]
    for text in ("time,mV\n0,1.5\n1,\n", "0;1.5\n1;\n", "0\t1.5\n1\t\n\n"):
        np.testing.assert_array_equal(read_columns(text.encode()), wanted)
    with pytest.raises(ValueError, match="has 'high' in line 2 of its numbers"):
        read_columns(b"0,1\n1,high\n")
    with pytest.raises(ValueError, match="has 1 cells in line 2 of its numbers and 2 in the first"):
        read_columns(b"0,1\n1\n")
