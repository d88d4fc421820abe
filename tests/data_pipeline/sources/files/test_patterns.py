import time

import pytest

from data_pipeline.sources.files.patterns import Pattern, check_pattern


@pytest.mark.parametrize(
    ("pattern", "folder", "name", "key"),
    [
        ("{split}/{modality}/{key}.{ext}", "train/rgb/", "a/0001.JPG", "a/0001"),
        ("{modality}/{split}/{key}.png", "rgb/train/", "1.png", "1"),
        ("{split}_{key}.{modality}.{ext}", "", "train_1.rgb.png", "1"),
        ("gt/{split}/{key}_labelIds.png", "gt/train/", "ulm/ulm_1_labelIds.png", "ulm/ulm_1"),
        ("gt/{split}/{key}_labelIds.png", "gt/train/", "ulm/ulm_1_color.png", ""),
        ("{split}annot/{key}.png", "trainannot/", "1.png", "1"),
        ("{split}/{scene}/{modality}/{frame}.{ext}", "train/", "a/rgb/7.png", "a/7"),
        ("{split}/{scene}/{modality}/{frame}.{ext}", "train/", "a/depth/7.png", ""),
        ("{split}/{key}/{modality}.{ext}", "train/", "a/b/rgb.png", "a/b"),
        ("{split}/*/{key}_left.png", "train/", "ulm/ulm_1_left.png", "ulm_1"),
        ("{scene}/{scene}_{key}.png", "", "a_b/a_b_1.png", "a_b/1"),
        ("{scene}/{scene}_{key}.png", "", "a_b/a_c_1.png", ""),
        ("{ext}/{key}.{ext}", "", "png/1.png", "1"),
        ("{key}.png", "", "1.PNG", "1"),
        ("{key}.PNG", "", "1.png", "1"),
        ("{key}.{ext}", "", "1.json.gz", "1"),
        ("{key}", "", "no extension", "no extension"),
        ("x{key}x", "", "xx", ""),
        ("./{modality}/{key}.png", "rgb/", "1.png", "1"),
    ],
)
def test_names_are_matched(pattern, folder, name, key):
    matcher = Pattern(pattern, "train", "rgb")
    assert matcher.folder == folder
    assert matcher.match(name) == key


def test_the_folder_of_a_split_may_be_empty():
    pattern = Pattern("{split}/{modality}/{key}.png", "", "rgb")
    assert pattern.folder == "rgb/" and pattern.match("1.png") == "1"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{split}/rgb.png", "has no {key}"),
        ("{key}{ext}", "nothing between them"),
        ("{key/a.png", "encloses no name"),
        ("{}.png", "encloses no name"),
        ("", "nothing between them|has no {key}"),
        ("/data/{key}.png", "leads out"),
        ("../{key}.png", "leads out"),
    ],
)
def test_wrong_patterns_are_refused(pattern, message):
    with pytest.raises(ValueError, match=f"FilesData.pattern: The pattern .*({message})"):
        check_pattern(pattern, "FilesData.pattern")


def test_no_name_takes_long_to_match():
    pattern = Pattern("-".join(f"{{p{i}}}" for i in range(12)) + "-{key}-x-{ext}.png", "", "")
    start = time.monotonic()
    assert not pattern.match("-" * 4000 + ".jpg")
    assert not pattern.match("a-" * 2000 + ".png")
    assert time.monotonic() - start < 1
