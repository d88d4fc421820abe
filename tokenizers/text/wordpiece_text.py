"""The stages before word pieces: a text put into normal form, and cut into words.

A tokenizer file of Hugging Face's `tokenizers` names its stages; here each is a function of a
text. They follow that package to the character (its Rust sources at version 0.23.3, folders
`normalizers` and `pre_tokenizers`), with Python's Unicode tables (version 14 in Python 3.11)
where it has three of different ages: 8 for categories of punctuation, marks and invisible
characters, 9 for normal forms, 16 for the rest. So only characters that Unicode gained or changed
since version 8 (2015) can differ; emoji don't, as none of the tables treats them in any way.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

Normalizer = Callable[[str], str]
"""Returns a text in normal form."""
PreTokenizer = Callable[[str], list[str]]
"""Returns a text's words."""

WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's property White_Space. `str.isspace` knows four control characters more."""

# What BERT calls Chinese: ideographs, which are words by themselves.
_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
# Symbols that Unicode counts as alphabetic: letters in circles and squares.
_ENCLOSED_LETTERS = (
    *((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)),
)
_JOINERS = "\u200c\u200d"

_NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# How to cut at delimiters (1) among other characters (0), by the file's name for it.
_BEHAVIORS = {
    "Removed": "0+",
    "Isolated": "1|0+",
    "Contiguous": "1+|0+",
    "MergedWithPrevious": "0*1|0+",
    "MergedWithNext": "10*|0+",
}


class CharacterMap(dict[int, str]):
    """A table for `str.translate` that asks a function about each character once."""

    def __init__(self, change: Callable[[str], str]) -> None:
        super().__init__()
        self._change = change

    def __missing__(self, code: int) -> str:
        self[code] = self._change(chr(code))
        return self[code]


def is_word_character(character: str) -> bool:
    """Returns whether a regular expression's `\\w` means it, in Unicode's definition.

    Python's `\\w` leaves marks out, which would cut words of many scripts into pieces.
    """
    if character.isascii():
        return character.isalnum() or character == "_"
    category = unicodedata.category(character)
    return (
        category[0] in "LM"
        or category in ("Nd", "Nl", "Pc")
        or character in _JOINERS
        or _is_within(character, _ENCLOSED_LETTERS)
    )


