"""Samples that an ingest reads from any source, and records of the unusable ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from raysde.data.ingest.kept_values import Value

MAX_CAPTION = 10_000
"""Maximum number of characters of a caption; the rest is cut off."""


@dataclass(frozen=True)
class Sample:
    """One image as found in a source, with its captions and label.

    Attributes:
        key: name, unique in the source: a relative path, ``ARCHIVE.tar/NAME``, or ``FILE.parquet#ROW``.
        data: the bytes of an image file.
        captions: any number of captions, none of them blank.
        label: a class name, or a class number written in decimal, or None.
        attributes: a number for each attribute of the ingest, None where it is unknown.
        unread: kinds of files and keys beside the image that are ignored, such as ``.npy files``.
        kept: values of the source's other columns that the ingest keeps, by name.
        condition: the bytes of the second image's file; None if the ingest reads none.
    """

    key: str
    data: bytes
    captions: tuple[str, ...] = ()
    label: str | None = None
    unread: tuple[str, ...] = ()
    attributes: tuple[float | None, ...] = ()
    kept: dict[str, Value] = field(default_factory=dict, hash=False)
    condition: bytes | None = None


@dataclass(frozen=True)
class Bad:
    """The key of an unusable sample, and the reason as a sentence that names the file."""

    key: str
    reason: str


class SourcePart(Protocol):
    """A part of a source that one task reads; it is small when pickled, and yields the same samples every time.

    Attributes:
        name: name in messages and in the record of finished parts, unique in the source.
        count: number of samples; None if it is unknown without reading them.
    """

    name: str
    count: int | None

    def read(self) -> Iterator[Sample | Bad]:
        """Yield the samples in order, with a :class:`Bad` in place of each unusable one."""
