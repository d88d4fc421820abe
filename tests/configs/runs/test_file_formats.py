"""Where a run's formats come from: its data, its stores of tokens, the run before it."""

import json
from dataclasses import replace

import pytest

from configs.runs.file_formats import formats_of_run
from configs.runs.fork import FORK
from configs.runs.settings import write_config
from configs.schema import RunConfig
from data_pipeline.crops import CropConfig
from data_pipeline.sources.files.data import FilesData
from data_pipeline.sources.kinds import NoData
from data_pipeline.tokens.index import INDEX, StoreIndex
from data_pipeline.tokens.records import ModalityLayout
from data_pipeline.tokens.writer import describe_source
from tokenizers.formats.formats import ArrayFile, TextFile
from tokenizers.formats.recorded import RunFormats, as_json, read_formats
from tokenizers.modality import Modality
from tokenizers.settings.plain import to_plain
from tokenizers.storage.run_paths import CONFIG, FORMATS
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Distances

MILLIMETRES, CENTIMETRES = ArrayFile(scale=0.001, missing=0), ArrayFile(scale=0.01)
CAPTIONS = TextFile(field="told")


def config_of(folder, data, **knobs) -> RunConfig:
    modalities = {"depth": Modality(Distances()), "caption": Modality(Text())}
    return RunConfig(modalities, data, run_dir=str(folder), **knobs)


def write_store(folder, data, as_shown=False) -> None:
    folder.mkdir()
    made_from = describe_source(data, CropConfig(), 0, "train")
    if as_shown:  # As earlier versions wrote it.
        made_from["data"] = repr(data)
    layouts = {"depth": ModalityLayout("grid", 9, (2, 2), "uint8")}
    StoreIndex(4, 1, layouts, {"depth": "0"}, made_from).write(folder)
    assert (folder / INDEX).is_file()


def test_a_run_keeps_the_formats_of_its_own_modalities(tmp_path):
    (tmp_path / "run").mkdir()
    formats = {"depth": MILLIMETRES, "other": CENTIMETRES}
    config = config_of(tmp_path / "run", FilesData("data", formats))
    write_config(config)
    assert read_formats(tmp_path / "run", {}).formats == {"depth": MILLIMETRES}
    # They are fixed with its settings, and added to a run that was begun before there were any.
    (tmp_path / "run" / FORMATS).write_bytes(as_json(RunFormats({"depth": CENTIMETRES})))
    write_config(config)
    assert read_formats(tmp_path / "run", {}).formats == {"depth": CENTIMETRES}
    (tmp_path / "run" / FORMATS).unlink()
    write_config(config)
    assert read_formats(tmp_path / "run", {}).formats == {"depth": MILLIMETRES}
    # Those that another attempt left are not taken over.
    (tmp_path / "run" / CONFIG).unlink()
    write_config(replace(config, data=FilesData("data", {"depth": CENTIMETRES})))
    assert read_formats(tmp_path / "run", {}).formats == {"depth": CENTIMETRES}


@pytest.mark.parametrize("as_shown", [False, True])
def test_a_run_on_stored_tokens_knows_what_they_were_made_from(tmp_path, as_shown):
    write_store(tmp_path / "a", FilesData("data", {"depth": MILLIMETRES}), as_shown)
    write_store(tmp_path / "b", FilesData("more", {"depth": CENTIMETRES, "caption": CAPTIONS}))
    tokens = {str(tmp_path / "a"): 1.0, str(tmp_path / "b"): 2.0}
    found = formats_of_run(config_of(tmp_path / "run", NoData(), tokens=tokens))
    assert found.formats == {"depth": MILLIMETRES, "caption": CAPTIONS}
    own = FilesData("own", {"depth": CENTIMETRES})
    found = formats_of_run(config_of(tmp_path / "run", own, tokens=tokens))
    assert found.formats == {"depth": CENTIMETRES, "caption": CAPTIONS}


@pytest.mark.parametrize("has_file", [False, True])
@pytest.mark.parametrize("is_fork", [False, True])
def test_a_run_without_data_knows_what_the_run_before_it_knew(tmp_path, has_file, is_fork):
    before = config_of(tmp_path / "before", FilesData("data", {"depth": MILLIMETRES}))
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / CONFIG).write_text(json.dumps(to_plain(before)))
    if has_file:
        (tmp_path / "before" / FORMATS).write_bytes(as_json(RunFormats({"depth": CENTIMETRES})))
    config = config_of(tmp_path / "run", NoData(), tokens={"gone": 1.0})
    if is_fork:
        (tmp_path / "run").mkdir()
        record = {"from": str(tmp_path / "before"), "use": "last", "steps": {}, "knobs": []}
        (tmp_path / "run" / FORK).write_text(json.dumps(record))
    else:
        config = replace(config, start_from=str(tmp_path / "before"))
    expected = CENTIMETRES if has_file else MILLIMETRES
    assert formats_of_run(config).formats == {"depth": expected}
