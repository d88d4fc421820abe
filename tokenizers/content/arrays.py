"""Arrays in npy and npz files, without pickle and within limits."""

import io
import zipfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from tokenizers.content.limits import MAX_PIXELS, check_memory


def read_npy(data: bytes, max_pixels: int = MAX_PIXELS) -> Shaped[np.ndarray, "..."]:
    """Returns the array of numbers that an npy file holds, in this machine's byte order.

    Raises:
        ValueError: In half a sentence that follows the file's name, if it holds anything else, or
            is damaged.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, in_columns, dtype = read(stream)
    except Exception as error:  # The header is text that may say anything.
        raise ValueError(
            f"is damaged (a NumPy array whose header can't be read: {error})"
        ) from error
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are never read (allow_pickle); store numbers")
    if dtype.kind not in "biuf":
        raise ValueError(f"holds an array of {dtype}; whole and real numbers can be read")
    count = 1
    for length in shape:
        count *= length
    check_memory(count * dtype.itemsize, max_pixels)
    stored, promised = len(data) - stream.tell(), count * dtype.itemsize
    if min(shape, default=0) < 0 or stored < promised:
        raise ValueError(
            f"is damaged (a NumPy array that was cut short, to {stored} bytes of {promised})"
        )
    flat = np.frombuffer(data, dtype, count, stream.tell())
    array = flat.reshape(shape, order="F" if in_columns else "C")
    return np.array(array, dtype.newbyteorder("="), order="C")


def read_npz(data: bytes, field: str = "", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns one array of an npz file.

    Args:
        data: The file.
        field: Which array; may be empty if there is only one.
        max_pixels: Limits its memory, see `check_memory`.

    Raises:
        ValueError: As `read_npy`; or if there is no such array.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
            name = field or (next(iter(members)) if len(members) == 1 else "")
            if name not in members:
                raise ValueError(
                    f"holds the arrays {', '.join(members)}; set `field` to one of them"
                )
            check_memory(members[name].file_size, max_pixels)
            inner = archive.read(members[name])
    except Exception as error:  # zipfile raises whatever comes up in damaged files.
        if type(error) is ValueError:
            raise
        raise ValueError(f"is damaged (a zip archive: {error})") from error
    if not inner.startswith(b"\x93NUMPY"):
        raise ValueError("is a zip archive of other files than arrays")
    return read_npy(inner, max_pixels)


def choose_bands(
    array: Shaped[np.ndarray, "y x ..."], bands: Sequence[int]
) -> Shaped[np.ndarray, "y x bands"]:
    """Returns some channels in some order; -1 stands for one that is not there, which is masked.

    Raises:
        ValueError: If there are fewer channels.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or max(bands) >= channels:
        raise ValueError(
            f"holds an array of shape {array.shape}; `bands` {tuple(bands)} are of pictures with "
            "more channels"
        )
    chosen = (array if array.ndim == 3 else array[..., None])[..., list(bands)]
    is_lacking = np.array(bands) < 0
    if not is_lacking.any():
        return chosen
    return np.ma.MaskedArray(np.asarray(chosen), np.ma.getmaskarray(chosen) | is_lacking)
