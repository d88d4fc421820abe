"""Word pieces, by our reader and by the package that wrote the file."""

import json
import os
import random
import subprocess
import sys
import time
import unicodedata
from importlib import metadata

import numpy as np
import pytest

from tests.paths import FIXTURES
from tokenizers.base import PADDING, Tokenizer
from tokenizers.modality import load_tokenizer
from tokenizers.text.sentencepiece import Text
from tokenizers.text.wordpiece import WordPieceTokenizer
from tokenizers.text.wordpiece_file import WordPieceFile

pytestmark = [pytest.mark.xdist_group("wordpiece"), pytest.mark.slow]  # The package runs once.

SCRIPT = FIXTURES / "package_wordpiece.py"
NUM_TEXTS = 3000
OLD = unicodedata.ucd_3_2_0
# The package's tables of characters differ in age (Unicode 8, 9 and 16) and Python's is another.
# What Unicode 3.2 had and has not changed since is the same in all of them.
STABLE = [
    chr(code)
    for code in range(0x30000)
    if not 0xD800 <= code < 0xE000
    and OLD.category(chr(code)) == unicodedata.category(chr(code)) != "Cn"
]
SPACES = [" ", " ", "  ", "\t", "\n", "\r\n", "\xa0", "\u2003", "\u3000", "\u2028", "\x0b", "\x85"]
# Split at spaces only: the line breaks and control characters below are part of words.
SPOKEN = """a the The cat cats Cat CAT scatter dog hot person potted plant stop sign tv tvs bus
 don't n't it's do not we've they're I'm café cafe\u0301 CAFÉ naïve Ångström Straße
 STRASSE ß ẞ İstanbul ISTANBUL ıssız Iı ΣΊΣΥΦΟΣ σας ΑΣ Москва Йод ЙОД हिन्दी ภาษาไทย
 العربية עִבְרִית 日本語 東京 ひらがな カタカナ 한국어 한국 중국 漢字 𠀀 ﬁne ①② ½ Ⅷ ²x
 x₂ €5 $3.50 1,000 3.14 12 v0=12 v1=3 v2=999 v3=1000 V0=7 v0=12v1=3 v0=1x xv0=1 [S_1]
 [S_199] [S_200] [s_2] x[S_3] [EOS] [PAD] [UNK] [X] 😀 👩\u200d🚀 👍🏽 🇩🇪 ☃️ ™ ... --
 — “quoted” ‘x’ «y» ¿qué? ¡ay! (a) {b} <b> &amp; a_b a-b a.b @me #tag ^ ~ ` | \u200b
 \ufeff \ufffd \u00ad x\u0301\u0323 e\u0323\u0301 \u0301 \u0345 \x00 \x07 \x1c \x7f ##
 ##s @@ 's . ! ? , \u0378"""  # noqa: RUF001
WORDS = SPOKEN.split(" ")


def draw_text(draw: random.Random) -> str:
    match draw.randrange(5):
        case 0:  # As a caption.
            return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(12)))
        case 1:  # As boxes, palettes and poses.
            spoken = [f"v{i % 4}={draw.randrange(1000)}" for i in range(draw.randrange(20))]
            return draw.choice([" ", "  ", "", ","]).join([*spoken, draw.choice(WORDS)])
        case 2:  # Any words, any spaces or none between.
            parts = [draw.choice(WORDS) for _ in range(draw.randrange(8))]
            return "".join(part + draw.choice(["", *SPACES]) for part in parts)
        case 3:  # Any characters.
            return "".join(draw.choice(STABLE) for _ in range(draw.randrange(30)))
        case _:  # Long words, cases and marks mixed.
            letters = "abcdeéÉßÅåİıΣσ0123'-.\u0301\u0323 "  # noqa: RUF001
            return "".join(draw.choice(letters) for _ in range(draw.choice([3, 9, 40, 99, 130])))


def draw_texts(count: int) -> list[str]:
    draw = random.Random(0)
    fixed = [
        "",
        " ",
        "\n\t",
        "x" * 100,
        "x" * 101,
        "é" * 100,
        "e\u0301" * 60,
        "A hot dog, hot\tdog.",
    ]
    every = ["".join(STABLE[i : i + 50]) for i in range(0, len(STABLE), 50)]
    return [*fixed, *WORDS, *every[:400], *(draw_text(draw) for _ in range(count))]


