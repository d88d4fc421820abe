"""A world in which every modality tells the same number, and models that know it or do not."""

from types import SimpleNamespace

import numpy as np

from fourm.features.extract import TokenFeatures
from fourm.run_directory.sample_set import SampleSet
from fourm.token_space import TokenSpace
from tokenizers.base import Boxes
from tokenizers.boxes import BoxList
from tokenizers.text.sentencepiece import Text
from tokenizers.values import Classes, Colors, Distances

COLORS = ("red", "blue", "green", "pink")
MODALITIES = ("rgb", "depth", "semseg", "caption", "boxes")
SIDE = 8


def make_sample(number: int) -> dict:
    """Every modality says `number`, 0 to 3; half of the picture is an object."""
    semseg = np.zeros((SIDE, SIDE), np.uint8)
    semseg[:, SIDE // 2 :] = number
    return {
        "rgb": np.full((SIDE, SIDE, 3), 10 + 60 * number, np.uint8),
        "depth": np.full((SIDE, SIDE), 1.0 + number, np.float32),
        "semseg": semseg,
        "caption": f"a {COLORS[number]} thing",
        "boxes": Boxes(
            np.array([[0.2 * number, 0.1, 0.2 * number + 0.2, 0.9]], np.float32),
            np.array([0], np.int32),
        ),
        "metadata": {"number": number, "is_pink": int(number == 3), "word": COLORS[number]},
    }


def make_set(size: int, seed: int = 0, modalities=MODALITIES) -> SampleSet:
    numbers = np.random.default_rng(seed).integers(0, 4, size)
    return SampleSet.collect([make_sample(int(number)) for number in numbers], modalities)


class FakeTokenizer:
    """One token that is the number itself; the round trip of rgb loses a little."""

    vocab_size = 8
    token_shape = (1,)
    special = None

    def __init__(self, name, values):
        self.name, self.values = name, values

    def encode(self, values):
        return np.array([[read_number(self.name, value)] for value in values], np.int32)

    def decode(self, ids):
        values = [make_sample(int(number))[self.name] for number in np.ravel(ids)]
        if self.name == "rgb":
            values = [value + np.uint8(3) for value in values]
        return np.stack(values) if isinstance(values[0], np.ndarray) else values


def read_number(name, value) -> int:
    match name:
        case "rgb":
            return round((float(np.mean(value)) - 10) / 60)
        case "depth":
            return round(float(np.mean(value)) - 1)
        case "semseg":
            return int(value[0, -1])
        case "caption":
            return next(i for i, word in enumerate(COLORS) if word in value)
        case "boxes":
            return round(float(value.corners[0, 0]) / 0.2)
    raise AssertionError(name)


class FakeModel:
    """Says the number it sees ("perfect"), or always the same ("constant")."""

    def __init__(self, kind="perfect", modalities=MODALITIES):
        values = {
            "rgb": Colors(),
            "depth": Distances(),
            "semseg": Classes(("ground", "a", "b", "c")),
            "caption": Text(attributes={"color": COLORS}),
            "boxes": BoxList(("thing",)),
        }
        self.kind = kind
        self.tokenizers = {name: FakeTokenizer(name, values[name]) for name in modalities}
        self.config = {}
        self.calls = []

    def tokenize(self, samples):
        return {name: self.tokenizers[name].encode(raw) for name, raw in samples.items()}

    def reconstruct(self, name, raw):
        return self.tokenizers[name].decode(self.tokenizers[name].encode(raw))

    @property
    def space(self):
        return TokenSpace.build(self.tokenizers)

    def encode_inputs(self, samples):
        return self.tokenize(samples)

    def generate(self, inputs, targets, *, seed=0, settings=None, known=None, num_draws=1):
        self.calls.append((tuple(inputs) + tuple(known or ()), tuple(targets), seed, num_draws))
        ids = next(iter((known or self.tokenize(inputs)).values()))
        if self.kind == "constant":
            ids = np.full_like(ids, 1)
        return SimpleNamespace(values={name: self.tokenizers[name].decode(ids) for name in targets})

    def embed(self, inputs, batch_size=64):
        return self.features(inputs)[:, 0]

    def features(self, inputs, layers=None, pool="mean", known=None):
        name, ids = next(iter((known or self.tokenize(inputs)).items()))
        noise = np.random.default_rng(0).normal(size=(len(ids), 1, 16)).astype(np.float32)
        vectors = noise if self.kind == "constant" else noise + 3 * np.eye(16)[ids[:, :1]]
        if pool != "none":
            return vectors
        tokens = np.stack([np.zeros_like(vectors), vectors], axis=2)
        is_real = {name: np.full((len(vectors), 2), [False, True])}
        return TokenFeatures({name: tokens}, is_real, (1,))
