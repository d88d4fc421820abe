import io

import numpy as np
import pytest
from PIL import Image

from tokenizers.content.kinds import describe, kind_of, read_text


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
def test_pictures_are_told_by_their_first_bytes(kind):
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, kind)
    assert kind_of(stream.getvalue()) == kind


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"\xef\xbb\xbf\n <HTML>", "an HTML page"),
        (b"ID3\x04\0\0", "an MP3 sound"),
        (b"\xff\xfb\x90\x64\0", "an MP3 sound"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a WAV sound"),
        (b"\0\0\0\x18ftypmp42", "an MP4 film or sound"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"", "an empty file"),
        (bytes(512), "nothing but zero bytes"),
        (b"BMW is a make of cars", "a text"),
        (b"\x01\x02\xfe\0", "of no kind that is known"),
    ],
)
def test_what_is_no_picture_is_described(data, words):
    assert describe(data).startswith(words)


def test_a_letter_that_is_cut_in_two_is_still_text():
    text = ("ü" * 600).encode()
    assert kind_of(b"x" + text) == "text"


def test_text_is_utf_8_or_marked_utf_16():
    assert read_text("\ufeffgrößer".encode()) == "größer"
    assert read_text("größer".encode("utf-16")) == "größer"
    with pytest.raises(ValueError, match="is no UTF-8 text, from byte 2 on; save it as UTF-8"):
        read_text("größer".encode("latin-1"))
    with pytest.raises(ValueError, match="is a NumPy array, and no text"):
        stream = io.BytesIO()
        np.save(stream, np.zeros(3))
        read_text(stream.getvalue())
