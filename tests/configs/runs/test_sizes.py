"""What a configuration leaves open: chosen from modalities, samples and machine, and kept."""

import json
from dataclasses import replace

import pytest

from configs import (
    ArrayFile,
    AugmentConfig,
    BoxList,
    Classes,
    Colors,
    CropConfig,
    FilesData,
    MixedData,
    Modality,
    ModelConfig,
    ParquetData,
    Reals,
    RunConfig,
    Scalar,
    ScenesData,
    Text,
    TrainingConfig,
)
from configs.presets.scenes import scenes
from configs.runs import sizes
from configs.runs.settings import write_config
from configs.runs.sizes import Machine, choose_sizes, close_sizes, mixture_of, open_knobs
from fourm.token_space import TokenSpace
from tests.fourm.tiny import Shape
from tokenizers.base import SequenceTokens
from tokenizers.codes import Codes, CodesTokenizerConfig
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.settings.plain import from_plain, to_plain

LAPTOP, CLUSTER_NODE = Machine(2, False), Machine(16, False)
GPU = Machine(16, True)
KINDS = {
    "bands": Modality(Reals(channels=12)),
    "cover": Modality(Classes(names=("a", "b", "c"))),
    "rgb": Modality(Colors()),
    "caption": Modality(Text()),
    "boxes": Modality(BoxList(class_names=("a",), max_boxes=4)),
    "day": Modality(Scalar()),
}


def of(**parts) -> RunConfig:
    return RunConfig(**({"modalities": KINDS, "data": ScenesData()} | parts))


def test_modalities_and_data_are_enough():
    config = of()
    assert open_knobs(config)
    closed = choose_sizes(config, 340, LAPTOP)
    assert not open_knobs(closed)
    closed.check()
    assert from_plain(json.loads(json.dumps(to_plain(closed))), RunConfig) == closed


def test_what_is_given_is_not_chosen():
    given = of(
        crops=CropConfig(views=3),
        model=ModelConfig(dim=64),
        training=TrainingConfig(steps=77, batch_size=6),
        modalities=KINDS | {"rgb": Modality(Colors(), ImageTokenizerConfig(codebook_size=99))},
        masking=scenes().masking,
    )
    closed = choose_sizes(given, 340, LAPTOP)
    assert (closed.crops, closed.model, closed.masking) == (given.crops, given.model, given.masking)
    assert closed.training == given.training
    assert closed.modalities["rgb"] == given.modalities["rgb"]
    layers = choose_sizes(of(model=ModelConfig(dim=0, encoder_layers=4)), 10**6, GPU).model
    assert layers.encoder_layers == 4 and layers.decoder_layers == 6
    preset = scenes()
    assert not open_knobs(preset) and close_sizes(preset) is preset


def test_few_samples_are_seen_in_more_views_and_learned_from_more_often():
    found = [choose_sizes(of(), samples, LAPTOP) for samples in (20, 340, 3000, 12_000, 10**6)]
    views = [each.crops.views for each in found]
    assert views == sorted(views, reverse=True) and views[0] == 8 and views[-1] == 1
    seen = [each.training.steps * each.training.batch_size for each in found]
    assert seen == sorted(seen)
    assert abs(seen[1] / 340 - sizes.PASSES) < 1
    assert abs(seen[0] - sizes.LEAST_SEEN) < 200 and abs(seen[-1] - 48_000) < 200
    codes = [each.modalities["rgb"].tokenizer.codebook_size for each in found]
    assert codes == sorted(codes) and codes[0] < codes[-1]


def test_more_is_done_where_more_can_be():
    small, node, gpu = (choose_sizes(of(), 10**6, each) for each in (LAPTOP, CLUSTER_NODE, GPU))
    assert small.training.steps < node.training.steps
    assert gpu.model.dim > small.model.dim
    assert gpu.training.batch_size > small.training.batch_size
    # A large model does not help a few hundred samples.
    assert choose_sizes(of(), 340, GPU).model.dim == small.model.dim


def test_a_batch_can_be_sliced():
    config = of(training=TrainingConfig(steps=-1, batch_size=0, accumulation=3))
    assert choose_sizes(config, 340, LAPTOP).training.batch_size % 3 == 0


def test_there_is_a_view_to_be_augmented():
    crops = CropConfig(augment=AugmentConfig(hue=0.1))
    assert choose_sizes(of(crops=crops), 10**6, LAPTOP).crops.views == 2


