"""Large read-only files that all processes of a node share: mapped into memory, remote ones through one local copy."""

import fcntl
import hashlib
import mmap
import os
import tempfile
from io import BufferedReader
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from raysde.io.atomic import write_atomically
from raysde.io.filesystems import open_filesystem

COPIES = "raysde-files"
"""Beginning of the folder of local copies in the temporary folder; the user's number follows."""


def open_shared_file(path: str, sha256: str) -> pa.Buffer:
    """Return the content of a file, memory-mapped, so that all processes of a node hold it once.

    A remote file is downloaded once per node, into a folder of the temporary directory, under the name of its hash.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its content has another hash.
    """
    system, inside = open_filesystem(path)
    local = Path(inside) if isinstance(system, pafs.LocalFileSystem) else fetch_copy(system, inside, sha256)
    with open(local, "rb") as source:
        if (found := _hash(source)) != sha256:
            raise ValueError(f"it has sha256 {found[:12]}, expected {sha256[:12]}")
        return pa.py_buffer(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))


def fetch_copy(system: pafs.FileSystem, inside: str, sha256: str) -> Path:
    """Return this node's copy of a remote file; the first process that asks for it downloads it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the copy would have another name than a hash.
    """
    if not (sha256.isalnum() and len(sha256) == 64):
        raise ValueError(f"sha256 {sha256[:12]!r} is no hash")
    folder = Path(tempfile.gettempdir()) / f"{COPIES}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / sha256
    with open(folder / f"{sha256}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait instead of downloading too
        if not _is_copy(copy, sha256):
            with system.open_input_stream(inside) as source, write_atomically(copy, "a copy") as partial:
                partial.write_bytes(source.read())
    return copy


def _is_copy(copy: Path, sha256: str) -> bool:
    if not copy.exists():
        return False
    with open(copy, "rb") as source:
        return _hash(source) == sha256


def _hash(source: BufferedReader) -> str:
    """Return the hash of an open file. It is read and not mapped, so that its pages stay out of this process."""
    return hashlib.file_digest(source, "sha256").hexdigest()
