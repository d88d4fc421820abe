"""A run whose views are shown changed, interrupted and resumed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs import AugmentConfig, load_run
from configs.runs.samples import open_sources
from data_pipeline.tokens.mixture import TokenMixture
from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.writer import describe_source, encode_split
from tests.test_train import assert_same_end, without_its_model
from tokenizers.base import AUGMENTED
from tokenizers.modality import load_tokenizer
from train import main

pytestmark = [pytest.mark.xdist_group("augmented"), pytest.mark.slow]

CONFIG = """
import configs as c

config = c.RunConfig(
    modalities={
        "rgb": c.Modality(
            c.Colors(), c.ImageTokenizerConfig(codebook_size=32, width=8, decoder_depth=1, steps=3)
        ),
        "distance": c.Modality(c.Scalar(unit="m"), c.ScalarTokenizerConfig(num_bins=8)),
    },
    data=c.ScenesData(num_train=16, num_validation=4, num_test=4, image_size=32),
    crops=c.CropConfig(
        size=32,
        views=2,
        augment=c.AugmentConfig(
            brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, blur=0.5, cut_out=0.1
        ),
    ),
    model=c.ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1),
    loss=c.LossConfig(tile=1),
    training=c.TrainingConfig(
        steps=8, batch_size=8, log_every=2, checkpoint_every=3, evaluate_every=4
    ),
    evaluation=c.EvaluationConfig(pairs=("rgb->distance",), num_samples=4, rivals=False),
)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("configs") / "augmented.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def run(config) -> Path:
    folder = config.parent / "whole"
    assert main([str(config), "--run-dir", str(folder)]) == 0
    return folder


def test_a_view_has_tokens_of_itself_and_of_what_is_shown(run):
    source = open_sources(load_run(run)[0])["train"]
    tokenizer = load_tokenizer(run / "tokenizers" / "rgb")
    store = TokenStore.open(run / "tokens")
    batch = store.batch(np.arange(len(store)))
    assert len(store) == 32 and batch.num_real["rgb:shown"].tolist() == [0, 16] * 16
    views = source.__getitems__(range(32))
    own = np.stack([view["rgb"] for view in views])
    read = np.stack([view.get(AUGMENTED, view)["rgb"] for view in views])
    np.testing.assert_array_equal(tokenizer.encode(own).reshape(32, 16), batch.ids["rgb"])
    shown = np.where(
        batch.num_real["rgb:shown"][:, None] > 0, batch.ids["rgb:shown"], batch.ids["rgb"]
    )
    np.testing.assert_array_equal(tokenizer.encode(read).reshape(32, 16), shown)
    assert (shown[1::2] != batch.ids["rgb"][1::2]).any()
    packed = np.stack(tokenizer.pack(read))
    layout = store.index.layouts["rgb:features"]
    np.testing.assert_array_equal(layout.unpack(packed), batch.features["rgb:features"])
    heldout = TokenStore.open(run / "heldout_tokens")
    assert "rgb:shown" not in heldout.index.layouts


def test_what_is_asked_is_that_of_a_run_without(run, tmp_path):
    config = load_run(run)[0]
    plain = replace(config, crops=replace(config.crops, augment=AugmentConfig()))
    folder = tmp_path / "plain"
    tokenizers = {name: load_tokenizer(run / "tokenizers" / name) for name in config.modalities}
    source = open_sources(plain)["train"]
    made_from = describe_source(plain.data, plain.crops, plain.seed, "train")
    encode_split(source, tokenizers, dict.fromkeys(tokenizers, ""), made_from, folder)
    found, before = (TokenStore.open(each) for each in (run / "tokens", folder))
    ours, theirs = (store.batch(np.arange(32)) for store in (found, before))
    assert list(theirs.ids) == ["distance", "rgb"]
    for name, ids in theirs.ids.items():
        assert ids.tobytes() == ours.ids[name].tobytes()
    # The first views also show the same.
    numbers = [batch.features["rgb:features"] for batch in (ours, theirs)]
    assert numbers[0][::2].tobytes() == numbers[1][::2].tobytes()
    assert (numbers[0][1::2] != numbers[1][1::2]).any()


def test_interrupted_and_resumed_it_ends_in_the_same_bits(run, config, tmp_path, monkeypatch):
    folder = without_its_model(run, tmp_path / "resumed")
    arguments = [str(config), "--run-dir", str(folder)]
    read = TokenMixture.batch

    def fail(mixture, indices):
        if len(mixture) == 32 and fail.left == 0:
            raise ValueError("No further.")
        fail.left -= len(mixture) == 32
        return read(mixture, indices)

    fail.left = 7
    with monkeypatch.context() as patched:
        patched.setattr(TokenMixture, "batch", fail)
        assert main(arguments) == 2
    assert any((folder / "checkpoints").iterdir()) and not (folder / "model").exists()
    assert main(arguments) == 0
    assert_same_end(run, folder)
