"""Measures how fast samples are read from tar archives: `python -m benchmarks.read_files`.

Five modalities of pictures: two as JPEG, three as PNG, one of them of 16 bits. Prints one line of
JSON: samples per second of one thread, by reading alone and with checks and crops.
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from configs import (
    ArrayFile,
    Classes,
    Colors,
    CropConfig,
    Directions,
    Distances,
    FilesData,
    SplitByFolder,
)

VALUES = {
    "rgb": Colors(),
    "depth": Distances(),
    "normals": Directions(),
    "semseg": Classes(tuple("abcdefgh")),
    "thermal": Colors(),
}


def make_archives(folder: Path, samples: int, size: int) -> None:
    """Writes FOLDER/train/MODALITY/shard-00000.tar."""
    random = np.random.default_rng(0)
    for name in VALUES:
        file = folder / "train" / name / "shard-00000.tar"
        file.parent.mkdir(parents=True)
        with tarfile.open(file, "w") as archive:
            for number in range(samples):
                coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3)).astype(np.uint8))
                smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
                kind, array = _stored_as(name, smooth)
                content = io.BytesIO()
                Image.fromarray(array).save(content, kind)
                member = tarfile.TarInfo(f"{number:06}.{kind.lower()}")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))


def _stored_as(name: str, smooth: np.ndarray) -> tuple[str, np.ndarray]:
    match name:
        case "depth":
            return "PNG", smooth[..., 0].astype(np.uint16) * 20 + 500
        case "semseg":
            return "PNG", smooth[..., 0] // 32
        case "normals":
            return "PNG", smooth
    return "JPEG", smooth if name == "rgb" else smooth[..., 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=600, help="samples to read")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    arguments = parser.parse_args()
    samples, size = arguments.samples, (arguments.size, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        make_archives(Path(folder), samples, arguments.size)
        data = FilesData(
            folder,
            modalities={name: ArrayFile() for name in VALUES},
            splits_by=SplitByFolder({"train": "train"}),
        )
        source = data.open("train")
        start = time.perf_counter()
        for index in range(samples):
            source[index]
        read = time.perf_counter()
        crops = CropConfig(size=arguments.size, views=1)
        cut = crops.apply(source, VALUES, dict.fromkeys(VALUES, size), 0, with_views=True)
        cut.__getitems__(list(range(samples)))
        end = time.perf_counter()
    result = {
        "benchmark": "read_files",
        "read_per_second": round(samples / (read - start), 1),
        "read_and_cut_per_second": round(samples / (end - read), 1),
        "samples": samples,
        "size": arguments.size,
        "modalities": len(VALUES),
        "cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
