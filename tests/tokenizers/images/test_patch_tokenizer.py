"""The learned image tokenizer, on pictures small enough to train in a test."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.tokenizers.images.edges import values_of
from tokenizers.base import ExpectedDecoder, Tokenizer, is_described
from tokenizers.images.patch_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    code_neighbourhoods,
    from_patches,
    patch_windows,
    to_patches,
)
from tokenizers.storage.folders import load_folder, save_folder
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

pytestmark = pytest.mark.slow

TINY = ImageTokenizerConfig(
    patch_size=4, codebook_size=16, code_dim=4, width=16, encoder_depth=1, decoder_depth=1
)
FSQ = dataclasses.replace(TINY, quantizer="fsq", levels=(4, 4))
IFSQ = dataclasses.replace(FSQ, bounding="sigmoid")
SIMVQ = dataclasses.replace(TINY, quantizer="simvq")
SIZE = (8, 12)

KINDS = {
    "colors": Colors(),
    "reals": Reals(channels=2),
    "distances": Distances(),
    "directions": Directions(),
    "classes": Classes(("a", "b", "c")),
}


def pictures(name: str, count: int = 8) -> np.ndarray:
    """A slanted edge per sample, with two corners of unknown values."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    slope, offset = rng.uniform(-1, 1, (2, count, 1, 1))
    near = (columns - 6 > slope * rows + 4 * offset) * np.ones((count, 1, 1), bool)
    unknown = (rows < 2) & (columns < 3) & np.ones((count, 1, 1), bool)
    return values_of(name, near, unknown)


def train(tokenizer: ImageTokenizer, raw: np.ndarray, steps: int) -> list[dict[str, float]]:
    """A minimal loop: everything that is no parameter is carried along."""
    graph, params, rest = nnx.split(tokenizer, nnx.Param, ...)
    optimizer = optax.adam(3e-3)
    moments = optimizer.init(params)

    @jax.jit
    def step(params, rest, moments, key):
        def compute(params):
            model = nnx.merge(graph, params, rest, copy=True)
            loss, metrics = model.loss(raw, key)
            return loss, ({"loss": loss, **metrics}, nnx.state(model, nnx.Not(nnx.Param)))

        gradient, (metrics, rest) = jax.grad(compute, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), rest, moments, metrics

    log = []
    raw = jnp.asarray(raw)
    for number in range(steps):
        params, rest, moments, metrics = step(params, rest, moments, jax.random.key(number))
        log.append({name: float(value) for name, value in metrics.items()})
    nnx.update(tokenizer, params, rest)
    return log


@pytest.fixture(scope="module")
def trained() -> ImageTokenizer:
    tokenizer = TINY.fit(KINDS["distances"], pictures("distances"), jax.random.key(0))
    train(tokenizer, pictures("distances"), 10)
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("colors", TINY),
        ("reals", FSQ),
        ("reals", IFSQ),
        ("directions", TINY),
        ("classes", TINY),
        ("colors", SIMVQ),
    ],
)
def test_training_brings_reconstructions_near_the_truth(name, config):
    values, raw = KINDS[name], pictures(name)
    tokenizer = config.fit(values, raw, jax.random.key(0))
    before = values.score(tokenizer.decode(tokenizer.encode(raw)), raw)
    log = train(tokenizer, raw, 40)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert {"reconstruction", "usage", "perplexity"} <= set(log[0])
    decoded = tokenizer.decode(tokenizer.encode(raw))
    assert decoded.shape == raw.shape and decoded.dtype == raw.dtype
    main, better = next(iter(values.metrics.items()))
    after = values.score(decoded, raw)[main]
    assert after > before[main] if better == "higher" else after < before[main]


@pytest.mark.slow
def test_it_keeps_the_contract_of_tokenizers(trained):
    assert isinstance(trained, Tokenizer) and isinstance(trained, ExpectedDecoder)
    ids = trained.encode(pictures("distances"))
    assert trained.token_shape == (2, 3) and trained.special is None
    assert ids.shape == (8, 2, 3) and ids.dtype == np.int32
    assert trained.vocab_size == 16 and set(ids.ravel()) <= set(range(16))


def test_answers_do_not_depend_on_how_samples_are_batched(trained, monkeypatch):
    raw = pictures("distances")
    ids = trained.encode(raw)
    # Three pictures of 2 x 3 tokens.
    monkeypatch.setattr("tokenizers.images.learned_tokenizer.CHUNK_TOKENS", 18)
    np.testing.assert_array_equal(trained.encode(list(raw)), ids)
    np.testing.assert_allclose(trained.decode(ids)[:5], trained.decode(ids[:5]), rtol=1e-5)


