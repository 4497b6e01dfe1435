"""Digits with several captions each, and their precomputed embeddings and latents, made without Ray."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raysde.data.dataset.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from raysde.data.dataset.precomputed import Derived, write_derived
from raysde.data.dataset.shards import write_shard
from raysde.precompute.jobs import Job, LatentsJob, TextJob
from tests.support.digits import write_digit_shards
from tests.support.encoders import CAPTIONS
from tests.support.training import small_recipe


def many_captions(folder: Path, rows: int = 60, shard_rows: int = 25, row_group: int = 10) -> Manifest:
    """Write digits with zero to three captions each, in shards with a shorter last row group."""
    write_digit_shards(folder, rows, shard_rows, row_group)
    manifest, shards = read_manifest(str(folder)), []
    for number, shard in enumerate(manifest.shards):
        table = pq.read_table(manifest.file(number))
        first = manifest.starts[number]
        captions = [[CAPTIONS[(row + k) % 4] for k in range(row % 4)] for row in range(first, first + len(table))]
        table = table.set_column(1, SCHEMA.field("captions"), pa.array(captions, SCHEMA.field("captions").type))
        shards.append(write_shard(table, str(folder), shard.file, row_group=row_group, image=(8, 8)))
    changed = dataclasses.replace(manifest, shards=tuple(shards))
    write_manifest(changed)
    return read_manifest(str(folder))


def embed(manifest: Manifest, encoder: str, dtype="fp32", max_tokens: int = 32, batch_size: int = 3):
    """Return the precomputed embeddings of a data set's captions."""
    job = TextJob.of(manifest, encoder, max_tokens=max_tokens, dtype=dtype, batch_size=batch_size)
    return done(job, manifest)


def encode(manifest: Manifest, vae: str, dtype="fp32", batch_size: int = 7):
    """Return the precomputed latents of a data set's images."""
    return done(LatentsJob.of(manifest, vae, dtype=dtype, batch_size=batch_size), manifest)


def done(job: Job, manifest: Manifest) -> Derived:
    """Return the output of a job, with its units processed here in reverse order."""
    work, units = job.work(manifest), job.units(manifest)
    Path(job.out).mkdir()
    files = {unit: work(unit) for unit in reversed(range(units))}
    derived = job.derived([files[unit] for unit in range(units)])
    write_derived(derived)
    return derived


def text_recipe(manifest: Manifest, encoder: str, runs: Path, **changes) -> dict:
    """Return a recipe with captions through a frozen encoder."""
    tree = small_recipe(manifest, runs, **{"train__microbatch": 8, "train__condition_dropout": 0.3, **changes})
    tree["text"] = {"kind": "pretrained", "path": encoder, "max_tokens": 32}
    return tree
