"""Files and folders by path or URI: names, hashes, and files that are whole or as they were."""

import hashlib
import json
from pathlib import Path

import pytest

from raysde.data.filesystems import (
    check_writable,
    child,
    exists,
    filesystem,
    is_partial,
    location,
    read_bytes,
    sha256_of,
    write_bytes,
    write_json,
)


@pytest.mark.parametrize(
    ("path", "names", "wanted"),
    [
        ("/a/b", ("c",), "/a/b/c"),
        ("/a/b/", ("c", "d"), "/a/b/c/d"),
        ("/what?/b", ("c",), "/what?/b/c"),
        ("s3://bucket/b", ("c",), "s3://bucket/b/c"),
        ("s3://bucket/b/?region=x", ("c",), "s3://bucket/b/c?region=x"),
        ("s3://b/?endpoint_override=http://h:1", ("c",), "s3://b/c?endpoint_override=http://h:1"),
    ],
)
def test_what_lies_below_keeps_the_options_at_its_end(path, names, wanted):
    assert child(path, *names) == wanted


def test_places_are_absolute_or_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert location("a/b") == str(tmp_path / "a" / "b")
    assert location("~/b") == "/home/somebody/b"
    assert location("s3://bucket/b/") == "s3://bucket/b"
    assert filesystem("a")[1] == str(tmp_path / "a")
    with pytest.raises(ValueError, match="'magic://x' is not a place that can be read"):
        filesystem("magic://x")


def test_a_file_is_what_was_written_last(tmp_path):
    """In folders that are made for it; its hash is that of its bytes, also of more than are read at a time."""
    content = bytes(range(256)) * 8200  # two pieces of 2^20 bytes and a shorter one
    place = tmp_path / "a" / "b" / "file"
    assert not exists(str(place))
    write_bytes(str(place), b"old, and longer than what comes")
    write_bytes(str(place), b"new")
    assert (read_bytes(str(place)), exists(str(place)), exists(str(place.parent))) == (b"new", True, True)
    write_bytes(str(place), content)
    assert sha256_of(str(place)) == hashlib.sha256(content).hexdigest()
    write_json(str(place), {"ä": [1, 2.5, None]})
    assert json.loads(place.read_text(encoding="utf-8")) == {"ä": [1, 2.5, None]}
    assert [path.name for path in place.parent.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        read_bytes(str(place) + ".other")


def test_who_is_killed_while_writing_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """And a part beside it that is known as one."""
    write_bytes(str(tmp_path / "file"), b"old")
    for name in ("write_bytes", "replace"):
        plain = getattr(Path, name)

        def cut(self, given, name=name, plain=plain):
            if name == "write_bytes":
                plain(self, given[:1])
            raise KeyboardInterrupt

        with monkeypatch.context() as context:
            context.setattr(Path, name, cut)
            with pytest.raises(KeyboardInterrupt):
                write_bytes(str(tmp_path / "file"), b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
    left = [path.name for path in tmp_path.iterdir() if path.name != "file"]
    assert len(left) == 2
    assert all(is_partial(name) for name in left)
    assert not any(is_partial(name) for name in ("file", "file.part", ".file", "part-00000.parquet"))


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable(str(tmp_path / "new" / "report.json"), "--output")
    assert (tmp_path / "new").is_dir()
    check_writable(str(tmp_path / "file"), "--output")
    with pytest.raises(ValueError, match=r"--output .* is a folder: give the name of a file"):
        check_writable(str(tmp_path), "--output")
    with pytest.raises(ValueError, match=r"--output .*/file/report\.json cannot be written"):
        check_writable(str(tmp_path / "file" / "report.json"), "--output")
