"""A loaded run: raw values in, raw values out, and folders that survive a round trip."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fourm
from fourm.inference.conditions import gather_inputs
from fourm.inference.settings import GenerationConfig
from fourm.model.saved_model import load_model, save_model
from tests.fourm.tiny import draw_model
from tests.fourm.tiny_run import CAPTIONS, make_pictures, make_run, write_run
from tokenizers.base import PADDING, Boxes

ONE_PASS = GenerationConfig(num_steps=1)


@pytest.fixture(scope="module")
def run():
    return make_run()


def test_every_modality_tokenizes_and_detokenizes(run):
    boxes = Boxes(np.array([[0.1, 0.2, 0.5, 0.6]], np.float32), np.array([1], np.int32))
    samples = {
        "rgb": make_pictures(2),
        "depth": np.full((2, 8, 8), 2.5, np.float32),
        "caption": CAPTIONS[:2],
        "boxes": [boxes, boxes],
        "count": [1.0, 5.0],
    }
    ids = run.tokenize(samples)
    for name, array in ids.items():
        assert array.shape == (2, run.space[name].num_tokens)
        assert array.dtype == np.int32
    assert run.detokenize("caption", ids["caption"]) == CAPTIONS[:2]
    assert run.detokenize("count", ids["count"]).tolist() == [1.0, 5.0]
    assert run.detokenize("depth", ids["depth"]).shape == (2, 8, 8)
    assert run.reconstruct("caption", CAPTIONS) == CAPTIONS


def test_a_sample_may_lack_a_modality(run):
    ids = run.tokenize({"rgb": [None, make_pictures(1)[0]], "caption": ["a red cube", None]})
    assert (ids["rgb"][0] == PADDING).all() and (ids["rgb"][1] != PADDING).all()
    assert (ids["caption"][1] == PADDING).all() and ids["caption"][0, 0] != PADDING


@pytest.mark.slow
def test_generated_values_are_those_of_the_generated_tokens(run):
    found = run.generate({"rgb": make_pictures(3)}, ["depth", "caption"], settings=ONE_PASS)
    assert list(found.values) == ["depth", "caption"]
    assert np.array_equal(found.values["depth"], run.detokenize("depth", found.ids["depth"]))
    assert found.values["caption"] == run.detokenize("caption", found.ids["caption"])
    assert len(found.values["caption"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_batch_size_changes_nothing(run, batch_size):
    pictures = make_pictures(5)
    settings = GenerationConfig(num_steps=2)
    whole = run.generate({"rgb": pictures}, ["depth"], settings=settings)
    parts = run.generate({"rgb": pictures}, ["depth"], settings=settings, batch_size=batch_size)
    assert np.array_equal(whole.ids["depth"], parts.ids["depth"])
    assert np.array_equal(whole.values["depth"], parts.values["depth"])


@pytest.mark.slow
def test_seeds_and_places_decide_what_is_drawn(run):
    same = np.repeat(make_pictures(1), 8, axis=0)
    first, again, other = (
        run.generate({"rgb": same}, ["depth"], seed=seed, settings=ONE_PASS).ids["depth"]
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not (first == first[0]).all()


@pytest.mark.slow
def test_nothing_but_a_number_is_needed_to_generate(run):
    found = run.generate({}, ["rgb", "count"], num_samples=2, settings=ONE_PASS)
    assert found.values["rgb"].shape == (2, 8, 8, 3)
    assert set(found.values["count"]) <= {1.0, 2.0, 5.0}


@pytest.mark.slow
def test_a_grid_known_in_part_keeps_what_is_known(run):
    tokens = run.tokenize({"rgb": make_pictures(2)})["rgb"]
    tokens[:, 1:3] = PADDING
    found = run.generate({}, ["rgb"], known={"rgb": tokens}, settings=ONE_PASS).ids["rgb"]
    assert (found[:, [0, 3]] == tokens[:, [0, 3]]).all()
    assert (found >= 0).all()


@pytest.mark.slow
def test_a_text_that_is_input_and_target_is_continued(run):
    found = run.generate({"caption": ["a red"] * 3}, ["caption"])
    assert all(text.startswith("a red") for text in found.values["caption"])
    begun = run.tokenize({"caption": ["a red"]})["caption"][0]
    length = (begun != PADDING).sum() - 1
    assert (found.ids["caption"][:, :length] == begun[:length]).all()
    assert (found.ids["caption"][:, length] != PADDING).all()


def test_expected_decoding_of_certain_tokens_is_plain_decoding(run):
    ids = run.tokenize({"depth": np.full((2, 8, 8), 2.0, np.float32), "count": [1.0, 5.0]})
    for name in ids:
        certain = np.eye(run.space[name].vocab_size, dtype=np.float32)[ids[name]]
        np.testing.assert_allclose(
            run.detokenize(name, certain), run.detokenize(name, ids[name]), rtol=1e-5
        )


@pytest.mark.slow
def test_expected_decoding_takes_the_mean_where_the_tokenizer_can(run):
    expected = GenerationConfig(num_steps=1, decode="expected")
    found = run.generate({"rgb": make_pictures(2)}, ["count", "caption"], settings=expected)
    assert not set(found.values["count"]) <= {1.0, 2.0, 5.0}
    assert ((found.values["count"] > 1) & (found.values["count"] < 5)).all()
    assert isinstance(found.values["caption"][0], str)


@pytest.mark.slow
def test_embeddings_are_means_over_real_tokens(run):
    pictures, captions = make_pictures(3), CAPTIONS[:3]
    found = run.embed({"rgb": pictures, "caption": captions}, batch_size=2)
    assert found.shape == (3, 16)
    shown = {"rgb": pictures, "caption": captions}
    inputs = gather_inputs(run.space, run.encode_inputs(shown))
    features = np.asarray(nnx.jit(lambda model: model.encode(inputs))(run.model))
    for row in range(3):
        mean = features[row][np.asarray(inputs.is_real[row])].mean(axis=0)
        np.testing.assert_allclose(found[row], mean, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"learned_positions": False, "num_registers": 2}])
def test_a_saved_model_comes_back_bit_by_bit(tmp_path, options):
    model = make_run(**options).model
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert (loaded.config, loaded.space) == (model.config, model.space)
    assert nnx.graphdef(loaded) == nnx.graphdef(model)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), nnx.state(model), nnx.state(loaded))
    assert jax.tree.all(same)


def test_weights_of_another_shape_are_refused_by_name(tmp_path, run):
    description = tmp_path / "model" / "description.json"
    save_model(tmp_path / "model", run.model)
    content = description.read_text()
    description.write_text(content.replace('"dim": 16', '"dim": 32'))
    with pytest.raises(ValueError, match=r"do not fit.*context/bias.* \(16,\), needed is \(32,\)"):
        load_model(tmp_path / "model")
    description.write_text(content.replace('"dim"', '"width"'))
    with pytest.raises(ValueError, match="does not describe a model of this version"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, run, bad):
    weights = run.model.output_table[...]
    try:
        run.model.output_table[...] = weights.at[3, 5].set(bad)
        save_model(tmp_path / "model", run.model)
    finally:
        run.model.output_table[...] = weights
    message = r"model are not all finite; NaN or infinite numbers are in output_table \(1 of"
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model")


@pytest.mark.slow
def test_a_loaded_run_generates_the_same(tmp_path, run):
    write_run(tmp_path, run, {"depth": {"class": "GenerationConfig", "num_steps": 1}})
    loaded = fourm.load(tmp_path)
    assert loaded.settings == {"depth": ONE_PASS}
    inputs = {"rgb": make_pictures(2)}
    expected = run.generate(inputs, ["depth"], settings=ONE_PASS)
    found = loaded.generate(inputs, ["depth"])
    assert np.array_equal(found.ids["depth"], expected.ids["depth"])
    assert np.array_equal(found.values["depth"], expected.values["depth"])


def test_bad_runs_are_named_in_one_sentence(tmp_path, run):
    with pytest.raises(ValueError, match=r"There is no run directory .*nowhere; train one"):
        fourm.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is not a run directory: it has no config\.json"):
        fourm.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model yet; let python train\.py finish"):
        fourm.load(tmp_path)
    config = {"generation": {"rgb": {"temprature": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"generation\.rgb: .* no knob 'temprature'"):
        fourm.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json can't be read"):
        fourm.load(tmp_path)


def test_a_tokenizer_of_another_run_is_refused(tmp_path, run):
    write_run(tmp_path, run)
    run.tokenizers["count"].save(tmp_path / "tokenizers" / "caption")
    with pytest.raises(ValueError, match="caption is not the one that the model was trained with"):
        fourm.load(tmp_path)


@pytest.mark.parametrize("was_used", [False, True])
def test_exchanged_tokenizers_are_refused(tmp_path, run, was_used):
    write_run(tmp_path, run)
    if was_used:
        fourm.load(tmp_path)
    for name, other in (("rgb", "x"), ("depth", "rgb"), ("x", "depth")):
        (tmp_path / "tokenizers" / name).rename(tmp_path / "tokenizers" / other)
    with pytest.raises(ValueError, match=r"tokenizers/rgb is not the one .* another run"):
        fourm.load(tmp_path)


@pytest.mark.slow
def test_a_model_of_another_run_with_the_same_tokenizers_is_refused_once_known(tmp_path, run):
    write_run(tmp_path, run)
    fourm.load(tmp_path)
    other = draw_model(run.space, run.model.config, 5)
    save_model(tmp_path / "other", other)
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "other").rename(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model is not the one .* belongs to another run"):
        fourm.load(tmp_path)
    save_model(tmp_path / "model", other)  # Saved there, it is the run's own.
    assert fourm.load(tmp_path)


def test_a_run_that_cannot_be_written_to_is_loaded_all_the_same(tmp_path, run, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    write_run(tmp_path, run)
    monkeypatch.setattr("tokenizers.storage.pieces.write_file", refuse)
    before = sorted(tmp_path.rglob("*"))
    assert fourm.load(tmp_path).space == run.space
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_saved_before_it_knew_its_tokenizers_is_loaded_and_gets_a_record(tmp_path, run):
    write_run(tmp_path, run)
    file = tmp_path / "model" / "description.json"
    record = json.loads(file.read_text())
    del record["description"]["tokenizers"]
    file.write_text(json.dumps(record))
    assert fourm.load(tmp_path).space == run.space
    (tmp_path / "config.json").write_text('{"generation": {}, "more": 1}')
    with pytest.raises(
        ValueError, match=r"config\.json is not the one that this run was made with"
    ):
        fourm.load(tmp_path)


def set_at(*path):
    """Returns what changes one value of a description: names and places, then the value."""

    def change(description):
        *parents, last, value = path
        for each in parents:
            description = description[each]
        description[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_at("model", "num_heads", 0), "ModelConfig.num_heads is 0; it must be 1 to 4096"),
        (set_at("model", "dim", "32"), "dim"),
        (set_at("model", "dim", 10**30), "ModelConfig.dim is 1000000.*; it must be 4 to 65536"),
        (
            set_at("model", "encoder_layers", 10**9),
            "ModelConfig.encoder_layers is 1000000000; it must",
        ),
        (set_at("model", "norm", 3), "norm"),
        (set_at("model", "more", 3), "more"),
        (set_at("model", []), "does not describe a model"),
        (set_at("token_space", 0, "token_shape", [-2, 2]), r"tokens of shape \(-2, 2\)"),
        (set_at("token_space", 0, "token_shape", []), r"tokens of shape \(\)"),
        (set_at("token_space", 0, "token_shape", 4), "does not describe a model"),
        (set_at("token_space", 1, "first_id", 10**30), "ids from 1000000"),
        (set_at("token_space", 1, "vocab_size", 10**12), "has 1000000000000 ids from"),
        (set_at("token_space", 1, "index", 0), "follow those of the modality before"),
        (set_at("token_space", 1, "vocab_size", None), "vocab_size"),
        (set_at("token_space", {}), "does not describe a model|modalities"),
        (set_at("token_space", 2, "special", [1]), "does not describe a model"),
        (set_at("token_space", 2, "special", [10**9, 1, 2]), "has .* ids from"),
    ],
)
def test_an_impossible_description_of_a_model_is_one_sentence(tmp_path, run, change, told):
    save_model(tmp_path / "model", run.model)
    file = tmp_path / "model" / "description.json"
    record = json.loads(file.read_text())
    change(record["description"])
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=told) as error:
        load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "is_folder"), [("config.json", True), ("model", False), ("tokenizers", False)]
)
def test_a_piece_of_the_wrong_kind_is_named(tmp_path, run, name, is_folder):
    write_run(tmp_path, run)
    path = tmp_path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.mkdir() if is_folder else path.write_text("")
    with pytest.raises(ValueError, match=rf"{name} is a f\w+, where a run directory has a f"):
        fourm.load(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        ({"rbg": [0]}, ["depth"], {}, "no modality 'rbg' in this run; did you mean rgb"),
        ({"caption": ["a"]}, ["dept"], {}, "no modality 'dept' in this run; did you mean depth"),
        ({"caption": ["a"]}, ["xylophone"], {}, "no modality 'xylophone' in this run; it has rgb"),
        ({"caption": ["a", "b"], "count": [1.0]}, ["rgb"], {}, "2 of caption, 1 of count"),
        ({"caption": ["a"]}, ["rgb"], {"num_samples": 2}, "caption: 1, num_samples: 2"),
        ({}, ["rgb"], {}, "neither an input nor num_samples"),
        (
            {},
            ["rgb"],
            {"num_samples": 0},
            "num_samples is 0; it must be a whole number, at",
        ),
        ({}, ["rgb"], {"num_samples": True}, "num_samples is True; it must be a whole number"),
        ({"caption": []}, ["rgb"], {}, "The inputs have no sample; give at least 1"),
        ({"caption": ["a"]}, ["rgb"], {"batch_size": 0}, "batch_size is 0; it must be a whole"),
        ({"caption": ["a"]}, ["rgb"], {"seed": 2**32}, "seed is 4294967296; .* 0 to 4294967295"),
        ({"caption": ["a"]}, ["rgb"], {"seed": -1}, "seed is -1; it must be a whole number, 0 to"),
        ({"caption": ["a"]}, ["rgb", "depth", "rgb"], {}, "rgb is named twice as a target"),
        ({"caption": ["a"]}, ["rgb"], {"settings": {"rbg": ONE_PASS}}, "no modality 'rbg'"),
        ({"caption": ["a"]}, ["rgb"], {"settings": {"rgb": {"top_k": 1}}}, r"\['rgb'\] is a dict"),
        ({"caption": None}, ["rgb"], {}, "caption is a NoneType; give a list or an array"),
        ({"caption": b"red"}, ["rgb"], {}, "caption is a bytes; give a list or an array"),
        ({"caption": {"a": 1}}, ["rgb"], {}, "caption is a dict; text"),
        ({}, [], {"num_samples": 1}, "No target was given; choose from rgb"),
        ({"caption": [""]}, ["rgb"], {}, "caption is an empty text"),
        ({}, ["rgb"], {"known": {"rgb": np.full((1, 4), 16)}}, "4 ids per sample, 0 to 15"),
        ({}, ["rgb"], {"known": {"rgb": np.zeros((1, 3), int)}}, "4 ids per sample"),
        ({}, ["rgb"], {"known": {"caption": np.eye(1, 10, 3, int) - 1}}, "only the beginning"),
        ({"count": [1.0]}, ["rgb"], {"known": {"count": np.zeros((1, 1), int)}}, "given both"),
    ],
)
def test_bad_requests_are_named_in_one_sentence(run, inputs, targets, options, message):
    with pytest.raises(ValueError, match=message):
        run.generate(inputs, targets, **options)


@pytest.mark.slow
def test_a_single_value_is_one_sample_and_a_single_name_one_target(run):
    boxes = Boxes(np.array([[0.1, 0.2, 0.5, 0.6]], np.float32), np.array([1], np.int32))
    for name, value in {"caption": "a red cube", "count": 5.0, "boxes": boxes}.items():
        one = run.generate({name: value}, "depth", settings=ONE_PASS)
        listed = run.generate({name: [value]}, ["depth"], settings=ONE_PASS)
        assert one.ids["depth"].shape == (1, run.space["depth"].num_tokens)
        assert np.array_equal(one.ids["depth"], listed.ids["depth"])
    assert run.tokenize({"count": np.float32(5.0)})["count"].shape == (1, 1)
    assert run.embed({"caption": "a red cube"}).shape[0] == 1


@pytest.mark.slow
def test_conditions_with_weights_are_raw_values_one_for_all_or_one_for_each(run):
    red, blue = ({"caption": text} for text in CAPTIONS[:2])
    weighted = run.generate({}, "depth", conditions=[(red, 2.0), (blue, -1.0)], num_samples=3)
    each = run.generate(
        {}, "depth", conditions=[({"caption": [red["caption"]] * 3}, 2.0), (blue, -1.0)]
    )
    assert np.array_equal(weighted.ids["depth"], each.ids["depth"])
    assert len(run.generate({}, "depth", conditions=[(red, 2.0)]).ids["depth"]) == 1
    as_input = run.generate(red, "depth", settings=GenerationConfig(guidance=2.0)).ids["depth"]
    alone = run.generate({}, "depth", settings=GenerationConfig(), conditions=[(red, 2.0)])
    assert np.array_equal(as_input, alone.ids["depth"])
    together = run.generate({}, "depth", conditions=[(red, 2.0)], num_samples=5, batch_size=2)
    apart = run.generate({}, "depth", conditions=[(red, 2.0)], num_samples=5)
    assert np.array_equal(together.ids["depth"], apart.ids["depth"])


@pytest.mark.parametrize(
    ("conditions", "options", "message"),
    [
        ([{"caption": "red"}], {}, "give raw values by modality and a weight"),
        ([({}, 1.0)], {}, "give raw values by modality and a weight"),
        ([({"caption": "red"}, "3")], {}, "The weight of a condition is '3'; give a number"),
        ([({"caption": "red"}, float("inf"))], {}, "give a finite number"),
        ([({"captoin": "red"}, 3.0)], {}, "did you mean caption"),
        ([({"depth": np.ones((8, 8), np.float32)[None]}, 3.0)], {}, "which is to be generated"),
        ([({"caption": ["a", "b"]}, 3.0)], {"num_samples": 3}, "condition 1: 2, num_samples: 3"),
    ],
)
def test_conditions_that_are_none_are_one_sentence(run, conditions, options, message):
    with pytest.raises(ValueError, match=message):
        run.generate({}, "depth", conditions=conditions, **options)


@pytest.mark.slow
def test_other_numbers_need_no_other_program(run, caplog):
    """Compiled once: temperatures, top-p, guidance, noise, and numbers of samples in a bucket."""

    def generate(count, **settings):
        known = {"rgb": {"scheme": "maskgit", "num_steps": 2}, "caption": {}}
        config = {
            name: GenerationConfig(**{"choice_noise": 1.0, "guidance": 2.0} | shape | settings)
            for name, shape in known.items()
        }
        run.generate({"count": [1.0] * count}, list(known), settings=config)

    generate(5, temperature=0.7, top_k=5, top_p=0.9)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        generate(6, temperature=1.3, top_k=8, top_p=0.5, guidance=1.5, choice_noise=0.5)
        generate(5, temperature=2.0, top_k=7, top_p=0.1, guidance=3.0)
        assert not compiled
        generate(5, temperature=0.0, top_k=0)
        assert compiled
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.slow
def test_a_program_serves_a_bucket_and_filler_changes_no_sample(run):
    """8 to 1 samples are generated in batches of 8, 8, 6, 6, 4, 3, 2 and 1."""
    pictures = make_pictures(8)
    settings = GenerationConfig(scheme="maskgit", num_steps=2, choice_noise=1.0, decode="expected")
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    whole, counts = None, []
    try:
        for count in range(8, 0, -1):
            before = len(compiled)
            found = run.generate({"rgb": pictures[:count]}, ["depth"], settings=settings)
            counts.append(len(compiled) - before)
            whole = whole or found
            assert np.array_equal(found.ids["depth"], whole.ids["depth"][:count])
            assert np.array_equal(found.values["depth"], whole.values["depth"][:count])
    finally:
        jax.monitoring.clear_event_listeners()
    assert [count > 0 for count in counts] == [True, False, True, False, True, True, True, True]


def test_probabilities_need_a_tokenizer_that_can_decode_them(run):
    with pytest.raises(ValueError, match="caption can't decode probabilities"):
        run.detokenize("caption", np.zeros((1, 10, 320), np.float32))


def test_a_sample_without_any_token_embeds_to_zeros(run):
    assert jnp.isfinite(run.embed({"rgb": [None]})).all()
    assert (run.embed({"rgb": [None]}) == 0).all()
