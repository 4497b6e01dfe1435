"""The data sets of a recipe: one, several that are mixed, or one with weighted rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from raysde.conditioning.text import AutoText
from raysde.config.data_sections import Latent
from raysde.config.loading import RunConfig
from raysde.config.mixed_data import MixedData
from raysde.data.batches.feed import Feed
from raysde.data.batches.mixed_plan import MixedPlan, SourceSize, plan_sources
from raysde.data.batches.plan import Plan
from raysde.data.batches.reference import (
    DataReference,
    DerivedReference,
    SelectionReference,
    SourceReference,
    SourcesReference,
)
from raysde.data.batches.shares import exact_shares, split_count
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import Derived, Latents, TextEmbeddings
from raysde.data.dataset.reader import Reader, open_dataset_reader
from raysde.data.dataset.shards import distinct_captions
from raysde.data.dataset.source_rows import MixedRows, number_held_out, split_source
from raysde.data.dataset.sources import (
    LABEL,
    AnyReader,
    Source,
    SourcesReader,
    check_shapes,
    fill_template,
    merge_manifests,
)
from raysde.data.dataset.split import VALIDATION_ROWS, split_rows
from raysde.data.dataset.versions import read_versions
from raysde.data.dataset.view import View
from raysde.evaluation import real_data
from raysde.evaluation.real_data import RealReader
from raysde.precompute.lookup import Chosen, Mode, choose_text_encoder, find_embeddings, find_latents
from raysde.runs.data_record import open_data, open_selection, selection_path
from raysde.runs.order import make_feed


@dataclass(frozen=True)
class RunSources:
    """The data sets of a run.

    Attributes:
        entries: their entries in the recipe.
        sources: the opened data sets, in the same order.
        is_plain: True for one data set, each row of which is drawn once an epoch.
    """

    entries: tuple[MixedData, ...]
    sources: tuple[Source, ...]
    is_plain: bool

    @cached_property
    def manifest(self) -> Manifest:
        """Common description of all data sets."""
        return self.sources[0].manifest if self.is_plain else merge_manifests(self.sources)

    @property
    def starts(self) -> tuple[int, ...]:
        """First row number of each data set."""
        rows = [source.manifest.rows for source in self.sources]
        return tuple(sum(rows[:number]) for number in range(len(rows)))

    @property
    def shares(self) -> tuple[int, ...]:
        """Whole numbers in proportion to the weights."""
        return exact_shares([entry.weight for entry in self.entries])

    @property
    def identity(self) -> list[dict[str, Any]]:
        """Lineage of the data as JSON values: the place, content, share and selected rows of each data set."""
        return [
            {"path": source.manifest.path, "fingerprint": source.manifest.fingerprint,
             "rows": source.manifest.rows, "share": share, **source.selected}
            for source, share in zip(self.sources, self.shares, strict=True)
        ]  # fmt: skip

    @cached_property
    def real_reader(self) -> RealReader:
        """The run's real images, with which drawn ones are compared."""
        return real_data.open_sources(self.sources, self.shares)

    def pin_versions(self, config: RunConfig) -> RunConfig:
        """Return the recipe with the versions of the data sets that have several, for checkpoints and workers."""
        grown = [bool(read_versions(source.manifest.path)) for source in self.sources]
        if not any(grown):
            return config
        data = config.data
        if data.mix is None:
            changed: dict[str, Any] = {"version": self.sources[0].manifest.version}
        else:
            changed = {
                "mix": tuple(
                    entry.model_copy(update={"version": source.manifest.version}) if several else entry
                    for entry, source, several in zip(data.mix, self.sources, grown, strict=True)
                )
            }
        return config.model_copy(update={"data": data.model_copy(update=changed)})

    def dropouts(self, default: float) -> tuple[tuple[int, float], ...]:
        """Return the first row number of each data set and its share of dropped conditions; empty if all are equal.

        Args:
            default: share of the data sets that name none.
        """
        found = [default if entry.condition_dropout is None else entry.condition_dropout for entry in self.entries]
        if all(each == default for each in found):
            return ()
        return tuple(zip(self.starts, found, strict=True))

    def held_out_counts(self, wanted: int | None) -> tuple[int, ...]:
        """Return the number of held-out rows of each data set, in proportion to the weights.

        Args:
            wanted: number of held-out rows of all data sets; None for up to ``VALIDATION_ROWS`` of validation splits.
        """
        counts = split_count(VALIDATION_ROWS if wanted is None else wanted, self.shares)
        if wanted is not None:
            return counts
        splits = [source.manifest.rows_in("validation") for source in self.sources]
        return tuple(min(count, own) for count, own in zip(counts, splits, strict=True))

    def split(self, config: RunConfig) -> tuple[Rows | MixedRows, np.ndarray]:
        """Return the rows to train on, and the numbers of the held-out rows, int64 [N].

        Raises:
            ValueError: as :func:`raysde.data.dataset.source_rows.split_source`.
        """
        if self.is_plain:
            selection = self.sources[0].selection
            rows, held = split_rows(self.manifest, config.validation.rows, config.seed, selection)
            if selection is not None and not rows.count:
                raise ValueError(
                    f"data.filter selects none of the training rows of {self.manifest.path}, only validation rows"
                )
            return rows, held
        counts = self.held_out_counts(config.validation.rows)
        found = [
            split_source(source.manifest, entry.weights, count, config.seed, source.selection)
            for source, entry, count in zip(self.sources, self.entries, counts, strict=True)
        ]
        mixed = MixedRows(tuple(part for part, _ in found), self.starts)
        return mixed, number_held_out([held for _, held in found], self.starts)

    def feed(self, config: RunConfig, rows: Rows | MixedRows, view: View) -> Feed:
        """Return the microbatches of a run.

        Raises:
            ValueError: if there are no rows, or the batch is no multiple of the microbatch.
        """
        if not isinstance(rows, MixedRows):
            return make_feed(config, self.manifest, rows, view)
        sizes = [SourceSize.of(source.manifest, part) for part, source in zip(rows.parts, self.sources, strict=True)]
        window = config.data.shuffle_window
        plan = plan_sources(sizes, self.shares, config.train.batch, config.microbatch, config.seed, window)
        return Feed(plan, rows, view)

    def open_reader(self, fields: frozenset[str]) -> AnyReader:
        """Return a new reader of the rows.

        Args:
            fields: values to read beside images, see :class:`raysde.data.dataset.reader.Reader`.

        Raises:
            ValueError: if the index of the segments of a data set is damaged.
        """
        if self.is_plain:
            (source,) = self.sources
            return Reader(source.manifest, text=source.text, latents=source.latents, fields=fields)
        return SourcesReader(self.sources, self.manifest, wanted=fields)

    def share_reader(self, fields: frozenset[str]) -> AnyReader:
        """Return a reader of the rows; of one data set this process's own, which other callers share.

        Raises:
            ValueError: if the data set no longer has the run's fingerprint.
        """
        if not self.is_plain:
            return self.open_reader(fields)
        (source,) = self.sources
        data = source.manifest
        return open_dataset_reader(data.path, data.fingerprint, source.text, source.latents, fields)

    def sample_captions(self, limit: int) -> list[str]:
        """Return up to ``limit`` distinct captions of the training rows, sorted, as training shows them."""
        if self.is_plain:
            return _captions_of(self.sources[0], limit)
        found = {caption for source in self.sources for caption in _sample_source(source, limit // len(self.sources))}
        return sorted(found)

    def reference(self, config: RunConfig, feed: Feed) -> DataReference | SourcesReference:
        """Return a reference, from which any process opens the rows."""
        if isinstance(feed.plan, Plan):
            (source,) = self.sources
            assert isinstance(feed.rows, Rows)
            return DataReference(
                path=source.manifest.path,
                fingerprint=source.manifest.fingerprint,
                plan=feed.plan,
                view=feed.view,
                validation=config.validation.rows,
                split_seed=config.seed,
                rows=type(feed.rows),
                fields=feed.fields,
                text=DerivedReference.of(source.text),
                latents=DerivedReference.of(source.latents),
                selection=_refer_to_selection(config, 0, source),
            )
        assert isinstance(feed.plan, MixedPlan)
        counts = self.held_out_counts(config.validation.rows)
        sources = tuple(
            SourceReference(
                path=source.manifest.path,
                fingerprint=source.manifest.fingerprint,
                template=source.template,
                weights=entry.weights,
                validation=count,
                text=DerivedReference.of(source.text),
                latents=DerivedReference.of(source.latents),
                selection=_refer_to_selection(config, number, source),
            )
            for number, (source, entry, count) in enumerate(zip(self.sources, self.entries, counts, strict=True))
        )
        return SourcesReference(
            sources=sources, plan=feed.plan, view=feed.view, split_seed=config.seed, fields=feed.fields
        )  # fmt: skip

    def choose_text(self, text: Chosen | AutoText, mode: Mode) -> Chosen:
        """Return the text encoder that ``text.kind=auto`` stands for, the same for all data sets with captions.

        Raises:
            ValueError: as :func:`raysde.precompute.lookup.choose_text_encoder`, or if the data sets have embeddings of
                different encoders.
        """
        if not isinstance(text, AutoText):
            return text
        chosen = {
            source.manifest.path: choose_text_encoder(source.manifest, text, mode)
            for source in self.sources
            if source.manifest.captions
        }
        if not chosen and self.manifest.captions:
            return text.scratch()  # captions that templates make of labels
        paths = list(chosen)
        for path in paths[1:]:
            if chosen[path] != chosen[paths[0]]:
                raise ValueError(
                    f"text.kind=auto: {paths[0]} and {path} have embeddings of different encoders, or one has none; "
                    "run raysde precompute over both, set text.kind=pretrained, or set data.precomputed=off"
                )
        return chosen[paths[0]] if paths else None

    def with_embeddings(self, text: Chosen, mode: Mode) -> "RunSources":
        """Return the data sets with the precomputed embeddings of their captions, if all have them.

        Raises:
            ValueError: as :func:`raysde.precompute.lookup.find_embeddings`, or if only some have embeddings, of
                different number types, or captions come from a template.
        """
        found = [find_embeddings(source.manifest, text, mode) for source in self.sources]
        _check_alike([source.manifest for source in self.sources], found, "data.precomputed=off")
        for source, each in zip(self.sources, found, strict=True):
            if each is not None and source.template is not None:
                raise ValueError(
                    f"caption_template of {source.manifest.path}: precomputed embeddings hold the captions without it; "
                    "set data.precomputed=off, or leave the template out"
                )
        return self._with(text=found)

    def with_latents(self, latent: Latent, shape: tuple[int, int] | None) -> "RunSources":
        """Return the data sets with their latents.

        Raises:
            ValueError: as :func:`raysde.precompute.lookup.find_latents`, or if their number types differ.
        """
        found = [find_latents(source.manifest, latent.vae, shape, latent.views) for source in self.sources]
        _check_alike([source.manifest for source in self.sources], found, "the same --dtype")
        return self._with(latents=found)

    def _with(self, **found: Iterable[Any]) -> "RunSources":
        ((name, values),) = found.items()
        return replace(
            self, sources=tuple(replace(each, **{name: one}) for each, one in zip(self.sources, values, strict=True))
        )

    @property
    def folders(self) -> list[tuple[Manifest, list[Derived]]]:
        """Each data set with the precomputed folders that the run reads."""
        return [
            (source.manifest, [each for each in (source.text, source.latents) if each is not None])
            for source in self.sources
        ]


def open_sources(config: RunConfig) -> RunSources:
    """Open the data sets of a recipe.

    Raises:
        ValueError: naming the data set that is missing, damaged or does not fit the others.
    """
    data = config.data
    sources = []
    for number, entry in enumerate(data.sources):
        manifest = open_data(config, number)
        sources.append(Source(manifest, entry.caption_template, selection=open_selection(config, number, manifest)))
    opened = RunSources(data.sources, tuple(sources), data.is_plain)
    if data.image_size is None:
        check_shapes(opened.sources)
    for source in opened.sources:
        if source.template is not None and config.text is None:
            raise ValueError(
                f"caption_template of {source.manifest.path} needs a caption encoder: set text, or leave it out"
            )
    return opened


def _refer_to_selection(config: RunConfig, number: int, source: Source) -> SelectionReference | None:
    text = config.data.sources[number].filter
    if source.selection is None or text is None:
        return None
    return SelectionReference(selection_path(config, source.manifest, text), source.selection.sha256)


def _captions_of(source: Source, limit: int) -> list[str]:
    """Return up to ``limit`` distinct captions of the selected training rows of a data set, sorted."""
    return distinct_captions(source.manifest, limit, None if source.selection is None else source.selection.in_rows)


def _sample_source(source: Source, limit: int) -> list[str]:
    """Return up to ``limit`` distinct captions of a data set, or as many in its template, with every label."""
    captions = _captions_of(source, limit)
    if source.template is None:
        return captions
    labels = list(source.manifest.labels) or [""]
    count = max(len(captions), len(labels) if LABEL in source.template else 0)
    shown = captions or [""]
    filled = (
        fill_template(source.template, shown[number % len(shown)], labels[number % len(labels)])
        for number in range(count)
    )
    return [caption for caption in filled if caption]


def _check_alike(manifests: list[Manifest], found: list[TextEmbeddings | None] | list[Latents], remedy: str) -> None:
    """Check that all data sets have precomputed values of one number type, or none has.

    Raises:
        ValueError: naming two data sets that differ.
    """
    first = found[0]
    for manifest, each in zip(manifests, found, strict=True):
        if (each is None) != (first is None) or (each is not None and first is not None and each.dtype != first.dtype):
            kinds = [f"{one.dtype} {one.kind}" if one is not None else "none" for one in (first, each)]
            raise ValueError(
                f"{manifests[0].path} has precomputed values: {kinds[0]}, and {manifest.path}: {kinds[1]}; run raysde "
                f"precompute over both with the same settings, or set {remedy}"
            )
