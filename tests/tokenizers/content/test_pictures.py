import io
import pickle
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tokenizers.base import Picture
from tokenizers.content.pictures import read_picture
from tokenizers.values import Classes, Colors


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def gradients() -> np.ndarray:
    """A picture without any symmetry, uint8 [20, 30, 3]."""
    down, across = np.meshgrid(np.linspace(0, 255, 20), np.linspace(0, 255, 30), indexing="ij")
    return np.stack([down, across, np.full_like(down, 100)], axis=-1).astype(np.uint8)


def colors_of(data: bytes) -> np.ndarray:
    return Colors().check(read_picture(data), "rgb")


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A grey PNG, also of fewer than 8 bits, which Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of(numbers: np.ndarray, bits: int) -> bytes:
    single = np.unpackbits(numbers[..., None], axis=-1)[..., 8 - bits :]
    rows = (b"\0" + np.packbits(row).tobytes() for row in single.reshape(len(numbers), -1))
    return png(numbers.shape[1], numbers.shape[0], bits, b"".join(rows))


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_orientation_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(gradients()), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(colors_of(data), np.asarray(upright))


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff"])
def test_a_palette_has_numbers_for_class_maps_and_colours_for_pictures(kind):
    picture = Image.fromarray(gradients()).quantize(9)
    read = read_picture(encoded(picture, kind))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))
    names = tuple("abcdefghi")
    np.testing.assert_array_equal(Classes(names).check(read, "map"), np.asarray(picture))
    np.testing.assert_array_equal(Colors().check(read, "rgb"), np.asarray(picture.convert("RGB")))


def test_a_palette_that_is_too_short_is_refused_where_colours_are_wanted():
    stored = png_of(np.array([[0, 1], [2, 7]], np.uint8), 8)
    header = struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)
    rest = stored[8 + 25 :]
    parts = chunk(b"IHDR", header), chunk(b"PLTE", bytes(9)), rest
    read = read_picture(stored[:8] + b"".join(parts))
    assert np.asarray(read).max() == 7
    with pytest.raises(ValueError, match="rgb holds the palette number 7, but its palette has 3"):
        Colors().check(read, "rgb")


@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
def test_every_mode_becomes_colours_where_they_are_wanted(mode, kind):
    picture = Image.fromarray(gradients()).convert(mode)
    try:
        data = encoded(picture, kind)
    except OSError:
        pytest.skip("there are no such files")
    with Image.open(io.BytesIO(data)) as again:
        expected = np.asarray(again.convert("RGB"))
    np.testing.assert_array_equal(colors_of(data), expected)


def test_lab_becomes_colours():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(gradients()), *profiles, outputMode="LAB")
    read = colors_of(encoded(lab, "tiff")).astype(int)
    assert np.abs(read - gradients()).mean() < 1


def test_transparent_pixels_show_the_background():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 255, 51
    data = encoded(Image.fromarray(rgba), "png")
    assert read_picture(data).shape == (1, 3, 4)
    assert colors_of(data)[0, :, 0].tolist() == [255, 0, 204]
    blue = Colors().check(read_picture(data, background=(0, 0, 255)), "rgb")
    assert blue[0].tolist() == [[0, 0, 255], [0, 0, 0], [0, 0, 204]]
    keyed = Image.frombytes("P", (2, 1), bytes([0, 1]))
    keyed.putpalette([9, 9, 9, 255, 0, 0])
    assert colors_of(encoded(keyed, "png", transparency=1))[0].tolist() == [[9] * 3, [255] * 3]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_numbers_of_few_bits_are_as_stored_and_as_bright_as_meant(bits):
    numbers = np.random.default_rng(0).integers(0, 2**bits, (5, 7)).astype(np.uint8)
    read = read_picture(png_of(numbers, bits))
    np.testing.assert_array_equal(np.asarray(read), numbers)
    np.testing.assert_array_equal(
        Colors().check(read, "rgb")[..., 0], numbers * (255 // (2**bits - 1))
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_read_exactly_and_rounded_to_colours(channels):
    numbers = np.random.default_rng(0).integers(0, 65536, (4, 5, channels)).astype(np.uint16)
    numbers = numbers[..., 0] if channels == 1 else numbers
    read = read_picture(imagecodecs.png_encode(numbers))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(np.asarray(read), numbers)
    colors = Colors().check(read, "rgb")
    if channels == 3:
        np.testing.assert_array_equal(colors, (numbers / 257).round())
    assert colors.shape == (4, 5, 3)


def test_16_bit_colours_are_turned_too():
    numbers = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    plain = imagecodecs.png_encode(numbers)
    exif = Image.Exif()
    exif[0x0112] = 6
    other = encoded(Image.new("L", (1, 1)), "png", exif=exif)
    start = other.index(b"eXIf") - 4
    length = int.from_bytes(other[start : start + 4])
    block = other[start : start + 12 + length]
    end = plain.index(b"IDAT") - 4
    read = read_picture(plain[:end] + block + plain[end:])
    np.testing.assert_array_equal(np.asarray(read), np.rot90(numbers, -1))


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_several_pictures_in_a_file_are_refused(kind):
    first, second = (Image.fromarray(each) for each in (gradients(), gradients()[::-1]))
    data = encoded(first, kind, save_all=True, append_images=[second])
    with pytest.raises(ValueError, match="holds 2 pictures, one after the other"):
        read_picture(data)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    data = png(20_000, 10_000, 1, b"")
    with pytest.raises(ValueError, match=r"20000 by 10000 pixels, and 89478485 .*max-pixels"):
        read_picture(data)
    small = encoded(Image.new("L", (40, 30)), "jpeg")
    assert read_picture(small, max_pixels=1200).shape == (30, 40)
    with pytest.raises(ValueError, match="40 by 30 pixels, and 1199 are allowed"):
        read_picture(small, max_pixels=1199)


def test_rows_that_a_png_promises_and_does_not_have_are_not_made_up():
    with pytest.raises(ValueError, match="fewer pixels than its header promises"):
        read_picture(png(100, 10_000, 8, bytes(10 * 101)))
    assert not np.asarray(read_picture(png(100, 1000, 8, bytes(1000 * 101)))).any()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "gif"])
def test_a_picture_that_was_cut_short_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ValueError, match=r"is damaged \(a .* picture"):
        read_picture(data[: len(data) // 2])


def test_a_flipped_bit_in_a_png_is_noticed():
    data = bytearray(encoded(Image.fromarray(gradients()), "png"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ValueError, match="a checksum is wrong"):
        read_picture(bytes(data))


def test_a_camera_s_jpeg_is_its_first_picture_whatever_follows():
    first, second = (Image.fromarray(each) for each in (gradients(), gradients()[:5, :7]))
    data = encoded(first, "mpo", save_all=True, append_images=[second])
    assert read_picture(data).shape == (20, 30, 3)


def test_a_picture_keeps_its_colours_on_its_way_to_another_process():
    picture = Image.fromarray(gradients()).quantize(9)
    read = read_picture(encoded(picture, "png"))
    again = pickle.loads(pickle.dumps(read))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))
    np.testing.assert_array_equal(again.colors(), np.asarray(picture.convert("RGB")))


def test_a_picture_is_an_array_that_knows_its_colours():
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    picture = Picture.of(numbers, lambda: np.zeros((2, 3, 3), np.uint8))
    assert (picture + 1).colors is None and picture[:1].colors is None
    np.testing.assert_array_equal(np.asarray(picture), numbers)
    np.testing.assert_array_equal(Colors().check(picture, "rgb"), 0)
