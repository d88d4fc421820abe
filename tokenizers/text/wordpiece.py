"""Text by the WordPiece vocabulary of the published 4M models.

One file serves every modality that is text or is written as text: captions, detections, metadata,
poses, palettes. Besides words it has one id per coordinate ("v0=12 v1=3"), object class and
sentinel. What the ids mean and how the file is read is in `wordpiece_file`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Array, Int, Int32, Key

from tokenizers.base import RawBatch, SequenceTokens
from tokenizers.settings.checked import Checked
from tokenizers.settings.plain import to_part
from tokenizers.storage.folders import load_folder, read_part, save_folder
from tokenizers.text.sentencepiece import Text
from tokenizers.text.sequences import pad_sequences, read_sequences
from tokenizers.text.wordpiece_file import WordPieceFile

FILE = "wordpiece.json"
END = "[EOS]"
SILENT_TOKENS = ("[PAD]", "[SOS]", "[S_0]")
"""Tokens that stand for no text, beside the end and the sentinels; a model may still write them."""


@dataclass(frozen=True)
class WordPieceTokenizerConfig(Checked):
    """Text by a WordPiece vocabulary that is there already; nothing is fitted."""

    path: str
    """Tokenizer file, such as text_tokenizer_4m_wordpiece_30k.json of the ml-4m repository."""
    max_tokens: int = 256
    """Longest sequence, its end included."""

    def fit(self, values: Text, raw: RawBatch, key: Key[Array, ""]) -> "WordPieceTokenizer":
        """Returns the file's tokenizer; the samples and the key play no part.

        Raises:
            ValueError: If there is no such file, or it is not supported.
        """
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise ValueError(
                f"There is no tokenizer file {self.path!r}; set tokenizer.path to one."
            )
        return WordPieceTokenizer(values, file.read_bytes(), self.max_tokens)


class WordPieceTokenizer:
    """Texts to ids of a tokenizer file, and back.

    The end is the file's "[EOS]". Sentinels are counted from "[S_1]", as in ml-4m, where "[S_0]"
    is never used. A text that is too long loses its last words and keeps its end; ml-4m cuts off
    the end, too.
    """

    def __init__(self, values: Text, content: bytes, max_tokens: int) -> None:
        """Args:
        values: What the texts mean.
        content: The tokenizer file.
        max_tokens: Longest sequence, its end included.

        Raises:
            ValueError: If the file is not supported, or has no end or no sentinels.
        """
        if max_tokens < 2:
            raise ValueError(
                f"WordPiece tokenizer: max_tokens={max_tokens}; at least 2 is allowed."
            )
        self.values = values
        self._content = content
        self._file = WordPieceFile(content)
        ids = self._file.token_ids
        sentinels = {
            int(match[1]): number
            for token, number in ids.items()
            if (match := re.fullmatch(r"\[S_([1-9][0-9]{0,5})\]", token))
        }
        if END not in ids or 1 not in sentinels:
            raise ValueError(
                f"WordPiece tokenizer: the tokenizer file has no {END} or no [S_1]; give one with "
                "an end and sentinels, such as the published 4M models'."
            )
        first, count = sentinels[1], len(sentinels)
        if sentinels != {1 + i: first + i for i in range(count)}:
            raise ValueError(
                f"WordPiece tokenizer: the ids of [S_1] to [S_{max(sentinels)}] don't follow each "
                "other without a gap; give a file in which they do."
            )
        self.special = SequenceTokens(end=ids[END], first_sentinel=first, num_sentinels=count)
        self.vocab_size = self._file.vocab_size
        self.token_shape = (max_tokens,)
        self._silent = [ids[token] for token in SILENT_TOKENS if token in ids]

    def encode(self, values: RawBatch) -> Int32[np.ndarray, "batch tokens"]:
        """Returns ids [batch, max_tokens] with an end; texts too long lose their last words."""
        sequences = [self._file.encode(text) for text in values]
        return pad_sequences(sequences, self.special.end, *self.token_shape)

    def decode(self, ids: Int[np.ndarray, "batch tokens"]) -> list[str]:
        """Returns the texts before each end; sentinels and padding leave no trace.

        A text comes back in its normal form: of the published file, in lower case and without
        accents, with spaces between most marks of punctuation.

        Raises:
            ValueError: If an id is out of range.
        """
        rows = read_sequences(ids, self.special, self.vocab_size)
        return [self._file.decode(row[~np.isin(row, self._silent)].tolist()) for row in rows]

    def count_tokens(self, values: RawBatch) -> Int32[np.ndarray, "batch"]:
        """Returns how many ids each text needs, its end included, before truncation."""
        return np.array([len(self._file.encode(text)) + 1 for text in values], np.int32)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer file and the configuration into `folder`."""
        description = {
            "tokenizer": "wordpiece",
            "config": {"max_tokens": self.token_shape[0]},
            "values": to_part(self.values),
        }
        save_folder(folder, description, {}, {FILE: self._content})

    @classmethod
    def load(cls, folder: Path) -> "WordPieceTokenizer":
        """Returns the tokenizer that `save` wrote.

        Raises:
            ValueError: If the folder is absent, damaged or of another kind.
        """
        description, _, files = load_folder(folder, "wordpiece")
        values = read_part(description, "values", Text, folder)
        return cls(values, files[FILE], **description["config"])
