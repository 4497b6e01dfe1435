"""Images to shards, in parallel by Ray Data."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import ray
import ray.data
from tqdm import tqdm

from raysde import storage
from raysde.cluster.session import connect
from raysde.data.decode import encode_image
from raysde.data.shards import SCHEMA, Encoding, Manifest, Shard, columns, filesystem, write_manifest, write_shard
from raysde.data.source import Item, guess_format, list_source, open_image

RAW_UP_TO = 64
"""Images up to this size are stored raw, larger ones as PNG: decoding a small PNG costs more than reading it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """How images become shards.

    Attributes:
        folder, out: source and target.
        size, channels, encoding: of the stored images.
        skip_bad: leave unreadable images out instead of stopping.
    """

    folder: str
    out: str
    size: int
    channels: int
    encoding: Encoding
    skip_bad: bool


def convert(task: Task, number: int, items: list[Item]) -> dict[str, Any]:
    """Writes one shard; returns its entry, the counts it adds, and the files that could not be read."""
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    for item in items:
        try:
            image = open_image(Path(task.folder) / item.name, task.size, task.channels)
        except ValueError as error:
            bad.append(str(error))
            continue
        rows.append(
            {
                "image": encode_image(image, task.encoding),
                "caption": item.caption,
                "label": item.label,
                "name": item.name,
            }
        )
    result: dict[str, Any] = {
        "number": number,
        "bad": "\n".join(bad),
        "captions": sum(row["caption"] is not None for row in rows),
    }
    if rows and (task.skip_bad or not bad):
        shard = write_shard(pa.Table.from_pylist(rows, schema=SCHEMA), task.out, f"shard-{number:05d}.parquet")
        result.update(file=shard.file, rows=shard.rows, bytes=shard.bytes, sha256=shard.sha256)
    else:
        result.update(file="", rows=0, bytes=0, sha256="")
    return result


def ingest(
    source: Path,
    out: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    shard_rows: int = 8192,
    skip_bad: bool = False,
) -> Manifest:
    """Turns a folder of captioned images into shards and a manifest, on Ray.

    Args:
        size: height and width of the stored images; the first image's short side if None.
        channels: 1 or 3; 1 if the first image is grey, if None.
        shard_rows: most rows in a shard.
        skip_bad: leave unreadable images out, and name them in the manifest.

    Raises:
        ValueError: if the source is missing, empty or contradictory, the target holds a data set already, or an image
            cannot be read.
    """
    out = storage.location(out)
    items = list_source(source)
    guessed_size, guessed_channels = guess_format(source, items)
    size, channels = size or guessed_size, channels or guessed_channels
    _empty_target(out)
    encoding: Encoding = "raw" if size <= RAW_UP_TO else "png"
    task = Task(
        folder=str(source.absolute()), out=out, size=size, channels=channels, encoding=encoding, skip_bad=skip_bad
    )
    parts = [items[start : start + shard_rows] for start in range(0, len(items), shard_rows)]
    connect()
    results = sorted(_converted(task, parts, len(items)), key=lambda result: result["number"])
    bad = [line for result in results for line in result["bad"].splitlines()]
    if bad and not skip_bad:
        raise ValueError(
            f"{bad[0]}{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}; --skip-bad leaves such files out"
        )
    shards = tuple(Shard(r["file"], r["rows"], r["bytes"], r["sha256"]) for r in results if r["rows"])
    if not shards:
        raise ValueError(f"no image in {source} can be read")
    labels = [item.label for item in items if item.label is not None]
    manifest = Manifest(
        path=out,
        image=(channels, size, size),
        encoding=encoding,
        shards=shards,
        captions=sum(result["captions"] for result in results),
        classes=max(labels) + 1 if labels else 0,
        columns=columns(SCHEMA),
        skipped=tuple(bad),
    )
    write_manifest(manifest)
    return manifest


def _empty_target(out: str) -> None:
    system, folder = filesystem(out)
    if system.get_file_info(f"{folder}/manifest.json").type != pafs.FileType.NotFound:
        raise ValueError(f"{out} holds a data set already; choose another folder or remove it")
    system.create_dir(folder, recursive=True)


def _converted(task: Task, parts: list[list[Item]], total: int) -> list[dict[str, Any]]:
    """Runs the conversion as a Ray Data stream, with a progress bar over images."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    reference = ray.put(parts)

    def write(batch: dict[str, Any]) -> dict[str, Any]:
        number = int(batch["id"][0])
        result = convert(task, number, ray.get(reference)[number])
        return {key: [value] for key, value in result.items()}

    numbers = ray.data.range(len(parts), override_num_blocks=len(parts)).map_batches(write, batch_size=1)
    results = []
    with tqdm(total=total, unit="image", desc="ingesting", file=sys.stderr) as bar:
        for row in numbers.iter_rows():
            results.append(row)
            bar.update(row["rows"] + len(row["bad"].splitlines()))
    return results