def is_punctuation(character: str) -> bool:
    """Returns whether BERT means it by punctuation: that, and every symbol of ASCII."""
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def _is_within(character: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


def read_fields(
    spec: Any,
    where: str,
    required: Mapping[str, type],
    optional: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the fields of one object of the file, with the values of optional ones filled in.

    Raises:
        ValueError: In one sentence, if a field is missing, of another type, or not known.
    """
    if not isinstance(spec, dict):
        raise ValueError(f"Tokenizer file: {where} is {_brief(spec)}; an object is allowed.")
    if missing := sorted(required.keys() - spec.keys()):
        raise ValueError(f"Tokenizer file: {where} has no {missing[0]!r}; give a complete file.")
    if unknown := sorted(spec.keys() - required.keys() - optional.keys()):
        raise ValueError(
            f"Tokenizer file: {where} has the field {unknown[0]!r}, which is not supported; "
            f"supported are {', '.join((*required, *optional))}."
        )
    for name, kind in required.items():
        # In Python, though not in JSON, a truth value is a whole number.
        if not isinstance(spec[name], kind) or (kind is int and isinstance(spec[name], bool)):
            raise ValueError(
                f"Tokenizer file: {where}.{name} is {_brief(spec[name])}; "
                f"a value of type {kind.__name__} is allowed."
            )
    return {**optional, **spec}


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type_of(spec: Any, where: str, known: tuple[str, ...]) -> str:
    kind = spec.get("type") if isinstance(spec, dict) else spec
    if kind not in known:
        raise ValueError(
            f"Tokenizer file: {where} is of type {_brief(kind)}, which is not supported; "
            f"supported are {', '.join(known)}."
        )
    return kind


def build_normalizer(spec: Any, where: str = "normalizer") -> Normalizer:
    """Returns the function that a file's `normalizer` describes; None describes none.

    Raises:
        ValueError: In one sentence, if it is not supported.
    """
    if spec is None:
        return lambda text: text
    known = ("BertNormalizer", *_NORMAL_FORMS, "Lowercase", "StripAccents", "Strip", "Replace")
    match _type_of(spec, where, (*known, "Sequence")):
        case "Sequence":
            parts = read_fields(spec, where, {"type": str, "normalizers": list})["normalizers"]
            return _chain(
                [
                    build_normalizer(part, f"{where}.normalizers[{i}]")
                    for i, part in enumerate(parts)
                ]
            )
        case "BertNormalizer":
            return _build_bert_normalizer(spec, where)
        case "Strip":
            sides = read_fields(spec, where, {"type": str, "strip_left": bool, "strip_right": bool})
            return _chain(
                [lambda text: text.lstrip(WHITESPACE)] * sides["strip_left"]
                + [lambda text: text.rstrip(WHITESPACE)] * sides["strip_right"]
            )
        case "Replace":
            fields = read_fields(spec, where, {"type": str, "pattern": dict, "content": str})
            given = read_fields(fields["pattern"], f"{where}.pattern", {"String": str})["String"]
            if not given:
                raise ValueError(f"Tokenizer file: {where} replaces an empty string; name one.")
            return lambda text: text.replace(given, fields["content"])
        case simple:
            read_fields(spec, where, {"type": str})
            match simple:
                case "Lowercase":
                    return _lower
                case "StripAccents":
                    return _map_characters(lambda c: "" if unicodedata.category(c)[0] == "M" else c)
                case form:
                    return lambda text: unicodedata.normalize(form, text)


def _build_bert_normalizer(spec: Any, where: str) -> Normalizer:
    switches = ("clean_text", "handle_chinese_chars", "lowercase")
    required = {"type": str} | dict.fromkeys(switches, bool)
    fields = read_fields(spec, where, required, {"strip_accents": None})
    strips = fields["strip_accents"]
    if strips not in (None, True, False):
        raise ValueError(
            f"Tokenizer file: {where}.strip_accents is {_brief(strips)}; true, false or null is "
            "allowed."
        )
    steps: list[Normalizer] = []
    if fields["clean_text"]:
        steps.append(_map_characters(_clean))
    if fields["handle_chinese_chars"]:
        steps.append(_map_characters(lambda c: f" {c} " if _is_within(c, _IDEOGRAPHS) else c))
    if fields["lowercase"] if strips is None else strips:
        steps.append(lambda text: unicodedata.normalize("NFD", text))
        steps.append(_map_characters(lambda c: "" if unicodedata.category(c) == "Mn" else c))
    if fields["lowercase"]:
        steps.append(_lower)
    return _chain(steps)


def _clean(character: str) -> str:
    """Returns nothing for what can't be seen, a space for any kind of space."""
    category = unicodedata.category(character)
    # Unassigned characters (Cn) stay: some tables are too old to know a character.
    is_invisible = category[0] == "C" and category != "Cn" and character not in "\t\n\r"
    if is_invisible or character == "\ufffd":
        return ""
    return " " if character in WHITESPACE else character


def _map_characters(change: Callable[[str], str]) -> Normalizer:
    table = CharacterMap(change)
    return lambda text: text.translate(table)


# Not `str.lower` of the whole, which writes a sigma at the end of a word differently.
_lower = _map_characters(str.lower)


def _chain(steps: list[Normalizer]) -> Normalizer:
    def normalize(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return normalize


def build_pre_tokenizer(spec: Any, where: str = "pre_tokenizer") -> PreTokenizer:
    """Returns the function that a file's `pre_tokenizer` describes; None leaves texts whole.

    Raises:
        ValueError: In one sentence, if it is not supported.
    """
    if spec is None:
        return lambda text: [text]
    known = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits")
    match _type_of(spec, where, (*known, "Sequence")):
        case "Sequence":
            parts = read_fields(spec, where, {"type": str, "pretokenizers": list})["pretokenizers"]
            stages = [
                build_pre_tokenizer(part, f"{where}.pretokenizers[{i}]")
                for i, part in enumerate(parts)
            ]

            def cut(text: str) -> list[str]:
                words = [text]
                for stage in stages:
                    words = [piece for word in words for piece in stage(word)]
                return words

            return cut
        case "Punctuation":
            fields = read_fields(spec, where, {"type": str}, {"behavior": "Isolated"})
            if fields["behavior"] not in _BEHAVIORS:
                raise ValueError(
                    f"Tokenizer file: {where}.behavior is {_brief(fields['behavior'])}; allowed "
                    f"are {', '.join(_BEHAVIORS)}."
                )
            return _cut_by_kind(lambda c: "01"[is_punctuation(c)], _BEHAVIORS[fields["behavior"]])
        case "Digits":
            each = read_fields(spec, where, {"type": str, "individual_digits": bool})
            behavior = "Isolated" if each["individual_digits"] else "Contiguous"
            return _cut_by_kind(
                lambda c: "01"[unicodedata.category(c)[0] == "N"], _BEHAVIORS[behavior]
            )
        case simple:
            read_fields(spec, where, {"type": str})
            return {
                "BertPreTokenizer": _cut_by_kind(_kind_for_bert, "p|o+"),
                "Whitespace": _cut_by_kind(_kind_for_words, "w+|o+"),
                "WhitespaceSplit": _cut_by_kind(lambda c: "os"[c in WHITESPACE], "o+"),
            }[simple]


def _kind_for_bert(character: str) -> str:
    return "s" if character in WHITESPACE else "p" if is_punctuation(character) else "o"


def _kind_for_words(character: str) -> str:
    return "w" if is_word_character(character) else "s" if character in WHITESPACE else "o"


def _cut_by_kind(kind_of: Callable[[str], str], word: str) -> PreTokenizer:
    """Returns a function that cuts a text where the pattern `word` finds the kinds of a word.

    The kinds, one letter per character, make a string as long as the text.
    """
    table, pattern = CharacterMap(kind_of), re.compile(word)

    def cut(text: str) -> list[str]:
        kinds = text.translate(table)
        return [text[found.start() : found.end()] for found in pattern.finditer(kinds)]

    return cut
