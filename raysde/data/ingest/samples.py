"""What an ingest reads from any source: samples, and what is wrong with those that cannot be one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_CAPTION = 10_000
"""Characters of a caption that are kept."""


@dataclass(frozen=True)
class Sample:
    """One image as it was found, with what is said about it.

    Attributes:
        key: its name, unique in the source: a relative path, ``ARCHIVE.tar/NAME``, or ``FILE.parquet#ROW``.
        data: the bytes of an image file.
        captions: any number of captions; blank ones are left out.
        label: a class name, or a class number written in decimal, or None.
        unread: kinds of files and keys that lie beside it and that nothing reads, such as ``.npy files``.
    """

    key: str
    data: bytes
    captions: tuple[str, ...] = ()
    label: str | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bad:
    """A sample that cannot be used, and why, in a sentence that names the file."""

    key: str
    reason: str


class SourcePart(Protocol):
    """A piece of a source that one task reads; pickles small, and yields the same samples every time.

    Attributes:
        name: for messages and for the record of finished parts, unique in the source.
        count: samples in it, if that is known without reading it.
    """

    name: str
    count: int | None

    def read(self) -> Iterator[Sample | Bad]:
        """The samples in order; what is wrong with one does not end the others."""
