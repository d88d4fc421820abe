"""Text: scoring, flipping, and ids by sentencepiece."""

import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Array, Int, Int32

from tokenizers.base import Better, Choices, Crop, RawBatch, SequenceTokens
from tokenizers.settings.checked import Checked, name_knob
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.text.sequences import pad_sequences, read_sequences

NUM_BYTES = 256
"""Pieces that stand for one byte each, so that any text has ids."""
NORMALIZATION = "nmt_nfkc"
"""Sentencepiece's rule: unify compatible characters, tidy spaces, drop control characters."""
COORDINATE = r"<(\d{1,9})>"
"""How a text mentions a position."""


@dataclass(frozen=True)
class Text(Checked):
    """A non-empty `str` per sample, such as a caption.

    Every metric but `exact` is a micro-averaged F1: a text is reduced to a set of findings, and
    findings are counted over all samples. Sets make repetition harmless, as when a caption
    names an object again to say where it stands.
    """

    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Lower-case words by the attribute they name, such as {"color": ("red", "blue")}. Each
    attribute is scored by the F1 of its words: "f1_color"."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Attributes that bind: ("color", "shape") scores a colour word directly followed by a shape
    word as one finding, "f1_color_shape". The first pair is the main metric."""
    flip_words: tuple[tuple[str, str], ...] = (("left", "right"),)
    """Words that change places when the picture is mirrored. A text that has one of them is left
    out of turned pictures."""

    def check_knobs(self, knob: str) -> None:
        for name in {name for pair in self.pairs for name in pair} - set(self.attributes):
            raise ValueError(
                f"{name_knob(knob, 'pairs')} names the attribute {name!r}, but "
                f"{name_knob(knob, 'attributes')} has only {sorted(self.attributes)}."
            )
        for name, words in self.attributes.items():
            for word in words:
                if _words(word) != [word]:
                    raise ValueError(
                        f"{name_knob(knob, 'attributes')}[{name!r}] holds {word!r}; give single "
                        "lower-case words."
                    )

    @property
    def metrics(self) -> dict[str, Better]:
        """F1 of pairs, of attributes and of all words (with repetition), and exact matches."""
        return dict.fromkeys((*self._findings("").keys(), "exact"), "higher")

    def check(self, value: Any, name: str) -> str:
        """Returns the text as a `str`; UTF-8 bytes are decoded.

        Raises:
            ValueError: If it is not text, or empty.
        """
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} holds bytes that are not UTF-8 text.") from error
        if not isinstance(value, str):
            raise ValueError(f"{name} is a {type(value).__name__}; text (a str) is allowed.")
        if not value.strip():
            raise ValueError(
                f"{name} is an empty text; leave the modality out of samples that have none."
            )
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{name} holds a lone surrogate; give valid Unicode text.")
        return str(value)

    def crop(self, value: str, crop: Crop, size: tuple[int, int]) -> str | None:
        """Returns the text with `flip_words` exchanged if the crop mirrors; None if it has one and
        the crop turns.

        What a crop removes from the picture stays in the text, and coordinates that a text
        mentions stay as they are.
        """
        if not self.flip_words or not (crop.flip or crop.quarter_turns):
            return value
        other = {a: b for pair in self.flip_words for a, b in (pair, pair[::-1])}
        pattern = r"\b(" + "|".join(map(re.escape, other)) + r")\b"

        if crop.quarter_turns and re.search(pattern, value, flags=re.IGNORECASE):
            return None
        if not crop.flip:
            return value

        def exchange(match: re.Match[str]) -> str:
            word = other[match[0].lower()]
            return word.capitalize() if match[0][0].isupper() else word

        return re.sub(pattern, exchange, value, flags=re.IGNORECASE)

    def score(
        self, predicted: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns every metric in [0, 1]; `where` does not apply to text and is ignored.

        Where the truth is several texts (`Choices`), each metric takes the one that is closest to
        what was predicted, as SQuAD does (Rajpurkar et al. 2016, section 6.1).
        """
        found = [self._findings(text) for text in predicted]
        true = [[self._findings(text) for text in _all_of(texts)] for texts in truth]
        scores = {
            name: _f1_of_closest([f[name] for f in found], [[t[name] for t in ts] for ts in true])
            for name in self._findings("")
        }
        return scores | {"exact": _share_exact(predicted, truth)}

    def floor(
        self, training: RawBatch, truth: RawBatch, where: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns what the best constant answer to each metric scores on `truth`.

        For an F1 that is the k most frequent findings, with the k that is best on `training`;
        for exact matches the most frequent text.
        """
        trained = [self._findings(text) for text in training]
        true = [[self._findings(text) for text in _all_of(texts)] for texts in truth]
        scores = {}
        for name in self._findings(""):
            constant = _best_constant([t[name] for t in trained])
            several = [[t[name] for t in texts] for texts in true]
            scores[name] = _f1_of_closest([constant] * len(true), several)
        ((common, _),) = Counter(map(_tidy, training)).most_common(1)
        return scores | {"exact": _share_exact([common] * len(truth), truth)}

    def draw(self, value: str, size: tuple[int, int]) -> str:
        """Returns the text itself."""
        return value

    def _findings(self, text: str) -> dict[str, frozenset[Hashable]]:
        """Returns what each F1 metric finds in `text`, main metric first."""
        words = _words(text)
        found: dict[str, frozenset[Hashable]] = {}
        for first, second in self.pairs:
            found[f"f1_{first}_{second}"] = frozenset(
                pair
                for pair in itertools.pairwise(words)
                if pair[0] in self.attributes[first] and pair[1] in self.attributes[second]
            )
        for name, allowed in self.attributes.items():
            found[f"f1_{name}"] = frozenset(words) & frozenset(allowed)
        # A bag as a set: the third "the" is the finding ("the", 3).
        seen: Counter[str] = Counter()
        bag = []
        for word in words:
            seen[word] += 1
            bag.append((word, seen[word]))
        found["f1_words"] = frozenset(bag)
        return found


@dataclass(frozen=True)
class TextTokenizerConfig(Checked):
    """Pieces of words learnt from the training texts by byte-pair encoding.

    Byte-pair encoding rather than a unigram model: on captions from a small vocabulary it gives
    one piece per word where the unigram model gives three.
    """

    vocab_size: int = 2048
    """Largest number of ids, specials and 256 byte pieces included. Texts with few distinct words
    get fewer."""
    max_tokens: int = 64
    """Longest sequence, its end included. Longer texts lose their last words."""
    num_sentinels: int = 32
    """Ids that stand for masked spans."""
    num_coordinates: int = 0
    """Ids for positions: with 100, a text may say "<0>" to "<99>", one id each. Mirroring and
    cropping don't move them."""

    def check_knobs(self, knob: str) -> None:
        if self.max_tokens < 2 or self.num_sentinels < 1 or self.num_coordinates < 0:
            raise ValueError(
                f"{name_knob(knob, 'max_tokens')} is {self.max_tokens}, num_sentinels "
                f"{self.num_sentinels} and num_coordinates {self.num_coordinates}; at least 2, 1 "
                "and 0 are allowed."
            )
        if self.vocab_size < self._num_special + NUM_BYTES + 32:
            raise ValueError(
                f"{name_knob(knob, 'vocab_size')} is {self.vocab_size}, which leaves no room for "
                f"words; with {self.num_sentinels} sentinels, {self.num_coordinates} coordinates "
                f"and {NUM_BYTES} bytes, at least {self._num_special + NUM_BYTES + 32} is allowed."
            )

    @property
    def _num_special(self) -> int:
        return 1 + self.num_sentinels + self.num_coordinates

    def fit(self, values: Text, training: RawBatch, key: Array | None = None) -> "TextTokenizer":
        """Returns a tokenizer whose pieces are learnt from `training`; the same for the same texts.

        Warns with the share of training texts that don't fit into `max_tokens`.

        Raises:
            ValueError: If there is no text, or one of them is empty.
        """
        texts = [_tidy(values.check(text, "training text")) for text in training]
        if not texts:
            raise ValueError("Text tokenizer: no training text was given; at least one is needed.")
        num_pieces = self.vocab_size - self._num_special
        corpus = (
            [re.sub(COORDINATE, " ", text) for text in texts] if self.num_coordinates else texts
        )
        corpus = sentencepiece.SentencePieceNormalizer(rule_name=NORMALIZATION).normalize(corpus)
        # Half of what the bytes leave is for single characters; rarer ones are spelt in bytes.
        # Blanking them here, as sentencepiece's own coverage can't go below 0.98.
        counts = Counter(character for text in corpus for character in text)
        common = dict(counts.most_common((num_pieces - NUM_BYTES) // 2))
        blank = {ord(character): " " for character in counts if character not in common}
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(text.translate(blank) for text in corpus),
                model_writer=model,
                model_type="bpe",
                vocab_size=num_pieces + 1,  # Sentencepiece insists on an unknown piece; we drop it.
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name=NORMALIZATION,
                max_sentence_length=2**30,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                f"Text tokenizer: no pieces can be learnt from {len(texts)} texts with "
                f"{len(counts)} different characters and vocab_size={self.vocab_size}; "
                "raise vocab_size or give texts with visible characters."
            ) from error
        tokenizer = TextTokenizer(self, values, model.getvalue())
        counts = tokenizer.count_tokens(texts)
        share = float(np.mean(counts > self.max_tokens))
        if share > 0:
            warnings.warn(
                f"{share:.1%} of the training texts have more than {self.max_tokens} tokens (the "
                f"longest {counts.max()}) and lose their last words; raise max_tokens to keep "
                "them.",
                stacklevel=2,
            )
        return tokenizer


class TextTokenizer:
    """Texts to ids and back; ids are [end, sentinels, coordinates, pieces]."""

    def __init__(self, config: TextTokenizerConfig, values: Text, model: bytes) -> None:
        """Args:
        config: What the tokenizer was fitted with.
        values: What the texts mean.
        model: A serialised sentencepiece model with byte fallback and unknown id 0.
        """
        self._config = config
        self.values = values
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._first_coordinate = 1 + config.num_sentinels
        self._first_piece = self._first_coordinate + config.num_coordinates
        self.vocab_size = self._first_piece + self._processor.vocab_size() - 1
        self.token_shape = (config.max_tokens,)
        self.special = SequenceTokens(end=0, first_sentinel=1, num_sentinels=config.num_sentinels)

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch tokens"]:
        """Returns ids [batch, max_tokens] with an end; texts too long lose their last words."""
        return pad_sequences(self._to_ids(values), self.special.end, *self.token_shape)

    def decode(self, ids: Int[np.ndarray, "batch tokens"]) -> list[str]:
        """Returns the texts before each end; sentinels and padding leave no trace.

        Raises:
            ValueError: If an id is out of range.
        """
        return [self._to_text(row) for row in read_sequences(ids, self.special, self.vocab_size)]

    def count_tokens(self, values: RawBatch) -> Int32[np.ndarray, "batch"]:
        """Returns how many ids each text needs, its end included, before truncation."""
        return np.array([len(ids) + 1 for ids in self._to_ids(values)], np.int32)

    def save(self, folder: Path) -> None:
        """Writes the sentencepiece model and the configuration into `folder`."""
        description = {
            "tokenizer": "text",
            "config": asdict(self._config),
            "values": to_part(self.values),
        }
        save_folder(folder, description, {}, {"sentencepiece.model": self._model})

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, _, files = load_folder(folder, "text")
        config = read_part(description, "config", TextTokenizerConfig, folder)
        values = read_part(description, "values", Text, folder)
        return cls(config, values, files["sentencepiece.model"])

    def _to_ids(self, texts: Sequence[str] | np.ndarray) -> list[list[int]]:
        # Texts are cut at their coordinates; odd parts are then the coordinates' numbers.
        parts = [
            re.split(COORDINATE, text) if self._config.num_coordinates else [text] for text in texts
        ]
        for row in parts:
            for i in reversed(range(1, len(row), 2)):
                if int(row[i]) >= self._config.num_coordinates:
                    row[i - 1 : i + 2] = [f"{row[i - 1]}<{row[i]}>{row[i + 1]}"]
        pieces = iter(self._processor.encode([part for row in parts for part in row[::2]]))
        ids = []
        for row in parts:
            ids.append([])
            for i, part in enumerate(row):
                if i % 2:
                    ids[-1].append(self._first_coordinate + int(part))
                else:
                    ids[-1] += [self._first_piece + piece - 1 for piece in next(pieces)]
        return ids

    def _to_text(self, ids: Int[np.ndarray, "_"]) -> str:
        parts = [""]
        pieces: list[int] = []
        for token in [*ids.tolist(), None]:
            if token is not None and token >= self._first_piece:
                pieces.append(token - self._first_piece + 1)
                continue
            parts.append(self._processor.decode(pieces))
            pieces = []
            if token is not None:
                parts.append(f"<{token - self._first_coordinate}>")
        return _tidy(" ".join(parts))


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _all_of(texts: str | Choices) -> tuple[str, ...]:
    """Returns the texts that a sample has."""
    return texts if isinstance(texts, Choices) else (texts,)


def _share_exact(predicted: RawBatch, truth: RawBatch) -> float:
    pairs = zip(predicted, truth, strict=True)
    return float(np.mean([_tidy(a) in map(_tidy, _all_of(b)) for a, b in pairs]))


def _f1_of_closest(
    found: list[frozenset[Hashable]], true: list[list[frozenset[Hashable]]]
) -> float:
    """Returns the micro-averaged F1 with that of each sample's truths for which its own is best."""
    closest = [max(ts, key=lambda t: _f1([f], [t])) for f, ts in zip(found, true, strict=True)]
    return _f1(found, closest)


def _f1(found: list[frozenset[Hashable]], true: list[frozenset[Hashable]]) -> float:
    """Returns the micro-averaged F1; 1 if there is nothing to find and nothing was found."""
    both = sum(len(f & t) for f, t in zip(found, true, strict=True))
    total = sum(map(len, found)) + sum(map(len, true))
    return 2 * both / total if total else 1.0


def _best_constant(true: list[frozenset[Hashable]]) -> frozenset[Hashable]:
    """Returns the set that scores the highest F1 as the answer to all of `true`."""
    counts = Counter(finding for findings in true for finding in findings)
    # Of all sets of size k, the k most frequent findings hit most often.
    ranked = sorted(counts, key=lambda finding: (-counts[finding], finding))
    hits = np.cumsum([0] + [counts[finding] for finding in ranked])
    sizes = np.arange(len(hits))
    f1 = 2 * hits / np.maximum(sizes * len(true) + hits[-1], 1)
    return frozenset(ranked[: int(np.argmax(f1))])
