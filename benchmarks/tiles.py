"""A scientist's few hundred tiles: bands, radar with holes, land cover, day of the year, captions.

python -c "from benchmarks.tiles import make_tiles; make_tiles('tiles')"
python train.py benchmarks/tiles.py --data.path tiles
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from configs import (
    Classes,
    CropConfig,
    EvaluationConfig,
    FilesData,
    Modality,
    Reals,
    RunConfig,
    Scalar,
    SplitByFraction,
    Text,
)

LAND_COVER = ("water", "trees", "crops", "built", "bare", "snow", "wetland", "grass")
BANDS = 12


def make_tiles(folder: str | Path, count: int = 400, size: int = 128, seed: int = 0) -> None:
    """Draws tiles of an imagined satellite and writes them as files, a folder per modality.

    Eight fields of white noise are smoothed by a Gaussian of 12 pixels; the class of a pixel is the
    greatest. Bands: a spectrum per class (500 to 5,000), times 1 + 0.3 sin(2 pi day / 365), and
    noise of 150. Radar: a level per class and channel (-25 to -5 dB), noise of 2, NaN in a corner.
    The caption names the commonest class. Two days share one sine: whoever knows the sine exactly
    is still wrong by 45.6 days on average.

    Args:
        folder: Made if it is not there.
        count: How many tiles.
        size: Height and width.
        seed: Of all of it.
    """
    folder, rng = Path(folder), np.random.default_rng(seed)
    spectra = rng.uniform(500, 5000, (len(LAND_COVER), BANDS))
    levels = rng.uniform(-25, -5, (len(LAND_COVER), 2))
    for name in ("bands", "radar", "land_cover", "day", "caption"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = rng.standard_normal((len(LAND_COVER), size, size))
        cover = np.stack([gaussian_filter(field, 12) for field in noise]).argmax(axis=0)
        day = int(rng.integers(1, 366))
        season = 1 + 0.3 * np.sin(2 * np.pi * day / 365)
        bands = spectra[cover] * season + rng.normal(0, 150, (size, size, BANDS))
        radar = levels[cover] + rng.normal(0, 2, (size, size, 2))
        height, width = rng.integers(size // 8, 3 * size // 8, 2)
        corner = np.ix_(
            *(
                np.arange(length) if side else size - 1 - np.arange(length)
                for length, side in zip((height, width), rng.integers(0, 2, 2), strict=True)
            )
        )
        radar[corner] = np.nan
        key = f"{number:04d}"
        np.save(folder / "bands" / f"{key}.npy", bands.astype(np.float32))
        np.save(folder / "radar" / f"{key}.npy", radar.astype(np.float32))
        if number % 5:
            np.save(folder / "land_cover" / f"{key}.npy", cover.astype(np.uint8))
        (folder / "day" / f"{key}.txt").write_text(str(day))
        if number % 3 == 0:
            commonest = LAND_COVER[np.bincount(cover.ravel(), minlength=len(LAND_COVER)).argmax()]
            (folder / "caption" / f"{key}.txt").write_text(f"mostly {commonest}")


config = RunConfig(
    modalities={
        "bands": Modality(Reals(channels=BANDS, picture=(3, 2, 1))),
        "radar": Modality(Reals(channels=2, unit="dB")),
        "land_cover": Modality(Classes(names=LAND_COVER)),
        "day": Modality(Scalar(unit="d")),
        "caption": Modality(Text()),
    },
    data=FilesData(splits_by=SplitByFraction(folder="", validation=0.0, test=0.15)),
    crops=CropConfig(scale=(0.8, 1.0), turn=True),
    evaluation=EvaluationConfig(
        pairs=(
            "bands->land_cover",
            "radar->land_cover",
            "bands->day",
            "radar->bands",
            "bands->caption",
            "land_cover->bands",
        )
    ),
)
