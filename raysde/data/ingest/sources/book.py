"""Captions and labels of the images of a folder, gathered from all of its description files."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

from raysde.data.ingest.sources.descriptions import ANY, Vocabulary
from raysde.data.ingest.sources.listing import normalise_path, summarise_names


@dataclass(frozen=True)
class Said:
    """Captions and label of one image."""

    captions: tuple[str, ...] = ()
    label: str | None = None


@dataclass
class Book:
    """Descriptions by image.

    Attributes:
        names: the folder's images.
        words: the names of columns that are read.
        said: what is said about each image.
        faults: a sentence for each image that is described and not there, or wrongly, and each entry that names none.
        notes: remarks that a person should see.
        labelled: a file that gives labels or says that there are none, so that subfolders are no classes.
        columns: some description has columns or keys among which the user may choose.
    """

    names: frozenset[str]
    words: Vocabulary = ANY
    said: dict[str, Said] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labelled: str | None = None
    columns: bool = False

    def add(self, name: str, captions: tuple[str, ...], label: str | None) -> None:
        """Add what is said about an image to what was said before.

        Raises:
            ValueError: if it has another label than before.
        """
        before = self.said.get(name, Said())
        if label is not None and before.label not in (None, label):
            raise ValueError(f"image {name!r} has label {label!r} here and {before.label!r} before")
        more = tuple(caption for caption in captions if caption not in before.captions)
        self.said[name] = Said(before.captions + more, before.label if label is None else label)

    def require(self, columns: Iterable[str], where: str) -> None:
        """Compare the chosen columns with those of a description.

        Raises:
            ValueError: if one is not there.
        """
        self.words.require(columns, where)
        self.columns = True

    def miss(self, name: str, where: str) -> None:
        """Remember that an image is described and not there, with those whose names differ in case or suffix alone."""
        alike = self._alike.get(_fold_name(name))
        hint = f", which has {summarise_names([repr(other) for other in alike])}" if alike else ""
        self.refuse(name, f"{where}: image {name!r} is not among the images of the source{hint}")

    def refuse(self, name: str, reason: str) -> None:
        """Remember that an image, or an entry without one, cannot be used."""
        self.faults.setdefault(name, reason)

    def find(self, given: str, folder: PurePosixPath) -> str | None:
        """Return the image that a path means: relative to a folder, to the source, or by its base name or stem alone.

        Raises:
            ValueError: if the path leaves the folder, or several images have the name.
        """
        path = normalise_path(given.strip())
        for name in (str(folder / path), path):
            if name in self.names:
                return name
        base = PurePosixPath(path)
        found = self._bases.get(base.name) or self._stems.get(base.name, [])
        if len(found) > 1:
            raise ValueError(f"image {given!r} may be any of {summarise_names(found)}; write its path")
        return found[0] if found else None

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            found[_fold_name(name)].append(name)
        return found

    @cached_property
    def _bases(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            found[PurePosixPath(name).name].append(name)
        return found

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            found[PurePosixPath(name).stem].append(name)
        return found


def _fold_name(name: str) -> str:
    """Return the stem of a path, by which names are alike that differ in case, or in how accents are spelled."""
    return unicodedata.normalize("NFC", PurePosixPath(name).stem).casefold()
