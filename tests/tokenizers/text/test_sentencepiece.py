import numpy as np
import pytest

from tokenizers.base import Choices, Crop, Tokenizer
from tokenizers.text.sentencepiece import Text, TextTokenizer, TextTokenizerConfig

COLORS = ("red", "green", "blue", "gray")
SHAPES = ("sphere", "cube", "cone")
VALUES = Text({"color": COLORS, "shape": SHAPES}, pairs=(("color", "shape"),))
CONFIG = TextTokenizerConfig(max_tokens=48, num_sentinels=5, num_coordinates=10)
FLIP = Crop(0.0, 0.0, 1.0, 1.0, flip=True)


def sample_captions(count, seed=0):
    random = np.random.default_rng(seed)

    def name():
        return f"{random.choice(COLORS)} {random.choice(SHAPES)}"

    captions = []
    for _ in range(count):
        names = [name() for _ in range(random.integers(1, 5))]
        listed = [f"a {random.choice(['large', 'small shiny'])} {name}" for name in names]
        side = random.choice(["left of", "right of", "behind"])
        captions.append(f"{', '.join(listed)}. the {names[0]} is {side} the {names[-1]}.")
    return captions


CAPTIONS = sample_captions(300)
FITTED = CONFIG.fit(VALUES, CAPTIONS)


def test_it_keeps_the_contract():
    assert isinstance(FITTED, Tokenizer)
    ids = FITTED.encode(CAPTIONS)
    assert ids.shape == (300, 48) and ids.dtype == np.int32 and FITTED.token_shape == (48,)
    assert FITTED.special == (0, 1, 5)
    real = ids[ids != -1]
    assert real.max() < FITTED.vocab_size <= CONFIG.vocab_size
    assert not ((real > 0) & (real < 16)).any(), "captions without coordinates use pieces only"


def test_captions_survive_exactly():
    assert FITTED.decode(FITTED.encode(CAPTIONS)) == CAPTIONS


def test_every_word_and_punctuation_mark_is_one_token():
    caption = "a large red sphere, a small shiny blue cube. the red sphere is behind the blue cube."
    assert FITTED.count_tokens([caption]).tolist() == [17 + 3 + 1]


def test_a_sequence_ends_and_is_padded():
    ids = FITTED.encode(["a red cube", "a"])
    assert FITTED.count_tokens(["a red cube", "a"]).tolist() == [4, 2]
    assert (ids[:, 0] >= 16).all()
    assert ids[0, 3:].tolist() == [0] + [-1] * 44
    assert ids[1, 1:].tolist() == [0] + [-1] * 46


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Ein Würfel für 3 €!", "Ein Würfel für 3 €!"),
        ("赤い球と青い立方体", "赤い球と青い立方体"),
        ("😀 \x07tab\tand\n line ", "😀 tab and line"),
        ("① ﬁne <9x> ▁ < 1>", "1 fine <9x> < 1>"),
    ],
)
def test_any_text_survives_in_its_normal_form(text, normal):
    tokenizer = TextTokenizerConfig(max_tokens=256, num_sentinels=5).fit(VALUES, CAPTIONS)
    assert tokenizer.decode(tokenizer.encode([text, normal])) == [normal, normal]


def test_coordinates_are_one_token_each():
    text = "a cube at <0> and <9> but not <10>."
    ids = FITTED.encode([text])
    assert sorted(ids[(ids >= 6) & (ids < 16)].tolist()) == [6, 15]
    (decoded,) = FITTED.decode(ids)
    assert decoded.replace(" ", "") == text.replace(" ", "")
    without = TextTokenizerConfig(num_coordinates=0).fit(VALUES, CAPTIONS)
    assert without.decode(without.encode([text])) == [text]


def test_decoding_stops_at_the_end_and_ignores_sentinels_and_padding():
    ids = FITTED.encode(["a red cube"])
    a, red, cube = ids[0, :3]
    row = np.full((1, 48), -1, np.int32)
    row[0, :9] = [1, a, 2, -1, red, cube, 5, 0, red]
    assert FITTED.decode(row) == ["a red cube"]
    assert FITTED.decode(np.full((2, 48), -1)) == ["", ""]


