"""Weights of published models: the same bits both ways, and nothing that does not fit."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fourm.interop.transformer.config import (
    build_space,
    complete_config,
    to_model_config,
    write_metadata,
)
from fourm.interop.transformer.modalities import PUBLISHED
from fourm.interop.transformer.placement import fixed_positions, list_tensors
from fourm.interop.transformer.weights import (
    build_abstract,
    count_trunk,
    export_fm,
    export_tensors,
    import_fm,
)
from fourm.model.saved_model import load_model, save_model
from tests.paths import ROOT

SMALL = ROOT / "tests" / "fixtures" / "goldens" / "fm_4m7_tiny_gelu"
FOUR = ("caption", "rgb@224", "t5_caption", "tok_dinov2_global", "tok_semseg@448")
CONFIG = dict(
    domains_in=list(FOUR),
    domains_out=["caption", "tok_clip@224", "tok_dinov2_global"],
    image_size=224,
    patch_size=16,
    norm_bias=False,
    act_layer="SiLU",
    gated_mlp=True,
    dim=16,
    num_heads=2,
    encoder_depth=2,
    decoder_depth=1,
)
SIZES = {"caption": 20, "t5_caption": 6, **dict.fromkeys(("tok_clip@224", "tok_semseg@448"), 9)}
SIZES |= {"tok_dinov2_global": 7}


def make_file(path: Path, config=CONFIG, sizes=SIZES, change=lambda tensors: None) -> Path:
    """Writes a model of random weights as published ones are."""
    config = complete_config(config)
    space, ours = build_space(config, sizes), to_model_config(config)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, tensor in list_tensors(space, ours).items():
        tensors[name] = rng.normal(size=tensor.shape).astype(np.float32)
        if tensor.positions is not None:
            tensors[name] = fixed_positions(tensor)[None].astype(np.float32)
        if not tensor.pieces:
            tensors[name][:] = 0
        if name.endswith("mod_emb") and ours.published.share_modality_embeddings:
            twin = name.replace("decoder_", "encoder_")
            tensors[name] = tensors.get(twin, tensors[name])
    change(tensors)
    save_file(tensors, path, write_metadata(config))
    return path


VARIANTS = {
    "swiglu without biases": {},
    "biases everywhere": dict(norm_bias=True, act_layer="GELU", gated_mlp=False),
    "biases of queries, keys and values": dict(proj_bias=False, mlp_bias=False),
    "normalised queries and keys": dict(qk_norm=True, norm_bias=True),
    "registers": dict(num_register_tokens=3),
    "modality embeddings of its own for the decoder": dict(share_modality_embeddings=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_an_export_is_what_was_imported_and_its_import_the_same_bit_by_bit(tmp_path, changes):
    file = make_file(tmp_path / "model.safetensors", CONFIG | changes)
    model = import_fm(file)
    export_fm(model, tmp_path / "again" / "model.safetensors")
    before, after = load_file(file), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    with safe_open(file, "numpy") as a, safe_open(tmp_path / "again/model.safetensors", "np") as b:
        assert a.metadata() == b.metadata()
    again = import_fm(tmp_path / "again")
    assert (again.space, again.config) == (model.space, model.config)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


@pytest.mark.slow
def test_every_tensor_ends_up_somewhere_of_its_own(tmp_path):
    """Of a model whose numbers are all different, ours has each exactly once."""
    file = make_file(tmp_path / "model.safetensors", CONFIG | dict(qk_norm=True, norm_bias=True))
    given = load_file(file)
    model = import_fm(file)
    ours = np.concatenate(
        [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    )
    theirs = {
        name: array
        for name, array in given.items()
        if not (name.endswith("pos_emb") and "dinov2" not in name)
        and not (
            name.startswith("decoder_") and name.endswith("mod_emb") and "tok_clip" not in name
        )
    }
    wanted = np.sort(np.concatenate([array.ravel() for array in theirs.values()]))
    np.testing.assert_array_equal(np.sort(ours[ours != 0]), wanted)


def test_an_imported_model_is_saved_and_loaded_with_all_its_options(tmp_path):
    changes = dict(num_register_tokens=2, share_modality_embeddings=False, decoder_sep_mask=False)
    model = import_fm(make_file(tmp_path / "model.safetensors", CONFIG | changes))
    save_model(tmp_path / "saved", model)
    loaded = load_model(tmp_path / "saved")
    assert (loaded.space, loaded.config) == (model.space, model.config)
    before, after = export_tensors(model), export_tensors(loaded)
    assert all((before[name] == after[name]).all() for name in before)


def test_a_recorded_file_is_exported_as_it_is():
    tensors = load_file(SMALL / "model.safetensors")
    for name, array in export_tensors(import_fm(SMALL)).items():
        if name.endswith("pos_emb"):
            np.testing.assert_allclose(array, tensors[name], atol=1e-6)
        else:
            np.testing.assert_array_equal(array, tensors[name])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_model_of_another_precision_is_read_as_what_it_says(tmp_path, dtype):
    file = make_file(tmp_path / "model.safetensors")
    with safe_open(file, "numpy") as archive:
        metadata = archive.metadata()
    whole = load_file(file)
    halves = {name: array.astype(dtype) for name, array in whole.items()}
    save_file(halves, tmp_path / "half.safetensors", metadata)
    for name, array in export_tensors(import_fm(tmp_path / "half.safetensors")).items():
        # Positions are ours again; of other numbers rounding has taken what it has.
        is_fixed = name.endswith("pos_emb") and "dinov2" not in name
        wanted = whole[name] if is_fixed else halves[name].astype(np.float32)
        np.testing.assert_allclose(array, wanted, atol=1e-6, err_msg=name)


def test_positions_that_are_others_are_refused_at_any_precision(tmp_path):
    def shift(tensors):
        tensors["encoder_embeddings.tok_semseg@448.pos_emb"] += 0.01

    for dtype in (np.float32, ml_dtypes.bfloat16):
        file = make_file(tmp_path / "model.safetensors", change=shift)
        with safe_open(file, "numpy") as archive:
            metadata = archive.metadata()
        save_file({n: a.astype(dtype) for n, a in load_file(file).items()}, file, metadata)
        with pytest.raises(ValueError, match="pos_emb holds no sines and cosines of positions"):
            import_fm(file)


def cut_up(folder: Path, change=lambda index, shards: None) -> Path:
    """Writes a model as three shards and their index."""
    file = make_file(folder / "whole.safetensors")
    with safe_open(file, "numpy") as archive:
        (folder / "config.json").write_text(json.dumps(complete_config(CONFIG)))
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    file.unlink()
    shards, index = {}, {}
    for number, (name, array) in enumerate(tensors.items()):
        shard = f"model-0000{number % 3 + 1}-of-00003.safetensors"
        shards.setdefault(shard, {})[name] = array
        index[name] = shard
    change(index, shards)
    for shard, parts in shards.items():
        save_file(parts, folder / shard)
    written = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(written))
    return folder


def test_a_model_in_shards_is_the_same_model(tmp_path):
    (tmp_path / "cut").mkdir()
    whole = import_fm(make_file(tmp_path / "model.safetensors"))
    folder = cut_up(tmp_path / "cut")
    for path in (folder, folder / "model.safetensors.index.json"):
        again = import_fm(path)
        assert (again.space, again.config) == (whole.space, whole.config)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(whole))


FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, shards: shards.pop(FIRST), f"names {FIRST}, which is not beside it"),
        (lambda index, shards: index.popitem(), "does not name its files' tensors as they are"),
        (lambda index, shards: index.update(more=FIRST), "does not name its .* such as more;"),
        (
            lambda index, shards: index.update({next(iter(shards[FIRST])): SECOND}),
            "does not name its files' tensors as they are",
        ),
        (
            lambda index, shards: shards[SECOND].update(shards[FIRST]),
            f"is both in .*{FIRST} and in .*{SECOND}",
        ),
        (lambda index, shards: index.update(more="../a.safetensors"), r"names '\.\./a.safet"),
        (lambda index, shards: index.update(more="/a.safetensors"), "names '/a.safetensors'"),
        (lambda index, shards: index.update(more="model.bin"), r"only \.safetensors files beside"),
        (lambda index, shards: index.update(more=3), "is no index, whose weight_map names"),
        (lambda index, shards: index.clear(), "is no index, whose weight_map names"),
    ],
)
def test_shards_and_an_index_that_do_not_agree_are_one_sentence(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        import_fm(cut_up(tmp_path, change))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', "null", "[" * 10**5])
def test_an_index_that_is_none_is_one_sentence(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="is no index, whose weight_map names"):
        import_fm(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    def spoil_one(tensors):
        tensors["encoder.1.mlp.fc1.weight"].flat[7] = value

    with pytest.raises(ValueError, match=r"encoder\.1\.mlp\.fc1\.weight"):
        import_fm(make_file(tmp_path / "model.safetensors", change=spoil_one))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_])
def test_weights_of_a_type_that_is_none_of_weights_are_refused_by_name(tmp_path, dtype):
    def change(tensors):
        name = "encoder.1.mlp.fc1.weight"
        tensors[name] = tensors[name].astype(dtype)

    message = r"encoder\.1\.mlp\.fc1\.weight of .* has the type \w+; weights must be F64, F32"
    with pytest.raises(ValueError, match=message):
        import_fm(make_file(tmp_path / "model.safetensors", change=change))


def spoil(name, value):
    def change(tensors):
        if value is None:
            del tensors[name]
        elif isinstance(value, tuple):
            tensors[name] = np.zeros(value, np.float32)
        else:
            tensors[name] = tensors[name] + np.float32(value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("encoder.1.mlp.fc3.weight", None), r"lacks encoder\.1\.mlp\.fc3\.weight"),
        (spoil("encoder.7.norm1.weight", (16,)), r"beyond .* calls for encoder\.7\.norm1\.weight"),
        (
            spoil("decoder.0.cross_attn.kv.weight", (16, 16)),
            r"another shape .*kv\.weight \(16, 16\) instead of \(32, 16\)",
        ),
        (
            spoil("encoder.0.norm1.bias", 1.0),
            "norm1.bias is not zero, though .* norm_bias is False",
        ),
        (
            spoil("decoder_embeddings.caption.mod_emb", 1.0),
            "caption.mod_emb is not that of the enc",
        ),
        (spoil("encoder_embeddings.caption.pos_emb", 0.1), "caption.pos_emb holds no sines"),
        (
            spoil("encoder_embeddings.caption.pos_emb", np.nan),
            "infinite numbers are in encoder_embeddings.caption.pos_emb",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_names(tmp_path, change, message):
    file = make_file(tmp_path / "model.safetensors", change=change)
    with pytest.raises(ValueError, match=message):
        import_fm(file)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.pth is no \.safetensors file.* pickles can run"):
        import_fm(tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"nor a folder with a model\.safetensors"):
        import_fm(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes((SMALL / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.safetensors can't be read .*; download it again"):
        import_fm(tmp_path / "cut.safetensors")
    save_file({"a": np.zeros(3)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"says nothing about its model; put the config\.json"):
        import_fm(tmp_path / "bare.safetensors")


def test_a_model_of_another_kind_is_not_written(tmp_path):
    model = import_fm(make_file(tmp_path / "model.safetensors"))
    model.config = dataclasses.replace(model.config, norm="rmsnorm")
    with pytest.raises(ValueError, match="Published models have no norm 'rmsnorm'"):
        export_fm(model, tmp_path / "again.safetensors")


NAMES = ("rgb", "depth", "normal", "semseg", "clip")
SEVEN = ("caption", "det", "rgb@224", *(f"tok_{name}@224" for name in NAMES))
SHAPES = {"b": (768, 12, 12, 198), "l": (1024, 24, 16, 705), "xl": (2048, 24, 32, 2822)}


@pytest.mark.slow
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("names", [SEVEN, [n for n in PUBLISHED if not n.endswith("448")]])
def test_the_published_shapes_have_their_numbers_of_parameters(size, names):
    dim, depth, heads, millions = SHAPES[size]
    config = CONFIG | dict(dim=dim, encoder_depth=depth, decoder_depth=depth, num_heads=heads)
    config |= dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias"), False)
    read_only = ("rgb@224", "t5_caption")
    config |= dict(domains_in=sorted(names), domains_out=[n for n in names if n not in read_only])
    model = build_abstract(config)
    assert count_trunk(model) // 10**6 == millions
    tensors = list_tensors(model.space, model.config)
    assert tensors["encoder_embeddings.caption.token_emb.weight"].shape == (30_000, dim)
    assert tensors["encoder_embeddings.rgb@224.proj.weight"].shape == (dim, 768)
    assert "encoder.0.attn.qkv.bias" not in tensors and "decoder_proj_context.bias" in tensors


MEASURE = """
import resource, sys, time
from pathlib import Path
import jax
from fourm.interop.transformer.weights import import_fm

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

jax.numpy.zeros(3).block_until_ready()
before, start = peak(), time.monotonic()
import_fm(Path(sys.argv[1]))
print(time.monotonic() - start, peak() - before)
"""


@pytest.mark.slow
def test_a_base_model_is_imported_in_little_time_and_memory(tmp_path):
    config = CONFIG | dict(dim=768, encoder_depth=12, decoder_depth=12, num_heads=12)
    config |= dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias"), False)
    complete = complete_config(config)
    tensors = list_tensors(build_space(complete, SIZES), to_model_config(complete))
    assert sum(np.prod(tensor.shape) for tensor in tensors.values()) > 198e6
    file = make_file(tmp_path / "model.safetensors", config)
    size = file.stat().st_size
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MEASURE, str(file)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, memory = map(float, told.stdout.split())
    file.unlink()
    assert seconds < 60
    assert memory < 2 * size
