"""Rows of shards to arrays: reads the row groups it needs, keeps recent ones, decodes the rows asked for."""

import bisect
import io
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raysde.data.shards import ROW_GROUP, Encoding, Manifest, filesystem, offsets


@dataclass(frozen=True)
class Columns:
    """Decoded rows: images uint8 [B, C, H, W], captions (object array of str), labels int64 (-1 for none)."""

    images: np.ndarray
    captions: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """A row group as stored: images as bytes, captions and labels as in :class:`Columns`."""

    images: pa.Array
    captions: np.ndarray
    labels: np.ndarray


def decode_image(data: bytes, shape: tuple[int, int, int], encoding: Encoding) -> np.ndarray:
    """Bytes of one image to uint8 [C, H, W]."""
    if encoding == "raw":
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)
    with Image.open(io.BytesIO(data)) as picture:
        array = np.asarray(picture)
    return np.moveaxis(array.reshape(shape[1], shape[2], shape[0]), 2, 0)


def encode_image(image: np.ndarray, encoding: Encoding) -> bytes:
    """uint8 [C, H, W] to bytes."""
    if encoding == "raw":
        return np.ascontiguousarray(image).tobytes()
    buffer = io.BytesIO()
    picture = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, 2)
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


class Reader:
    """Random access to the rows of a data set.

    Args:
        manifest: of the data set.
        cache_bytes: row groups are kept, encoded, up to about this size.
    """

    def __init__(self, manifest: Manifest, *, cache_bytes: int = 512 << 20) -> None:
        self.manifest = manifest
        self.starts = offsets(manifest.shards)
        group_bytes = ROW_GROUP * int(np.prod(manifest.image))
        self.kept_groups = max(2, cache_bytes // group_bytes)
        self.groups: OrderedDict[tuple[int, int], Encoded] = OrderedDict()

    def read(self, rows: np.ndarray) -> Columns:
        """The rows with the given numbers, in the order given."""
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        inside = rows - np.asarray(self.starts)[shard]
        group = inside // ROW_GROUP
        images = np.empty((len(rows), *self.manifest.image), dtype=np.uint8)
        captions, labels = np.empty(len(rows), dtype=object), np.empty(len(rows), dtype=np.int64)
        for s, g in sorted(set(zip(shard.tolist(), group.tolist(), strict=True))):
            here = (shard == s) & (group == g)
            source, place = self.group(s, g), inside[here] - g * ROW_GROUP
            shape, encoding = self.manifest.image, self.manifest.encoding
            images[here] = [decode_image(source.images[p].as_py(), shape, encoding) for p in place]
            captions[here], labels[here] = source.captions[place], source.labels[place]
        return Columns(images, captions, labels)

    def name(self, row: int) -> str:
        """The source file of a row, for messages."""
        shard = bisect.bisect_right(self.starts, row) - 1
        system, folder = filesystem(self.manifest.path)
        with system.open_input_file(f"{folder}/{self.manifest.shards[shard].file}") as source:
            return pq.read_table(source, columns=["name"]).column("name")[row - self.starts[shard]].as_py()

    def group(self, shard: int, group: int) -> Encoded:
        """A row group, from memory if it was used recently."""
        found = self.groups.get((shard, group))
        if found is None:
            found = self.groups[shard, group] = self.load(shard, group)
            while len(self.groups) > self.kept_groups:
                self.groups.popitem(last=False)
        self.groups.move_to_end((shard, group))
        return found

    def load(self, shard: int, group: int) -> Encoded:
        """Reads one row group; images are decoded when they are asked for."""
        system, folder = filesystem(self.manifest.path)
        with system.open_input_file(f"{folder}/{self.manifest.shards[shard].file}") as source:
            table = pq.ParquetFile(source).read_row_group(group, columns=["image", "caption", "label"])
        captions = [caption or "" for caption in table.column("caption").to_pylist()]
        labels = [-1 if label is None else label for label in table.column("label").to_pylist()]
        images = table.column("image").combine_chunks()
        return Encoded(images, np.array(captions, dtype=object), np.array(labels, dtype=np.int64))
