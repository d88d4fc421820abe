"""The diffusion tokenizer, on pictures small enough to train in a test."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.tokenizers.images.edges import values_of
from tokenizers.base import ExpectedDecoder, Tokenizer
from tokenizers.images.code_encoder import CodeEncoderConfig, QuantizerConfig
from tokenizers.images.diffusion import DiffusionConfig
from tokenizers.images.diffusion_tokenizer import (
    DiffusionTokenizer,
    DiffusionTokenizerConfig,
    SamplingConfig,
    drop_codes,
)
from tokenizers.images.learned_tokenizer import variables
from tokenizers.images.unet import UNetConfig
from tokenizers.images.vit import NetworkConfig
from tokenizers.modality import load_tokenizer
from tokenizers.storage.folders import load_folder, save_folder
from tokenizers.values import Classes, Colors, Directions, Distances, Reals

# In one worker, so that what they share is trained once.
pytestmark = [pytest.mark.xdist_group("diffusion tokenizer"), pytest.mark.slow]

ENCODER = CodeEncoderConfig(
    patch_size=4,
    network=NetworkConfig(width=16, depth=1, num_heads=2),
    quantizer=QuantizerConfig(codebook_size=16, code_dim=4),
)
TINY = DiffusionTokenizerConfig(
    encoder=ENCODER,
    decoder=UNetConfig(patch_size=2, width=16, multipliers=(1, 2), attention_at=(2,), num_groups=4),
    diffusion=DiffusionConfig(prediction="sample"),
    sampling=SamplingConfig(num_steps=3),
)

ONE_LEVEL = dataclasses.replace(
    TINY,
    decoder=UNetConfig(patch_size=2, width=4, multipliers=(1,), attention_at=(), num_groups=4),
    sampling=SamplingConfig(num_steps=2),
)

KINDS = {
    "colors": Colors(),
    "reals": Reals(channels=2),
    "distances": Distances(),
    "directions": Directions(),
    "classes": Classes(("a", "b", "c")),
}


def pictures(name: str, count: int = 8) -> np.ndarray:
    """Two halves that differ, the left one larger or smaller, with a corner of unknown values."""
    rng = np.random.default_rng(0)
    edge = rng.integers(3, 13, (count, 1, 1))
    near = np.broadcast_to(np.arange(16) < edge, (count, 8, 16))
    unknown = np.zeros_like(near)
    unknown[:, :2, :3] = True
    return values_of(name, near, unknown)


def train(tokenizer: DiffusionTokenizer, raw: np.ndarray, steps: int) -> list[float]:
    """Returns the losses; everything that is no parameter is carried along."""
    graph, params, rest = nnx.split(tokenizer, nnx.Param, ...)
    optimizer = optax.adam(3e-3)
    moments = optimizer.init(params)
    raw = jnp.asarray(raw)

    @jax.jit
    def step(params, rest, moments, key):
        def compute(params):
            model = nnx.merge(graph, params, rest, copy=True)
            loss, _ = model.loss(raw, key)
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), gradient = jax.value_and_grad(compute, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), rest, moments, loss

    losses = []
    for number in range(steps):
        params, rest, moments, loss = step(params, rest, moments, jax.random.key(number))
        losses.append(float(loss))
    nnx.update(tokenizer, params, rest)
    return losses


def filled(config: DiffusionTokenizerConfig, name: str) -> DiffusionTokenizer:
    """A tokenizer with weights of no meaning, which takes less time than `fit`."""
    statistics = KINDS[name].fit_statistics(pictures(name))
    tokenizer = nnx.eval_shape(
        lambda: DiffusionTokenizer(config, KINDS[name], statistics, (2, 4), nnx.Rngs(0))
    )
    rng = np.random.default_rng(0)
    for path, variable in variables(tokenizer).items():
        drawn = rng.normal(0, 0.3, variable.get_value().shape).astype(np.float32)
        variable.set_value(jnp.asarray(statistics.get(path.removeprefix("statistics/"), drawn)))
    return tokenizer


def error_of(tokenizer: DiffusionTokenizer) -> float:
    raw = pictures("distances")
    return KINDS["distances"].score(tokenizer.decode(tokenizer.encode(raw)), raw)["abs_rel"]


@pytest.fixture(scope="module")
def before_and_trained() -> tuple[float, DiffusionTokenizer]:
    """The error of a tokenizer before it is trained, and that tokenizer trained."""
    tokenizer = TINY.fit(KINDS["distances"], pictures("distances"), jax.random.key(0))
    before = error_of(tokenizer)
    losses = train(tokenizer, pictures("distances"), 80)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    return before, tokenizer


@pytest.fixture(scope="module")
def trained(before_and_trained) -> DiffusionTokenizer:
    return before_and_trained[1]


@pytest.mark.slow
def test_training_brings_drawn_pictures_near_the_truth(before_and_trained):
    before, trained = before_and_trained
    assert error_of(trained) < 0.5 * before


@pytest.mark.slow
def test_it_keeps_the_contract_of_tokenizers(trained):
    assert isinstance(trained, Tokenizer) and isinstance(trained, ExpectedDecoder)
    raw = pictures("distances")
    ids = trained.encode(raw)
    assert trained.token_shape == (2, 4) and trained.special is None
    assert ids.shape == (8, 2, 4) and ids.dtype == np.int32
    assert trained.vocab_size == 16 and set(ids.ravel()) <= set(range(16))
    decoded = trained.decode(ids)
    assert decoded.shape == raw.shape and decoded.dtype == raw.dtype
    assert trained.code_features().shape == (16, 4)
    assert trained.encode(raw[:0]).shape == (0, 2, 4)
    assert trained.decode(ids[:0]).shape == (0, 8, 16)


@pytest.mark.slow
def test_ids_mean_one_picture_whatever_is_decoded_beside_them(trained):
    ids = trained.encode(pictures("distances"))
    together = trained.decode(ids)
    assert np.array_equal(together, trained.decode(ids))
    assert np.allclose(together[2:5], trained.decode(ids[2:5]), rtol=1e-4)
    sure = jax.nn.one_hot(ids, trained.vocab_size)
    assert np.allclose(together, trained.decode_expected(np.asarray(sure)), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_key_draws_every_picture_from_noise_of_its_own(trained, sampler):
    same = np.repeat(trained.encode(pictures("distances"))[:1], 2, axis=0)
    sampling = SamplingConfig(sampler=sampler, num_steps=2)
    first, again, other = (
        trained.decode_with(same, jax.random.key(number), sampling) for number in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.slow
def test_more_steps_and_another_seed_draw_other_pictures(trained):
    ids = trained.encode(pictures("distances"))[:2]
    drawn = [trained.decode(ids)]
    for sampling in (SamplingConfig(num_steps=4), SamplingConfig(num_steps=3, seed=1)):
        graph, state = nnx.split(trained)
        other = nnx.merge(graph, state)
        other.config = dataclasses.replace(TINY, sampling=sampling)
        drawn.append(other.decode(ids))
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_values_has_a_finite_loss_and_comes_back_in_its_shape(name):
    raw, tokenizer = pictures(name, 2), filled(ONE_LEVEL, name)
    loss, metrics = nnx.jit(lambda model, raw: model.loss(raw, jax.random.key(0)))(tokenizer, raw)
    assert np.isfinite(loss) and {"reconstruction", "usage", "perplexity"} <= set(metrics)
    assert tokenizer.picture(jnp.asarray(raw)).is_known.all() == (name == "colors")
    decoded = tokenizer.decode(tokenizer.encode(raw))
    assert decoded.shape == raw.shape and decoded.dtype == raw.dtype


def test_unknown_numbers_cost_nothing():
    raw, tokenizer = pictures("reals", 2), filled(ONE_LEVEL, "reals")
    clean, is_known = tokenizer.picture(jnp.asarray(raw))
    assert not is_known[:, :2, :3].any() and is_known[:, 2:].all()
    assert not clean[:, :2, :3].any()


@pytest.mark.slow
def test_a_tokenizer_may_leave_validity_out_and_then_all_is_known():
    encoder = dataclasses.replace(ENCODER, num_channels=1)
    tokenizer = filled(dataclasses.replace(ONE_LEVEL, encoder=encoder), "distances")
    assert tokenizer.num_channels == 1
    assert (tokenizer.decode(tokenizer.encode(pictures("distances", 2))) > 0).all()


@pytest.mark.slow
def test_errors_beyond_one_count_less_under_smooth_l1():
    raw = jnp.asarray(pictures("distances", 2))
    errors = []
    for error in ("mse", "smooth_l1"):
        tokenizer = filled(dataclasses.replace(ONE_LEVEL, error=error), "distances")
        _, metrics = nnx.jit(lambda model: model.loss(raw, jax.random.key(0)))(tokenizer)
        errors.append(float(metrics["reconstruction"]))
    assert 0 < errors[1] < errors[0] / 2


@pytest.mark.slow
def test_the_same_weights_serve_pictures_of_another_size(trained):
    larger = trained.at_grid((4, 4))
    raw = np.concatenate([pictures("distances", 1)] * 2, axis=1)
    ids = larger.encode(raw)
    assert ids.shape == (1, 4, 4) and larger.decode(ids).shape == raw.shape
    assert larger.decoder.out.kernel[...] is trained.decoder.out.kernel[...]


@pytest.mark.slow
def test_a_saved_tokenizer_comes_back_whole(trained, tmp_path):
    trained.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert isinstance(loaded, DiffusionTokenizer)
    assert loaded.config == trained.config and loaded.values == trained.values
    ids = trained.encode(pictures("distances"))
    assert np.array_equal(loaded.encode(pictures("distances")), ids)
    assert np.array_equal(loaded.decode(ids), trained.decode(ids))


@pytest.mark.slow
def test_a_saved_tokenizer_that_does_not_fit_is_refused(trained, tmp_path):
    trained.save(tmp_path / "saved")
    description, arrays, _ = load_folder(tmp_path / "saved")
    arrays.pop("decoder/out/bias")
    save_folder(tmp_path / "saved", description, arrays)
    with pytest.raises(ValueError, match="do not fit its description"):
        load_tokenizer(tmp_path / "saved")


def test_dropped_codes_are_zero_and_the_others_as_they_were():
    codes = jnp.ones((200, 3, 4, 2))
    seen = np.asarray(drop_codes(codes, 0.5, (2, 5), jax.random.key(0)))[..., 0]
    assert set(np.unique(seen)) == {0, 1}
    counts = seen.sum(axis=(1, 2))
    assert set(counts) == {2, 3, 4, 5, 12}
    assert 60 < (counts == 12).sum() < 140
    assert np.array_equal(drop_codes(codes, 0.0, (0, 0), jax.random.key(0)), codes)
    assert not drop_codes(codes, 1.0, (0, 0), jax.random.key(0)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code_dropout": 1.5}, "code_dropout is 1.5 .* must be between 0 and 1"),
        ({"codes_kept": (3, 2)}, r"codes_kept \(3, 2\)"),
        ({"encoder": dataclasses.replace(ENCODER, class_channels=3)}, "set it to 0 for one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (TINY, (8, 6), "patches of 4 do not tile"),
        (dataclasses.replace(TINY, decoder=UNetConfig(patch_size=8)), (8, 8), "multiples of 16"),
        (dataclasses.replace(TINY, codes_kept=(0, 9)), (8, 8), "a picture has 4 codes"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(config, size, message):
    raw = np.zeros((2, *size, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        config.fit(Colors(), raw, jax.random.key(0))


def test_wrong_values_and_ids_are_refused(trained):
    with pytest.raises(ValueError, match=r"this tokenizer takes \(8, 16\)"):
        trained.encode(np.zeros((1, 8, 8), np.float32))
    for ids in (np.full((1, 2, 4), 16), np.full((1, 2, 4), -1)):
        with pytest.raises(ValueError, match="has ids 0 to 15"):
            trained.decode_with(ids, jax.random.key(0))
    codes, start = jnp.zeros((1, 2, 4, 4)), jnp.zeros((1, 8, 16, 2))
    with pytest.raises(ValueError, match="step_noise is missing; ddpm needs it"):
        trained.draw(codes, start, SamplingConfig(sampler="ddpm"))
