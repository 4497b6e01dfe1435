"""The real images that drawn ones are compared with: all rows of one data set, or the rows that a run trains on.

A run may be on filtered rows, or on several data sets in exact shares. Its real images are then rows that its filters
select, of each data set in proportion to its weight. Weights of single rows (``data.weights``) do not change them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from raysde.data.batches.shares import fit_shares, split_count
from raysde.data.dataset.filters import normalise_filter
from raysde.data.dataset.layout import Rows, choose_positions
from raysde.data.dataset.manifest import Split, read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.selection import Selection, filtered_layouts, select_rows
from raysde.data.dataset.sources import Source, SourcesReader, fill_template, merge_manifests
from raysde.data.dataset.versions import choose_version, find_version


class RealData(SourcesReader):
    """A reader of data sets with their filters and shares.

    Args:
        sources: the data sets.
        shares: whole numbers in proportion to their weights.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[int]) -> None:
        plain = [replace(source, text=None, latents=None) for source in sources]
        super().__init__(plain, merge_manifests(plain))
        self.shares = tuple(shares)

    @cached_property
    def choice(self) -> str:
        """Hash of the filters and shares, 16 hexadecimal digits; empty for all rows of one data set."""
        if len(self.sources) == 1 and self.sources[0].selection is None:
            return ""
        return hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()[:16]

    def describe(self) -> list[dict[str, Any]]:
        """Return the content, share and selected rows of each data set as JSON values."""
        return [
            {"fingerprint": source.manifest.fingerprint, "share": share, **source.selected}
            for source, share in zip(self.sources, self.shares, strict=True)
        ]

    def rows_in(self, split: Split) -> tuple[Rows, ...]:
        """Return the rows of a split of each data set that its filter selects."""
        return tuple(
            Rows(
                source.manifest.layouts(split)
                if source.selection is None
                else filtered_layouts(source.manifest, source.selection, split),
                np.empty(0, dtype=np.int64),
            )
            for source in self.sources
        )

    def choose_rows(self, split: Split, count: int | None, seed: int) -> np.ndarray:
        """Return row numbers int64 [N], ascending, of random rows of a split, of each data set its share.

        Args:
            count: number of rows; None, or more than there are in these shares, for as many as there are.
            seed: seed of the random choice.

        Raises:
            ValueError: naming a data set without a row.
        """
        parts = self.rows_in(split)
        for source, part in zip(self.sources, parts, strict=True):
            if not part.count:
                where = f"the data at {source.manifest.path}"
                if source.selection is not None:
                    raise ValueError(f"{where} has no row of split {split} that its filter selects; widen the filter")
                raise ValueError(
                    f"{where} has no rows of split {split}; choose another split, or ingest with --validation"
                )
        most = fit_shares([part.count for part in parts], self.shares)
        counts = split_count(most if count is None else min(count, most), self.shares)
        return self._number(
            [
                part.number_positions(choose_positions(part, each, seed))
                for part, each in zip(parts, counts, strict=True)
            ]
        )

    def list_rows(self, split: Split) -> np.ndarray:
        """Return the row numbers int64 [N], ascending, of every selected row of a split, whatever its share."""
        return self._number([part.number_positions(np.arange(part.count)) for part in self.rows_in(split)])

    def _number(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Return rows of each data set in the numbering of all, sorted."""
        return np.sort(np.concatenate([each + start for each, start in zip(rows, self.starts[:-1], strict=True)]))

    def classes_in(self, split: Split) -> tuple[int, ...]:
        """Return the class numbers that occur in the selected rows of a split, sorted.

        Raises:
            ValueError: naming the shard that is missing or damaged, or the row whose label the manifest does not list.
        """
        found: set[int] = set()
        for source, reader, names in zip(self.sources, self.readers, self.classes, strict=True):
            own = reader.classes_in(split) if source.selection is None else _classes_of(reader, source.selection, split)
            found |= {int(names[number]) for number in own}
        return tuple(sorted(found))

    def conditions_of(self, rows: np.ndarray) -> Iterator[tuple[int, list[str], np.ndarray | None]]:
        """Yield class number, captions and attributes of rows [N], as :func:`conditions_of`, with caption templates.

        Raises:
            ValueError: naming the shard that is missing or damaged.
        """
        numbers = self._sources_of(rows)
        for place in np.unique(numbers).tolist():
            source, names = self.sources[place], (*self.sources[place].manifest.labels, None)
            for number, captions, values in conditions_of(
                self.readers[place], rows[numbers == place] - self.starts[place]
            ):
                texts = captions
                if source.template is not None:
                    texts = [fill_template(source.template, each, names[number]) for each in captions or [""]]
                yield int(self.classes[place][number]), [each for each in texts if each], values


RealReader = Reader | RealData
"""A reader of real images: of all rows of one data set, or of a choice of rows."""


def conditions_of(reader: RealReader, rows: np.ndarray) -> Iterator[tuple[int, list[str], np.ndarray | None]]:
    """Yield the class number, captions and attributes [A] of rows [N], shard by shard; the number is -1 for no label.

    Raises:
        ValueError: naming the shard that is missing or damaged.
    """
    if isinstance(reader, RealData):
        yield from reader.conditions_of(rows)
        return
    for _, group, inside in reader.groups.holding(rows):
        assert group.labels is not None, "the reader gives labels"
        assert group.captions is not None, "the reader gives captions"
        label = group.labels[inside].as_py()
        values = None if group.attributes is None else group.attributes[inside]
        yield -1 if label is None else reader.numbers[label], group.captions[inside].as_py(), values


def _classes_of(reader: Reader, selection: Selection, split: Split) -> set[int]:
    """Return the class numbers of the selected rows of a split; reading stops once every class is found."""
    manifest, found = reader.manifest, set[int]()
    for number, shard in enumerate(manifest.shards):
        for group in range(-(-shard.rows // manifest.row_group)) if shard.split == split else ():
            first = int(manifest.starts[number]) + group * manifest.row_group
            inside = selection.in_rows(first, min(first + manifest.row_group, int(manifest.starts[number + 1])))
            if len(found) == manifest.classes or not inside.any():
                continue
            labels = reader.groups.read(number, group, ["label"]).column("label").to_pylist()
            chosen = {label for label, is_selected in zip(labels, inside, strict=True) if is_selected}
            found |= {reader.numbers[label] for label in chosen if label is not None}
    return found


def choice_of(reader: RealReader) -> str:
    """Return the hash of a reader's filters and shares; empty for all rows of one data set."""
    return reader.choice if isinstance(reader, RealData) else ""


def open_sources(sources: Sequence[Source], shares: Sequence[int]) -> RealReader:
    """Return a reader of the real images of a run on these data sets.

    Args:
        shares: whole numbers in proportion to their weights.

    Raises:
        ValueError: as :func:`raysde.data.dataset.sources.merge_manifests`.
    """
    first = sources[0]
    if len(sources) == 1 and first.selection is None and first.template is None:
        return Reader(first.manifest)
    return RealData(sources, shares)


def open_filtered(path: str, version: int | None, condition: str | None) -> RealReader:
    """Return a reader of real images of one data set.

    Args:
        path: folder or URI of the data set.
        version: its version; None for the newest.
        condition: filter of its rows, as ``data.filter`` of a recipe; None for all rows.

    Raises:
        ValueError: if there is no such data set or version, or the filter does not fit it.
    """
    manifest = read_manifest(path, "--data", choose_version(path, version, "--data-version"))
    if condition is not None:
        try:
            condition = normalise_filter(condition)
        except ValueError as error:
            raise ValueError(f"--filter: {error}") from error
    selection = None if condition is None else select_rows(manifest, condition, "--filter")
    return open_sources([Source(manifest, selection=selection)], [1])


def open_recorded(recipe: Mapping[str, Any], data: Mapping[str, Any], model: str) -> RealReader:
    """Return a reader of the real images of the run that trained a model, by its checkpoint's record.

    Args:
        recipe, data: the flat recipe and the data entry of the checkpoint.
        model: name of the model, for messages.

    Raises:
        ValueError: if the checkpoint names no data, or the data sets are no longer there as the run saw them.
    """
    known = data.get("sources", [data])
    entries = recipe.get("data.mix") or [{"filter": recipe.get("data.filter")}]
    if len(entries) != len(known) or not all({"path", "fingerprint"} <= each.keys() for each in known):
        raise ValueError(f"--data: the checkpoint of {model} does not name its training data; give --data")
    sources = [_open_known(recorded, entry, model) for recorded, entry in zip(known, entries, strict=True)]
    return open_sources(sources, [each.get("share", 1) for each in known])


def _open_known(recorded: Mapping[str, Any], entry: Mapping[str, Any], model: str) -> Source:
    """Return a data set as the run of a model saw it.

    Args:
        recorded: its entry in the checkpoint's data.
        entry: its entry in the recipe.

    Raises:
        ValueError: if it is not there, or the filter selects other rows now.
    """
    path, fingerprint = recorded["path"], recorded["fingerprint"]
    manifest = read_manifest(
        path, f"--data is not given, and the training data of {model}", find_version(path, fingerprint)
    )
    if manifest.fingerprint != fingerprint:
        raise ValueError(
            f"--data: the data set at {path} is not what {model} was trained on (fingerprint {fingerprint}, now "
            f"{manifest.fingerprint}); restore it, or give --data"
        )
    text, selection = entry.get("filter"), None
    if text is not None:
        selection = select_rows(manifest, text, "--data")
        if selection.sha256[:16] != recorded.get("selection"):
            raise ValueError(
                f"--data: {model} was trained on {recorded.get('selected')} rows of {manifest.path}, and the same "
                f"filter selects {selection.count} other ones now: its kept columns were changed; restore them, "
                "or give --data"
            )
    return Source(manifest, entry.get("caption_template"), selection=selection)
