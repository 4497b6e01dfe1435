"""Perceptual hashes and thumbnails of the rows of each shard, in a file of their own that one request reads.

SHARDS/hashes/train-00000.parquet   hash, thumbnail, source pixels and source position of each row of that shard

A shard has a row group for each megabyte or two of images, so that columns inside it would take as many requests. The
task that writes a shard writes this file, so nothing is gathered on one machine. A data set without these files, or
with a shard that was made again, gets the same values from its images.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.shard_table import Shard
from raysde.images.codec import decode_image
from raysde.images.perceptual import SIDE, hash_thumbnails, make_thumbnail
from raysde.io.filesystems import child_path, open_filesystem, read_bytes, write_bytes

FOLDER = "hashes"
FORMAT = "1"
SCHEMA = pa.schema(
    [
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("thumbnail", pa.binary(SIDE * SIDE), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("sample", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ImageHashes:
    """Perceptual hashes and thumbnails of the rows of a shard.

    Attributes:
        thumbnails: uint8 [N, 16, 16].
        hashes: perceptual hashes, uint64 [N].
        pixels: number of pixels of the source image, int64 [N]; of the stored one if the source is unknown.
        samples: position of the sample in its part of the source, int64 [N]; -1 if it is unknown.
    """

    thumbnails: np.ndarray
    hashes: np.ndarray
    pixels: np.ndarray
    samples: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def join(cls, blocks: "Sequence[ImageHashes]") -> "ImageHashes":
        """Return the hashes of several blocks of rows, in their order."""
        none = cls(np.empty((0, SIDE, SIDE), np.uint8), np.empty(0, np.uint64), *[np.empty(0, np.int64)] * 2)
        return cls(*(np.concatenate([getattr(block, each.name) for block in (none, *blocks)]) for each in fields(cls)))

    def take(self, rows: np.ndarray) -> "ImageHashes":
        """Return the hashes of rows, int64 [M]."""
        return ImageHashes(*(getattr(self, each.name)[rows] for each in fields(self)))


def write_hashes(folder: str, shard: Shard, thumbnails: np.ndarray, pixels: list[int], samples: list[int]) -> None:
    """Write the hashes of a shard's rows; the same rows give the same bytes.

    Args:
        folder: path or URI of the data set.
        thumbnails: uint8 [N, 16, 16].
        pixels, samples: see :class:`ImageHashes`.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    images = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(SIDE * SIDE), len(thumbnails), [None, pa.py_buffer(np.ascontiguousarray(thumbnails))]
    )
    schema = SCHEMA.with_metadata({"shard": shard.sha256, "format": FORMAT})
    arrays = [
        pa.array(hash_thumbnails(thumbnails)),
        images,
        pa.array(pixels, pa.int64()),
        pa.array(samples, pa.int64()),
    ]
    sink, system = pa.BufferOutputStream(), open_filesystem(child_path(folder, FOLDER))
    pq.write_table(pa.table(arrays, schema=schema), sink, compression="zstd", write_page_checksum=True)
    system[0].create_dir(system[1], recursive=True)
    write_bytes(child_path(folder, FOLDER, shard.file), memoryview(sink.getvalue()))


def read_hashes(folder: str, shard: Shard) -> ImageHashes | None:
    """Return the hashes of a shard's rows; None if the file is missing, damaged, or of another shard of that name.

    Args:
        folder: path or URI of the data set.
    """
    try:
        content = read_bytes(child_path(folder, FOLDER, shard.file))
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
        return None
    metadata = table.schema.metadata or {}
    same = (metadata.get(b"shard"), metadata.get(b"format")) == (shard.sha256.encode(), FORMAT.encode())
    if not same or len(table) != shard.rows:
        return None
    images = table.column("thumbnail").combine_chunks()
    stored = np.frombuffer(images.buffers()[1], np.uint8).reshape(-1, SIDE, SIDE)
    hashes, pixels, samples = (table.column(name).to_numpy() for name in ("hash", "pixels", "sample"))
    return ImageHashes(stored[: len(table)], hashes, pixels, samples)


def compute_hashes(manifest: Manifest, number: int) -> ImageHashes:
    """Return the hashes of the rows of shard ``number``, from its images.

    Raises:
        ValueError: naming the shard or row that is missing or damaged.
    """
    thumbnails, pixels = [], []
    system, inside = open_filesystem(manifest.file(number))
    where = f"shard {manifest.shards[number].file} of {manifest.path}"
    try:
        with system.open_input_file(inside) as source, pq.ParquetFile(source) as opened:
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, columns=["image.bytes"], use_threads=False)
                for image in table.column("image").combine_chunks().field("bytes"):
                    shown = decode_image(image.as_py(), manifest.channels)
                    picture = Image.fromarray(shown[:, :, 0] if manifest.channels == 1 else shown)
                    thumbnails.append(make_thumbnail(picture))
                    pixels.append(picture.width * picture.height)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} cannot be read: {' '.join(str(error).split())}; restore it") from error
    images = np.stack(thumbnails)
    return ImageHashes(images, hash_thumbnails(images), np.array(pixels), np.full(len(images), -1))


def open_hashes(manifest: Manifest, number: int) -> ImageHashes:
    """Return the hashes of the rows of shard ``number``: as stored, or from its images.

    Raises:
        ValueError: as :func:`compute_hashes`.
    """
    stored = read_hashes(manifest.path, manifest.shards[number])
    return compute_hashes(manifest, number) if stored is None else stored
