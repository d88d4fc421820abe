"""A run directory with untrained weights and real tokenizers, of the smallest useful size."""

import json

import jax
import numpy as np

from fourm.any2any import Any2Any
from fourm.model.config import ModelConfig
from fourm.model.saved_model import save_model
from fourm.token_space import TokenSpace
from tests.fourm.tiny import change_config, draw_model
from tokenizers.boxes import BoxList, BoxTokenizerConfig
from tokenizers.images.patch_tokenizer import ImageTokenizerConfig
from tokenizers.scalars import Scalar, ScalarTokenizerConfig
from tokenizers.text.sentencepiece import Text, TextTokenizerConfig
from tokenizers.values import Colors, Distances

SIDE = 8
CAPTIONS = ["a red cube", "a blue cone left of a red cube", "a green ball", "a red ball"]


def make_tokenizers() -> dict:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    distances = rng.uniform(1, 5, (8, SIDE, SIDE)).astype(np.float32)
    image = ImageTokenizerConfig(patch_size=4, codebook_size=16, code_dim=4, width=8)
    text = TextTokenizerConfig(vocab_size=320, max_tokens=10, num_sentinels=4)
    return {
        "rgb": image.fit(Colors(), pictures, jax.random.key(0)),
        "depth": image.fit(Distances(), distances, jax.random.key(1)),
        "caption": text.fit(Text(), CAPTIONS),
        "boxes": BoxTokenizerConfig(num_bins=10).fit(BoxList(("cube", "ball"), max_boxes=2), []),
        "count": ScalarTokenizerConfig().fit(Scalar(), [1.0, 2.0, 5.0]),
    }


def make_run(**options) -> Any2Any:
    tokenizers = make_tokenizers()
    shape = dict(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1, scan_layers=True)
    config = change_config(ModelConfig(), **shape | options)
    space = TokenSpace.build(tokenizers)
    model = draw_model(space, config, 0)
    model.output_table[...] = model.output_table[...] * 30
    return Any2Any(model, tokenizers)


def write_run(folder, run, generation=None):
    for name, tokenizer in run.tokenizers.items():
        tokenizer.save(folder / "tokenizers" / name)
    save_model(folder / "model", run.model)
    config = {"generation": generation or {}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def make_pictures(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
