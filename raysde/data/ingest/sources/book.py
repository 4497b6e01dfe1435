"""Captions and labels of the images of a folder, collected from all of its description files."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from raysde.data.ingest.kept_values import Value, pick_values
from raysde.data.ingest.sources.attribute_values import Values, merge_attributes
from raysde.data.ingest.sources.descriptions import ANY, Vocabulary
from raysde.data.ingest.sources.listing import normalise_path, summarise_names


@dataclass(frozen=True)
class Said:
    """Captions, label, numeric attributes and kept values of one image."""

    captions: tuple[str, ...] = ()
    label: str | None = None
    attributes: Values = ()
    kept: dict[str, Value] = field(default_factory=dict, hash=False)


@dataclass
class Book:
    """Captions and labels by image.

    Attributes:
        names: paths of the images in the folder.
        words: names of the columns and keys to read.
        said: captions and label of each described image.
        faults: an error sentence for each image that is described and absent, or wrongly described, and for each entry
            that names no image.
        notes: remarks for the user.
        labelled: a file that gives labels or declares that there are none, so that subfolders are not classes.
        columns: True if some description has columns or keys that the user may select.
    """

    names: frozenset[str]
    words: Vocabulary = ANY
    said: dict[str, Said] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labelled: str | None = None
    columns: bool = False

    def add(
        self,
        name: str,
        captions: tuple[str, ...],
        label: str | None,
        attributes: Values = (),
        kept: Mapping[str, Value] | None = None,
    ) -> None:
        """Add captions, a label, attributes and values to keep of an image to those of earlier descriptions.

        Raises:
            ValueError: if the image already has another label, or another value of an attribute or to keep.
        """
        before = self.said.get(name, Said())
        if label is not None and before.label not in (None, label):
            raise ValueError(f"image {name!r} has label {label!r} here and {before.label!r} before")
        more = tuple(caption for caption in captions if caption not in before.captions)
        numbers = merge_attributes(before.attributes, attributes, self.words.attributes)
        values = dict(before.kept)
        for column, value in (kept or {}).items():
            if value is not None and values.get(column) not in (None, value):
                raise ValueError(f"image {name!r} has {column} {value!r} here and {values[column]!r} before")
            values[column] = values.get(column) if value is None else value
        self.said[name] = Said(before.captions + more, before.label if label is None else label, numbers, values)

    def pick(self, row: Mapping[str, Any], folder: PurePosixPath) -> dict[str, Value]:
        """Return the values of a row that are kept, and the path in the source of its second image.

        Args:
            folder: folder of the description, to which paths are relative.

        Raises:
            ValueError: naming the column whose value cannot be kept or is no path inside the source.
        """
        found = pick_values(row, self.words.picked)
        second = self.words.condition
        if second is None or found.get(second) is None:
            return found
        given = found[second]
        if not isinstance(given, str):
            raise ValueError(f"condition image {second!r} is {given!r}, expected the path of an image")
        path = normalise_path(given.strip())
        near = str(folder / path)
        return {**found, second: path if path in self.names and near not in self.names else near}

    def require(self, columns: Iterable[str], where: str) -> None:
        """Check that a description at the path ``where`` has the columns or keys that the user selected.

        Raises:
            ValueError: if a selected one is absent.
        """
        self.words.require(columns, where)
        self.words.require_kept(columns, where)
        self.columns = True

    def miss(self, name: str, where: str) -> None:
        """Record the error sentence of a described image that is absent, with images of similar names.

        Args:
            name: path in the description, which differs from the suggested ones in case or suffix only.
            where: place of the description's row, for the message.
        """
        alike = self._alike.get(_fold_name(name))
        hint = f", which has {summarise_names([repr(other) for other in alike])}" if alike else ""
        self.refuse(name, f"{where}: image {name!r} is not among the images of the source{hint}")

    def refuse(self, name: str, reason: str) -> None:
        """Record the error sentence of an image, or of an entry without one, that cannot be used."""
        self.faults.setdefault(name, reason)

    def find(self, given: str, folder: PurePosixPath) -> str | None:
        """Return the image of a path relative to ``folder`` or the source, or of a base name or stem; None if absent.

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
    """Return the stem of a path in a form that ignores case and the Unicode spelling of accents."""
    return unicodedata.normalize("NFC", PurePosixPath(name).stem).casefold()
