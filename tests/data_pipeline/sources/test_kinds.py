"""Kinds of data by name."""

import pytest

from data_pipeline.sources.kinds import KINDS, NoData, blank_data
from tokenizers.formats.formats import NumberFile, TextFile
from tokenizers.scalars import Scalar
from tokenizers.text.sentencepiece import Text


def test_every_kind_is_blank_data_and_formats_of_files_follow_from_values():
    values = {"caption": Text(), "count": Scalar()}
    data = {kind: blank_data(kind, values) for kind in KINDS}
    assert len({type(each) for each in data.values()}) == len(KINDS)
    assert data["files"].modalities == {
        "caption": TextFile("caption"),
        "count": NumberFile("count"),
    }
    with pytest.raises(ValueError, match="no kind of data 'file'; there are scenes, files, tfds,"):
        blank_data("file", values)


def test_where_there_is_no_data_there_is_nothing_to_open():
    assert NoData().splits == ()
    with pytest.raises(ValueError, match="no split 'train'; name a kind of data: scenes, files"):
        NoData().open("train")
