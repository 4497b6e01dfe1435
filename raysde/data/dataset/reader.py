"""Random access to the decoded rows of a data set, with a cache of encoded row groups."""

import bisect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from PIL import Image

from raysde.data.condition_column import CONDITION, ConditionColumn
from raysde.data.dataset.manifest import Manifest, Split, read_same_manifest
from raysde.data.dataset.precomputed import Latents, TextEmbeddings
from raysde.data.dataset.precomputed_rows import Contexts, LatentMoments, choose_caption
from raysde.data.dataset.row_groups import RowGroups
from raysde.data.dataset.segments import Segments, read_index
from raysde.data.dataset.view import CAPTION, SCALE, STILL, View
from raysde.images.codec import decode_image

CACHE = 208 << 20
FIELDS = frozenset({"captions", "labels", "attributes"})
"""Values of a row beside its image that a reader gives unless it is asked for fewer; ``attributes.NAME`` stands for one
of the numeric attributes."""


@dataclass(frozen=True)
class Columns:
    """Decoded rows.

    Attributes:
        images: uint8 [B, H, W, C]; empty, [B, 0, 0, C], if latents are read instead.
        captions: one for each row, "" for none.
        labels: class numbers int64 [B], -1 for none.
        context, tokens: precomputed vectors of the captions [B, L, D], and their number without padding, int64 [B].
        moments: mean and log-variance [B, 2 C, H, W] of precomputed latents.
        attributes: numeric attributes, float32 [B, A], NaN where they are unknown; None if none are read.
        condition_images: second images, uint8 [B, H, W, C'], cut and scaled as the images; None if none are read.
    """

    images: np.ndarray
    captions: list[str]
    labels: np.ndarray
    context: np.ndarray | None = None
    tokens: np.ndarray | None = None
    moments: np.ndarray | None = None
    attributes: np.ndarray | None = None
    condition_images: np.ndarray | None = None


@dataclass(frozen=True)
class RowGroup:
    """The encoded images, captions, labels, attributes and second images of a row group; None if they are not read."""

    images: pa.BinaryArray | None
    captions: pa.ListArray | None
    labels: pa.StringArray | None
    attributes: np.ndarray | None = None
    conditions: pa.BinaryArray | None = None

    @classmethod
    def of(cls, table: pa.Table) -> "RowGroup":
        """Return the row group of a table with some of the columns of a shard."""
        captions, labels = (
            table.column(name).combine_chunks() if name in table.column_names else None
            for name in ("captions", "label")
        )
        image, second = (
            table.column(name).combine_chunks().field("bytes") if name in table.column_names else None
            for name in ("image", CONDITION)
        )
        return cls(image, captions, labels, _numbers(table), second)


def _numbers(table: pa.Table) -> np.ndarray | None:
    """Return the numeric attributes of a table's rows, float32 [N, A] with NaN for null; None without them."""
    if "attributes" not in table.column_names:
        return None
    columns = table.column("attributes").combine_chunks().flatten()
    return np.stack([each.to_numpy(zero_copy_only=False) for each in columns], axis=1).astype(np.float32)


def allocate_images(shape: tuple[int, ...]) -> np.ndarray:
    """Return uninitialised memory for images, uint8 of shape ``shape``."""
    return np.empty(shape, dtype=np.uint8)


