"""Files that are given on the command line."""

import pytest

from fourm.presentation.files import _read_file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_read_as_training_reads_them(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("héllo\n".encode(encoding))
    (tmp_path / "b.json").write_bytes('["héllo"]'.encode(encoding))
    assert _read_file(tmp_path / "a.txt") == "héllo"
    assert _read_file(tmp_path / "b.json") == ["héllo"]


def test_a_page_in_place_of_a_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"<!DOCTYPE html><html>404</html>")
    with pytest.raises(ValueError, match="is an HTML page, and no text"):
        _read_file(tmp_path / "a.txt")
