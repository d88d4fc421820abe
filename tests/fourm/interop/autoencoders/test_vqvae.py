"""Published VQ-VAE tokenizers: recorded outputs, there and back, and files that are wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fourm.interop.autoencoders.encoder import ENCODER_DEFAULTS
from fourm.interop.autoencoders.vqvae import (
    default_statistics,
    export_config,
    export_tensors,
    export_vqvae,
    import_vqvae,
    read_vqvae_config,
)
from fourm.interop.checks.vqvae import check_vqvae
from tests.paths import ROOT
from tokenizers.images.vit_tokenizer import ViTTokenizer, ViTTokenizerConfig
from tokenizers.modality import load_tokenizer
from tokenizers.values import Classes, Colors, Directions, Reals

pytestmark = pytest.mark.slow

COMMITTED = ROOT / "tests" / "fixtures" / "goldens"
SHARED = ROOT.parent / "shared" / "parity" / "goldens"
NAMES = ["tiny", "tiny_featmap", "tiny_mlp", "tiny_outconv", "tiny_semseg"]


def golden(name: str) -> Path:
    """Returns a recording's folder, or skips the test where it is not at hand."""
    for folder in (COMMITTED, SHARED):
        if (folder / f"vqvae_{name}").is_dir():
            return folder / f"vqvae_{name}"
    pytest.skip(f"vqvae_{name} is not here")


@pytest.fixture
def copy(tmp_path) -> Callable[..., Path]:
    """Copies a recording with some of its tensors or settings changed."""

    def make(name: str, tensors: dict | None = None, settings: dict | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "preset.json", "inputs.npz", "outputs.npz"):
            shutil.copyfile(golden(name) / file, folder / file)
        kept = load_file(golden(name) / "model.safetensors") | (tensors or {})
        kept = {key: value for key, value in kept.items() if value is not None}
        save_file(kept, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text()) | (settings or {})
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_array_is_reproduced(name):
    folder = golden(name)
    comparisons = list(check_vqvae(folder))
    assert {c.name for c in comparisons} == set(np.load(folder / "outputs.npz").files)
    assert [c for c in comparisons if not c.is_equal] == []


def test_one_wrong_weight_shows(copy):
    name = "post_quant_proj.bias"
    bias = load_file(golden("tiny_mlp") / "model.safetensors")[name]
    comparisons = list(check_vqvae(copy("tiny_mlp", {name: bias + 0.01})))
    assert {c.name for c in comparisons if not c.is_equal} == {"x/recon"}


def test_an_array_that_is_not_known_is_no_silent_success(copy):
    folder = copy("tiny_mlp")
    recorded = dict(np.load(folder / "outputs.npz"))
    np.savez(folder / "outputs.npz", **recorded, **{"x/entropy": np.ones(3)})
    assert [c.name for c in check_vqvae(folder) if not c.is_equal] == ["x/entropy"]


@pytest.mark.parametrize("name", NAMES)
def test_import_of_an_export_is_the_same_to_the_bit(name, tmp_path):
    first = import_vqvae(golden(name))
    export_vqvae(first, tmp_path)
    original = load_file(golden(name) / "model.safetensors")
    exported = load_file(tmp_path / "model.safetensors")
    assert exported.keys() == original.keys()
    for key, tensor in original.items():
        np.testing.assert_array_equal(exported[key], tensor, err_msg=key)
    second = import_vqvae(tmp_path)
    assert second.config == first.config
    again = export_tensors(second)
    assert all(np.array_equal(again[key], exported[key]) for key in exported)


def test_the_metadata_of_a_file_is_enough(tmp_path):
    folder = golden("tiny_mlp")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "published.safetensors")
    assert import_vqvae(tmp_path / "published.safetensors").config == import_vqvae(folder).config


