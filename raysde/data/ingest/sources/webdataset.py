"""Tar archives in the WebDataset layout: neighbouring files that share a name are one sample, see ``members``.

Archives are read as streams, without extraction, either plain or compressed by gzip, bzip2 or xz.
"""

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, Self

from raysde.data.ingest.kept_values import Value, pick_values
from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.sources.attribute_values import Values, merge_attributes, read_attributes
from raysde.data.ingest.sources.columns import normalise_name
from raysde.data.ingest.sources.descriptions import ANY, Vocabulary, clean_captions, parse_label
from raysde.data.ingest.sources.listing import (
    Contents,
    Listing,
    decode_utf8,
    normalise_path,
    open_root,
    split_note,
    summarise_names,
)
from raysde.data.ingest.sources.members import (
    CAPTION_WORDS,
    CAPTIONS,
    IMAGES,
    JSON,
    JSON_WORDS,
    LABEL_WORDS,
    LABELS,
    READ,
    MemberPlace,
    extension_label,
    is_about,
    is_kind_word,
    locate_member,
)
from raysde.data.ingest.sources.records import find_pieces, is_record
from raysde.data.ingest.sources.sidecars import read_object
from raysde.data.ingest.sources.text_rows import parse_object

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 256 * 2**20
DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class Header(tarfile.TarInfo):
    """A tar header that raises if it is damaged or missing; tarfile takes such a header for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:  # type: ignore[override]
        """Read the next header; raise tarfile.ReadError if it is neither a header nor the end mark."""
        try:
            return super().fromtarfile(archive)  # type: ignore[return-value]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a file or the mark of the end should be") from error


@dataclass
class TarSample:
    """The files of one sample and their base names, by extension, and the first problem found with them."""

    key: str
    stem: str
    words: Vocabulary
    problem: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, extension: str, archive: tarfile.TarFile) -> None:
        """Add a file to the sample; its content is read if the extension is used and there is no problem."""
        problem = self._refusal(member, extension)
        self.problem = self.problem or problem
        if self.problem is not None:
            self.files = dict.fromkeys(self.files, b"")
        self.files[extension] = b""
        self.names[extension] = PurePosixPath(member.name).name
        if self.problem is None and extension.rpartition(".")[2] in READ:
            content = archive.extractfile(member)
            assert content is not None, "a regular file has content"
            self.files[extension] = content.read()

    def _refusal(self, member: tarfile.TarInfo, extension: str) -> str | None:
        try:
            normalise_path(member.name)
        except ValueError as error:
            return str(error)
        if member.islnk() or member.issym():
            return f"member {member.name!r} is a link"
        if extension in self.files:
            return f"there are two members {member.name!r}"
        if member.size > MAX_MEMBER:
            return f"member {member.name!r} has {member.size} bytes, more than {MAX_MEMBER}"
        return None

    @property
    def images(self) -> list[str]:
        """Extensions of the sample's images."""
        return [extension for extension in self.files if extension.rpartition(".")[2] in IMAGES]

    def sample(self, archive: str) -> Sample | Bad:
        """Return the files as a sample of the archive named ``archive``, or as :class:`Bad`, with the reason, if
        they are unusable."""
        key = f"{archive}/{self.key}"
        try:
            if self.problem is not None:
                raise ValueError(self.problem)
            image = self._image()
            captions, label, unread, attributes, kept = self._read_descriptions(image)
            if label is None and "/" in self.key:
                unread.append("names of folders, which are labels in a folder of images alone")
            second = self._second(image)
            condition = None if second is None else self.files[second]
            return Sample(key, self.files[image], captions, label, tuple(unread), attributes, kept, condition)
        except ValueError as error:
            return Bad(key, f"{key}: {error}")

    def _second(self, image: str) -> str | None:
        """Return the extension of the second image, such as ``depth.png``; None if there is none.

        Raises:
            ValueError: if there are several.
        """
        found = [extension for extension in self.images if extension != image and self._is_second(extension)]
        if len(found) > 1:
            names = summarise_names([self.names[extension] for extension in found])
            raise ValueError(f"it holds {len(found)} condition images ({names}), expected one; keep one")
        return found[0] if found else None

    def _is_second(self, extension: str) -> bool:
        own = extension.rpartition(".")[0]
        return self.words.condition is not None and normalise_name(own) == self.words.condition

    def _image(self) -> str:
        exact = [extension for extension in self.images if extension in IMAGES]
        found = exact or [extension for extension in self.images if not self._is_second(extension)]
        if not found:
            raise ValueError("it holds no image, expected one")
        if len(found) > 1:
            names = summarise_names([self.names[extension] for extension in found])
            raise ValueError(
                f"it holds {len(found)} images ({names}), expected one; where they are samples of their own, unpack "
                "the archive and ingest the folder, or rename them without a dot in the name"
            )
        return found[0]

    def _read_descriptions(self, image: str) -> tuple[tuple[str, ...], str | None, list[str], Values, dict[str, Value]]:
        captions: dict[str, None] = {}
        kept: dict[str, Value] = {}
        labels: dict[str, str] = {}
        unread: list[str] = []
        attributes: Values = ()
        names = self.words.attributes
        for extension in self.files:
            own, _, suffix = extension.rpartition(".")
            name = self.names[extension]
            if suffix in JSON and is_about(extension, image, JSON_WORDS):
                row = parse_object(decode_utf8(self.files[extension], name), name)
                more, label, keys = read_object(row, self.words, name)
                attributes = merge_attributes(attributes, read_attributes(row, names), names)
                captions.update(dict.fromkeys(more))
                kept |= pick_values(row, self.words.keep)
                unread += keys
            elif is_about(extension, image, LABEL_WORDS) and (
                suffix in LABELS or (suffix == "txt" and own in LABEL_WORDS)
            ):
                label = parse_label(decode_utf8(self.files[extension], name))
            elif suffix in CAPTIONS and is_about(extension, image, CAPTION_WORDS):
                captions.update(dict.fromkeys(clean_captions([decode_utf8(self.files[extension], name)])))
                label = None
            else:
                used = extension == image or (extension in self.images and self._is_second(extension))
                unread += [] if used else [extension_label(extension)]
                continue
            if label is not None:
                labels.setdefault(label, extension)
        if len(labels) > 1:
            raise ValueError(
                "it has " + " and ".join(f"label {label!r} in .{where}" for label, where in labels.items())
            )
        return tuple(captions), next(iter(labels), None), unread, attributes, kept


