"""Files of signals, labels and rows."""

import io
import wave

import numpy as np
import pytest

from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.files.tables import Table, cells_of
from data_pipeline.sources.source import NOTES
from tokenizers.formats.cells import TableRow
from tokenizers.formats.formats import ArrayFile, JsonFile, format_for
from tokenizers.formats.signals import LogMel, SignalFile
from tokenizers.labels import Label
from tokenizers.rows import Row
from tokenizers.signals.values import Signal

RATE = 8000.0


def sound(hertz: float, seconds: float = 0.5) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, int(RATE), 0, "NONE", ""))
        time = np.arange(int(RATE * seconds)) / RATE
        wave_form = 0.5 * np.sin(2 * np.pi * hertz * time) * 2**15
        file.writeframes(wave_form.astype("<i2").tobytes())
    return content.getvalue()


def npy(array) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_sounds_columns_and_arrays_are_read_and_cut():
    found = SignalFile(start=100, length=50, rate=RATE).read(sound(440), "wav")
    assert found.shape == (50, 1) and found.dtype == np.float32
    assert SignalFile(columns=(1,)).read(b"t,mV\n0,5\n1,6\n", "csv").tolist() == [[5], [6]]
    stored = npy(np.arange(6, dtype=np.int16).reshape(2, 3))
    assert SignalFile(channels_first=True, scale=2.0).read(stored, "npy").tolist() == [
        [0, 6],
        [2, 8],
        [4, 10],
    ]
    assert SignalFile(field="y").read(b'{"y": [1, 2]}', "json").tolist() == [[1], [2]]
    assert ArrayFile().read(sound(440), "wav").shape == (4000, 1)
    assert isinstance(format_for("sound", Signal(length=9)), ArrayFile)


@pytest.mark.parametrize(
    ("settings", "data", "extension", "message"),
    [
        ({"rate": 16000.0}, sound(440), "wav", "has 8000 steps per second, and 16000 are wanted"),
        ({"columns": (2,)}, b"0,5\n", "csv", "has 2 channels, not one of number"),
        ({"start": 9}, b"0,5\n", "csv", "has no step from number 9 on"),
        ({}, npy(np.zeros((2, 3, 4))), "npy", r"holds an array of shape \(2, 3, 4\), not \[time"),
        ({}, b"ID3", "wav", "is an MP3 sound, and no WAV"),
    ],
)
def test_what_is_no_such_signal_gets_one_sentence(settings, data, extension, message):
    with pytest.raises(ValueError, match=message):
        SignalFile(**settings).read(data, extension)


def test_log_mel_bands_tell_high_from_low():
    mel = LogMel(rate=RATE, bands=20, window=256, hop=128)
    low, high = (SignalFile(log_mel=mel).read(sound(hertz), "wav") for hertz in (300, 3000))
    assert low.shape == (1 + (4000 - 256) // 128, 20) and low.dtype == np.float32
    assert np.isfinite(low).all()
    assert low.mean(0).argmax() + 8 < high.mean(0).argmax()
    assert SignalFile(log_mel=mel, length=100).read(sound(300), "wav").shape == (1, 20)
    with pytest.raises(ValueError, match="has 8000 steps per second, and 16000 are wanted"):
        SignalFile(log_mel=LogMel(rate=16000.0)).read(sound(300), "wav")


def test_labels_and_rows_are_whatever_json_or_a_text_holds():
    label = Label(names=("cat", "dog"))
    file = format_for("animal", label)
    assert isinstance(file, JsonFile) and file.folder == "animal"
    assert isinstance(format_for("patient", Row(numbers=("age",))), JsonFile)
    for data, extension in ((b"dog\n", "txt"), (b"1", "txt"), (b'"dog"', "json"), (b"1", "json")):
        assert label.check(file.read(data, extension), "animal") == 1
    assert JsonFile(field="row").read(b'{"row": {"age": 3}}', "json") == {"age": 3}
    with pytest.raises(ValueError, match="is a PNG picture, and no text"):
        file.read(b"\x89PNG\r\n\x1a\n\xff", "png")


def test_several_columns_of_a_table_are_one_row_and_empty_cells_are_missing():
    rows = {
        "1": {"age": "34", "sex": "f", "other": "x"},
        "2": {"age": "nan", "sex": "m", "other": "x"},
        "3": {"age": "", "sex": " ", "other": "x"},
    }
    table = Table(rows, ("age", "sex", "other"), file="a.csv")
    column = TableRow(columns=("age", "sex"))
    cells = cells_of(table, "patient", column)
    read = {key: column.read(cell.content, cell.extension) for key, cell in cells.items()}
    assert read == {"1": {"age": "34", "sex": "f"}, "2": {"age": None, "sex": "m"}}
    with pytest.raises(ValueError, match=r"is to be the column 'size' of a\.csv, which has age"):
        cells_of(table, "patient", TableRow(columns=("age", "size")))
    with pytest.raises(ValueError, match=r"TableRow\.columns is empty"):
        TableRow()


def wav(rate: int, steps: int = 800) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        waves = 2**14 * np.sin(2 * np.pi * 200 * np.arange(steps) / rate)
        file.writeframes(waves.astype("<i2").tobytes())
    return content.getvalue()


def test_sounds_of_another_rate_are_refused_or_resampled():
    free = SignalFile()
    settled = free.settled([b"RIFF1234WAVE", wav(8000), wav(16000)])
    assert settled == SignalFile(rate=8000.0) and settled.settled([wav(16000)]) == settled
    assert free.settled([npy(np.zeros(3))]) == free and free.settled([]) == free
    # Whatever the file is called.
    for extension in ("wav", "txt"):
        with pytest.raises(ValueError, match=r"has 16000 steps .* 8000 are wanted; set resample"):
            settled.read(wav(16000), extension)
    at_8000 = SignalFile(rate=8000.0, resample=True)
    read = at_8000.read(wav(16000), "wav")
    assert read.shape == (400, 1) and read.dtype == np.float32
    np.testing.assert_allclose(read[50:350], at_8000.read(wav(8000), "wav")[50:350], atol=0.01)
    with pytest.raises(ValueError, match=r"SignalFile.resample is true and SignalFile.rate 0; set"):
        SignalFile(resample=True)


def test_all_sounds_of_a_folder_have_the_rate_of_the_first(tmp_path):
    for number, rate in enumerate((8000, 8000, 16000)):
        (tmp_path / "train" / "sound").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "sound" / f"{number}.wav").write_bytes(wav(rate))
    source = FilesData(path=str(tmp_path), modalities={"sound": SignalFile()}).open("train")
    assert source[1]["sound"].shape == (800, 1)
    assert "16000 steps per second, and 8000 are wanted" in source[2][NOTES][0].reason
