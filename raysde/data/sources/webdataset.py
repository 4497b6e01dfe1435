"""Tar archives in the WebDataset layout: neighbouring files that share a name up to its first dot are one sample.

Nothing is extracted; archives are read as streams, compressed by gzip, bzip2 or xz or not at all.
"""

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Self

from raysde.data.kinds import IMAGE_SUFFIXES
from raysde.data.samples import Bad, Sample
from raysde.data.sources.descriptions import clean, describe, label_of
from raysde.data.sources.listing import Contents, Listing, inside, reach, split_note, utf8
from raysde.data.sources.metadata import parse

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 256 * 2**20
IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
TEXTS = ("txt", "json", "cls")


class Header(tarfile.TarInfo):
    """A header after which a damaged or missing one is an error; tarfile alone takes those for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:  # type: ignore[override]
        """The next header."""
        try:
            return super().fromtarfile(archive)  # type: ignore[return-value]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a file or the mark of the end should be") from error


@dataclass
class Group:
    """The files of one sample, by extension, and the first thing that is wrong with them."""

    key: str
    problem: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, extension: str, archive: tarfile.TarFile) -> None:
        """Reads a member if a sample can use it."""
        problem = self._refusal(member, extension)
        self.problem = self.problem or problem
        self.files[extension] = b""
        if problem is None and extension.rpartition(".")[2] in IMAGES + TEXTS:
            content = archive.extractfile(member)
            assert content is not None, "a regular file has content"
            self.files[extension] = content.read()

    def _refusal(self, member: tarfile.TarInfo, extension: str) -> str | None:
        try:
            inside(member.name)
        except ValueError as error:
            return str(error)
        if member.islnk() or member.issym():
            return f"member {member.name!r} is a link"
        if extension in self.files:
            return f"there are two members {member.name!r}"
        if member.size > MAX_MEMBER:
            return f"member {member.name!r} has {member.size} bytes, more than {MAX_MEMBER}"
        return None

    def sample(self, archive: str) -> Sample | Bad:
        """The sample that the files make."""
        key = f"{archive}/{self.key}"
        try:
            if self.problem is not None:
                raise ValueError(self.problem)
            captions, label = self._described()
            return Sample(key, self._image(), captions, label)
        except ValueError as error:
            return Bad(key, f"{key}: {error}")

    def _image(self) -> bytes:
        exact = [extension for extension in self.files if extension in IMAGES]
        found = exact or [extension for extension in self.files if extension.rpartition(".")[2] in IMAGES]
        if len(found) != 1:
            raise ValueError(f"it holds {len(found) or 'no'} image{'s'[: len(found) != 1]}, expected one")
        return self.files[found[0]]

    def _described(self) -> tuple[tuple[str, ...], str | None]:
        texts = {kind: utf8(self.files[kind], f"{self.key}.{kind}") for kind in TEXTS if kind in self.files}
        captions, label = clean([texts.get("txt", "")]), label_of(texts.get("cls"))
        if "json" in texts:
            more, other = describe(parse(texts["json"], f"{self.key}.json"))
            captions += tuple(caption for caption in more if caption not in captions)
            if None not in (label, other) and label != other:
                raise ValueError(f"it has label {label!r} in .cls and {other!r} in .json")
            label = other if label is None else label
        return captions, label


@dataclass
class TarPart:
    """One archive."""

    root: str
    name: str
    count: int | None = None

    def read(self) -> Iterator[Sample | Bad]:
        """The samples in order; after one that is cut short or damaged, a Bad with the archive's name."""
        system, folder = reach(self.root)
        with system.open_input_stream(f"{folder}/{self.name}", compression=None) as stream:
            opened: Any = stream
            if self.name.lower().endswith((".gz", ".tgz")):  # tarfile alone does not compare gzip's checksums
                opened = gzip.GzipFile(fileobj=stream)
            yield from read_tar(opened, self.name)


def read_tar(stream: IO[bytes], name: str) -> Iterator[Sample | Bad]:
    """The samples of a tar stream; ``name`` is the archive's, for keys and messages."""
    last = "the start"
    try:
        for group in _groups(stream):
            last = group.key
            yield group.sample(name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        yield Bad(name, f"archive {name} is damaged or cut short after {last}: {error}")


def _groups(stream: IO[bytes]) -> Iterator[Group]:
    """Groups of neighbours, each when it is complete; one whose key was there before has that as its problem."""
    group: Group | None = None
    seen: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=Header, errors="backslashreplace") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would grow with the archive
            located = _locate(member)
            if located is None:
                continue
            key, extension = located
            if group is None or key != group.key:
                if group is not None:
                    yield group
                problem = f"files of {key!r} appear again, not beside the others" if key in seen else None
                group = Group(key, problem)
                seen.add(key)
            group.add(member, extension, archive)
        if group is not None:
            yield group
        while rest := archive.fileobj.read(2**20):  # type: ignore[union-attr]
            if rest.strip(b"\0"):
                raise tarfile.ReadError("there is more after the mark of the end")


def _locate(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and extension of a file or link; None for what is neither, and for hidden files."""
    folder, slash, base = member.name.removeprefix("./").rpartition("/")
    if base.startswith(".") or not (member.isreg() or member.islnk() or member.issym()):
        return None
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def open_webdataset(listing: Listing) -> Contents:
    """The archives of a listing, one part each."""
    names = listing.names(*TAR_SUFFIXES)
    return Contents([TarPart(listing.root, name) for name in names], None, split_note(names))
