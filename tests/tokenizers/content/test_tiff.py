import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tokenizers.content.limits import MAX_PIXELS
from tokenizers.content.pictures import read_picture
from tokenizers.formats.formats import ArrayFile
from tokenizers.values import Classes, Colors, Distances, Reals

MANY_BANDS = (1, 2, 3, 4, 5, 6, 12)


def tiff(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "minisblack", **options})
    return stream.getvalue()


def pages(*arrays: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for array in arrays:
            writer.write(array, photometric="minisblack", metadata=None, **options)
    return stream.getvalue()


def bands_of(dtype: type, count: int) -> np.ndarray:
    low = 0 if np.dtype(dtype).kind == "u" else -100
    return np.random.default_rng(0).uniform(low, 200, (20, 36, count)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("planar", [False, True])
def test_bands_of_any_number_and_type_are_exact(dtype, planar):
    layouts = [{}, {"tile": (16, 16)}, {"compression": "lzw"}, {"byteorder": ">"}]
    layouts += [{"compression": "zlib", "predictor": True, "tile": (16, 32)}]
    layouts += [{"compression": "zstd", "rowsperstrip": 7}]
    for count in MANY_BANDS[1:]:
        bands = bands_of(dtype, count)
        stored = np.moveaxis(bands, -1, 0) if planar else bands
        for layout in layouts:
            data = tiff(stored, planarconfig="separate" if planar else "contig", **layout)
            read = read_picture(data)
            assert read.dtype == dtype and read.dtype.isnative
            np.testing.assert_array_equal(read, bands)
            assert Reals(channels=count).check(read, "bands").shape == bands.shape


def test_rgb_of_16_bits_keeps_them_all():
    numbers = np.random.default_rng(0).integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    read = read_picture(tiff(numbers, photometric="rgb"))
    np.testing.assert_array_equal(np.asarray(read), numbers)
    np.testing.assert_array_equal(Colors().check(read, "rgb"), (numbers / 257).round())


@pytest.mark.parametrize(("dtype", "stored"), [(np.float32, "-9999"), (np.int16, "-9999.0")])
def test_the_file_s_own_number_for_no_data_is_unknown(dtype, stored):
    numbers = np.arange(1, 13).reshape(3, 4).astype(dtype)
    numbers[1, 2] = -9999
    data = tiff(numbers, extratags=[(42113, 2, 0, stored, True)])
    read = read_picture(data)
    assert read.dtype == dtype
    reals = Reals().check(read, "elevation")[..., 0]
    assert np.isnan(reals[1, 2]) and np.isnan(reals).sum() == 1
    depth = Distances(integer_unit=1.0).check(read, "depth")
    assert depth[1, 2] == 0 and (depth > 0).sum() == 11


def test_no_data_may_be_nan_or_a_number_that_the_type_has_not():
    reals = np.array([[1, np.nan]], np.float32)
    read = read_picture(tiff(reals, extratags=[(42113, 2, 0, "nan", True)]))
    np.testing.assert_array_equal(read, reals)
    classes = np.array([[0, 255]], np.uint8)
    read = read_picture(tiff(classes, extratags=[(42113, 2, 0, "-1", True)]))
    assert type(read) is np.ndarray
    read = read_picture(tiff(classes, extratags=[(42113, 2, 0, " ", True)]))
    np.testing.assert_array_equal(read, classes)
    with pytest.raises(ValueError, match="'none' means no data, which is no number"):
        read_picture(tiff(classes, extratags=[(42113, 2, 0, "none", True)]))


def test_unknown_pixels_of_a_class_map_are_ignored():
    data = tiff(np.array([[0, 1, 2]], np.uint8), extratags=[(42113, 2, 0, "0", True)])
    checked = Classes(("a", "b", "c"), ignore=9).check(read_picture(data), "map")
    assert checked.tolist() == [[9, 1, 2]]


def test_a_mask_says_what_is_unknown_and_overviews_are_passed_over():
    stream = io.BytesIO()
    numbers = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    with tifffile.TiffWriter(stream) as writer:
        writer.write(numbers, photometric="minisblack", metadata=None)
        writer.write(numbers[::2, ::2].copy(), photometric="minisblack", subfiletype=1)
        writer.write(numbers > 3, photometric="mask", subfiletype=4)
    read = read_picture(stream.getvalue())
    np.testing.assert_array_equal(np.isnan(read), numbers <= 3)


def test_an_array_that_was_written_as_it_is_has_its_bands_behind():
    for shape in ((12, 20, 36), (20, 36, 5), (2, 20, 36), (20, 36, 2)):
        array = np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)
        stream = io.BytesIO()
        tifffile.imwrite(stream, array)
        expected = array if shape[0] == 20 else np.moveaxis(array, 0, -1)
        np.testing.assert_array_equal(read_picture(stream.getvalue()), expected)


def test_pages_that_say_nothing_are_refused_until_it_is_said_what_they_are():
    bands = bands_of(np.uint16, 3)
    data = pages(*np.moveaxis(bands, -1, 0))
    with pytest.raises(ValueError, match="holds 3 pages, and does not say what they are; set page"):
        read_picture(data)
    np.testing.assert_array_equal(read_picture(data, pages="bands"), bands)
    np.testing.assert_array_equal(np.asarray(read_picture(data, pages="first")), bands[..., 0])
    with pytest.raises(ValueError, match="holds 2 pages that are no bands"):
        read_picture(pages(bands[..., 0], bands[:9, :, 0]), pages="bands")


def test_channels_of_imagej_are_bands_and_its_frames_are_not():
    stack = np.moveaxis(bands_of(np.uint16, 4), -1, 0)
    for axes, is_read in (("CYX", True), ("TYX", False)):
        stream = io.BytesIO()
        tifffile.imwrite(stream, stack, imagej=True, metadata={"axes": axes})
        if is_read:
            np.testing.assert_array_equal(
                read_picture(stream.getvalue()), np.moveaxis(stack, 0, -1)
            )
        else:
            with pytest.raises(ValueError, match="does not say what they are"):
                read_picture(stream.getvalue())


def test_bits_inks_and_white_as_zero_have_colours():
    numbers = np.random.default_rng(0).integers(0, 16, (5, 8)).astype(np.uint8)
    read = read_picture(tiff(numbers, bitspersample=4))
    np.testing.assert_array_equal(np.asarray(read), numbers)
    np.testing.assert_array_equal(Colors().check(read, "rgb")[..., 1], numbers * 17)
    inverted = read_picture(tiff(numbers, photometric="miniswhite"))
    np.testing.assert_array_equal(np.asarray(inverted), numbers)
    np.testing.assert_array_equal(Colors().check(inverted, "rgb")[..., 1], 255 - numbers)


def test_a_fourth_band_that_is_no_transparency_is_never_dropped():
    bands = bands_of(np.uint8, 4)
    read = read_picture(tiff(bands, photometric="rgb", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(read, bands)
    with pytest.raises(ValueError, match=r"shape \(20, 36, 4\); colours must be"):
        Colors().check(read, "rgb")
    clear = bands.copy()
    clear[..., 3] = 0
    read = read_picture(tiff(clear, photometric="rgb", extrasamples=["unassalpha"]))
    assert (Colors().check(read, "rgb") == 255).all()


def test_what_is_missing_is_not_made_up():
    data = tiff(bands_of(np.uint16, 2), planarconfig="contig")
    with pytest.raises(ValueError, match="cut short"):
        read_picture(data[:-40])
    with pytest.raises(ValueError, match="is damaged"):
        read_picture(data[:60])


def test_what_would_be_read_wrongly_is_refused():
    with pytest.raises(ValueError, match="a TIFF of complex64; whole and real"):
        read_picture(tiff(np.ones((3, 4), np.complex64)))
    with pytest.raises(ValueError, match="compressed by JPEG2000; none"):
        read_picture(tiff(bands_of(np.uint8, 3), photometric="rgb", compression="jpeg2000"))
    with pytest.raises(ValueError, match="a TIFF of previews only"):
        read_picture(pages(np.zeros((3, 4), np.uint8), subfiletype=1))
    with pytest.raises(ValueError, match=r"36 by 20 pixels, and 99 are allowed.*max-pixels"):
        read_picture(tiff(bands_of(np.uint8, 1)[..., 0]), max_pixels=99)
    with pytest.raises(ValueError, match=r"MiB of memory.*--data\.max-pixels"):
        read_picture(tiff(bands_of(np.float64, 12)), max_pixels=720)


def test_jpeg_inside_a_tiff_is_decoded_to_colours():
    numbers = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    data = tiff(numbers, photometric="rgb", compression="jpeg")
    assert np.abs(read_picture(data, MAX_PIXELS).astype(int) - numbers).max() < 4


def test_a_palette_of_pillow_s_is_exact():
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    picture = Image.frombytes("P", (3, 2), numbers.tobytes())
    picture.putpalette(list(range(18)))
    stream = io.BytesIO()
    picture.save(stream, "tiff")
    read = read_picture(stream.getvalue())
    np.testing.assert_array_equal(np.asarray(read), numbers)
    assert Colors().check(read, "rgb")[1, 2].tolist() == [15, 16, 17]


def gdal(array: np.ndarray, *items: tuple[str, int, str], **options) -> bytes:
    said = "".join(
        f'<Item name="{role.upper()}" sample="{band}" role="{role}">{text}</Item>'
        for role, band, text in items
    )
    text = f"<GDALMetadata>{said}<Item name='CLOUDS'>3</Item></GDALMetadata>"
    return tiff(array, extratags=[(42112, 2, 0, text, True)], **options)


def test_the_scale_and_offset_that_gdal_notes_apply():
    bands = bands_of(np.int16, 3)
    data = gdal(bands, ("scale", 0, "0.01"), ("offset", 0, "-5"), ("scale", 2, "2"))
    wanted = bands * [0.01, 1, 2] + [-5, 0, 0]
    read = ArrayFile().read(data, "tif")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, wanted, rtol=1e-6)
    chosen = ArrayFile(bands=(2, 0)).read(data, "tif")
    np.testing.assert_allclose(chosen, wanted[..., [2, 0]], rtol=1e-6)
    # Knobs stand in place of what the file says.
    np.testing.assert_array_equal(ArrayFile(own_scale=False).read(data, "tif"), bands)
    np.testing.assert_array_equal(ArrayFile(scale=2.0).read(data, "tif"), bands * 2.0)
    unknown = ArrayFile(missing=int(bands[0, 0, 0])).read(data, "tif")
    np.testing.assert_array_equal(np.isnan(unknown), bands == bands[0, 0, 0])
    flat = ArrayFile().read(gdal(bands[..., 0], ("offset", 0, "7.5")), "tif")
    np.testing.assert_allclose(flat, bands[..., 0] + 7.5)
    with pytest.raises(ValueError, match="says that 'x' is the scale of its band 0; set own_scale"):
        ArrayFile().read(gdal(bands, ("scale", 0, "x")), "tif")
    plain = ArrayFile().read(gdal(bands, ("scale", 0, "1"), ("scale", 9, "5")), "tif")
    assert plain.dtype == np.int16


@pytest.mark.parametrize(
    "text", ["-3.4028e+38", "-3.40282e+38", "-3.4028234663852886e+38", "-3.403e38"]
)
def test_no_data_is_found_however_many_digits_it_is_written_with(text):
    lowest = np.finfo(np.float32).min
    stored = np.array([[lowest, 5.0], [0.25, -9999.0]], np.float32)
    read = read_picture(tiff(stored, extratags=[(42113, 2, 0, text, True)]))
    np.testing.assert_array_equal(np.isnan(read), [[True, False], [False, False]])
    # Elsewhere, a digit is what it is.
    read = read_picture(tiff(stored, extratags=[(42113, 2, 0, "0", True)]))
    assert not np.isnan(read).any()
