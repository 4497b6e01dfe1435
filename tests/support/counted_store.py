"""A store that counts requests: a local folder behind the interface of pyarrow's file systems."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock, local
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs


class CountedStore(pafs.FileSystemHandler):
    """A read-only store of files, which counts like an object store: an open file costs a HEAD, a read costs a GET.

    Attributes:
        heads: number of files that were opened.
        reads: bytes of each read.
    """

    def __init__(self, locate: Callable[[str], Path]) -> None:
        self.locate, self.heads, self.lock = locate, 0, Lock()
        self.reads: list[int] = []

    def open_input_file(self, path: str) -> pa.NativeFile:
        if not (place := self.locate(path)).is_file():
            raise FileNotFoundError(path)
        with self.lock:
            self.heads += 1
        return pa.PythonFile(_CountedFile(place, self), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def get_type_name(self) -> str:
        return "counted"

    def normalize_path(self, path: str) -> str:
        return path

    def _refuse(self, *given: Any, **more: Any) -> Any:
        raise NotImplementedError("the counted store is opened for reading only")

    get_file_info = get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _refuse
    delete_root_dir_contents = delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse


class _CountedFile:
    """A file whose reads are counted. Threads that share it have a position each, since Arrow seeks to learn the size."""

    def __init__(self, place: Path, store: CountedStore) -> None:
        self.place, self.store, self.closed, self.at = place, store, False, local()

    def read(self, size: int = -1) -> bytes:
        with self.place.open("rb") as source:
            source.seek(self.tell())
            content = source.read(size)
        self.at.position = self.tell() + len(content)
        with self.store.lock:
            self.store.reads.append(len(content))
        return content

    def seek(self, place: int, whence: int = 0) -> int:
        start = {0: 0, 1: self.tell(), 2: self.place.stat().st_size}[whence]
        self.at.position = start + place
        return self.at.position

    def tell(self) -> int:
        return getattr(self.at, "position", 0)

    def close(self) -> None:
        self.closed = True


def counted_filesystem(store: CountedStore) -> Callable[[str], tuple[pafs.FileSystem, str]]:
    """Return a function to put in the place of ``open_filesystem``."""
    system = pafs.PyFileSystem(store)
    return lambda path: (system, path)
