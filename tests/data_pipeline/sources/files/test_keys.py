import pytest

from data_pipeline.sources.files.keys import check_keys_meet, why_apart


@pytest.mark.parametrize(
    ("own", "others", "reason"),
    [
        (["A1", "B2"], ["a1", "b2"], "upper and lower case"),
        (["0001"], ["1"], "leading zeros"),
        (["1.depth", "2.depth"], ["1", "2"], "the extension"),
        (["x/1"], ["1"], "the folders before"),
        (["1_depth", "2_depth"], ["1", "2", "3"], "the first end in '_depth'"),
        (["1", "2"], ["1_rgb", "2_rgb"], "the others end in '_rgb'"),
        (["depth_1"], ["1"], "the first begin with 'depth_'"),
        (["a_rgb", "b_rgb"], ["a_depth", "b_depth"], "'_rgb', the others in '_depth'"),
        (["x"], ["y"], ""),
    ],
)
def test_the_likeliest_reason_is_found(own, others, reason):
    assert reason in why_apart(own, others)
    assert bool(why_apart(own, others)) == bool(reason)


def test_modalities_must_share_a_sample_with_one_other():
    check_keys_meet({"a": {"1"}, "b": {"1", "2"}, "c": {"2"}})
    check_keys_meet({"a": {"1"}})
    with pytest.raises(ValueError, match=r"c shares no sample.*look like '3', those of a like '1'"):
        check_keys_meet({"a": {"1"}, "b": {"1"}, "c": {"3"}})
