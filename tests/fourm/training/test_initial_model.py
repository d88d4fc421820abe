"""What a model starts from: nothing, or another run's weights where the tokenizers are equal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from fourm.devices.layout import Layout
from fourm.model.config import ModelConfig
from fourm.model.saved_model import save_model
from fourm.model.transformer import FourM
from fourm.token_space import TokenSpace
from fourm.training.initial_model import WeightSource, create_model, find_shared, find_start
from tests.fourm.tiny import Shape
from tokenizers.scalars import Scalar, ScalarTokenizer, ScalarTokenizerConfig

SMALL = ModelConfig(dim=16, num_heads=2, encoder_layers=1, decoder_layers=1)


def make_tokenizers(**most: float) -> dict[str, ScalarTokenizer]:
    config = ScalarTokenizerConfig(num_bins=4)
    return {name: config.fit(Scalar(), [0.0, 1.0, 2.0, high]) for name, high in most.items()}


def write(folder: Path, tokenizers: dict[str, ScalarTokenizer]) -> Path:
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / "tokenizers" / name)
    return folder


def test_only_tokenizers_of_the_same_name_and_contents_are_shared(tmp_path):
    ours, theirs = make_tokenizers(a=3, b=4, c=5), make_tokenizers(c=5, b=9, d=3)
    source, folder = write(tmp_path / "source", theirs), write(tmp_path / "run", ours)
    assert find_shared(source, folder, ours) == ("c",)
    with pytest.raises(ValueError, match="no modality with the same tokenizer as one of a;"):
        find_shared(source, folder, {"a": ours["a"]})


@pytest.mark.slow
def test_without_another_run_weights_are_random_and_codes_that_mean_alike_lie_near():
    tokenizers = make_tokenizers(a=3)
    start = find_start(tokenizers, Path("nowhere"))
    assert start == WeightSource(TokenSpace.build(tokenizers))
    model = create_model(start, SMALL, tokenizers, 0, Layout.single())
    entry = model.space["a"]
    rows = np.asarray(model.output_table[...][entry.first_id :][: entry.vocab_size])
    near, far = (np.linalg.norm(rows[0] - rows[i]) for i in (1, len(rows) - 1))
    assert near < far


@pytest.mark.slow
def test_the_weights_and_roles_of_another_run_are_taken(tmp_path, capsys):
    theirs, ours = make_tokenizers(c=5, d=3), make_tokenizers(a=3, c=5)
    source, folder = write(tmp_path / "source", theirs), write(tmp_path / "run", ours)
    shapes = {name: Shape(t.vocab_size, t.token_shape) for name, t in theirs.items()}
    ranges = TokenSpace.build(shapes).ranges
    space = TokenSpace(tuple(replace(entry, is_input=entry.name == "d") for entry in ranges))
    model = FourM(space, SMALL, nnx.Rngs(7))
    save_model(source / "model", model)
    start = find_start(ours, folder, str(source))
    assert start.taken == ("c",)
    assert [entry.is_input for entry in start.space.ranges] == [True, False]  # a, c
    made = create_model(start, SMALL, ours, 0, Layout.single())
    here, there = made.space["c"], model.space["c"]
    for table in ("input_table", "output_table"):
        np.testing.assert_array_equal(
            getattr(made, table)[...][here.first_id :][: here.vocab_size],
            getattr(model, table)[...][there.first_id :][: there.vocab_size],
        )
    assert capsys.readouterr().out == f"from {source}: c; anew: a\n"
