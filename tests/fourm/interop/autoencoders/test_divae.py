"""Published diffusion tokenizers: read, written, refused, and compared with what was recorded."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from fourm.interop.autoencoders.divae import (
    export_divae,
    export_tensors,
    import_divae,
    read_divae_config,
)
from fourm.interop.checks.comparison import Comparison
from fourm.interop.checks.divae import check_divae, run_decode, run_decoder, run_encoder
from tests.paths import ROOT
from tokenizers.images.code_encoder import CodeEncoderConfig, QuantizerConfig
from tokenizers.images.diffusion import DiffusionConfig
from tokenizers.images.diffusion_tokenizer import (
    DiffusionTokenizer,
    DiffusionTokenizerConfig,
    SamplingConfig,
)
from tokenizers.images.learned_tokenizer import variables
from tokenizers.images.unet import UNetConfig
from tokenizers.images.vit import NetworkConfig
from tokenizers.values import Reals

RECORDED = ROOT.parent / "shared" / "parity" / "goldens"

TINY = DiffusionTokenizerConfig(
    encoder=CodeEncoderConfig(
        patch_size=4,
        network=NetworkConfig(width=16, depth=1, num_heads=2),
        quantizer=QuantizerConfig(codebook_size=16, code_dim=4, averages="counts"),
        num_channels=2,
    ),
    decoder=UNetConfig(
        patch_size=2, width=8, multipliers=(1, 2), attention_at=(2,), num_heads=2, num_groups=4
    ),
    diffusion=DiffusionConfig(schedule="linear", num_timesteps=100, limit="clip"),
    sampling=SamplingConfig(sampler="ddim", num_steps=50),
    code_dropout=0.25,
    codes_kept=(1, 3),
)
PIXELS = np.random.default_rng(0).uniform(-1, 1, (2, 8, 16, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> DiffusionTokenizer:
    statistics = {"mean": np.zeros(2, np.float32), "std": np.ones(2, np.float32)}
    tokenizer = nnx.eval_shape(
        lambda: DiffusionTokenizer(TINY, Reals(2), statistics, (2, 4), nnx.Rngs(0))
    )
    rng = np.random.default_rng(0)
    for name, variable in variables(tokenizer).items():
        drawn = rng.normal(0, 0.3, variable.get_value().shape).astype(np.float32)
        variable.set_value(jax.numpy.asarray(statistics.get(name.split("/")[-1], drawn)))
    quantizer = tokenizer.encoder.quantizer
    quantizer.sums.set_value(quantizer.codes.get_value())
    return tokenizer


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    export_divae(tokenizer, tmp_path / "exported")
    return tmp_path / "exported"


def differing(found: list[Comparison]) -> list[Comparison]:
    return [comparison for comparison in found if not comparison.is_equal]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["divae_tiny", "divae_tiny_v"])
def test_every_array_recorded_of_a_published_tokenizer_agrees(name):
    if not (RECORDED / name).exists():
        pytest.skip(f"There is no {RECORDED / name}.")
    found = list(check_divae(RECORDED / name))
    assert differing(found) == []
    recorded = set(np.load(RECORDED / name / "outputs.npz").files)
    assert recorded <= {comparison.name for comparison in found}
    assert max(comparison.error for comparison in found) < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["divae_tiny", "divae_tiny_v"])
def test_export_writes_the_tensors_of_the_published_file_bit_for_bit(name):
    if not (RECORDED / name).exists():
        pytest.skip(f"There is no {RECORDED / name}.")
    published = load_file(RECORDED / name / "model.safetensors")
    written = export_tensors(import_divae(RECORDED / name))
    assert set(written) == set(published)
    assert all(np.array_equal(written[tensor], published[tensor]) for tensor in published)


@pytest.mark.slow
def test_import_of_an_export_is_the_identity(tokenizer, folder):
    imported = import_divae(folder)
    assert imported.config == tokenizer.config and imported.values == tokenizer.values
    ours, theirs = variables(tokenizer), variables(imported)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[name][...], theirs[name][...]) for name in ours)
    assert np.array_equal(imported.encode(PIXELS), tokenizer.encode(PIXELS))


@pytest.mark.slow
def test_pictures_are_read_in_other_units_and_sizes_if_asked(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["n_channels"] == 2 and config["image_size"] == [8, 16]
    larger = import_divae(folder, grid=(4, 4))
    assert larger.encode(np.zeros((1, 16, 16, 2), np.float32)).shape == (1, 4, 4)
    statistics = {"mean": np.full(2, 5, np.float32), "std": np.full(2, 3, np.float32)}
    scaled = import_divae(folder, statistics=statistics)
    assert np.array_equal(scaled.encode(3 * PIXELS + 5), import_divae(folder).encode(PIXELS))
    with pytest.raises(ValueError, match="draws 2 channels, but Reals as given takes 1"):
        import_divae(folder, values=Reals(1))


def test_the_published_decoder_is_known_by_name():
    config, _ = read_divae_config({"dec_type": "unet_patched", "scheduler": "ddim"}, {})
    assert config.decoder == UNetConfig(4, 256, (1, 2, 2, 2), 3, (4, 8), 1, 32)
    assert config.encoder.native_grid == (14, 14)
    assert config.diffusion.schedule == "squaredcos_cap_v2"
    assert config.diffusion.limit == "threshold"


def test_epsilon_divides_by_zero_only_where_a_published_tokenizer_does():
    config, _ = read_divae_config({"prediction_type": "epsilon"}, {})
    assert config.diffusion.may_divide_by_zero
    settings = {"prediction_type": "epsilon", "zero_terminal_snr": False}
    assert not read_divae_config(settings, {})[0].diffusion.may_divide_by_zero
    with pytest.raises(ValueError, match="cannot tell a picture from pure noise"):
        dataclasses.replace(config.diffusion, may_divide_by_zero=False)


def test_what_is_masked_in_training_is_read_with_what_it_leaves():
    settings = {"cls_free_guidance_dropout": 0.2, "masked_cfg": True, "masked_cfg_low": 2}
    config, _ = read_divae_config(settings, {})
    assert config.code_dropout == 0.2 and config.codes_kept == (2, 196)
    config, _ = read_divae_config({**settings, "masked_cfg_high": 7}, {})
    assert config.codes_kept == (2, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dec_typ": "unet_patched"}, "the settings dec_typ, which no diffusion tokenizer has"),
        ({"dec_type": "uvit_b_p4"}, "a decoder 'uvit_b_p4'; known are unet_patched"),
        ({"scheduler": "pndm"}, "scheduler is 'pndm'; it must be one of ddim, ddpm"),
        ({"prediction_type": "x0"}, "prediction_type is 'x0'; it must be one of sample"),
        ({"beta_schedule": "cubic"}, "schedule is 'cubic'"),
        ({"clip_sample": "yes"}, "clip_sample is 'yes'; it must be true or false"),
        ({"n_labels": 3}, "class maps can't be read"),
        ({"image_size_dec": 448}, "only tokenizers that draw what they read"),
        ({"masked_cfg": True, "masked_cfg_low": -1}, "masked_cfg_low is -1"),
    ],
)
def test_configurations_with_unknown_settings_or_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_divae_config(change, {})


def test_sizes_that_are_unknown_or_incomplete_are_refused():
    with pytest.raises(ValueError, match="gives unet_own depth, groups, num_heads, patch_size; it"):
        read_divae_config({"dec_type": "unet_own"}, {"unet_own": {"patch_size": 4, "depth": 2}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.out.2.bias"), "lacks the tensors decoder.out.2.bias"),
        (lambda t: t.update(extra=t["quant_proj.bias"]), "does not call for: extra"),
        (
            lambda t: t.update({"decoder.out.2.weight": np.zeros((4, 8, 3, 3), np.float32)}),
            r"decoder.out.2.weight \(4, 8, 3, 3\) instead of \(8, 8, 3, 3\)",
        ),
    ],
)
def test_files_with_missing_extra_or_misshapen_tensors_are_refused(folder, change, message):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        import_divae(folder)


@pytest.mark.slow
def test_tokenizers_that_read_more_than_they_draw_are_not_exported(tmp_path):
    config = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, num_channels=0))
    statistics = {"mean": np.zeros(2, np.float32), "std": np.ones(2, np.float32)}
    tokenizer = nnx.eval_shape(
        lambda: DiffusionTokenizer(config, Reals(2), statistics, (2, 4), nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match="reads 3 channels and draws 2"):
        export_divae(tokenizer, tmp_path / "exported")


@pytest.fixture
def recording(tokenizer, folder) -> Path:
    """What our own tokenizer does, in the format of a recording of theirs."""
    rng = np.random.default_rng(1)
    inputs = {
        "clean": np.moveaxis(PIXELS, -1, 1),
        "noise": rng.normal(size=(2, 2, 8, 16)).astype(np.float32),
        "timesteps": np.array([3, 97]),
        "cond_mask": rng.uniform(size=(2, 2, 4)) < 0.5,
        "init_noise": rng.normal(size=(2, 2, 8, 16)).astype(np.float32),
        "ddpm3/step_noise": rng.normal(size=(2, 2, 2, 8, 16)).astype(np.float32),
    }
    outputs, _ = run_encoder(tokenizer, jax.numpy.asarray(PIXELS), None)
    codes = jax.numpy.moveaxis(jax.numpy.asarray(outputs["quant"]), 1, -1)
    outputs |= run_decoder(tokenizer, inputs, codes)
    decodes = {"ddim2": {"steps": 2, "mode": "linspace"}, "ddpm3": {"steps": 3, "mode": "trailing"}}
    for name, settings in decodes.items():
        stages, times = run_decode(tokenizer, inputs, codes, name, settings)
        outputs |= {f"{name}/{stage}": value for stage, value in stages.items()}
        settings["timesteps"] = times.tolist()
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "decode.json").write_text(json.dumps(decodes))
    return folder


@pytest.mark.slow
def test_a_recording_agrees_with_itself_and_what_differs_is_found(recording):
    found = list(check_divae(recording))
    assert differing(found) == []
    assert "decode/ddpm3/timesteps" in {comparison.name for comparison in found}
    outputs = dict(np.load(recording / "outputs.npz"))
    outputs["tokens"] = (outputs["tokens"] + 1) % 16
    outputs["unet/middle"] = 1.001 * outputs["unet/middle"]
    outputs["ddim2/decoded"] = 1.001 * outputs["ddim2/decoded"]
    outputs["ddim2/decoded_twice"] = outputs["ddim2/decoded"]
    np.savez(recording / "outputs.npz", **outputs)
    wrong = {comparison.name for comparison in differing(list(check_divae(recording)))}
    assert wrong == {"tokens", "unet/middle", "ddim2/decoded", "ddim2/decoded_twice"}


@pytest.mark.slow
def test_decodes_that_cannot_be_repeated_are_refused(recording):
    inputs = dict(np.load(recording / "inputs.npz"))
    inputs.pop("ddpm3/step_noise")
    np.savez(recording / "inputs.npz", **inputs)
    with pytest.raises(ValueError, match="lacks ddpm3/step_noise"):
        list(check_divae(recording))
    decodes = {"pndm2": {"steps": 2, "mode": "linspace", "timesteps": []}}
    (recording / "decode.json").write_text(json.dumps(decodes))
    with pytest.raises(ValueError, match="it must begin with ddim or ddpm"):
        list(check_divae(recording))
