import contextlib
import dataclasses
import io
import re
import sys
from dataclasses import replace

import jax
import pytest
from flax import nnx

from configs.command_line import (
    DEFAULT,
    MOVED_KNOBS,
    PRESETS,
    load_preset,
    parse_command_line,
    rename_knobs,
)
from configs.launch import Launch
from configs.runs.sizes import Machine, choose_sizes
from configs.schema import RunConfig
from fourm.evaluation.config import EvaluationConfig
from fourm.evaluation.results import Pair
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from tests.fourm.tiny import Shape
from tests.paths import ROOT
from tokenizers.base import SequenceTokens
from tokenizers.boxes import BoxTokenizerConfig
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.text.sentencepiece import TextTokenizerConfig

EXAMPLE = ROOT / "docs" / "satellite.py"
CONFIGS = {**{name: build() for name, build in PRESETS.items()}}
CONFIGS["docs/satellite.py"] = choose_sizes(
    load_preset(str(EXAMPLE))[0], samples=1000, machine=Machine(cores=2, is_accelerator=False)
)


def space_of(config: RunConfig) -> TokenSpace:
    """The token space that a run's tokenizers will make, as far as its configuration says."""
    shapes = {}
    for name, modality in config.modalities.items():
        settings = modality.tokenizer
        if isinstance(settings, ImageTokenizerConfig):
            side = config.crops.size // settings.patch_size
            assert side * settings.patch_size == config.crops.size
            shapes[name] = Shape(settings.codebook_size, (side, side))
        elif isinstance(settings, TextTokenizerConfig | BoxTokenizerConfig):
            special = SequenceTokens(
                end=0, first_sentinel=1, num_sentinels=getattr(settings, "num_sentinels", 20)
            )
            length = getattr(settings, "max_tokens", 21)
            shapes[name] = Shape(getattr(settings, "vocab_size", 128), (length,), special)
        else:
            shapes[name] = Shape(settings.num_bins, (1,))
    return TokenSpace.build(shapes)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_of_every_preset_can_be_built(name):
    config = CONFIGS[name]
    config.check()
    space = space_of(config)
    config.masking.check_fits(space)
    model = nnx.eval_shape(lambda: FourM(space, config.model, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count > 100_000


@pytest.mark.parametrize("name", CONFIGS)
def test_every_preset_asks_only_for_modalities_that_it_has(name):
    config = CONFIGS[name]
    names = set(config.modalities)
    for component in config.masking.components:
        assert {*component.inputs, *component.targets} <= names
    for text in config.evaluation.pairs:
        pair = Pair.parse(text)
        assert {*pair.inputs, pair.target} <= names
    assert not config.probes.tasks or config.probes.input in names
    assert set(config.generation) <= names
    if hasattr(config.data, "modalities"):
        assert set(config.data.modalities) == names


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_how_it_is_started(name):
    assert "`python train.py" in PRESETS[name].__doc__


def help_of(*arguments: str) -> str:
    written = io.StringIO()
    with contextlib.redirect_stdout(written), pytest.raises(SystemExit) as stopped:
        parse_command_line([*arguments, "--help", "all"])
    assert stopped.value.code == 0
    return written.getvalue()


def shown_knobs(text: str) -> dict[str, str]:
    """Returns the help of every knob that --help shows."""
    text = re.sub(r"[│╭╮╰╯─]", " ", text)
    # The first of several spellings, then the metavar, then the help on lines of their own.
    parts = re.split(r"\n\s*(--[a-z][\w.-]*)[^\n]*(?=\n)", text)
    return {
        name: " ".join(body.split("\n\n")[0].split())
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def knobs_of(value, path="") -> dict[str, bool]:
    """Returns every leaf of a configuration as the command line spells it, and if it is a field.

    What is not a field is an entry of a dictionary, which is explained by the heading above it.
    """
    found = {}
    if dataclasses.is_dataclass(value):
        entries = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    elif isinstance(value, dict):
        entries = value
    else:
        entries = {str(number): entry for number, entry in enumerate(value)}
    for name, entry in entries.items():
        knob = f"{path}.{name}" if path else f"--{name}"
        is_nested = (
            dataclasses.is_dataclass(entry)
            or (isinstance(entry, dict) and entry)
            or (isinstance(entry, tuple) and any(map(dataclasses.is_dataclass, entry)))
        )
        if is_nested:
            found |= knobs_of(entry, knob)
        else:
            found[knob.replace("_", "-")] = dataclasses.is_dataclass(value)
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_help_explains_every_knob(name):
    shown = shown_knobs(help_of(name))
    knobs = knobs_of(CONFIGS[name])
    assert not set(knobs) - set(shown)
    unexplained = [
        knob
        for knob, is_field in knobs.items()
        if is_field and len(shown[knob].split("(default")[0]) < 5
    ]
    assert not unexplained


def test_without_a_preset_the_default_is_taken_and_names_the_run_directory():
    assert parse_command_line([])[0].run_dir == f"runs/{DEFAULT}"
    assert parse_command_line(["scenes_gpu"])[0].run_dir == "runs/scenes_gpu"
    assert parse_command_line(["--run-dir", "elsewhere"])[0].run_dir == "elsewhere"


def test_without_overrides_a_preset_is_as_written():
    for name in PRESETS:
        config, launch = parse_command_line([name, "--run-dir", "x"])
        assert config == replace(CONFIGS[name], run_dir="x") and launch == Launch()


def test_overrides_reach_every_depth():
    config, _ = parse_command_line(
        [
            *("scenes", "--seed", "7", "--model.dim", "96", "--crops.flip", "False"),
            *("--modalities.rgb.tokenizer.codebook-size", "77"),
            *("--masking.components.0.weight", "2.5", "--data.num-train", "123"),
            *("--training.optimizer.learning-rate", "0.01"),
            *("--generation.rgb.num-steps", "3"),
            *("--evaluation.pairs", "rgb->depth", "depth->rgb"),
        ]
    )
    assert (config.seed, config.model.dim, config.crops.flip) == (7, 96, False)
    assert config.modalities["rgb"].tokenizer.codebook_size == 77
    assert config.modalities["depth"] == CONFIGS["scenes"].modalities["depth"]
    assert config.masking.components[0].weight == 2.5
    assert config.masking.components[1:] == CONFIGS["scenes"].masking.components[1:]
    assert config.data.num_train == 123
    assert config.training.optimizer.learning_rate == 0.01
    assert config.generation["rgb"].num_steps == 3
    assert config.evaluation == replace(
        CONFIGS["scenes"].evaluation, pairs=("rgb->depth", "depth->rgb")
    )
    assert isinstance(config.evaluation, EvaluationConfig)


@pytest.mark.parametrize(
    ("given", "nearest"), [("scene", "scenes"), ("nyu", "nyuv2"), ("scenes-gpu", "scenes_gpu")]
)
def test_an_unknown_preset_is_answered_with_the_nearest(given, nearest):
    with pytest.raises(ValueError, match=f"no preset '{given}'; did you mean {nearest}?"):
        parse_command_line([given])


def test_a_preset_like_none_is_answered_with_the_list():
    with pytest.raises(ValueError, match=r"'xyzzy'; Presets are scenes, scenes_gpu, nyuv2"):
        parse_command_line(["xyzzy"])


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        (("--modle.dim", "3"), "--model.dim"),
        (("--training.step", "3"), "--training.steps"),
        (("--modalities.rbg.tokenizer.steps", "3"), "--modalities.rgb.tokenizer.steps"),
    ],
)
def test_an_unknown_knob_is_answered_with_the_nearest(given, nearest, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_command_line(["scenes", *given])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    told = captured.err + captured.out
    assert given[0] in told and nearest in told


@pytest.mark.parametrize("value", ["many", "1.5"])
def test_a_value_of_the_wrong_type_is_refused_by_name(value, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_command_line(["--training.steps", value])
    assert stopped.value.code == 2
    assert "--training.steps" in "".join(capsys.readouterr())


def test_a_value_out_of_range_is_one_sentence():
    with pytest.raises(ValueError, match=r"--training\.steps is -2; it must be at least -1"):
        parse_command_line(["--training.steps", "-2"])


def test_a_file_of_ones_own_is_loaded_and_overridden():
    config, _ = parse_command_line([str(EXAMPLE), "--data.path", "somewhere"])
    assert list(config.modalities) == ["rgb", "bands", "radar", "elevation", "land_cover"]
    assert config.data.path == "somewhere"
    assert config.run_dir == "runs/satellite"
    assert "Satellite pictures" in help_of(str(EXAMPLE))


def test_a_missing_file_is_one_sentence():
    with pytest.raises(ValueError, match=r"no configuration file nowhere/mine\.py"):
        parse_command_line(["nowhere/mine.py"])


@pytest.mark.parametrize("content", ["", "config = 3", "from configs.presets.scenes import scenes"])
def test_a_file_without_a_configuration_is_one_sentence(tmp_path, content):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"mine\.py must set `config = RunConfig"):
        parse_command_line([str(file)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("config = RunConfig(", "line 1"),
        ("import no_such_package_here", "no_such_package_here"),
        ("\n\nconfig = RunConfig(modalities={})", "line 3.*RunConfig"),
        ("raise OSError('disk on fire')", "disk on fire"),
    ],
)
def test_a_file_that_fails_is_one_sentence_with_its_line(tmp_path, content, reason):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"mine.py.*{reason}"):
        parse_command_line([str(file)])


def test_a_file_may_have_the_name_of_a_module_of_ours(tmp_path):
    file = tmp_path / "train.py"
    file.write_text("from configs.presets.scenes import scenes\nconfig = scenes()\n")
    before = sys.modules.get("train")
    assert parse_command_line([str(file)])[0].modalities == CONFIGS["scenes"].modalities
    assert sys.modules.get("train") is before


def test_a_file_may_bring_a_data_class_of_its_own(tmp_path, recwarn):
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import dataclass, replace\n"
        "from configs.presets.scenes import scenes\n"
        "@dataclass(frozen=True)\n"
        "class Telescope:\n"
        "    plates: str = ''\n"
        "    splits = ('train', 'test')\n"
        "config = replace(scenes(), data=Telescope())\n"
    )
    config, _ = parse_command_line([str(file), "--data.plates", "cellar"])
    assert type(config.data).__name__ == "Telescope" and config.data.plates == "cellar"
    assert not [warning for warning in recwarn if "Union" in str(warning.message)]


def test_a_kind_of_data_replaces_another_and_keeps_its_own():
    assert parse_command_line(["scenes", "scenes"])[0] == parse_command_line(["scenes"])[0]
    config, _ = parse_command_line(["nyuv2", "files", "--data.path", "x"])
    assert config.data.path == "x" and config.data.table == "train_scenes.csv"
    config, _ = parse_command_line(["scenes", "files", "--data.path", "x"])
    assert config.data.path == "x" and set(config.data.modalities) == set(config.modalities)
    with pytest.raises(ValueError, match="neither data nor a store of tokens"):
        parse_command_line(["scenes", "none"])


def test_knobs_that_moved_are_found_where_they_are_now():
    for now in MOVED_KNOBS.values():
        part = load_preset("scenes")[0]
        for name in now.split("."):
            part = getattr(part, name)
    config, _ = parse_command_line(
        ["scenes", "--model.norm-bias", "True", "--model.learned_positions=False"]
    )
    assert config.model.published.norm_bias
    assert not config.model.published.learned_positions


@pytest.mark.parametrize("argument", ["model.qkv-bias", "--model.dim", "--qkv-bias", "x=--model"])
def test_other_words_of_a_command_line_stay(argument):
    assert rename_knobs([argument]) == [argument]
