"""Precomputed embeddings made on Ray, interrupted and not, and the stream that carries them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from raysde.cluster.precompute import STATE, precompute, precompute_journal
from raysde.cluster.resources import DataShare
from raysde.cluster.stream import read_stream, stream_spec
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.precomputed import read_derived
from raysde.data.dataset.reader import Reader
from raysde.precompute.jobs import TextJob
from raysde.runs.run import open_run
from tests.support.encoders import text_encoder
from tests.support.precomputed import embed, many_captions, text_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


def test_an_interrupted_job_goes_on_to_the_same_bytes(tmp_path):
    """A failing unit stops the job; finished units stay unchanged, and the result equals that of one process."""
    torch.set_num_threads(1)
    manifest, encoder = many_captions(tmp_path / "shards"), text_encoder(tmp_path / "bert")
    alone = embed(manifest, encoder, batch_size=3)
    expected = contents(alone.path)
    Path(alone.path).rename(tmp_path / "alone")
    job = TextJob.of(manifest, encoder, max_tokens=32, dtype="fp32", batch_size=3)
    last = Path(manifest.file(2))
    whole = last.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    last.write_bytes(bytes(footer) + whole[footer:])
    with pytest.raises(ValueError, match=r"train-00002\.parquet of .* is damaged"):
        precompute(job, manifest)
    assert not Path(job.out, "manifest.json").exists()
    last.write_bytes(whole)
    work = job.work(manifest)
    Path(precompute_journal(job.out).place(0)).write_text(json.dumps(vars(work(0))))
    before = Path(job.out, "train-00000.parquet").stat().st_mtime_ns
    with pytest.raises(ValueError, match="another --batch-size"):
        precompute(TextJob.of(manifest, encoder, max_tokens=32, dtype="fp32", batch_size=4), manifest)
    derived = precompute(job, manifest)
    assert read_derived(job.out) == derived == alone
    assert Path(job.out, "train-00000.parquet").stat().st_mtime_ns == before
    assert not Path(job.out, STATE).exists()
    assert contents(job.out) == expected
    assert precompute(job, manifest) == derived

    run = open_run(
        loading.parse_recipe(
            text_recipe(manifest, encoder, tmp_path / "runs", data__block_steps=2, train__length__steps=4)
        )
    )
    found = read_stream(stream_spec(run, 0), 1, 0, 1, lambda: DataShare(tasks=2, bytes=1e9))
    expected_steps = read_batches(run.feed, Reader(manifest, text=derived), 0, run.steps)
    for got, wanted in zip(found, expected_steps, strict=True):
        for mine, twin in zip(got, wanted, strict=True):
            assert mine.captions == twin.captions
            assert torch.equal(mine.context, twin.context)
            assert torch.equal(mine.context_mask, twin.context_mask)
