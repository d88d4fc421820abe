"""Reads data sets that TFDS makes up after their description, and one prepared on disk."""

import io
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sources.source import NOTES
from data_pipeline.sources.tfds import TfdsData
from tokenizers.base import Boxes, Choices

tfds = pytest.importorskip("tensorflow_datasets")


def png(picture: np.ndarray) -> io.BytesIO:
    """Encodes a picture, which TFDS itself can do with tensorflow only."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png")
    stream.seek(0)
    return stream


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    """Prepares a tiny data set with pictures, boxes and text; returns its data_dir."""

    class TinyRooms(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = MappingProxyType({})  # Nothing to download: don't look for checksums.

        def _info(self):
            features = tfds.features
            return tfds.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {
                        "image": features.Image(shape=(4, 6, 3), encoding_format="png"),
                        "caption": features.Text(),
                        "brightness": features.Scalar(np.float32),
                        "label": features.ClassLabel(names=["night_stand", "sofa"]),
                        "unsure": features.ClassLabel(names=["night_stand", "sofa"]),
                        "captions": features.Sequence({"text": features.Text()}),
                        "objects": features.Sequence(
                            {
                                "bbox": features.BBoxFeature(),
                                "label": features.ClassLabel(names=["chair", "lamp"]),
                            }
                        ),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(10):
                box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=0.75)
                yield (
                    index,
                    {
                        "image": png(np.full((4, 6, 3), index, np.uint8)),
                        "caption": f"größe {index}",
                        "brightness": index / 2,
                        "label": index % 2,
                        "unsure": index % 3 - 1,
                        "captions": [{"text": f"{n} of {index}"} for n in range(index % 3)],
                        "objects": [{"bbox": box, "label": 1}] * (index % 3),
                    },
                )

    folder = str(tmp_path_factory.mktemp("tfds"))
    TinyRooms(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def rooms(prepared: str, **changes) -> TfdsData:
    options = {
        "name": "tiny_rooms",
        "data_dir": prepared,
        "split_names": {"train": "train[:80%]", "validation": "train[80%:]"},
        "features": {"rgb": "image", "caption": "caption", "boxes": "objects"},
        "metadata": ("label", "brightness"),
    }
    return TfdsData(**(options | changes))


def test_a_prepared_data_set_is_read_whole(prepared):
    data = rooms(prepared)
    assert data.splits == ("train", "validation")
    sources = [data.open(split) for split in data.splits]
    assert [len(source) for source in sources] == [8, 2]
    samples = [s for source in sources for s in source.__getitems__(range(len(source)))]
    numbers = [int(sample["rgb"][0, 0, 0]) for sample in samples]
    assert sorted(numbers) == list(range(10))
    for number, sample in zip(numbers, samples, strict=True):
        assert sample["rgb"].shape == (4, 6, 3) and sample["rgb"].dtype == np.uint8
        assert sample["caption"] == f"größe {number}"
        assert sample["metadata"] == {"label": number % 2, "brightness": number / 2}
        assert isinstance(sample["boxes"], Boxes)
        expected = np.array([[0.2, 0.1, 0.75, 0.5]] * (number % 3)).reshape(-1, 4)
        np.testing.assert_allclose(sample["boxes"].corners, expected, atol=1e-6)
        assert sample["boxes"].classes.tolist() == [1] * (number % 3)
    assert sources[0].metadata_names == {"label": ("night_stand", "sofa")}


def test_class_names_become_captions(prepared):
    data = rooms(prepared, class_names_as_text={"words": "label"}, features={})
    source = data.open("train")
    for sample in source.__getitems__(range(8)):
        assert sample["words"] == ("night stand", "sofa")[sample["metadata"]["label"]]
    with pytest.raises(ValueError, match="class name of 'caption', which is no class label"):
        rooms(prepared, class_names_as_text={"words": "caption"}).open("train")


def test_entries_of_nested_features_are_reached_by_a_slash(prepared):
    source = rooms(prepared, features={"kinds": "objects/label"}).open("train")
    samples = source.__getitems__(range(8))
    assert {len(sample["kinds"]) for sample in samples if "kinds" in sample} == {1, 2}
    assert any("kinds" not in sample for sample in samples)


def test_several_captions_are_choices_and_none_is_no_caption(prepared):
    source = rooms(prepared, features={"rgb": "image", "caption": "captions/text"}).open("train")
    for sample in source.__getitems__(range(8)):
        number = int(sample["rgb"][0, 0, 0])
        texts = tuple(f"{n} of {number}" for n in range(number % 3))
        if len(texts) == 2:
            assert isinstance(sample["caption"], Choices) and sample["caption"] == texts
        else:
            assert sample.get("caption") == (texts[0] if texts else None)


def test_the_label_minus_one_is_no_class_wherever_it_is_read(prepared):
    changes = {"features": {"rgb": "image", "kind": "unsure"}, "metadata": ("unsure", "label")}
    source = rooms(prepared, class_names_as_text={"words": "unsure"}, **changes).open("train")
    seen = set()
    for sample in source.__getitems__(range(8)):
        label = int(sample["rgb"][0, 0, 0]) % 3 - 1
        seen.add(label)
        name = ("night stand", "sofa")[label] if label >= 0 else None
        number = label if label >= 0 else None
        assert (sample.get("words"), sample.get("kind")) == (name, number)
        assert sample["metadata"].get("unsure") == number and "label" in sample["metadata"]
    assert seen == {-1, 0, 1}


def test_a_feature_that_is_no_value_is_noted_and_the_others_are_read(prepared):
    source = rooms(prepared, features={"rgb": "image", "boxes": "captions"}).open("train")
    sample = source[0]
    assert "rgb" in sample and "boxes" not in sample
    (note,) = sample[NOTES]
    assert note.leaves_out and (note.modality, note.key, note.file) == ("boxes", "0", "captions")
    assert "has the entries text; only a feature with bbox and label" in note.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": {"rgb": "picture"}},
            "no feature 'picture'.*brightness, caption, captions, image",
        ),
        ({"features": {"rgb": "image/left"}}, "no feature 'image/left'"),
        ({"split_names": {"train": "trian"}}, r"split 'trian' of 'tiny_rooms'.*data\.split_names"),
        ({"name": "no_such_data"}, r"'no_such_data'.*check data\.name"),
    ],
)
def test_what_is_not_there_is_named(prepared, changes, message):
    with pytest.raises(ValueError, match=message):
        rooms(prepared, **changes).open("train")


def test_unknown_splits_are_refused(prepared):
    with pytest.raises(ValueError, match="no split 'test'; there are train, validation"):
        rooms(prepared).open("test")


@pytest.mark.parametrize(
    ("name", "features", "shape"),
    [("mnist", {"rgb": "image"}, (28, 28, 1)), ("oxford_flowers102", {"rgb": "image"}, None)],
)
def test_data_sets_of_the_catalogue_are_read(name, features, shape):
    data = TfdsData(name, split_names={"train": "train"}, features=features, metadata=("label",))
    with tfds.testing.mock_data(num_examples=4):
        source = data.open("train")
        samples = source.__getitems__([0, 3])
    assert len(source) == 4
    for sample in samples:
        assert sample["rgb"].dtype == np.uint8 and sample["rgb"].shape == (
            shape or sample["rgb"].shape
        )
        assert type(sample["metadata"]["label"]) is int
    assert len(source.metadata_names["label"]) in (10, 102)
