"""Hashing as a Ray job: each file once, and the damaged one is named."""

import numpy as np
import pytest

from raysde.cluster import verify
from raysde.cluster.verify import cut_tasks, verify_data
from raysde.data.dataset import verify as here
from tests.support.digits import write_digit_shards
from tests.support.encoders import autoencoder
from tests.support.precomputed import encode

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def large(monkeypatch):
    """Take data sets of any size for large ones; a task has three files."""
    monkeypatch.setattr(here, "LARGE", 0)
    monkeypatch.setattr(verify, "TASK_FILES", 3)


@pytest.fixture
def in_this_process(monkeypatch):
    def refuse(*_):
        raise AssertionError("hashed in this process")

    monkeypatch.setattr(verify, "verify_here", refuse)


def flip(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(20)
        byte = file.read(1)[0]
        file.seek(20)
        file.write(bytes([byte ^ 1]))


@pytest.mark.usefixtures("large", "in_this_process")
def test_a_ray_job_hashes_every_file(tmp_path, capsys):
    """A damaged shard or precomputed file anywhere is named; the bar counts all bytes."""
    manifest = write_digit_shards(tmp_path / "s", rows=80, shard_rows=10)
    latents = encode(manifest, autoencoder(tmp_path / "vae"))
    assert verify_data(manifest, (latents,), "hash") == []
    assert "100%" in capsys.readouterr().err
    for number in (0, 4, 7):
        flip(manifest.file(number))
        with pytest.raises(ValueError, match=rf"^shard train-0000{number}\.parquet of \S+ has sha256 [^\n]*$"):
            verify_data(manifest, (latents,), "hash")
        flip(manifest.file(number))
    flip(f"{latents.path}/train-00005.parquet")
    with pytest.raises(ValueError, match=r"latents-\S+/train-00005\.parquet is not the file"):
        verify_data(manifest, (latents,), "hash")


def test_small_folders_and_listings_need_no_ray_job(digits, monkeypatch):
    monkeypatch.setattr(verify, "_hash_files", None)
    assert verify_data(digits, (), "hash") == []
    assert verify_data(digits, (), "schema") == []
    assert len(verify_data(digits, (), "listing")) == 1


def test_tasks_have_each_file_once_and_a_bounded_size(monkeypatch):
    """Every file is in one task; a task beyond the limit has one file."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(verify, "TASK_BYTES", 100)
    for count in (0, 1, 2, 50, 600):
        sizes = rng.integers(0, 150, count)
        cuts = cut_tasks(sizes)
        assert [number for first, stop in cuts for number in range(first, stop)] == list(range(count))
        for first, stop in cuts:
            assert stop - first <= verify.TASK_FILES
            assert stop - first == 1 or sizes[first:stop].sum() <= 100
    assert len(cut_tasks(np.zeros(1000, np.int64))) == 4