@dataclass
class TarPart:
    """One archive as a part of a source; ``count`` is None, as the number of samples is unknown before reading."""

    root: str
    name: str
    words: Vocabulary = ANY
    count: int | None = None

    def read(self) -> Iterator[Sample | Bad]:
        """Yield the samples in order, and last a :class:`Bad` with the archive's name if it is damaged or cut short.

        Raises:
            ValueError: if files of other samples separate an image from its captions or label.
        """
        with self._stream() as stream:
            yield from read_tar(stream, self.name, self.words)

    def has_json(self) -> bool:
        """Return True if the archive has a JSON file, or is damaged before the first one."""
        try:
            with self._stream() as stream:
                return any(
                    extension.rpartition(".")[2] in JSON
                    for group in _group_members(stream, self.words)
                    for extension in group.files
                )
        except DAMAGE:
            return True

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        system, folder = open_root(self.root)
        with system.open_input_stream(f"{folder}/{self.name}", compression=None) as stream:
            # tarfile itself does not verify gzip's checksums
            zipped = self.name.lower().endswith((".gz", ".tgz"))
            opened: Any = gzip.GzipFile(fileobj=stream) if zipped else stream
            yield opened


def read_tar(stream: IO[bytes], name: str, words: Vocabulary = ANY) -> Iterator[Sample | Bad]:
    """Yield the samples of a tar stream; ``name`` is the archive's, for keys and messages.

    Raises:
        ValueError: if files of other samples separate an image from its captions or label, which would be lost.
    """
    last = "the start"
    with_image: dict[str, bool] = {}
    try:
        for group in _group_members(stream, words):
            apart = group.key in with_image and not (with_image[group.key] and group.images)
            if apart and any(extension.rpartition(".")[2] in READ for extension in group.files):
                raise ValueError(
                    f"archive {name}: files of {group.key!r} lie apart from its image, where captions and labels would "
                    "be lost; pack the archive anew with tar --sort=name, or unpack it and ingest the folder"
                )
            with_image[group.key] = bool(group.images)
            last = group.key
            yield group.sample(name)
    except DAMAGE as error:
        yield Bad(name, f"archive {name} is damaged or cut short after {last}: {error}")


