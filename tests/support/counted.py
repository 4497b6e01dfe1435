"""A file system that counts what is read from it."""

import pyarrow as pa
import pyarrow.fs as pafs


class CountedFile:
    """An open file that adds the bytes of each read to a list."""

    def __init__(self, source, path: str, reads: list[tuple[str, int]]) -> None:
        self.source, self.path, self.reads = source, path, reads

    def read(self, size: int = -1) -> bytes:
        content = self.source.read(size if size >= 0 else None)
        self.reads.append((self.path, len(content)))
        return content

    def read_buffer(self, size: int | None = None) -> pa.Buffer:
        return pa.py_buffer(self.read(-1 if size is None else size))

    def __getattr__(self, name: str):
        return getattr(self.source, name)


class Counted(pafs.FileSystemHandler):
    """A remote file system over a local folder.

    Attributes:
        reads: path and bytes of each read, in order.
    """

    def __init__(self, folder: str) -> None:
        self.inner = pafs.SubTreeFileSystem(folder, pafs.LocalFileSystem())
        self.reads: list[tuple[str, int]] = []

    @property
    def system(self) -> pafs.PyFileSystem:
        return pafs.PyFileSystem(self)

    def read_of(self, end: str) -> int:
        """Return the bytes read from files whose names end with ``end``."""
        return sum(size for path, size in self.reads if path.endswith(end))

    def get_type_name(self):
        return "s3"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        return self.inner.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.inner.get_file_info(selector)

    def create_dir(self, path, recursive):
        self.inner.create_dir(path, recursive=recursive)

    def delete_dir(self, path):
        self.inner.delete_dir(path)

    def delete_dir_contents(self, path, missing_dir_ok):
        self.inner.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self):
        raise NotImplementedError

    def delete_file(self, path):
        self.inner.delete_file(path)

    def move(self, source, target):
        self.inner.move(source, target)

    def copy_file(self, source, target):
        self.inner.copy_file(source, target)

    def open_input_stream(self, path):
        return pa.PythonFile(CountedFile(self.inner.open_input_stream(path), path, self.reads), mode="r")

    def open_input_file(self, path):
        return pa.PythonFile(CountedFile(self.inner.open_input_file(path), path, self.reads), mode="r")

    def open_output_stream(self, path, metadata):
        return self.inner.open_output_stream(path)

    def open_append_stream(self, path, metadata):
        raise NotImplementedError
