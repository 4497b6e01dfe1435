"""Several data sets that a run reads as one: their common description, and a reader of their rows.

The rows of all sources are numbered one after another. Classes of the sources unite by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raysde.data.attributes import Attribute
from raysde.data.classes import order_labels
from raysde.data.condition_column import ConditionColumn
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import Latents, TextEmbeddings
from raysde.data.dataset.precomputed_rows import Contexts, LatentMoments
from raysde.data.dataset.reader import CACHE, FIELDS, Columns, Reader, allocate_images
from raysde.data.dataset.selection import Selection
from raysde.data.dataset.shard_table import Shards
from raysde.data.dataset.split import split_budget
from raysde.data.dataset.view import View
from raysde.images.sizes import format_size

CAPTION, LABEL = "{caption}", "{label}"
"""Places in a caption template."""


def check_template(template: str) -> str:
    """Return a caption template.

    Raises:
        ValueError: if neither the caption nor the label has a place in it.
    """
    if CAPTION not in template and LABEL not in template:
        raise ValueError(f"caption_template {template!r} holds neither {CAPTION} nor {LABEL}; write where it goes")
    return template


def fill_template(template: str, caption: str, label: str | None) -> str:
    """Return a caption from a template; "" if the row lacks a caption or label that the template asks for."""
    if (CAPTION in template and not caption) or (LABEL in template and not label):
        return ""
    return template.replace(LABEL, label or "").replace(CAPTION, caption)


@dataclass(frozen=True)
class Source:
    """One of the data sets of a run.

    Attributes:
        manifest: manifest of the data set.
        template: template of its captions, with ``{caption}``, ``{label}`` or both; None for the captions as they are.
        text, latents: precomputed embeddings and latents to read, if any.
        selection: the rows that a filter selects; None for all rows.
    """

    manifest: Manifest
    template: str | None = None
    text: TextEmbeddings | None = None
    latents: Latents | None = None
    selection: Selection | None = None

    @property
    def selected(self) -> dict[str, Any]:
        """Hash and number of the selected rows as JSON values; empty without a filter."""
        if self.selection is None:
            return {}
        return {"selection": self.selection.sha256[:16], "selected": self.selection.count}

    @property
    def captions(self) -> int:
        """Number of rows with a caption, at most."""
        if self.template is None or CAPTION in self.template:
            return self.manifest.captions
        return self.manifest.rows if self.manifest.labels else 0


def merge_manifests(sources: Sequence[Source]) -> Manifest:
    """Return one description of all sources, which lists the shards of all; their files are read by source.

    Raises:
        ValueError: if the sources have different columns or colour channels, or spell a class differently.
    """
    manifests = [source.manifest for source in sources]
    first = manifests[0]
    for other in manifests[1:]:
        if other.columns != first.columns:
            names = sorted(dict(first.columns.items() ^ other.columns.items()))
            raise ValueError(
                f"data.mix: {first.path} and {other.path} have different columns ({', '.join(names)}); ingest both "
                "with the same columns"
            )
        if other.condition != first.condition:
            kinds = [each.condition.describe() if each.condition else "none" for each in (first, other)]
            raise ValueError(
                f"data.mix: {first.path} has the condition image {kinds[0]}, {other.path} {kinds[1]}; ingest both with "
                "the same --condition-image and --condition-channels"
            )
        if other.channels != first.channels:
            raise ValueError(
                f"data.mix: {first.path} has images of {first.channels} channels, {other.path} of {other.channels}; "
                "ingest both with the same --channels"
            )
    table = pa.Table.from_batches([each.shards.table for each in manifests]).combine_chunks().to_batches()[0]
    counts: dict[str, int] = {}
    for manifest in manifests:
        for name, count in manifest.statistics.get("labels", {}).items():
            counts[name] = counts.get(name, 0) + count
    # several data sets together are no version of one, and their kept columns may differ
    alone: dict[str, Any] = {} if len(manifests) == 1 else {"version": 1, "parent": "", "inherited": (0, 0)}
    counted = all("labels" in manifest.statistics for manifest in manifests)
    return replace(
        first,
        path=" + ".join(manifest.path for manifest in manifests),
        size=first.size if len({manifest.size for manifest in manifests}) == 1 else None,
        shards=Shards(table),
        labels=unite_classes(manifests),
        captions=sum(source.captions for source in sources),
        statistics={"labels": counts} if counted else {},
        skipped=sum(manifest.skipped for manifest in manifests),
        etags_of="",
        attributes=unite_attributes(manifests),
        kept=None,
        **alone,
    )


def unite_attributes(manifests: Sequence[Manifest]) -> tuple[Attribute, ...]:
    """Return the numeric attributes of several data sets that have the same ones, each with the range of all."""
    return tuple(
        Attribute(same[0].name, min(each.low for each in same), max(each.high for each in same))
        for same in zip(*(manifest.attributes for manifest in manifests), strict=True)
    )


def unite_classes(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """Return the class names of several data sets in the order of one.

    Data sets with the same classes keep their numbers.

    Raises:
        ValueError: if two data sets spell the same number differently.
    """
    if len({manifest.labels for manifest in manifests}) == 1:
        return manifests[0].labels
    places = {label: manifest.path for manifest in reversed(manifests) for label in manifest.labels}
    return order_labels(places, lambda label: f"{label!r} (of {places[label]})")


def check_shapes(sources: Sequence[Source]) -> None:
    """Check that the images of all sources have one size, which a run without ``data.image_size`` takes.

    Raises:
        ValueError: naming two sources with different sizes.
    """
    first = sources[0].manifest
    for other in (source.manifest for source in sources[1:]):
        if other.size != first.size:
            one, two = (format_size(each.size) if each.size else "several sizes" for each in (first, other))
            raise ValueError(
                f"data.mix: {first.path} has images of {one}, {other.path} of {two}; set data.image_size, or ingest "
                "both with the same --size"
            )


class SourcesReader:
    """Random access to the rows of several data sets by row number, with the methods of a :class:`Reader`.

    Args:
        sources: the data sets; either all or none have embeddings, and latents.
        manifest: their common description, see :func:`merge_manifests`.
        wanted: values to read beside images, the fields of :class:`Reader`.
        cache_bytes: size of the cache of encoded row groups of all sources.

    Raises:
        ValueError: if the index of the segments of a source is damaged or of another data set.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        manifest: Manifest,
        *,
        wanted: frozenset[str] = FIELDS,
        cache_bytes: int = CACHE,
    ) -> None:
        self.manifest, self.sources, self.wanted = manifest, tuple(sources), wanted
        rooms = split_budget([source.manifest.bytes for source in sources], cache_bytes)
        self.readers = tuple(_open_source(each, wanted, room) for each, room in zip(sources, rooms, strict=True))
        self.starts = np.cumsum([0, *(source.manifest.rows for source in sources)])
        places = {name: number for number, name in enumerate(manifest.labels)}
        self.classes = [
            np.array([*(places[name] for name in source.manifest.labels), -1], dtype=np.int64) for source in sources
        ]

    @property
    def contexts(self) -> Contexts | None:
        """Embeddings of the first source."""
        return self.readers[0].contexts

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the numeric attributes that are read."""
        return self.readers[0].attributes

    @property
    def condition(self) -> ConditionColumn | None:
        """Second images that are read; None without them."""
        return self.readers[0].condition

    @property
    def moments(self) -> LatentMoments | None:
        """Latents of the first source."""
        return self.readers[0].moments

    def read(
        self,
        rows: np.ndarray,
        view: View | None = None,
        draws: np.ndarray | None = None,
        take: Callable[[tuple[int, ...]], np.ndarray] = allocate_images,
    ) -> Columns:
        """Read and decode rows, as :meth:`Reader.read`.

        Raises:
            ValueError: as :meth:`Reader.read`.
        """
        numbers = self._sources_of(rows)
        parts = [
            (here, self._read_source(number, rows[here], view, None if draws is None else draws[here]))
            for number in np.unique(numbers).tolist()
            for here in [np.flatnonzero(numbers == number)]
        ]
        images = take((len(rows), *parts[0][1].images.shape[1:]))
        captions, labels = [""] * len(rows), np.full(len(rows), -1, dtype=np.int64)
        for here, part in parts:
            images[here], labels[here] = part.images, part.labels
            for place, caption in zip(here.tolist(), part.captions, strict=True):
                captions[place] = caption
        rest = {each.name for each in fields(Columns)} - {"images", "captions", "labels"}
        return Columns(images, captions, labels, **{name: _gather(len(rows), parts, name) for name in rest})

    def _read_source(self, number: int, rows: np.ndarray, view: View | None, draws: np.ndarray | None) -> Columns:
        found = self.readers[number].read(rows - self.starts[number], view, draws)
        source = self.sources[number]
        captions = found.captions
        if source.template is not None and source.text is None and "captions" in self.wanted:
            names = (*source.manifest.labels, None)
            captions = [
                fill_template(source.template, caption, names[label])
                for caption, label in zip(captions, found.labels.tolist(), strict=True)
            ]
        return replace(found, captions=captions, labels=self.classes[number][found.labels])

    def shape_of(self, row: int, view: View) -> tuple[int, int]:
        """Return the (height, width) at which ``view`` shows a row.

        Raises:
            ValueError: as :meth:`Reader.shape_of`.
        """
        reader, inside = self.place(row)
        return reader.shape_of(inside, view)

    def largest(self, view: View) -> int:
        """Return the bytes of the largest image under ``view``."""
        return max(reader.largest(view) for reader in self.readers)

    def about(self, row: int) -> dict[str, object]:
        """Return the values of a row by column name, as :meth:`Reader.about`, and the path of its data set.

        Raises:
            ValueError: naming the shard that is missing or damaged.
        """
        reader, inside = self.place(row)
        return {**reader.about(inside), "row": row, "source": reader.manifest.path}

    def place(self, row: int) -> tuple[Reader, int]:
        """Return the reader of a row's data set, and its row number there."""
        number = int(self._sources_of(np.array([row]))[0])
        return self.readers[number], row - int(self.starts[number])

    def _sources_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, rows, side="right") - 1


AnyReader = Reader | SourcesReader


def _open_source(source: Source, wanted: frozenset[str], cache_bytes: int) -> Reader:
    in_template = source.template is not None and LABEL in source.template and "captions" in wanted
    own = wanted | {"labels"} if in_template else wanted
    return Reader(source.manifest, text=source.text, latents=source.latents, fields=own, cache_bytes=cache_bytes)


def _gather(count: int, parts: list[tuple[np.ndarray, Columns]], name: str) -> Any:
    """Return a field of ``count`` rows from those of the sources, padded with zeros to the longest; None without it."""
    values = [(here, getattr(part, name)) for here, part in parts]
    if values[0][1] is None:
        return None
    shape = tuple(max(sides) for sides in zip(*(value.shape[1:] for _, value in values), strict=True))
    result = np.zeros((count, *shape), values[0][1].dtype)
    for here, value in values:
        inside: Any = (here, *map(slice, value.shape[1:]))
        result[inside] = value
    return result