def test_any_ids_decode_to_text():
    ids = np.random.default_rng(0).integers(-1, FITTED.vocab_size, (200, 48))
    assert all(isinstance(text, str) for text in FITTED.decode(ids))


@pytest.mark.parametrize("token", [-2, FITTED.vocab_size])
def test_a_token_out_of_range_is_one_sentence(token):
    with pytest.raises(ValueError, match=rf"Token {token} is out of range: .* ids 0 to "):
        FITTED.decode(np.array([[token]]))


def test_long_texts_keep_their_end_and_fitting_warns_of_them():
    config = TextTokenizerConfig(max_tokens=5, num_sentinels=5)
    training = ["a red cube"] * 3 + ["a red cube and a blue cone"]
    with pytest.warns(UserWarning, match=r"^25.0% of .* more than 5 tokens .* raise max_tokens"):
        tokenizer = config.fit(VALUES, training)
    ids = tokenizer.encode(training)
    assert ids[3, -1] == 0 and (ids[3] != -1).all()
    assert tokenizer.decode(ids)[3] == "a red cube and"


def test_fitting_twice_gives_the_same_ids():
    again = CONFIG.fit(VALUES, CAPTIONS)
    np.testing.assert_array_equal(again.encode(CAPTIONS), FITTED.encode(CAPTIONS))
    assert again.vocab_size == FITTED.vocab_size


def test_one_short_text_is_enough_to_fit():
    tokenizer = TextTokenizerConfig().fit(VALUES, ["a"])
    assert tokenizer.decode(tokenizer.encode(["a", "zebra"])) == ["a", "zebra"]
    same = TextTokenizerConfig().fit(VALUES, [b"a"])
    np.testing.assert_array_equal(same.encode(["a", "zebra"]), tokenizer.encode(["a", "zebra"]))


def test_more_characters_than_ids_are_spelt_in_bytes():
    training = ["".join(map(chr, range(start, start + 50))) for start in range(0x4E00, 0x6000, 50)]
    config = TextTokenizerConfig(vocab_size=400, max_tokens=256)
    tokenizer = config.fit(VALUES, training)
    assert tokenizer.vocab_size <= 400
    assert tokenizer.decode(tokenizer.encode(training)) == training


def test_a_saved_tokenizer_is_the_same(tmp_path):
    FITTED.save(tmp_path / "t")
    loaded = TextTokenizer.load(tmp_path / "t")
    ids = loaded.encode(CAPTIONS)
    np.testing.assert_array_equal(ids, FITTED.encode(CAPTIONS))
    assert loaded.decode(ids) == FITTED.decode(ids)
    assert (loaded.vocab_size, loaded.special, loaded.token_shape) == (
        FITTED.vocab_size,
        FITTED.special,
        FITTED.token_shape,
    )
    path = tmp_path / "t" / "sentencepiece.model"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^Damaged folder .*sentencepiece.model .*\.$"):
        TextTokenizer.load(tmp_path / "t")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "caption is an empty text"),
        (" \n", "caption is an empty text"),
        (7, "caption is a int; text"),
        (b"\xff\xfe", "caption holds bytes that are not UTF-8"),
        ("a\ud800", "caption holds a lone surrogate"),
    ],
)
def test_what_is_no_allowed_text_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        VALUES.check(value, "caption")


def test_bytes_and_numpy_strings_become_str():
    for value in ("é", "é".encode(), np.str_("é"), np.array(["é"])[0]):
        checked = VALUES.check(value, "caption")
        assert type(checked) is str and checked == "é"


def test_wrong_settings_name_the_knob():
    with pytest.raises(
        ValueError, match=r"vocab_size is 300, which leaves no room .* at least 321"
    ):
        TextTokenizerConfig(vocab_size=300)
    with pytest.raises(ValueError, match=r"max_tokens is 1, .* at least 2"):
        TextTokenizerConfig(max_tokens=1)
    with pytest.raises(ValueError, match=r"names the attribute 'size', but .* \['color'\]"):
        Text({"color": COLORS}, pairs=(("size", "color"),))
    with pytest.raises(ValueError, match=r"'dark red'; give single lower-case words"):
        Text({"color": ("dark red",)})
    with pytest.raises(ValueError, match="no training text"):
        CONFIG.fit(VALUES, [])
    with pytest.raises(ValueError, match="no pieces can be learnt"):
        CONFIG.fit(VALUES, ["\u200b"])


