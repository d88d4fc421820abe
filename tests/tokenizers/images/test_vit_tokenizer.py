"""The tokenizer with transformers, on pictures small enough to train in a test."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tokenizers.base import CodeFeatures, ExpectedDecoder, Tokenizer
from tokenizers.images.code_encoder import CodeEncoderConfig, QuantizerConfig
from tokenizers.images.vit import NetworkConfig
from tokenizers.images.vit_tokenizer import DecoderConfig, ViTTokenizer, ViTTokenizerConfig
from tokenizers.modality import load_tokenizer
from tokenizers.storage.folders import load_folder, save_folder
from tokenizers.values import Classes, Colors, Reals

pytestmark = pytest.mark.slow

VIT = NetworkConfig(width=16, depth=1, num_heads=2, expansion=2.0)
MLP = NetworkConfig(kind="mlp", width=16, depth=1)
VQ = QuantizerConfig(codebook_size=16, code_dim=8)
COUNTS = dataclasses.replace(VQ, averages="counts", commitment=0.25)
MEMCODES = QuantizerConfig(kind="memcodes", codebook_size=16, code_dim=8, num_heads=4)
TINY = ViTTokenizerConfig(CodeEncoderConfig(4, VIT, VQ), DecoderConfig(network=VIT))
CLASSES = Classes(("a", "b", "c"))


def config(network: NetworkConfig, quantizer: QuantizerConfig, **settings) -> ViTTokenizerConfig:
    return ViTTokenizerConfig(
        CodeEncoderConfig(network=network, quantizer=quantizer, **settings),
        DecoderConfig(network=network),
    )


def edges(count: int = 8) -> np.ndarray:
    """A slanted edge per sample, bool [count, 8, 12]."""
    rows, columns = np.mgrid[:8, :12]
    slope, offset = np.random.default_rng(0).uniform(-1, 1, (2, count, 1, 1))
    return columns - 6 > slope * rows + 4 * offset


def colors(count: int = 8) -> np.ndarray:
    return np.where(edges(count)[..., None], (200, 30, 10), (20, 60, 90)).astype(np.uint8)


def classes(count: int = 8) -> np.ndarray:
    labels = edges(count).astype(np.uint8)
    labels[:, :2, :3] = 255
    return labels


def vectors(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 1, 1, 6)).astype(np.float32)


def train(tokenizer: ViTTokenizer, raw: np.ndarray, steps: int) -> list[dict[str, float]]:
    optimizer = nnx.Optimizer(tokenizer, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, key):
        differentiate = nnx.value_and_grad(lambda model: model.loss(raw, key), has_aux=True)
        (loss, metrics), gradients = differentiate(model)
        optimizer.update(model, gradients)
        return {"loss": loss, **metrics}

    raw = jnp.asarray(raw)
    log = [step(tokenizer, optimizer, jax.random.key(number)) for number in range(steps)]
    return [{name: float(value) for name, value in entry.items()} for entry in log]


@pytest.fixture(scope="module")
def trained() -> ViTTokenizer:
    tokenizer = TINY.fit(Colors(), colors(), jax.random.key(0))
    train(tokenizer, colors(), 10)
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "raw", "settings"),
    [
        (Colors(), colors(), TINY),
        (Colors(), colors(), config(VIT, COUNTS, patch_size=4)),
        (CLASSES, classes(), config(VIT, VQ, patch_size=4, class_channels=3)),
        (Reals(6), vectors(), config(MLP, MEMCODES, patch_size=1)),
    ],
    ids=["colors", "counts", "classes", "vectors"],
)
def test_training_lowers_the_loss(values, raw, settings):
    tokenizer = settings.fit(values, raw, jax.random.key(0))
    before = values.score(tokenizer.decode(tokenizer.encode(raw)), raw)
    log = train(tokenizer, raw, 60)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert {"reconstruction", "usage", "perplexity"} <= set(log[0])
    decoded = tokenizer.decode(tokenizer.encode(raw))
    assert decoded.shape == raw.shape and decoded.dtype == raw.dtype
    main, better = next(iter(values.metrics.items()))
    after = values.score(decoded, raw)[main]
    assert after > before[main] if better == "higher" else after < before[main]


@pytest.mark.slow
def test_convolutions_and_another_patch_size_draw_other_pictures():
    decoder = DecoderConfig(patch_size=2, network=VIT, num_convolutions=2)
    smaller = dataclasses.replace(TINY, decoder=decoder).fit(Colors(), colors(), jax.random.key(0))
    assert smaller.decode(smaller.encode(colors())).shape == (8, 4, 6, 3)
    assert len(smaller.decoder.convolutions) == 2


@pytest.mark.slow
def test_it_keeps_the_contract_of_tokenizers(trained):
    assert isinstance(trained, Tokenizer)
    assert isinstance(trained, ExpectedDecoder) and isinstance(trained, CodeFeatures)
    ids = trained.encode(colors())
    assert trained.token_shape == (2, 3) and trained.special is None
    assert ids.shape == (8, 2, 3) and ids.dtype == np.int32
    assert trained.vocab_size == 16 and set(ids.ravel()) <= set(range(16))
    assert trained.code_features().shape == (16, 8)
    certain = np.eye(16, dtype=np.float32)[ids]
    difference = trained.decode_expected(certain).astype(int) - trained.decode(ids)
    assert np.abs(difference).max() <= 1
    assert trained.encode(colors()[:0]).shape == (0, 2, 3)


@pytest.mark.slow
def test_chunks_are_no_larger_than_what_there_is_to_do(trained, monkeypatch):
    raw = colors()
    ids = trained.encode(raw)
    np.testing.assert_array_equal(trained.encode(raw[:3]), ids[:3])
    assert [trained._chunk_size(count) for count in (0, 1, 3, 8)] == [1, 1, 4, 8]
    monkeypatch.setattr("tokenizers.images.learned_tokenizer.CHUNK_TOKENS", 18)
    assert trained._chunk_size(100) == 3
    np.testing.assert_array_equal(trained.encode(raw), ids)


@pytest.mark.slow
def test_several_ids_of_one_vector_are_a_grid():
    tokenizer = config(MLP, MEMCODES, patch_size=1).fit(Reals(6), vectors(), jax.random.key(0))
    ids = tokenizer.encode(vectors())
    assert tokenizer.token_shape == (2, 2) and ids.shape == (8, 2, 2)
    assert tokenizer.decode(ids).shape == (8, 1, 1, 6)
    certain = np.eye(16, dtype=np.float32)[ids]
    np.testing.assert_allclose(tokenizer.decode_expected(certain), tokenizer.decode(ids), atol=1e-5)


def test_a_saved_tokenizer_gives_the_same_bits(trained, tmp_path):
    trained.save(tmp_path / "rgb")
    loaded = load_tokenizer(tmp_path / "rgb")
    assert type(loaded) is ViTTokenizer and loaded.config == trained.config
    ids = trained.encode(colors())
    np.testing.assert_array_equal(loaded.encode(colors()), ids)
    np.testing.assert_array_equal(loaded.decode(ids), trained.decode(ids))


@pytest.mark.slow
def test_a_saved_tokenizer_of_classes_and_parts_comes_back(tmp_path):
    settings = config(VIT, MEMCODES, patch_size=4, class_channels=3)
    tokenizer = settings.fit(CLASSES, classes(), jax.random.key(0))
    tokenizer.save(tmp_path / "semseg")
    loaded = load_tokenizer(tmp_path / "semseg")
    np.testing.assert_array_equal(loaded.encode(classes()), tokenizer.encode(classes()))


def test_a_description_of_another_version_gets_one_sentence(trained, tmp_path):
    trained.save(tmp_path / "rgb")
    description, arrays, _ = load_folder(tmp_path / "rgb")
    description["config"]["encoder"]["network"]["colour"] = "red"
    save_folder(tmp_path / "other", description, arrays)
    with pytest.raises(ValueError, match=r"can't use 'config' in .*has no knob 'colour'"):
        ViTTokenizer.load(tmp_path / "other")


@pytest.mark.slow
def test_the_same_tokenizer_takes_pictures_of_another_size(trained):
    wide = trained.at_grid((2, 6))
    pictures = np.concatenate([colors(), colors()], axis=2)
    assert wide.encode(pictures).shape == (8, 2, 6)
    assert wide.decode(wide.encode(pictures)).shape == pictures.shape
    assert wide.config == trained.config
    np.testing.assert_array_equal(wide.at_grid((2, 3)).encode(colors()), trained.encode(colors()))
    with pytest.raises(ValueError, match=r"has shape \(8, 24, 3\); this tokenizer takes \(8, 12\)"):
        trained.encode(pictures)


@pytest.mark.slow
def test_an_encoder_reads_the_channels_that_it_is_told_to():
    raw = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype(np.float32)
    whole = config(VIT, VQ, patch_size=4).fit(Reals(2), raw, jax.random.key(0))
    part = config(VIT, VQ, patch_size=4, num_channels=2).fit(Reals(2), raw, jax.random.key(0))
    assert whole.encoder.network.into.in_features == 48  # Reals tell what is known as well.
    assert part.encoder.network.into.in_features == 32


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (Colors(), {"class_channels": 4}, "the values are Colors; set it to 0"),
        (Colors(), {"num_channels": 4}, "num_channels is 4, but Colors gives 3"),
        (Colors(), {"patch_size": 5}, "patches of 5 do not tile"),
    ],
)
def test_settings_that_do_not_fit_the_samples_get_one_sentence(values, settings, message):
    with pytest.raises(ValueError, match=message):
        config(VIT, VQ, **({"patch_size": 4} | settings)).fit(values, colors(), jax.random.key(0))