def test_an_exported_file_names_its_configuration_in_its_metadata(tmp_path):
    export_vqvae(import_vqvae(golden("tiny_outconv")), tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["norm_latents"] == "True" and metadata["latent_dim"] == "12"


def test_an_imported_tokenizer_works_and_is_saved_like_any(tmp_path):
    tokenizer = import_vqvae(golden("tiny_mlp"))
    inputs = np.load(golden("tiny_mlp") / "inputs.npz")["x"].transpose(0, 2, 3, 1)
    recorded = np.load(golden("tiny_mlp") / "outputs.npz")
    ids = tokenizer.encode(inputs)
    assert tokenizer.token_shape == (2, 2) and tokenizer.vocab_size == 32
    np.testing.assert_array_equal(ids.reshape(5, 4), recorded["x/tokens"][..., 0, 0])
    decoded = tokenizer.decode(ids)
    np.testing.assert_allclose(decoded[:, 0, 0], recorded["x/recon"][..., 0, 0], atol=1e-4)
    tokenizer.save(tmp_path / "global")
    loaded = load_tokenizer(tmp_path / "global")
    np.testing.assert_array_equal(loaded.encode(inputs), ids)
    np.testing.assert_array_equal(loaded.decode(ids), decoded)


def test_published_networks_have_their_sizes():
    settings = {"enc_type": "vit_b_enc", "dec_type": "vit_l_dec", "patch_size": 14}
    config, theirs = read_vqvae_config(settings, {})
    encoder, decoder = config.encoder.network, config.decoder.network
    assert (encoder.width, encoder.depth, encoder.num_heads) == (768, 12, 12)
    assert (decoder.width, decoder.depth, decoder.num_heads) == (1024, 24, 16)
    assert config.encoder.native_grid == config.decoder.native_grid == (16, 16)
    assert theirs["codebook_size"] == config.encoder.quantizer.codebook_size == 16384
    mlp, _ = read_vqvae_config({"enc_type": "BottleneckMLP/B_6-Wi_1024-E_2"}, {})
    network = mlp.encoder.network
    assert (network.kind, network.depth, network.width, network.hidden) == ("mlp", 6, 1024, 2048)


def test_every_setting_is_read():
    settings = {
        "image_size": 64,
        "image_size_dec": 96,
        "patch_size_dec": 8,
        "norm_codes": False,
        "norm_latents": True,
        "ema_decay": 0.9,
        "commitment_weight": 2,
        "threshold_ema_dead_code": 1,
        "code_replacement_policy": "linde_buzo_gray",
        "freeze_enc": True,
        "out_conv": True,
        "patch_proj": True,
        "post_mlp": True,
    }
    config, _ = read_vqvae_config(settings, {})
    encoder, decoder, quantizer = config.encoder, config.decoder, config.encoder.quantizer
    assert (encoder.native_grid, encoder.patch_size, encoder.is_frozen) == ((4, 4), 16, True)
    assert (decoder.native_grid, decoder.patch_size) == ((12, 12), 8)
    assert decoder.num_convolutions == 2 and encoder.network.final_mlp
    assert (quantizer.distance, quantizer.normalize_latents) == ("euclidean", True)
    assert (quantizer.decay, quantizer.commitment, quantizer.rare) == (0.9, 2.0, 1.0)
    assert quantizer.replacement == "split"
    without, _ = read_vqvae_config({"patch_proj": False, "image_size": [64, 32]}, {})
    assert without.encoder.patch_size == without.decoder.patch_size == 1
    assert without.encoder.native_grid == (4, 2)


def test_colours_and_standardised_pictures_reach_the_network_alike():
    picture = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    standard = ((picture / 255 - mean) / std).astype(jnp.float32)
    of_colors = Colors().normalize(picture, default_statistics(Colors(), True))
    of_reals = Reals(3).normalize(standard, default_statistics(Reals(3), True))[..., :3]
    np.testing.assert_allclose(of_colors, picture / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(of_reals, of_colors, atol=1e-5)
    as_is = Reals(3).normalize(standard, default_statistics(Reals(3), False))[..., :3]
    np.testing.assert_array_equal(as_is, standard)


def test_values_that_do_not_fit_get_one_sentence():
    with pytest.raises(ValueError, match="draws 24 channels, but Colors as given takes 3"):
        import_vqvae(golden("tiny_mlp"), values=Colors())
    with pytest.raises(ValueError, match="no known normalisation of Directions"):
        default_statistics(Directions(), False)
    assert set(default_statistics(Classes(("a", "b")), False)) == {"weight"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"quant_proj.bias": None, "decoder.linear_in.weight": None}, "lacks.* quant_proj.bias"),
        ({"decoder.linear_in.weight": None}, "lacks the tensors decoder.linear_in.weight"),
        ({"decoder.extra": np.ones(3, np.float32)}, "does not call for: decoder.extra"),
        (
            {"quantize.codes": np.ones((4, 32, 9), np.float32)},
            r"quantize.codes \(4, 32, 9\) instead of \(4, 32, 8\)",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(copy, tensors, message):
    with pytest.raises(ValueError, match=message):
        import_vqvae(copy("tiny_mlp", tensors))


def test_a_codebook_that_was_never_started_is_refused(copy):
    folder = copy("tiny_outconv", {"quantize._codebook.initted": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match="never started"):
        import_vqvae(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "red"}, "has the settings colour, which no VQ-VAE has; known are image_size"),
        ({"enc_type": "vit_x_enc"}, "'vit_x_enc'; known are BottleneckMLP.*vit_s, vit_b, vit_l"),
        ({"enc_type": "MLP/B_6-Wi_1024"}, "'MLP/B_6-Wi_1024'; known are"),
        ({"dec_type": "unet_patched"}, "'unet_patched'; known are"),
        ({"quant_type": "fsq"}, "quant_type 'fsq' with num_codebooks 1"),
        ({"num_codebooks": 2}, "quant_type 'lucid' with num_codebooks 2"),
        ({"code_replacement_policy": "none"}, "code_replacement_policy 'none'"),
        ({"ckpt_path": "weights.pth"}, "ckpt_path is 'weights.pth', a pickle"),
        ({"patch_size": 15}, "224 by 224, which its patch_size 15 does not divide"),
        ({"norm_codes": 1}, "norm_codes is 1; it must be true or false"),
        ({"latent_dim": "32"}, "latent_dim is '32'; it must be a whole number of at least 1"),
        ({"n_labels": 0}, "n_labels is 0; it must be a whole number of at least 1"),
        ({"ema_decay": -1}, "ema_decay is -1; it must be a number of at least 0"),
    ],
)
def test_wrong_settings_get_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        read_vqvae_config(settings, {})


def test_a_preset_with_other_sizes_than_those_known_is_refused():
    presets = {"vit_own": {"dim_tokens": 64, "depth": 2, "num_heads": 4, "dropout": 0.1}}
    with pytest.raises(ValueError, match=r"preset.json gives vit_own .*dropout"):
        read_vqvae_config({"enc_type": "vit_own_enc"}, presets)


def test_a_tokenizer_of_another_kind_is_not_exported():
    statistics = default_statistics(Colors(), False)
    tokenizer = nnx.eval_shape(
        lambda: ViTTokenizer(ViTTokenizerConfig(), Colors(), statistics, (2, 2), nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match="averages=shares has no counterpart"):
        export_config(tokenizer)


def test_defaults_are_of_the_type_that_is_checked():
    config, theirs = read_vqvae_config({}, {})
    assert theirs.keys() > ENCODER_DEFAULTS.keys()
    assert config.encoder.quantizer.averages == "counts"
