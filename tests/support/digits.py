"""Shards of real handwritten digits, written without Ray."""

from pathlib import Path

from PIL import Image

from raysde.data.dataset.manifest import SCHEMA, Manifest, write_manifest
from raysde.data.dataset.shards import write_shard
from raysde.data.ingest.digits import load_digits, make_caption
from raysde.images.codec import encode_image


def write_digit_shards(folder: Path, rows: int = 200, shard_rows: int = 120, row_group: int = 1024) -> Manifest:
    """Write the first ``rows`` real digits with captions and labels as shards, without Ray."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits()
    table = [
        {
            "image": {"bytes": encode_image(Image.fromarray(images[i]), quality=None), "path": None},
            "captions": [make_caption(int(labels[i]), i)],
            "label": str(labels[i]),
            "key": f"{i:04d}.png",
            "width": 8,
            "height": 8,
            "hash": f"{i:016x}",
        }
        for i in range(rows)
    ]
    parts = [table[start : start + shard_rows] for start in range(0, rows, shard_rows)]
    shards = tuple(
        write_shard(
            pa.Table.from_pylist(part, schema=SCHEMA),
            str(folder),
            f"train-{number:05d}.parquet",
            row_group=row_group,
            image=(8, 8),
        )
        for number, part in enumerate(parts)
    )
    names = tuple(str(digit) for digit in range(10))
    manifest = Manifest(str(folder), 1, (8, 8), row_group, shards, labels=names, captions=rows)
    write_manifest(manifest)
    return manifest
