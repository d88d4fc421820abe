import itertools
import json
import math

import pytest

from fourm.run_directory.run_log import METRICS, TENSORBOARD, RunLog, read_metrics


def test_what_is_written_is_read_in_order(tmp_path):
    with RunLog(tmp_path) as log:
        log.write("tokenizer/rgb", 10, {"loss": 0.1, "usage": 1})
        log.write("model", 20, {"loss": 1 / 3})
    assert read_metrics(tmp_path) == [
        {"stage": "tokenizer/rgb", "step": 10, "loss": 0.1, "usage": 1.0},
        {"stage": "model", "step": 20, "loss": 1 / 3},
    ]


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    log = RunLog(tmp_path)
    log.write("model", 1, {"loss": 2.0})
    assert read_metrics(tmp_path) == [{"stage": "model", "step": 1, "loss": 2.0}]
    log.close()


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with RunLog(tmp_path) as log:
        log.write("model", 1, {"loss": math.nan, "norm": math.inf, "rate": 1.0})
    line = json.loads((tmp_path / METRICS).read_text())
    assert line == {"stage": "model", "step": 1, "loss": None, "norm": None, "rate": 1.0}


def test_a_rewound_and_continued_log_equals_an_uninterrupted_one(tmp_path):
    with RunLog(tmp_path / "whole") as log:
        for stage in ("tokenizer", "model"):
            for step in range(5):
                log.write(stage, step, {"loss": step / 7})
    with RunLog(tmp_path / "broken") as log:
        for step in range(5):
            log.write("tokenizer", step, {"loss": step / 7})
        for step in range(4):
            log.write("model", step, {"loss": step / 7})
    with RunLog(tmp_path / "broken") as log:
        log.rewind("tokenizer", 4)
        log.rewind("model", 1)
        for step in (2, 3, 4):
            log.write("model", step, {"loss": step / 7})
    whole, broken = ((tmp_path / name / METRICS).read_bytes() for name in ("whole", "broken"))
    assert broken == whole
    assert [path.name for path in (tmp_path / "broken").iterdir() if path.is_file()] == [METRICS]


def test_tensorboard_holds_every_step_once_after_a_rewind(tmp_path, monkeypatch):
    with RunLog(tmp_path) as log:
        for step in range(4):
            log.write("model", step, {"loss": float(step)})
        log.rewind("model", 1)
        log.write("model", 2, {"loss": 2.0})
    files = list((tmp_path / TENSORBOARD).iterdir())
    assert len(files) == 1
    assert _scalars(files[0]) == [("model/loss", step, float(step)) for step in range(3)]


def test_a_half_written_last_line_is_dropped(tmp_path):
    with RunLog(tmp_path) as log:
        log.write("model", 1, {"loss": 2.0})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"stage": "mod')
    assert len(read_metrics(tmp_path)) == 1
    with RunLog(tmp_path) as log:
        log.write("model", 2, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_damaged_line_is_one_sentence(tmp_path):
    (tmp_path / METRICS).write_text('{"stage": "model", "step": 1}\nnonsense\n')
    with pytest.raises(ValueError, match="damaged in line 2; delete that line"):
        read_metrics(tmp_path)


def test_a_folder_without_a_log_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "absent") == []


def test_reserved_names_are_refused(tmp_path):
    with (
        RunLog(tmp_path) as log,
        pytest.raises(ValueError, match="named 'step', which every line has"),
    ):
        log.write("model", 1, {"step": 2.0})


def _scalars(path):
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    found = []
    while content:  # TFRecord: length, its checksum, the event, its checksum.
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        content = content[16 + length :]
    return found


@pytest.mark.parametrize(
    "line",
    [
        *('{"stage": "model", "step": 2, "loss": "low"}', '{"stage": "model", "step": "2"}'),
        *('{"stage": "model", "step": -2}', '{"stage": 3, "step": 2}', '{"step": 2}', "[]", "null"),
        *('{"stage": "model", "step": 2, "loss": NaN}', '{"stage": "model", "step": 2.5}'),
        *('{"stage": "model", "step": 2, "loss": true}', "[" * 9999, "\udcff"),
    ],
)
def test_a_line_of_other_than_numbers_is_one_sentence(tmp_path, line):
    content = '{"stage": "model", "step": 1, "loss": null}\n' + line + "\n"
    (tmp_path / METRICS).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged in line 2; delete that line"):
        read_metrics(tmp_path)


def write_log(folder) -> str:
    """Writes a log and returns the digest of the model's lines up to step 4."""
    with RunLog(folder) as log:
        for stage, step in itertools.product(("tokenizer", "model"), (2, 4, 6)):
            log.write(stage, step, {"loss": step / 7, "samples_per_second": step})
            if (stage, step) == ("model", 4):
                digest = log.digest(stage)
    return digest


def test_a_log_is_known_again_by_what_was_written_up_to_a_step(tmp_path):
    digest = write_log(tmp_path)
    text = (tmp_path / METRICS).read_text()
    # How fast it went is no matter.
    (tmp_path / METRICS).write_text(text.replace('_per_second": 2', '_per_second": 9'))
    with RunLog(tmp_path) as log:
        log.rewind("model", 4, digest)
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6, 2, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"step": 4, "loss": 0.57', '"step": 4, "loss": 0.67'),
        lambda text: "".join(text.splitlines(True)[:3]),
        lambda text: "".join(line for line in text.splitlines(True) if '"step": 2' not in line),
    ],
)
def test_a_log_that_was_changed_or_cut_is_refused_where_training_goes_on(tmp_path, change):
    digest = write_log(tmp_path)
    file = tmp_path / METRICS
    file.write_text(change(file.read_text()))
    with (
        RunLog(tmp_path) as log,
        pytest.raises(ValueError, match=r"metrics\.jsonl is not what was written up to step 4 of"),
    ):
        log.rewind("model", 4, digest)


def test_a_log_that_was_lost_is_begun_again(tmp_path):
    digest = write_log(tmp_path)
    (tmp_path / METRICS).unlink()
    for _ in range(2):  # The second time it begins after the step of the checkpoint.
        with RunLog(tmp_path) as log:
            log.rewind("model", 4, digest)
            log.write("model", 6, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [6]


@pytest.mark.parametrize("content", ["{}", "[]", "x", '{"stage": "model", "step": 1}\n{}'])
def test_what_no_write_leaves_is_no_half_line(tmp_path, content):
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged in line"):
        read_metrics(tmp_path)