def test_metrics_follow_the_attributes_with_pairs_first():
    assert list(Text().metrics) == ["f1_words", "exact"]
    names = ["f1_color_shape", "f1_color", "f1_shape", "f1_words", "exact"]
    assert list(VALUES.metrics) == list(VALUES.score(CAPTIONS, CAPTIONS)) == names
    assert list(VALUES.floor(CAPTIONS, CAPTIONS)) == names
    assert set(VALUES.score(CAPTIONS, CAPTIONS).values()) == {1.0}


def test_attributes_are_scored_as_sets_and_pairs_only_when_adjacent():
    truth = ["A red cube and a blue cone. the red cube is left of the blue cone."]
    swapped = VALUES.score(["a blue cube and a red cone."], truth)
    assert swapped["f1_color_shape"] == 0 and swapped["f1_color"] == swapped["f1_shape"] == 1
    # Found one of two pairs and nothing wrong: precision 1, recall 1/2.
    assert VALUES.score(["a red cube"], truth)["f1_color_shape"] == pytest.approx(2 / 3)
    assert VALUES.score(["red, red shiny cube"], truth)["f1_color_shape"] == 0
    assert VALUES.score([""], truth)["f1_color"] == 0


def test_words_are_scored_as_a_bag_and_exact_as_a_whole():
    score = Text().score(["the the cat", "b"], ["the cat", "b"])
    assert score == {"f1_words": pytest.approx(2 * 3 / (4 + 3)), "exact": 0.5}


@pytest.mark.slow
def test_of_several_true_texts_the_closest_one_counts_for_each_metric():
    values = Text({"color": ("red", "blue"), "shape": ("cube", "ball")}, (("color", "shape"),))
    truth = [Choices(["a blue ball", "a red cube here"]), "a ball"]
    scores = values.score(["a red cube", "a ball"], truth)
    assert scores["f1_color_shape"] == scores["f1_color"] == scores["f1_shape"] == 1
    assert scores["f1_words"] == pytest.approx(2 * 5 / (5 + 6)) and scores["exact"] == 0.5
    assert values.score(["a blue ball", "a ball"], truth)["exact"] == 1
    # Two words of one truth and two of another make no better one of both.
    assert values.score(["red ball", "a ball"], truth)["f1_color_shape"] == 0
    floor = values.floor(["a red cube", "a red cube", "a ball"], truth)
    assert floor["exact"] == 0 and floor["f1_color_shape"] == pytest.approx(2 / 3)


def test_no_training_caption_beats_the_floor_as_a_constant():
    floor = VALUES.floor(CAPTIONS, CAPTIONS)
    for constant in CAPTIONS[::10]:
        score = VALUES.score([constant] * len(CAPTIONS), CAPTIONS)
        for name, value in score.items():
            assert value <= floor[name] + 1e-9, (name, constant)


def test_the_floor_is_chosen_on_training_and_scored_on_truth():
    floor = VALUES.floor(["a red cube"] * 3 + ["a blue cone"], ["a blue cone"])
    assert floor["f1_color"] == 0 and floor["exact"] == 0
    assert VALUES.floor(["a red cube"], ["a red cube"])["f1_color_shape"] == 1


def test_mirroring_exchanges_left_and_right():
    text = "Left of the leftover, on the right."
    assert VALUES.crop(text, FLIP, (64, 64)) == "Right of the leftover, on the left."
    assert VALUES.crop(text, FLIP._replace(flip=False), (64, 64)) == text
    assert Text(flip_words=()).crop(text, FLIP, (64, 64)) == text
    for caption in CAPTIONS[:20]:
        assert VALUES.crop(VALUES.crop(caption, FLIP, (64, 64)), FLIP, (64, 64)) == caption


def test_a_person_sees_the_text():
    assert VALUES.draw("a red cube", (64, 64)) == "a red cube"
