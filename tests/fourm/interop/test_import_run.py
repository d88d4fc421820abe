"""Published files as a run directory that generates, and back to files."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import fourm
from fourm.generate import main as generate
from fourm.inference.settings import GenerationConfig
from fourm.interop.import_run import find_owners, resolve
from fourm.interop.ml4m import main
from tests.paths import GOLDENS

GOLDENS = GOLDENS
MODEL = GOLDENS / "fm_4m7_tiny_gelu"
NAMES = ("caption", "rgb@224", "tok_rgb@224", "tok_canny_edge@224", "tok_sam_edge@224")


def make_text_tokenizer(vocab_size: int) -> str:
    """Returns a WordPiece file with the published special tokens and made-up words."""
    tokens = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(200))]
    special = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, token in enumerate(tokens)
    ]
    tokens += [*"acdeorst", *(f"##{c}" for c in "acdeorst")]
    tokens += [f"word{'a' * i}" for i in range(vocab_size - len(tokens))]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": True,
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
                "vocab": {token: i for i, token in enumerate(tokens)},
            },
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    with safe_open(MODEL / "model.safetensors", framework="numpy") as archive:
        rows = archive.get_slice("encoder_embeddings.caption.token_emb.weight").get_shape()[0]
    text = folder / "text.json"
    text.write_text(make_text_tokenizer(rows))
    assert main(["import", str(MODEL), str(text), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.slow
def test_an_imported_run_generates_any_from_any(run):
    model = fourm.load(run)
    names = model.space.names
    assert {"caption", "det", "rgb@224", "tok_rgb@224", "tok_depth@224"} <= set(names)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    settings = GenerationConfig(num_steps=2, temperature=1.0)
    made = model.generate(
        {"rgb@224": pixels, "caption": ["a cat"]}, ["tok_depth@224"], settings=settings
    )
    depth = made.values["tok_depth@224"]
    assert depth.shape == (1, 14, 14) and depth.max() < model.space["tok_depth@224"].vocab_size
    again = model.generate({"tok_depth@224": depth}, ["tok_semseg@224"], settings=settings)
    assert again.values["tok_semseg@224"].shape == (1, 14, 14)
    assert model.embed({"rgb@224": pixels}).shape == (1, model.model.config.dim)
    with pytest.raises(ValueError, match="only ever input"):
        model.generate({"tok_depth@224": depth}, ["rgb@224"])


@pytest.mark.slow
def test_an_imported_run_generates_on_the_command_line(run, tmp_path):
    picture = tmp_path / "photo.png"
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(picture)
    given = [str(run), "--rgb@224", str(picture), "--targets", "tok_depth@224"]
    assert generate([*given, "--num-steps", "1", "--out", str(tmp_path / "out")]) == 0
    assert np.load(tmp_path / "out" / "tok_depth@224_000.npy").shape == (14, 14)


def test_exporting_an_imported_run_gives_the_file_back(run, tmp_path):
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    before = load_file(MODEL / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name.endswith("pos_emb"):
            np.testing.assert_allclose(after[name], tensor, atol=1e-6)
        else:
            np.testing.assert_array_equal(after[name], tensor)


def test_a_tokenizer_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path, capsys):
    tokenizer = GOLDENS / "vqvae_tiny_mlp"
    given = [str(MODEL), f"tok_depth@224={tokenizer}"]
    assert main(["import", *given, "--out", str(tmp_path / "run")]) == 2
    assert "but tok_depth@224 of the model has" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "There are 0 models"),
        (["nowhere.safetensors"], "There is no nowhere.safetensors"),
        (["model.pth"], "is a pickle"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_sentence(given, message, tmp_path, capsys):
    assert main(["import", *given, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_there_is_not_overwritten(run, capsys):
    assert main(["import", str(MODEL), "--out", str(run)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_name_on_the_hub_that_cannot_be_fetched_says_what_to_download(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr("fourm.interop.import_run.importlib.import_module", refuse)
    with pytest.raises(ValueError, match=r"https://huggingface.co/EPFL-VILAB/4M-21_B into"):
        resolve("EPFL-VILAB/4M-21_B")


@pytest.mark.parametrize(
    ("file", "owners"),
    [
        ("4M_tokenizers_rgb_16k_224-448", ["tok_rgb@224"]),
        ("4M_tokenizers_edge_8k_224-512", ["tok_canny_edge@224", "tok_sam_edge@224"]),
        ("text_tokenizer_4m_wordpiece_30k.json", ["caption"]),
    ],
)
def test_published_names_say_whose_a_tokenizer_is(file, owners, tmp_path):
    path = tmp_path / file
    if path.suffix == ".json":
        path.write_text("{}")
    else:
        shutil.copytree(GOLDENS / "vqvae_tiny_mlp", path)
    assert find_owners(path, NAMES) == owners


def test_a_name_that_says_nothing_is_refused(tmp_path):
    shutil.copytree(GOLDENS / "vqvae_tiny_mlp", tmp_path / "mine")
    with pytest.raises(ValueError, match="write MODALITY="):
        find_owners(tmp_path / "mine", NAMES)
