"""Satellite pictures: optical bands, radar, elevation, land cover and colour.

python train.py docs/satellite.py --data.path tests/fixtures/eo

The layout is that of TerraMesh, PATH/val/{S2RGB,S2L2A,S1RTC,DEM,LULC}/all/KEY.EXT. The five
samples of the tests show only that it runs; give it thousands, and `SplitByFolder()` if they come
split into train and val.
"""

from configs import (
    ArrayFile,
    Classes,
    Colors,
    CropConfig,
    EvaluationConfig,
    FilesData,
    Modality,
    Reals,
    RunConfig,
    SplitByFraction,
)

LAND_COVER = (
    "no data",
    "water",
    "trees",
    "flooded vegetation",
    "crops",
    "built area",
    "bare ground",
    "snow or ice",
    "clouds",
    "rangeland",
)

config = RunConfig(
    modalities={
        "rgb": Modality(Colors()),
        "bands": Modality(Reals(channels=12, unit="reflectance", picture=(3, 2, 1))),
        "radar": Modality(Reals(channels=2, unit="dB", drawn_range=(-30.0, 0.0))),
        "elevation": Modality(Reals(unit="m")),
        "land_cover": Modality(Classes(names=LAND_COVER)),
    },
    data=FilesData(
        modalities={
            "rgb": ArrayFile(folder="S2RGB"),
            "bands": ArrayFile(folder="S2L2A", channels_first=True, scale=1e-4),
            "radar": ArrayFile(folder="S1RTC", channels_first=True),
            "elevation": ArrayFile(folder="DEM"),
            "land_cover": ArrayFile(folder="LULC"),
        },
        splits_by=SplitByFraction(folder="val", validation=0.0, test=0.4),
    ),
    crops=CropConfig(size=32, scale=(0.5, 1.0), turn=True),
    evaluation=EvaluationConfig(
        pairs=("radar->bands", "bands->land_cover", "bands+radar->elevation", "elevation->radar")
    ),
)