def test_no_samples_give_no_tokens(trained):
    assert trained.encode(pictures("distances")[:0]).shape == (0, 2, 3)
    assert trained.decode(np.zeros((0, 2, 3), np.int32)).shape == (0, *SIZE)


def test_certain_probabilities_decode_as_their_ids(trained):
    ids = trained.encode(pictures("distances"))
    certain = np.eye(16, dtype=np.float32)[ids]
    np.testing.assert_allclose(trained.decode_expected(certain), trained.decode(ids), rtol=1e-4)


@pytest.mark.parametrize("config", [TINY, FSQ, IFSQ, SIMVQ], ids=["vq", "fsq", "ifsq", "simvq"])
def test_saving_and_loading_gives_the_same_bits(config, tmp_path):
    raw = pictures("classes")
    tokenizer = config.fit(KINDS["classes"], raw, jax.random.key(1))
    tokenizer.save(tmp_path / "semseg")
    loaded = ImageTokenizer.load(tmp_path / "semseg")
    assert loaded.values == tokenizer.values and loaded.config == tokenizer.config
    assert loaded.token_shape == tokenizer.token_shape
    for mine, theirs in zip(
        jax.tree.leaves(nnx.state(tokenizer)), jax.tree.leaves(nnx.state(loaded)), strict=True
    ):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    ids = tokenizer.encode(raw)
    np.testing.assert_array_equal(loaded.encode(raw), ids)
    np.testing.assert_array_equal(loaded.decode(ids), tokenizer.decode(ids))


@dataclasses.dataclass(frozen=True)
class Brightness(Colors):
    """A kind of the user's own."""


def test_kinds_of_the_users_own_are_loaded_by_handing_them_over(tmp_path):
    tokenizer = TINY.fit(Brightness(), pictures("colors"), jax.random.key(0))
    tokenizer.save(tmp_path / "own")
    assert ImageTokenizer.load(tmp_path / "own").values == Brightness()
    description, arrays, _ = load_folder(tmp_path / "own")
    description["values"].pop("from")  # As earlier versions wrote it.
    save_folder(tmp_path / "earlier", description, arrays)
    with pytest.raises(ValueError, match=r"for 'Brightness', not one of .*pass values="):
        ImageTokenizer.load(tmp_path / "earlier")
    assert ImageTokenizer.load(tmp_path / "earlier", Brightness()).values == Brightness()


def test_a_folder_that_is_no_image_tokenizer_is_refused(tmp_path, trained):
    save_folder(tmp_path / "other", {"tokenizer": "text"}, {})
    with pytest.raises(ValueError, match="can't use 'config'"):
        ImageTokenizer.load(tmp_path / "other")
    trained.save(tmp_path / "cut")
    description, arrays, _ = load_folder(tmp_path / "cut")
    arrays.pop("quantizer/codes")
    save_folder(tmp_path / "cut", description, arrays)
    with pytest.raises(ValueError, match="do not fit its description; train it again"):
        ImageTokenizer.load(tmp_path / "cut")