class Reader:
    """Random access to the rows of a data set by row number.

    Args:
        manifest: manifest of the data set.
        text: precomputed embeddings to return with the captions.
        latents: precomputed latents to return instead of images.
        fields: values to read beside images, of ``FIELDS``, and ``condition_image`` for second images; embeddings
            replace captions, which are then "".
        cache_bytes: size of the cache of encoded row groups in bytes.

    Raises:
        ValueError: if the index of the segments is damaged or of another data set.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        text: TextEmbeddings | None = None,
        latents: Latents | None = None,
        fields: Collection[str] = FIELDS,
        cache_bytes: int = CACHE,
    ) -> None:
        self.moments = None if latents is None else LatentMoments(latents, manifest)
        self.contexts = None if text is None else Contexts(text, manifest)
        self.manifest = manifest
        self.attributes = tuple(
            each.name for each in manifest.attributes if {"attributes", f"attributes.{each.name}"} & set(fields)
        )
        self.numbers = {name: number for number, name in enumerate(manifest.labels)}
        wanted = {
            "image.bytes": latents is None,
            "captions": "captions" in fields and text is None,
            "label": "labels" in fields,
            **{f"attributes.{name}": True for name in self.attributes},
            f"{CONDITION}.bytes": CONDITION in fields,
        }
        self.condition = manifest.condition if CONDITION in fields else None
        assert self.condition is not None or CONDITION not in fields
        self.groups = RowGroups(
            manifest,
            manifest.path,
            manifest.schema,
            RowGroup.of,
            columns=[name for name, read in wanted.items() if read],
            budget=cache_bytes,
            segments=open_segments(manifest) if latents is None else None,
        )

    def read(
        self,
        rows: np.ndarray,
        view: View | None = None,
        draws: np.ndarray | None = None,
        take: Callable[[tuple[int, ...]], np.ndarray] = allocate_images,
    ) -> Columns:
        """Read and decode rows, in the given order; all images have the shape of the first.

        Args:
            rows: row numbers, int64 [B].
            view: crop settings; images are returned as stored if None.
            draws: uniform numbers [B, 4], see :func:`raysde.data.dataset.view.draw_uniforms`; largest box and first
                caption if None.
            take: returns contiguous uint8 memory of a shape for the images.

        Raises:
            ValueError: naming the shard that is missing or damaged, or the row with a damaged image or a label that
                the manifest does not list.
        """
        view = view or View()
        shown = None if draws is None else draws[:, SCALE]  # latents have no scale, which draws their view instead
        moments = None if self.moments is None else self.moments.read(rows, shown)
        draws = np.broadcast_to(STILL, (len(rows), len(STILL))) if draws is None else draws
        shape = self.shape_of(int(rows[0]), view) if moments is None else (0, 0)
        images = take((len(rows), *shape, self.manifest.channels))
        captions, labels = [""] * len(rows), np.full(len(rows), -1, dtype=np.int64)
        numbers = np.empty((len(rows), len(self.attributes)), dtype=np.float32) if self.attributes else None
        whole = shape if self.moments is None else self.moments.derived.pixels[1:]
        seconds = None if self.condition is None else allocate_images((len(rows), *whole, self.condition.channels))
        for place, group, inside in self.groups.holding(rows) if self.groups.columns else ():
            draw = draws[place]
            if group.images is not None:
                self._show(group.images[inside], int(rows[place]), view, draw, images[place])
            if seconds is not None and group.conditions is not None:
                view_draw = 0.0 if shown is None else float(shown[place])
                self._show_second(group.conditions[inside], int(rows[place]), view, draw, view_draw, seconds[place])
            if group.captions is not None:
                captions[place] = _choose_captions(group.captions[inside].as_py(), draw[CAPTION])
            if group.labels is not None:
                labels[place] = self._number(group.labels[inside].as_py(), int(rows[place]))
            if numbers is not None and group.attributes is not None:
                numbers[place] = group.attributes[inside]
        context, tokens = (None, None) if self.contexts is None else self.contexts.read(rows, draws[:, CAPTION])
        return Columns(images, captions, labels, context, tokens, moments, numbers, seconds)

    def shape_of(self, row: int, view: View) -> tuple[int, int]:
        """Return the (height, width) at which ``view`` shows a row.

        Raises:
            ValueError: if the row's shard holds images of different sizes and the view has no shape.
        """
        stored = self.manifest.shards[self._shard_of(row)].image
        square = self.manifest.size
        if stored is not None and (view.shape is None or (square is not None and stored != square)):
            return stored
        if view.shape is None:
            raise ValueError(f"the images at {self.manifest.path} have different sizes; set data.image_size")
        return view.shape

    def largest(self, view: View) -> int:
        """Return the bytes of the largest image under ``view``, the memory that a canvas reserves for each row."""
        shapes = self.manifest.shapes | {view.shape}
        return max(shape[0] * shape[1] for shape in shapes if shape is not None) * self.manifest.channels

    def about(self, row: int) -> dict[str, object]:
        """Return a row's number, shard, captions, label, key, size, hash and attributes by column name.

        Raises:
            ValueError: naming the shard that is missing or damaged.
        """
        shard = self._shard_of(row)
        names = ["captions", "label", "key", "width", "height", "hash"]
        names += ["attributes"] if self.manifest.attributes else []
        group, place = divmod(row - self.manifest.starts[shard], self.manifest.row_group)
        table = self.groups.read(shard, group, names)
        return {"row": row, "shard": self.manifest.shards[shard].file, **table.slice(place, 1).to_pylist()[0]}

    def condition_picture(self, row: int) -> np.ndarray:
        """Return the second image of a row as it is stored, uint8 [H, W, C].

        Raises:
            ValueError: naming the shard that is missing or damaged, or if the data set has no second images.
        """
        condition = self.manifest.condition
        if condition is None:
            raise ValueError(
                f"the data set at {self.manifest.path} has no second images; ingest it with --condition-image NAME"
            )
        shard = self._shard_of(row)
        group, place = divmod(row - self.manifest.starts[shard], self.manifest.row_group)
        table = self.groups.read(shard, group, [f"{CONDITION}.bytes"])
        data = table.column(CONDITION).combine_chunks().field("bytes")[place].as_buffer()
        return decode_image(memoryview(data).cast("B"), condition.channels)

    def image_file(self, row: int) -> bytes:
        """Return the encoded image of a row, the bytes of a PNG or JPEG file.

        Raises:
            ValueError: naming the shard that is missing or damaged.
        """
        ((_, group, inside),) = self.groups.holding(np.array([row]))
        assert group.images is not None, "a reader of latents reads no images"
        return bytes(group.images[inside].as_py())

    def _shard_of(self, row: int) -> int:
        return bisect.bisect_right(self.manifest.starts, row) - 1

    def classes_in(self, split: Split) -> tuple[int, ...]:
        """Return the class numbers that occur in a split, sorted; reading stops once every class is found.

        Raises:
            ValueError: naming the shard that is missing or damaged, or the row whose label the manifest does not list.
        """
        found: set[int] = set()
        for number, shard in enumerate(self.manifest.shards):
            for group in range(-(-shard.rows // self.manifest.row_group)) if shard.split == split else ():
                if len(found) == self.manifest.classes:
                    break
                labels = self.groups.read(number, group, ["label"]).column("label").unique().to_pylist()
                first = self.manifest.starts[number] + group * self.manifest.row_group
                found |= {self._number(label, first) for label in labels if label is not None}
        return tuple(sorted(found))

    def _number(self, label: str | None, row: int) -> int:
        """Return the class number of a row's label, -1 for none."""
        found = -1 if label is None else self.numbers.get(label)
        if found is None:
            where = f"{self.manifest.path}/manifest.json"
            raise ValueError(f"row {row} has the label {label!r}, which {where} does not list")
        return found

    def _show_second(
        self, image: pa.BinaryScalar, row: int, view: View, draw: np.ndarray, chosen: float, out: np.ndarray
    ) -> None:
        """Decode a second image into ``out``, uint8 [H, W, C], cut as its image, or as the view of the row's latents.

        Args:
            chosen: number in [0, 1) that selects the view of the latents.
        """
        mirrored = 0
        if self.moments is not None:
            views = self.moments.derived.views
            crop, mirrored = divmod(views.choose(chosen), 1 + views.flip)
            view, draw = views.cut(row, crop)
        self._show(image, row, view, draw, out, self.condition)
        if mirrored:
            out[...] = out[:, ::-1].copy()

    def _show(
        self,
        image: pa.BinaryScalar,
        row: int,
        view: View,
        draw: np.ndarray,
        out: np.ndarray,
        condition: ConditionColumn | None = None,
    ) -> None:
        """Decode an image, or a second image of the kind ``condition``, into ``out``, uint8 [H, W, C], and crop it if
        the view or its shape requires it."""
        data = memoryview(image.as_buffer()).cast("B")
        stored = self.manifest.shards[self._shard_of(row)].image
        try:
            if stored == out.shape[:2] and not view.changes:
                decode_image(data, out.shape[2], out)
            else:
                nearest = condition is not None and condition.resample == "nearest"
                resample = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
                out[...] = view.show(decode_image(data, out.shape[2]), out.shape[:2], draw, resample)
        except ValueError as error:
            what = "image" if condition is None else "condition image"
            raise ValueError(f"the {what} of row {row} ({self.about(row)['key']}) cannot be read: {error}") from error


def _choose_captions(captions: list[str], draw: float) -> str:
    return captions[choose_caption(len(captions), draw)] if captions else ""


@lru_cache(maxsize=2)
def open_dataset_reader(
    path: str,
    fingerprint: str,
    text: TextEmbeddings | None = None,
    latents: Latents | None = None,
    fields: frozenset[str] = FIELDS,
) -> Reader:
    """Return this process's reader of a data set; repeated calls return the same one.

    Raises:
        ValueError: if the data set no longer has the fingerprint.
    """
    return Reader(read_same_manifest(path, fingerprint), text=text, latents=latents, fields=fields)


def open_segments(manifest: Manifest) -> Segments | None:
    """Return the places of the segments of a data set's shards; None if it was made before there were segments.

    Raises:
        ValueError: if their index is damaged or of another data set.
    """
    counts = np.array([-(-shard.rows // manifest.row_group) for shard in manifest.shards], dtype=np.int64)
    return read_index(manifest.path, manifest.fingerprint, counts, manifest.version)
