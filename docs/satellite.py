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
    GenerationConfig,
    ImageTokenizerConfig,
    MaskingConfig,
    Modality,
    ProbeConfig,
    Reals,
    RunConfig,
    SplitByFraction,
    any_to_any,
    one_to_all,
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
PATCHES = ImageTokenizerConfig(patch_size=8, codebook_size=512)

MODALITIES = {
    "rgb": Modality(Colors(), PATCHES),
    "bands": Modality(Reals(channels=12, unit="reflectance", picture=(3, 2, 1)), PATCHES),
    "radar": Modality(Reals(channels=2, unit="dB", drawn_range=(-30.0, 0.0)), PATCHES),
    "elevation": Modality(Reals(unit="m"), PATCHES),
    "land_cover": Modality(Classes(names=LAND_COVER), PATCHES),
}
EQUALLY = {name: 1.0 for name in MODALITIES}
ONE_PASS = GenerationConfig(num_steps=1, temperature=0.0, decode="expected")

config = RunConfig(
    modalities=MODALITIES,
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
    crops=CropConfig(size=32, views=8, scale=(0.5, 1.0)),
    masking=MaskingConfig(
        components=(
            *(one_to_all(name, EQUALLY, num_inputs=16, num_targets=32) for name in MODALITIES),
            any_to_any(EQUALLY, num_inputs=(4, 32), num_targets=32, weight=2.0),
        )
    ),
    generation={name: ONE_PASS for name in ("bands", "radar", "elevation", "land_cover")},
    evaluation=EvaluationConfig(
        pairs=("radar->bands", "bands->land_cover", "bands+radar->elevation", "elevation->radar")
    ),
    probes=ProbeConfig(input="bands"),
)