TEXTS = draw_texts(NUM_TEXTS)
NAMES = ["4m", "cased", "unclean", "latin", "stripped", "tidy", "plain", "bare", "whole"]
NAMES += ["composed", "lower", "removed", "isolated", "merged_with_previous", "merged_with_next"]
NAMES += ["contiguous", *(f"flags_{seed}" for seed in range(16, 22))]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the package has written to, in a process of its own."""
    try:
        metadata.version("tokenizers")
    except metadata.PackageNotFoundError:
        pytest.skip("the package `tokenizers`, which this compares with, is not installed")
    folder = tmp_path_factory.mktemp("package")
    (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    # No PYTHONPATH, another folder to run in, and -P: our `tokenizers` must not be found.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", str(SCRIPT), str(folder)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in folder.glob("*.expected")} == set(NAMES)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_texts_are_those_of_the_package(written, name):
    file = WordPieceFile((written / f"{name}.json").read_bytes())
    expected = json.loads((written / f"{name}.expected").read_text(encoding="utf-8"))
    wrong = [
        (text, found, ids)
        for text, ids in zip(expected["texts"], expected["ids"], strict=True)
        if (found := file.encode(text)) != ids
    ]
    assert not wrong, f"{len(wrong)} of {len(expected['texts'])}, such as {wrong[0]}"
    assert file.vocab_size == expected["vocab_size"]
    for key, skip in (("all", False), ("not_special", True)):
        assert [file.decode(ids, skip) for ids in expected["ids"]] == expected[f"texts_{key}"]
        assert [file.decode(ids, skip) for ids in expected["drawn"]] == expected[f"drawn_{key}"]


def test_texts_are_of_many_kinds(written):
    vocab = WordPieceFile((written / "4m.json").read_bytes()).token_ids
    expected = json.loads((written / "4m.expected").read_text(encoding="utf-8"))
    ids = {token for row in expected["ids"] for token in row}
    assert len(TEXTS) > 3000 and "" in TEXTS
    assert {vocab["[UNK]"], vocab["[S_199]"], vocab["v3=999"], vocab["hot dog"]} <= ids
    assert [vocab[token] for token in ("[EOS]", "[S_0]", "v0=0", "v3=999", "cat")] == [
        *(3, 4, 204, 4203, 4204)
    ]
    assert sum(len(row) > 20 for row in expected["ids"]) > 300


def added(content, number, **flags):
    kinds = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": number, "content": content} | dict.fromkeys(kinds, False) | flags


def make_spec(**changes):
    """Returns a small file like the published one."""
    names = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(4))]
    names += [f"v{axis}={i}" for axis in range(4) for i in range(4)]
    special = [added(name, i, single_word=True, special=True) for i, name in enumerate(names)]
    names += ["cat", "a", "red", "cube", ".", ",", "un", "##real", "##s"]
    special += [added("cat", 24, single_word=True, normalized=True, special=True)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {name: i for i, name in enumerate(names)},
        },
    } | changes


def encoded(spec):
    return json.dumps(spec).encode()


def make_tokenizer(max_tokens=12):
    return WordPieceTokenizer(Text(), encoded(make_spec()), max_tokens)


def test_it_keeps_the_contract():
    tokenizer = make_tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.special == (3, 5, 3) and tokenizer.vocab_size == 33
    ids = tokenizer.encode(["A réd cube, unreals.", "Cat v0=1 v1=3 v2=0 v3=2"])
    assert ids.dtype == np.int32 and ids.shape == (2, 12) and tokenizer.token_shape == (12,)
    assert ids[0].tolist() == [25, 26, 27, 29, 30, 31, 32, 28, 3] + [PADDING] * 3
    assert ids[1].tolist() == [24, 9, 15, 16, 22, 3] + [PADDING] * 6
    assert tokenizer.count_tokens(["A réd cube, unreals.", ""]).tolist() == [9, 1]


def test_decoding_stops_at_the_end_and_leaves_out_what_is_no_text():
    tokenizer = make_tokenizer()
    texts = ["a red cube, unreals.", "cat v0=1 v1=3 v2=0 v3=2", ""]
    assert tokenizer.decode(tokenizer.encode(texts)) == texts
    written = np.array([[2, 5, 25, 0, 4, 7, 26, 1, 3, 27, PADDING]])
    assert tokenizer.decode(written) == ["a red [UNK]"]
    with pytest.raises(ValueError, match="Token 33 is out of range"):
        tokenizer.decode(np.array([[33]]))


def test_a_long_text_keeps_its_end():
    ids = make_tokenizer(max_tokens=4).encode(["a a a a a"])
    assert ids.tolist() == [[25, 25, 25, 3]]


def test_it_survives_the_disk_with_its_file(tmp_path):
    tokenizer = WordPieceTokenizer(Text(flip_words=()), encoded(make_spec()), 9)
    tokenizer.save(tmp_path / "caption")
    loaded = load_tokenizer(tmp_path / "caption")
    assert isinstance(loaded, WordPieceTokenizer) and loaded.values == Text(flip_words=())
    np.testing.assert_array_equal(loaded.encode(["a red cat"]), tokenizer.encode(["a red cat"]))
    assert loaded.token_shape == (9,) and loaded.special == tokenizer.special


def test_ten_thousand_captions_take_a_few_seconds():
    file = WordPieceFile(encoded(make_spec()))
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["a", "red", "cube", "cat", "."], k=12)) for _ in range(10_000)]
    start = time.perf_counter()
    assert sum(len(file.encode(text)) for text in texts) == 120_000
    # A third of a second by itself; under the type checks of the tests ten times that.
    assert time.perf_counter() - start < 30


def changed(part, **changes):
    return {part: make_spec()[part] | changes}


def with_vocab(**changes):
    return changed("model", vocab=make_spec()["model"]["vocab"] | changes)


def with_token(*arguments, **flags):
    return {"added_tokens": [*make_spec()["added_tokens"], added(*arguments, **flags)]}


TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
START = {"id": "[SOS]", "ids": [99], "tokens": ["[SOS]"]}
WRONG = {
    "file has the field 'extra', which is not supported": {"extra": 1},
    "version is '2.0'; '1.0' is allowed": {"version": "2.0"},
    "file.version is 1; a value of type str": {"version": 1},
    "truncation is set; only null": {"truncation": {"max_length": 3}},
    "padding is set; only null": {"padding": {"pad_id": 0}},
    "normalizer is of type 'Nmt', which is not supported": {"normalizer": {"type": "Nmt"}},
    r"normalizer.normalizers\[1\] is of type 'Prepend'": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend"}]}
    },
    "normalizer has the field 'form'": {"normalizer": {"type": "NFC", "form": 1}},
    "normalizer has no 'lowercase'": {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    },
    "normalizer.strip_accents is 'no'": changed("normalizer", strip_accents="no"),
    "normalizer.clean_text is 1; a value of type bool": changed("normalizer", clean_text=1),
    "normalizer.pattern has no 'String'": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""}
    },
    "normalizer replaces an empty string": {
        "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}
    },
    "pre_tokenizer is of type 'ByteLevel'": {"pre_tokenizer": {"type": "ByteLevel"}},
    "pre_tokenizer is of type 7": {"pre_tokenizer": 7},
    "pre_tokenizer.behavior is 'Odd'; allowed are Removed": {
        "pre_tokenizer": {"type": "Punctuation", "behavior": "Odd"}
    },
    "decoder is of type 'BPEDecoder'": {"decoder": {"type": "BPEDecoder"}},
    "decoder.cleanup is 'yes'": changed("decoder", cleanup="yes"),
    "post_processor is of type 'BertProcessing'": {"post_processor": {"type": "BertProcessing"}},
    r"post_processor.single\[0\] is": {
        "post_processor": TEMPLATE | {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}
    },
    "single holds the sequence A 0 times": {"post_processor": TEMPLATE | {"single": []}},
    "has the id 99, which no token has": {
        "post_processor": TEMPLATE
        | {"single": [{"SpecialToken": {"id": "[SOS]"}}], "special_tokens": {"[SOS]": START}}
    },
    "the model is 'BPE'; WordPiece is supported": changed("model", type="BPE"),
    "model has the field 'dropout'": changed("model", dropout=0.1),
    "max_input_chars_per_word is True": changed("model", max_input_chars_per_word=True),
    "unk_token 'unk' is not in model.vocab": changed("model", unk_token="unk"),
    "model.vocab gives 'cube' the id -1": with_vocab(cube=-1),
    "model.vocab gives 'a' an id that another token has": with_vocab(cube=25),
    "added_tokens is not a list": {"added_tokens": {}},
    r"added_tokens\[25\] has the field 'color'": with_token("x", 33, color=1),
    "added token 'x' has the id 40, .* leave 33": with_token("x", 40),
    "added token 'cat' is listed twice": with_token("cat", 24),
    "added token 'CAT' is listed twice, or .* the same": with_token("CAT", 33, normalized=True),
    "added token '\u0301' is .* empty": with_token("\u0301", 33, normalized=True),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_not_supported_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message) as error:
        WordPieceFile(encoded(make_spec(**WRONG[message])))
    assert str(error.value).count(". ") == 0, "one sentence"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3"])
def test_what_is_no_tokenizer_file_is_refused(content):
    with pytest.raises(ValueError, match=r"not JSON|an object is allowed"):
        WordPieceFile(content)


def test_a_file_without_an_end_or_sentinels_is_refused():
    vocab = {"[UNK]": 0, "[S_1]": 1, "[EOS]": 2, "[S_3]": 3}
    for names, message in (
        (["[UNK]", "[S_1]"], r"no \[EOS\] or no \[S_1\]"),
        (["[UNK]", "[EOS]"], r"no \[EOS\] or no \[S_1\]"),
        (list(vocab), r"\[S_1\] to \[S_3\] don't follow each other"),
    ):
        spec = make_spec(added_tokens=[], **changed("model", vocab={n: vocab[n] for n in names}))
        with pytest.raises(ValueError, match=message):
            WordPieceTokenizer(Text(), encoded(spec), 8)
    with pytest.raises(ValueError, match="max_tokens=1; at least 2"):
        make_tokenizer(max_tokens=1)
