"""A table, a signal, a picture that is no square, and a label: any predicts any.

python train.py examples/clinic.py --data.path PATH

PATH/patients.csv has the columns key, age, weight and sex, any cell of which may be empty;
PATH/ecg/KEY.csv two leads, 100 lines a second; PATH/xray/KEY.png a picture; PATH/finding/KEY.txt
one of the words below. Any of them may be missing, too.
"""

import configs as c

AGES, SEXES = ("age", "weight"), {"sex": ("f", "m")}

config = c.RunConfig(
    modalities={
        "patient": c.Modality(c.Row(numbers=AGES, categories=SEXES)),
        "ecg": c.Modality(c.Signal(length=512, channels=2, rate=100.0, unit="mV")),
        "xray": c.Modality(c.Colors()),
        "finding": c.Modality(c.Label(names=("none", "acute", "chronic"))),
    },
    data=c.FilesData(
        modalities={
            "patient": c.TableRow(columns=(*AGES, *SEXES)),
            "ecg": c.SignalFile(extension="csv", length=512),
            "xray": c.ArrayFile(as_rgb=True),
            "finding": c.JsonFile(),
        },
        table="patients.csv",
        splits_by=c.SplitByFraction(folder=""),
    ),
    crops=c.CropConfig(size=32, width=48, flip=False),
    evaluation=c.EvaluationConfig(pairs=("ecg->finding", "patient+xray->ecg", "ecg->patient")),
)