def test_what_can_not_be_cropped_has_one_view():
    ids = {"ids": replace(KINDS["rgb"], values=Codes(10, (4, 4)))} | {"day": KINDS["day"]}
    assert choose_sizes(of(modalities=KINDS | ids), 340, LAPTOP).crops.views == 1
    assert choose_sizes(of(modalities={"day": KINDS["day"]}), 340, LAPTOP).crops.views == 1


def test_sequences_of_ids_need_a_tokenizer():
    assert Modality(Codes(10, (4, 4))).tokenizer == CodesTokenizerConfig()
    with pytest.raises(ValueError, match=r"of the kind Codes and no tokenizer; give one"):
        Modality(Codes(10, (4,), is_sequence=True))


@pytest.mark.parametrize("names", [[*KINDS], ["rgb"], ["caption"], ["day", "caption"]])
def test_the_mixture_fits_the_modalities(names):
    modalities = {name: KINDS[name] for name in names}
    config = choose_sizes(of(modalities=modalities), 340, LAPTOP)
    mixture = mixture_of(config.modalities, config.sizes)
    special = SequenceTokens(0, 1, 8)
    shapes = {
        "bands": Shape(512, (8, 8)),
        "cover": Shape(256, (16, 16)),
        "rgb": Shape(512, (8, 8)),
        "caption": Shape(300, (64,), special),
        "boxes": Shape(200, (21,), special),
        "day": Shape(64, (1,)),
    }
    mixture.check_fits(TokenSpace.build({name: shapes[name] for name in names}))
    if len(names) > 1:  # Each is shown whole somewhere.
        assert {name for each in mixture.components for name in each.inputs} == set(names)
    whole = [each for each in mixture.components if len(each.inputs) == 1]
    assert len(names) == 1 or {next(iter(each.inputs)) for each in whole} == set(names)


def test_files_are_read_as_the_modalities_say(tmp_path):
    config = sizes.with_formats(of(data=FilesData(path=str(tmp_path))))
    assert [*config.data.modalities] == [*KINDS]
    assert sizes.with_formats(config) is config
    parquet = ParquetData(columns={"rgb": "image"}, formats={"rgb": ArrayFile(scale=2.0)})
    assert sizes.with_formats(of(data=parquet)).data == parquet
    name = next(iter(KINDS))
    mixed = MixedData(sources={"a": config.data, "b": ParquetData(columns={name: "x"})})
    filled = sizes.with_formats(of(data=mixed)).data
    assert filled.sources["a"] == config.data
    assert filled.sources["b"].formats == {name: config.data.modalities[name]}


def test_a_run_keeps_what_was_chosen_whichever_machine_goes_on(tmp_path, monkeypatch, capsys):
    config = of(data=ScenesData(num_train=40), run_dir=str(tmp_path))
    monkeypatch.setattr(Machine, "this", lambda: LAPTOP)
    begun = close_sizes(config)
    said = capsys.readouterr().out
    assert said.startswith("40 samples of 6 modalities, 2 cores: 8 views of each,")
    assert f"{begun.training.steps:,} steps of 32; training takes about" in said
    write_config(begun)
    monkeypatch.setattr(Machine, "this", lambda: GPU)
    assert close_sizes(config) == begun
    assert close_sizes(replace(config, run_dir=str(tmp_path / "new")), str(tmp_path)) == replace(
        begun, run_dir=str(tmp_path / "new")
    )
    assert not capsys.readouterr().out
    assert choose_sizes(config, 40, GPU) != begun


@pytest.mark.slow
def test_a_run_of_modalities_and_data_trains(tmp_path):
    from train import main

    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import *\n"
        "config = RunConfig(\n"
        "    modalities={'rgb': Modality(Colors()), 'distance': Modality(Scalar())},\n"
        "    data=ScenesData(num_train=24, num_validation=4, num_test=4),\n"
        "    crops=CropConfig(size=16),\n"
        ")\n"
    )
    small = ("--model.dim", "16", "--model.num-heads", "2", "--training.steps", "2")
    quick = ("--modalities.rgb.tokenizer.steps", "2", "--evaluation.rivals", "False")
    folder = tmp_path / "run"
    arguments = [str(file), "--run-dir", str(folder), *small, *quick]
    assert main(arguments) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["results"]
    stored = json.loads((folder / "config.json").read_text())
    assert stored["crops"]["views"] == 8 and stored["masking"]["components"]
    before = (folder / "report.json").read_bytes()
    assert main(arguments) == 0 and (folder / "report.json").read_bytes() == before