def _group_members(stream: IO[bytes], words: Vocabulary) -> Iterator[TarSample]:
    """Yield the groups of neighbouring files, each when it is complete; a repeated key is a problem of its group."""
    grouping = Grouping(words)
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=Header, errors="backslashreplace") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # the list would grow with the archive
            path = member.name.removeprefix("./")
            hidden = path.rpartition("/")[2].startswith(".")
            if hidden or not (member.isreg() or member.islnk() or member.issym()):
                continue
            complete, extension = grouping.put(locate_member(path))
            if complete is not None:
                yield complete
            assert grouping.group is not None, "a member has a group"
            grouping.group.add(member, extension, archive)
        if grouping.group is not None:
            yield grouping.group
        while rest := archive.fileobj.read(2**20):  # type: ignore[union-attr]
            if rest.strip(b"\0"):
                raise tarfile.ReadError("there is more after the mark of the end")


@dataclass
class Grouping:
    """State of grouping an archive's members into samples in one pass.

    Attributes:
        words: names of the columns and keys to read.
        group: the group that is not complete yet.
        seen: keys of all groups so far, see :class:`raysde.data.ingest.sources.members.MemberPlace`.
        dotted: for each stem, the keys of groups whose names continue after its first dot.
    """

    words: Vocabulary
    group: TarSample | None = None
    seen: set[str] = field(default_factory=set)
    dotted: dict[str, list[str]] = field(default_factory=dict)

    def put(self, where: MemberPlace) -> tuple[TarSample | None, str]:
        """Assign a member to a group; return the group that it completes or None, and its extension in its group."""
        group = self.group
        if group is not None and where.key == group.key:
            return None, where.extension
        if group is not None and where.key.startswith(group.key + "."):
            extension = where.under(group.key)
            if where.suffix not in IMAGES or not self._own_image(group):
                return None, extension
            group.problem = group.problem or _describe_doubt(where.name)
            return None, extension
        if group is not None and self._adopts(group, where):
            start = f"{group.key}."[len(where.key) + 1 :].lower()
            group.files = {start + old: content for old, content in group.files.items()}
            group.names = {start + old: name for old, name in group.names.items()}
            group.key = where.key
            self.seen.add(where.key)
            return None, where.extension
        self.group = TarSample(where.key, where.stem, self.words, self._problem(where))
        self.seen.add(where.key)
        if where.key != where.stem:
            self.dotted.setdefault(where.stem, []).append(where.key)
        return group, where.extension

    @staticmethod
    def _own_image(group: TarSample) -> bool:
        return any(extension in IMAGES for extension in group.files)

    def _adopts(self, group: TarSample, where: MemberPlace) -> bool:
        """Return True if a member without a dot in its name describes the single image of the previous group."""
        alone = self.dotted.get(where.key) == [group.key] and len(group.files) == 1 and len(group.images) == 1
        return alone and where.key not in self.seen and where.suffix not in IMAGES

    def _problem(self, where: MemberPlace) -> str | None:
        if where.key in self.seen:
            return f"files of {where.key!r} appear again, not beside the others"
        if where.key == where.stem and (others := self.dotted.get(where.key)):
            return _describe_doubt(PurePosixPath(others[0]).name)
        return None


def _describe_doubt(name: str) -> str:
    return (
        f"files of {name!r} may be of this sample or of one of their own; rename them without a dot "
        "in the name, or unpack the archive and ingest the folder"
    )


def open_webdataset(listing: Listing, words: Vocabulary = ANY) -> Contents:
    """Return the archives of a listing, one part each.

    Raises:
        ValueError: if a column is selected and the first archive has no JSON.
    """
    names = listing.names(*TAR_SUFFIXES)
    if words.condition is not None and not is_kind_word(words.condition):
        raise ValueError(
            f"--condition-image {words.condition!r}: in archives it is a word without numbers, as in 0001.depth.png; "
            "rename the files"
        )
    if words.selects and not TarPart(listing.root, names[0]).has_json():
        raise ValueError(f"archive {names[0]} has no JSON with keys to choose from; leave {words.options} out")
    notes = list(split_note(names))
    downloaded = find_pieces(listing)
    if records := [file.name for file in listing.files if is_record(file.name, downloaded)]:
        notes.append(f"records of a download are not read: {summarise_names(records)}")
    known = {*names, *records}
    if others := [file.name for file in listing.files if file.name not in known]:
        notes.append(f"beside the archives, not read: {summarise_names(others)}")
    return Contents([TarPart(listing.root, name, words) for name in names], None, tuple(notes))
