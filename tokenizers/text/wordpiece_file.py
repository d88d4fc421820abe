"""A tokenizer file of Hugging Face's `tokenizers`, read and applied without that package.

The package can't be imported beside our folder of the same name. What is here follows its version
0.23.3 (`tokenizer/added_vocabulary.rs`, `models/wordpiece`, `decoders/wordpiece.rs`,
`processors/template.rs`); the model is WordPiece (Wu et al. 2016, arXiv:1609.08144), as in BERT.
The file that this is for is `text_tokenizer_4m_wordpiece_30k.json` of apple/ml-4m.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.text.wordpiece_text import (
    WHITESPACE,
    build_normalizer,
    build_pre_tokenizer,
    is_word_character,
    read_fields,
)

CACHED_WORDS = 2**17
"""Words whose pieces are remembered."""


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in the text itself, before words are cut."""

    id: int
    content: str
    """The text that it stands for."""
    single_word: bool
    """Not found within a word."""
    lstrip: bool
    """Takes the whitespace to its left along."""
    rstrip: bool
    """Takes the whitespace to its right along."""
    normalized: bool
    """Its normal form is looked for in the text's normal form; else both as they are."""
    special: bool
    """May be left out when decoding."""


class WordPieceFile:
    """Texts to ids and back, exactly as the package does with the same file."""

    def __init__(self, content: bytes) -> None:
        """Args:
        content: The JSON that the package's `Tokenizer.save` writes.

        Raises:
            ValueError: In one sentence, if it is damaged or asks for what is not supported.
        """
        try:
            spec = json.loads(content)
        except ValueError as error:
            raise ValueError(
                f"The tokenizer file is not JSON ({error}); give the file that the package's "
                "Tokenizer.save wrote."
            ) from error
        stages = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
        absent = dict.fromkeys(("truncation", "padding", *stages))
        spec = read_fields(
            spec, "file", {"version": str, "model": dict}, absent | {"added_tokens": []}
        )
        if spec["version"] != "1.0":
            raise ValueError(f"Tokenizer file: version is {spec['version']!r}; '1.0' is allowed.")
        for name in ("truncation", "padding"):
            if spec[name] is not None:
                raise ValueError(
                    f"Tokenizer file: {name} is set; only null is supported, as sequences get "
                    "their length from the modality."
                )
        self._normalize = build_normalizer(spec["normalizer"])
        self._pre_tokenize = build_pre_tokenizer(spec["pre_tokenizer"])
        self._read_model(spec["model"])
        self._read_added_tokens(spec["added_tokens"])
        self._before, self._after = self._read_template(spec["post_processor"])
        self._join = _build_decoder(spec["decoder"])

    @property
    def token_ids(self) -> Mapping[str, int]:
        """Every token's id."""
        return self._ids

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._texts)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, those that a post-processor puts around it included."""
        ids = [*self._before]
        for part, token in self._find_raw.split(text):
            if token is not None:
                ids.append(token)
                continue
            # Parts between tokens are put into normal form one by one, not the text as a whole.
            for piece, found in self._find_normalized.split(self._normalize(part)):
                if found is not None:
                    ids.append(found)
                    continue
                for word in self._pre_tokenize(piece):
                    ids += self._cut_word(word)
        return ids + self._after

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Returns the text of ids; ids that there are not leave no trace."""
        texts = [self._texts[token] for token in ids if token in self._texts]
        if skip_special:
            texts = [text for text in texts if text not in self._special]
        return self._join(texts)

    def _read_model(self, spec: Any) -> None:
        kind = spec.get("type", "WordPiece")
        if kind != "WordPiece":
            raise ValueError(f"Tokenizer file: the model is {kind!r}; WordPiece is supported.")
        required = {"unk_token": str, "continuing_subword_prefix": str}
        required |= {"max_input_chars_per_word": int, "vocab": dict}
        spec = read_fields(spec, "model", required, {"type": kind})
        vocab: dict[str, int] = spec["vocab"]
        for token, number in vocab.items():
            if type(number) is not int or number < 0:
                raise ValueError(
                    f"Tokenizer file: model.vocab gives {token!r} the id {number!r}; whole numbers "
                    "from 0 are allowed."
                )
        self._texts = {number: token for token, number in vocab.items()}
        if len(self._texts) < len(vocab):
            twice = next(token for token, number in vocab.items() if self._texts[number] != token)
            raise ValueError(
                f"Tokenizer file: model.vocab gives {twice!r} an id that another token has; ids "
                "must differ."
            )
        if spec["unk_token"] not in vocab:
            raise ValueError(
                f"Tokenizer file: model.unk_token {spec['unk_token']!r} is not in model.vocab; "
                "add it."
            )
        self._vocab = vocab
        self._ids = dict(vocab)
        self._prefix: str = spec["continuing_subword_prefix"]
        self._longest_word: int = spec["max_input_chars_per_word"]
        self._unknown = (vocab[spec["unk_token"]],)
        self._cut: dict[str, tuple[int, ...]] = {}

    def _read_added_tokens(self, specs: Any) -> None:
        if not isinstance(specs, list):
            raise ValueError("Tokenizer file: added_tokens is not a list; a list is allowed.")
        required: dict[str, type] = {"id": int, "content": str}
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        required |= dict.fromkeys(flags, bool)
        raw: dict[str, AddedToken] = {}
        normalized: dict[str, AddedToken] = {}
        self._special: set[str] = set()
        added: set[int] = set()
        next_id = len(self._vocab)
        for i, spec in enumerate(specs):
            token = AddedToken(**read_fields(spec, f"added_tokens[{i}]", required))
            # The package ignores the id in the file: it is the vocabulary's, or the next free one.
            expected = self._ids.get(token.content, next_id)
            next_id += expected == next_id
            if token.id != expected:
                raise ValueError(
                    f"Tokenizer file: added token {token.content!r} has the id {token.id}, where "
                    f"model.vocab and the tokens before it leave {expected}; correct the file."
                )
            text = self._normalize(token.content) if token.normalized else token.content
            found = normalized if token.normalized else raw
            if not text or text in found or token.id in added:
                raise ValueError(
                    f"Tokenizer file: added token {token.content!r} is listed twice, or is in its "
                    "normal form empty or the same as another; give different texts."
                )
            found[text] = token
            added.add(token.id)
            self._ids[token.content] = token.id
            # Decoding, too, gives the normal form, and so does not know a special token by it.
            self._texts[token.id] = text
            if token.special:
                self._special.add(token.content)
        self._find_raw, self._find_normalized = _Finder(raw), _Finder(normalized)

    def _read_template(self, spec: Any) -> tuple[list[int], list[int]]:
        """Returns the ids that go before and after a text's own."""
        if spec is None:
            return [], []
        where = "post_processor"
        kind = spec.get("type") if isinstance(spec, dict) else spec
        if kind != "TemplateProcessing":
            raise ValueError(
                f"Tokenizer file: {where} is of type {kind!r}; null and TemplateProcessing are "
                "supported."
            )
        required = {"type": str, "single": list, "pair": list, "special_tokens": dict}
        spec = read_fields(spec, where, required)
        parts: list[list[int]] = [[]]
        for i, piece in enumerate(spec["single"]):
            match piece:
                case {"Sequence": {"id": "A"}}:
                    parts.append([])
                case {"SpecialToken": {"id": str(name)}} if name in spec["special_tokens"]:
                    inside = f"{where}.special_tokens.{name}"
                    fields = {"id": str, "ids": list, "tokens": list}
                    ids = read_fields(spec["special_tokens"][name], inside, fields)["ids"]
                    if unknown := [token for token in ids if token not in self._texts]:
                        raise ValueError(
                            f"Tokenizer file: {inside} has the id {unknown[0]!r}, which no token "
                            "has; correct it."
                        )
                    parts[-1] += ids
                case _:
                    raise ValueError(
                        f"Tokenizer file: {where}.single[{i}] is {piece!r}; the sequence A and the "
                        "special tokens listed beside it are allowed."
                    )
        if len(parts) != 2:
            raise ValueError(
                f"Tokenizer file: {where}.single holds the sequence A {len(parts) - 1} times; once "
                "is allowed."
            )
        return parts[0], parts[1]

    def _cut_word(self, word: str) -> tuple[int, ...]:
        if word not in self._cut:
            if len(self._cut) >= CACHED_WORDS:
                self._cut.clear()
            self._cut[word] = self._cut_new_word(word)
        return self._cut[word]

    def _cut_new_word(self, word: str) -> tuple[int, ...]:
        """Returns the longest known beginning, then the longest continuation, to the end.

        One part that is not known makes the whole word unknown.
        """
        if len(word) > self._longest_word:
            return self._unknown
        ids, start = [], 0
        while start < len(word):
            prefix = self._prefix if start else ""
            for end in range(len(word), start, -1):
                token = self._vocab.get(prefix + word[start:end])
                if token is not None:
                    break
            else:
                return self._unknown
            ids.append(token)
            start = end
        return tuple(ids)