def test_the_same_key_gives_the_same_tokenizer():
    raw = pictures("colors")
    first, second = (TINY.fit(KINDS["colors"], raw, jax.random.key(5)) for _ in range(2))
    for mine, theirs in zip(
        jax.tree.leaves(nnx.state(first)), jax.tree.leaves(nnx.state(second)), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_gradients_reach_the_encoder_and_the_layer_that_moves_the_codes():
    raw = jnp.asarray(pictures("colors"))
    tokenizer = SIMVQ.fit(Colors(), pictures("colors"), jax.random.key(0))
    graph, params, rest = nnx.split(tokenizer, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradients(params):
        return nnx.merge(graph, params, rest, copy=True).loss(raw, jax.random.key(0))[0]

    for path, gradient in nnx.to_flat_state(gradients(params)):
        if path[0] in ("encoder_in", "encoder_out", "quantizer", "decoder_in"):
            assert np.abs(gradient[...]).max() > 0, path


def test_a_learned_codebook_is_spread_over_what_the_encoder_makes_of_samples():
    raw = pictures("colors")
    tokenizer = SIMVQ.fit(Colors(), raw, jax.random.key(0))
    latents = np.asarray(tokenizer.latents(jnp.asarray(raw))).reshape(-1, 4)
    bias = tokenizer.quantizer.layer.bias[...]
    np.testing.assert_allclose(bias, latents.mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(tokenizer.code_features(), tokenizer.quantizer.codebook())


def test_folders_from_before_bounding_could_be_chosen_go_on(tmp_path):
    raw = pictures("colors")
    tokenizer = FSQ.fit(Colors(), raw, jax.random.key(0))
    tokenizer.save(tmp_path / "new")
    description, arrays, _ = load_folder(tmp_path / "new")
    del description["config"]["bounding"]
    save_folder(tmp_path / "earlier", description, arrays)
    earlier = ImageTokenizer.load(tmp_path / "earlier")
    assert earlier.config == tokenizer.config
    np.testing.assert_array_equal(earlier.encode(raw), tokenizer.encode(raw))


def test_patches_are_put_back_where_they_were():
    x = jnp.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    patches = to_patches(x, 4)
    np.testing.assert_array_equal(patches[1, 1, 2].reshape(4, 4, 3), x[1, 4:8, 8:12])
    np.testing.assert_array_equal(from_patches(patches, 4), x)


def test_windows_reach_half_a_patch_beyond_the_patch():
    x = jnp.arange(8 * 12.0).reshape(1, 8, 12, 1) + 1
    windows = np.asarray(patch_windows(x, 4))
    padded = np.pad(np.asarray(x)[0, :, :, 0], 2)
    for row in range(2):
        for column in range(3):
            window = padded[4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            np.testing.assert_array_equal(np.sort(windows[0, row, column]), np.sort(window.ravel()))


def test_neighbourhoods_hold_the_codes_around_in_reading_order():
    codes = jnp.arange(6.0).reshape(1, 2, 3, 1) + 1
    around = np.asarray(code_neighbourhoods(codes, 1))
    np.testing.assert_array_equal(around[0, 0, 1], [0, 0, 0, 1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageTokenizerConfig(patch_size=5), "patch_size is 5; give an even number"),
        (
            lambda: ImageTokenizerConfig(bounding="sigmoid"),
            "bounding is sigmoid, but quantizer is vq; only fsq bounds latents",
        ),
        (
            lambda: TINY.fit(Colors(), np.zeros((2, 8, 10, 3), np.uint8), jax.random.key(0)),
            "8 pixels high and 10 wide, which patches of 4 do not tile; change patch_size",
        ),
    ],
)
def test_settings_that_make_no_sense_get_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_inputs_of_another_size_are_refused(trained):
    with pytest.raises(ValueError, match=r"shape \(4, 4\); this tokenizer takes \(8, 12\)\."):
        trained.encode(np.ones((1, 4, 4), np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 3\); this tokenizer takes \(2, 3\)"):
        trained.decode(np.ones((1, 3, 3), np.int32))
    with pytest.raises(ValueError, match=r"Token 16 is out of range: .* ids 0 to 15"):
        trained.decode(np.full((1, 2, 3), 16))


@pytest.mark.parametrize("name", KINDS)
def test_patches_are_described_beside_their_ids(name, tmp_path):
    raw = pictures(name, 32)
    tokenizer = TINY.fit(KINDS[name], raw, jax.random.key(0))
    pixels = 16 * KINDS[name].num_inputs
    assert tokenizer.feature_width == min(64, pixels) and is_described(tokenizer)
    kept = np.stack(tokenizer.pack(raw))
    assert kept.dtype == np.uint8 and kept.shape == (32, 6, tokenizer.feature_width)
    assert tokenizer.pack(raw[:0]) == []
    # By hand: normalised pixels of a patch, its components, and their rounding.
    normalized = tokenizer.values.normalize(jnp.asarray(raw), tokenizer._statistics)
    patches = np.asarray(to_patches(normalized, 4))
    rows = patches.reshape(32, 6, pixels) - np.asarray(tokenizer.patch_mean[...])
    by_hand = (rows @ np.asarray(tokenizer.components[...])).clip(-8, 8)
    np.testing.assert_allclose(tokenizer.packed.unpack(kept), by_hand, atol=1 / 16)
    tokenizer.save(tmp_path / "saved")
    again = ImageTokenizer.load(tmp_path / "saved")
    np.testing.assert_array_equal(np.stack(again.pack(raw)), kept)


def test_without_numbers_to_show_a_tokenizer_is_what_it_was(tmp_path):
    raw = pictures("colors")
    bare = dataclasses.replace(TINY, shown_numbers=0).fit(Colors(), raw, jax.random.key(0))
    described = TINY.fit(Colors(), raw, jax.random.key(0))
    assert bare.feature_width == 0 and not is_described(bare)
    np.testing.assert_array_equal(bare.encode(raw), described.encode(raw))
    bare.save(tmp_path / "new")
    description, arrays, _ = load_folder(tmp_path / "new")
    assert not {"patch_mean", "components"} & set(arrays)
    del description["config"]["shown_numbers"]  # As earlier versions wrote it.
    save_folder(tmp_path / "earlier", description, arrays)
    earlier = ImageTokenizer.load(tmp_path / "earlier")
    assert earlier.config.shown_numbers == earlier.feature_width == 0
    np.testing.assert_array_equal(earlier.encode(raw), bare.encode(raw))
