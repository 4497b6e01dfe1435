"""Random access to the rows of shards: reads the row groups it needs, keeps recent ones, decodes what is asked for."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from raysde.data.dataset.manifest import SCHEMA, Manifest, Split, read_manifest
from raysde.data.dataset.precomputed import Latents, TextEmbeddings
from raysde.data.dataset.precomputed_rows import Contexts, LatentMoments, choose_caption
from raysde.data.dataset.row_groups import RowGroups
from raysde.data.dataset.view import CAPTION, STILL, View
from raysde.images.codec import decode_image

CACHE = 512 << 20
COLUMNS = ["image.bytes", "captions", "label"]


@dataclass(frozen=True)
class Columns:
    """Decoded rows: images uint8 [B, H, W, C], captions (one each, "" for none), labels int64 [B] (-1 for none).

    Attributes:
        context, tokens: the captions' vectors [B, L, D] and how many are real [B], where they were precomputed.
        moments: mean and log-variance [B, 2 C, H, W] of the images' latents, where these are read instead of pixels;
            the images are then empty, [B, 0, 0, C].
    """

    images: np.ndarray
    captions: list[str]
    labels: np.ndarray
    context: np.ndarray | None = None
    tokens: np.ndarray | None = None
    moments: np.ndarray | None = None


@dataclass(frozen=True)
class RowGroup:
    """A row group as stored."""

    images: pa.BinaryArray
    captions: pa.ListArray
    labels: pa.StringArray

    @classmethod
    def of(cls, table: pa.Table) -> "RowGroup":
        """The columns of a table."""
        captions, labels = (table.column(name).combine_chunks() for name in ("captions", "label"))
        return cls(table.column("image").combine_chunks().field("bytes"), captions, labels)


def allocate_images(shape: tuple[int, ...]) -> np.ndarray:
    """New memory for images."""
    return np.empty(shape, dtype=np.uint8)


class Reader:
    """Rows of a data set by their numbers.

    Args:
        manifest: of the data set.
        text: precomputed embeddings of the captions, which rows then carry.
        latents: precomputed latents, which rows then carry instead of images.
        cache_bytes: row groups are kept, encoded, up to this size.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        text: TextEmbeddings | None = None,
        latents: Latents | None = None,
        cache_bytes: int = CACHE,
    ) -> None:
        self.moments = None if latents is None else LatentMoments(latents, manifest)
        self.contexts = None if text is None else Contexts(text, manifest)
        self.manifest = manifest
        self.numbers = {name: number for number, name in enumerate(manifest.labels)}
        self.groups = RowGroups(manifest, manifest.path, SCHEMA, RowGroup.of, columns=COLUMNS, budget=cache_bytes)

    def read(
        self,
        rows: np.ndarray,
        view: View | None = None,
        draws: np.ndarray | None = None,
        take: Callable[[tuple[int, ...]], np.ndarray] = allocate_images,
    ) -> Columns:
        """The rows with the given numbers, in the order given; all of one shape.

        Args:
            view: how images are shown; as they are stored if None.
            draws: what is drawn for each row, see :mod:`raysde.data.dataset.view`; largest box and first caption if
                None.
            take: gives contiguous uint8 memory of a shape, for the images.

        Raises:
            ValueError: naming the shard that is missing or damaged, or the row whose image is damaged or whose label is
                none of the manifest's.
        """
        view = view or View()
        draws = np.broadcast_to(STILL, (len(rows), len(STILL))) if draws is None else draws
        moments = None if self.moments is None else self.moments.read(rows)
        shape = self.shape_of(int(rows[0]), view) if moments is None else (0, 0)
        images = take((len(rows), *shape, self.manifest.channels))
        captions, labels = [""] * len(rows), np.full(len(rows), -1, dtype=np.int64)
        for place, group, inside in self.groups.holding(rows):
            draw = draws[place]
            if moments is None:
                self._show(group, inside, int(rows[place]), view, draw, images[place])
            captions[place] = _choose_captions(group.captions[inside].as_py(), draw[CAPTION])
            labels[place] = self._number(group.labels[inside].as_py(), int(rows[place]))
        context, tokens = (None, None) if self.contexts is None else self.contexts.read(rows, draws[:, CAPTION])
        return Columns(images, captions, labels, context, tokens, moments)

    def shape_of(self, row: int, view: View) -> tuple[int, int]:
        """(height, width) at which a row is shown.

        Raises:
            ValueError: if its shard holds images of many sizes and the view asks for none.
        """
        stored = self.manifest.shards[self._shard_of(row)].image
        square = self.manifest.size
        if stored is not None and (view.shape is None or (square is not None and stored != square)):
            return stored
        if view.shape is None:
            raise ValueError(f"the images at {self.manifest.path} have sizes of their own: give data.image_size")
        return view.shape

    def largest(self, view: View) -> int:
        """Bytes of the largest image that is shown; what a canvas reserves, of which only what is used is touched."""
        shapes = self.manifest.shapes | {view.shape}
        return max(shape[0] * shape[1] for shape in shapes if shape is not None) * self.manifest.channels

    def about(self, row: int) -> dict[str, object]:
        """Key, captions, label, size and hash of a row, and its shard.

        Raises:
            ValueError: naming the shard that is missing or damaged.
        """
        shard = self._shard_of(row)
        names = ["captions", "label", "key", "width", "height", "hash"]
        group, place = divmod(row - self.manifest.starts[shard], self.manifest.row_group)
        table = self.groups.read(shard, group, names)
        return {"row": row, "shard": self.manifest.shards[shard].file, **table.slice(place, 1).to_pylist()[0]}

    def image_file(self, row: int) -> bytes:
        """The image file of a row."""
        ((_, group, inside),) = self.groups.holding(np.array([row]))
        return bytes(group.images[inside].as_py())

    def _shard_of(self, row: int) -> int:
        return bisect.bisect_right(self.manifest.starts, row) - 1

    def classes_in(self, split: Split) -> tuple[int, ...]:
        """Return the class numbers that rows of a split have; labels are read until every class is found.

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
        """The class number of a label, -1 for none."""
        found = -1 if label is None else self.numbers.get(label)
        if found is None:
            where = f"{self.manifest.path}/manifest.json"
            raise ValueError(f"row {row} has the label {label!r}, which {where} does not list")
        return found

    def _show(self, group: RowGroup, inside: int, row: int, view: View, draw: np.ndarray, out: np.ndarray) -> None:
        """Decodes an image into ``out``, or shows the part of it that is drawn there."""
        data = memoryview(group.images[inside].as_buffer()).cast("B")
        stored = self.manifest.shards[self._shard_of(row)].image
        try:
            if stored == out.shape[:2] and not view.changes:
                decode_image(data, self.manifest.channels, out)
            else:
                out[...] = view.show(decode_image(data, self.manifest.channels), out.shape[:2], draw)
        except ValueError as error:
            raise ValueError(f"the image of row {row} ({self.about(row)['key']}) cannot be read: {error}") from error


def _choose_captions(captions: list[str], draw: float) -> str:
    return captions[choose_caption(len(captions), draw)] if captions else ""


@lru_cache(maxsize=2)
def open_dataset_reader(
    path: str, fingerprint: str, text: TextEmbeddings | None = None, latents: Latents | None = None
) -> Reader:
    """This process's reader of a data set.

    Raises:
        ValueError: if the data set was changed since the fingerprint was taken.
    """
    manifest = read_manifest(path)
    if manifest.fingerprint != fingerprint:
        raise ValueError(f"the data set at {path} was changed while it was in use")
    return Reader(manifest, text=text, latents=latents)
