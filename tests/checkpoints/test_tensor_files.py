"""Files streamed from memory: whole or not at all, hashed on the way, tried again in remote storage."""

import hashlib

import pyarrow.fs as pafs
import pytest

from raysde.checkpoints import tensor_files
from raysde.checkpoints.tensor_files import write_file, write_into_place

PARTS = [b"new", b"", b" and longer"]


def test_a_write_that_is_killed_leaves_what_was_there(tmp_path):
    """This also holds for a URI; a new write deletes the remains of the killed one."""
    place, uri = tmp_path / "there" / "a.bin", f"file://{tmp_path}/there/a.bin"
    place.parent.mkdir()
    place.write_bytes(b"old")

    def torn():
        yield PARTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_into_place(uri, torn)
    assert place.read_bytes() == b"old"
    write_into_place(uri, lambda: PARTS)
    assert place.read_bytes() == b"".join(PARTS)
    assert {path.name for path in place.parent.iterdir()} == {"a.bin"}


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_an_object_is_sent_again_from_its_beginning(tmp_path, monkeypatch, failures):
    """After an outage the whole content arrives, with the hash of one copy of it; the third failure is an error."""
    monkeypatch.setattr(tensor_files.time, "sleep", lambda seconds: None)
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    left = [failures]

    def parts():
        yield PARTS[0]
        if left[0]:
            left[0] -= 1
            raise OSError("connection reset")
        yield from PARTS[1:]

    if failures == 3:
        with pytest.raises(OSError, match="connection reset"):
            write_file(remote, "there/a.bin", parts)
        return
    written = write_file(remote, "there/a.bin", parts)
    content = (tmp_path / "there" / "a.bin").read_bytes()
    assert content == b"".join(PARTS)
    assert written == (hashlib.sha256(content).hexdigest(), len(content))
