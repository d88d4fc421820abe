import io

import numpy as np
import pytest

from tokenizers.content.arrays import read_npy, read_npz


def npy(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">u2", "i1", "?", "f2"])
def test_arrays_come_back_in_this_machine_s_byte_order(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for stored in (array, np.asfortranarray(array), array[:, ::2]):
        read = read_npy(npy(stored))
        assert read.dtype.isnative and read.flags.c_contiguous and read.flags.writeable
        np.testing.assert_array_equal(read, stored)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a"]), "holds an array of <U1"),
        (np.array([1j]), "holds an array of complex128"),
        (np.zeros(2, [("a", "f4")]), "holds an array of"),
    ],
)
def test_what_is_not_numbers_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        read_npy(npy(array))


def test_a_header_that_promises_too_much_takes_no_memory():
    data = npy(np.zeros(8)).replace(b"(8,)", b"(9,)")
    with pytest.raises(ValueError, match="cut short, to 64 bytes of 72"):
        read_npy(data)
    huge = npy(np.zeros(8)).replace(b"(8,), }          ", b"(99999999999,), }")
    with pytest.raises(ValueError, match=r"MiB of memory.*max_pixels"):
        read_npy(huge)


def test_an_npz_that_unpacks_to_too_much_is_refused():
    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.zeros(100_000))
    with pytest.raises(ValueError, match="raise max_pixels"):
        read_npz(stream.getvalue(), max_pixels=1000)
    assert read_npz(stream.getvalue(), max_pixels=200_000).shape == (100_000,)
    with pytest.raises(ValueError, match="is damaged"):
        read_npz(stream.getvalue()[:60])