class _Finder:
    """Finds added tokens in texts: the leftmost, of these the longest, then on from its end."""

    def __init__(self, tokens: dict[str, AddedToken]) -> None:
        self._tokens = tokens
        self._pattern = re.compile(_pattern_of(tokens)) if tokens else None

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Yields the parts of a text, none empty, with the id of those that are tokens."""
        end = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[match[0]]
            start, stop = match.span()
            is_inside = (start and is_word_character(text[start - 1])) or (
                stop < len(text) and is_word_character(text[stop])
            )
            if token.single_word and is_inside:
                continue  # What it covers is spent: no other token is looked for in there.
            if token.lstrip:
                start = max(len(text[:start].rstrip(WHITESPACE)), end)
            if token.rstrip:
                stop = len(text) - len(text[stop:].lstrip(WHITESPACE))
            if end < start:
                yield text[end:start], None
            if start < stop:
                yield text[start:stop], token.id
            end = stop
        if end < len(text):
            yield text[end:], None


def _pattern_of(texts: Mapping[str, Any]) -> str:
    """Returns a pattern of the longest of `texts` at a place.

    It branches letter by letter: thousands of alternatives in a row would be tried one by one.
    """
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}

    def pattern(node: dict[str, Any]) -> str:
        branches = [re.escape(key) + pattern(child) for key, child in node.items() if key]
        if not branches:
            return ""
        can_end = "" in node
        if len(branches) == 1 and not can_end:
            return branches[0]
        return f"(?:{'|'.join(branches)}){'?' if can_end else ''}"

    return pattern(tree)


def _build_decoder(spec: Any) -> Any:
    """Returns the function that joins tokens to a text."""
    if spec is None:
        return " ".join
    kind = spec.get("type") if isinstance(spec, dict) else spec
    if kind != "WordPiece":
        raise ValueError(
            f"Tokenizer file: decoder is of type {kind!r}; null and WordPiece are supported."
        )
    spec = read_fields(spec, "decoder", {"type": str, "prefix": str, "cleanup": bool})
    prefix: str = spec["prefix"]

    def join(tokens: list[str]) -> str:
        texts = tokens[:1] + [
            token[len(prefix) :] if token.startswith(prefix) else f" {token}"
            for token in tokens[1:]
        ]
        return "".join(map(_tidy, texts) if spec["cleanup"] else texts)

    return join


def _tidy(token: str) -> str:
    """Returns one token without the space before it where English has none."""
    for before in (" .", " ?", " !", " ,"):
        token = token.replace(before, before[1])
    token = token.replace(" ' ", "'").replace(" n't", "n't").replace(" 'm", "'m")
    token = token.replace(" do not", " don't")
    return token.replace(" 's", "'s").replace(" 've", "'ve").replace(" 're", "'re")
