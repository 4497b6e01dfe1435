"""A reference of a few hundred bytes to a run's rows, from which any process opens them once."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from raysde.data.batches.feed import Feed
from raysde.data.batches.mixed_plan import MixedPlan
from raysde.data.batches.plan import Plan
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import read_same_manifest
from raysde.data.dataset.precomputed import Derived, Latents, TextEmbeddings, hash_contents, read_derived
from raysde.data.dataset.reader import FIELDS, Reader, open_dataset_reader
from raysde.data.dataset.selection import Selection
from raysde.data.dataset.source_rows import MixedRows, split_source
from raysde.data.dataset.sources import Source, SourcesReader, merge_manifests
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.view import View
from raysde.data.dataset.weights import Weights
from raysde.io.shared_file import open_shared_file

DerivedT = TypeVar("DerivedT", TextEmbeddings, Latents)


@dataclass(frozen=True)
class DerivedReference:
    """Path of a folder of precomputed values, and the hash of its contents."""

    path: str
    contents: str

    @classmethod
    def of(cls, derived: Derived | None) -> "DerivedReference | None":
        return None if derived is None else cls(derived.path, hash_contents(derived))

    def open(self, kind: type[DerivedT]) -> DerivedT:
        """Return the folder's manifest.

        Raises:
            ValueError: if the folder no longer has these contents.
        """
        found = read_derived(self.path)
        if not isinstance(found, kind) or hash_contents(found) != self.contents:
            raise ValueError(f"{self.path} was changed while it was in use; restore it, or start a new run")
        return found


@dataclass(frozen=True)
class SelectionReference:
    """Path of a stored selection of rows, and the hash of its content."""

    path: str
    sha256: str

    def open(self) -> Selection:
        """Return the selection, mapped into memory.

        Raises:
            ValueError: if the file is missing or no longer has this content.
        """
        try:
            return Selection.from_buffer(open_shared_file(self.path, self.sha256))
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{self.path} was removed or changed while it was in use: {error}") from error


@dataclass(frozen=True, kw_only=True)
class DataReference:
    """A data set with the plan of a run over it.

    A process of a cluster gets this reference with every task. It opens the data set once, and derives the rows to
    train on from the two settings that chose the held-out rows.

    Attributes:
        path, fingerprint: location and content hash of the data set.
        plan, view: order of the rows, and crop settings of their images.
        validation, split_seed: number of held-out rows, and seed of their choice, see
            :func:`raysde.data.dataset.split.split_rows`.
        rows: class that maps the plan's positions to row numbers.
        text, latents: precomputed embeddings and latents to read, if any.
        fields: values that the model takes beside images, see :class:`raysde.data.dataset.reader.Reader`.
        selection: the rows that a filter selects; None for all rows.
    """

    path: str
    fingerprint: str
    plan: Plan
    view: View = field(default_factory=View)
    validation: int | None = 0
    split_seed: int = 0
    rows: type[Rows] = Rows
    text: DerivedReference | None = None
    latents: DerivedReference | None = None
    fields: frozenset[str] = FIELDS
    selection: SelectionReference | None = None

    def open(self) -> tuple[Feed, Reader]:
        """Return the microbatches and this process's reader; repeated calls return the same ones.

        Raises:
            ValueError: if the data set, or a folder of precomputed values, was changed.
        """
        return _open_reference(self)


@lru_cache(maxsize=2)
def _open_reference(reference: DataReference) -> tuple[Feed, Reader]:
    text, latents = reference.text, reference.latents
    reader = open_dataset_reader(
        reference.path,
        reference.fingerprint,
        None if text is None else text.open(TextEmbeddings),
        None if latents is None else latents.open(Latents),
        reference.fields,
    )
    selection = None if reference.selection is None else reference.selection.open()
    rows, _ = split_rows(reader.manifest, reference.validation, reference.split_seed, selection)
    return Feed(reference.plan, reference.rows(rows.layouts, rows.held), reference.view, reference.fields), reader


@dataclass(frozen=True, kw_only=True)
class SourceReference:
    """One of several data sets of a run.

    Attributes:
        path, fingerprint: location and content hash of the data set.
        template: template of its captions, see :class:`raysde.data.dataset.sources.Source`.
        weights: weights of its rows.
        validation: number of its held-out rows.
        text, latents: precomputed embeddings and latents to read, if any.
        selection: the rows that a filter selects; None for all rows.
    """

    path: str
    fingerprint: str
    template: str | None = None
    weights: Weights | None = None
    validation: int | None = 0
    text: DerivedReference | None = None
    latents: DerivedReference | None = None
    selection: SelectionReference | None = None

    def open(self) -> Source:
        """Return the data set.

        Raises:
            ValueError: if it, its selected rows, or a folder of precomputed values, was changed.
        """
        text, latents = self.text, self.latents
        return Source(
            read_same_manifest(self.path, self.fingerprint),
            self.template,
            None if text is None else text.open(TextEmbeddings),
            None if latents is None else latents.open(Latents),
            None if self.selection is None else self.selection.open(),
        )


@dataclass(frozen=True, kw_only=True)
class SourcesReference:
    """Several data sets, or one with weighted rows, with the plan of a run over them.

    Attributes:
        sources: the data sets.
        plan, view, split_seed, fields: see :class:`DataReference`.
    """

    sources: tuple[SourceReference, ...]
    plan: MixedPlan
    view: View = field(default_factory=View)
    split_seed: int = 0
    fields: frozenset[str] = FIELDS

    def open(self) -> tuple[Feed, SourcesReader]:
        """Return the microbatches and this process's reader; repeated calls return the same ones.

        Raises:
            ValueError: if a data set, or a folder of precomputed values, was changed.
        """
        return _open_sources(self)


@lru_cache(maxsize=2)
def _open_sources(reference: SourcesReference) -> tuple[Feed, SourcesReader]:
    sources = [each.open() for each in reference.sources]
    reader = SourcesReader(sources, merge_manifests(sources), wanted=reference.fields)
    rows = tuple(
        split_source(source.manifest, each.weights, each.validation, reference.split_seed, source.selection)[0]
        for source, each in zip(sources, reference.sources, strict=True)
    )
    starts = tuple(reader.starts[:-1].tolist())
    return Feed(reference.plan, MixedRows(rows, starts), reference.view, reference.fields), reader
