"""Data, checkpoints and runs on an object store: a real S3-protocol server in its own process, on loopback."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from raysde.checkpoints import checkpoint, ema_snapshots, storage
from raysde.cluster.ingest import ingest
from raysde.cluster.job import train_job
from raysde.config import loading
from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.verify import verify_shards
from raysde.data.ingest.digits import write_digits
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
from raysde.io.filesystems import exists, open_filesystem
from raysde.runs.claims import Claims
from raysde.runs.lease import claim_run, hold_run
from tests.support.digits import write_digit_shards
from tests.support.training import small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("place", "cluster")]


def free_port() -> int:
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def place():
    """Start the server, and yield a function that makes URIs on it; the cluster starts later, since workers need the
    credentials."""
    port = free_port()
    places = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(places)
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    for _ in range(300):
        with closing(socket.socket()) as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    endpoint = f"127.0.0.1:{port}"
    pafs.S3FileSystem(endpoint_override=endpoint, scheme="http", allow_bucket_creation=True).create_dir("bucket")
    yield lambda path: f"s3://bucket/{path}?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    process.terminate()
    process.wait(10)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def copies() -> set[Path]:
    """Return the copies of checkpoints in this machine's temporary folder."""
    return set(Path(tempfile.gettempdir()).glob(f"{storage.COPIES}*"))


def test_an_object_store_is_a_source_and_a_target(place, tmp_path):
    """The shards equal those of a local ingest of the same images."""
    write_digits(tmp_path / "images")
    system, inside = open_filesystem(place("images"))
    pafs.copy_files(str(tmp_path / "images"), inside, destination_filesystem=system)
    source = open_source(place("images"), part_rows=600)
    assert source.count == 1797
    manifest = ingest(source, place("shards"), choose_rules(source, validation=0.1), name="digits")
    assert read_manifest(place("shards")) == manifest
    verify_shards(manifest, hashes=True)
    local = open_source(str(tmp_path / "images"), part_rows=600)
    here = ingest(local, str(tmp_path / "shards"), choose_rules(local, validation=0.1), name="digits")
    assert here.fingerprint == manifest.fingerprint
    rows = np.arange(0, 1797, 7)
    assert np.array_equal(Reader(here).read(rows).images, Reader(manifest).read(rows).images)
    assert not exists(place("shards/.ingest/plan.json"))


def test_a_run_lives_on_an_object_store(place, tmp_path):
    """Shards, checkpoints and EMA profiles have URIs: the run is trained, stopped and resumed, and averaged
    afterwards."""
    local = write_digit_shards(tmp_path / "shards")
    system, inside = open_filesystem(place("digits"))
    pafs.copy_files(local.path, inside, destination_filesystem=system)
    manifest = read_manifest(place("digits"))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    profiles = {"train__ema__profiles": [0.05, 0.10]}
    changes = {**profiles, "storage": place("runs"), "tracking__uri": uri, "resources__cpus_per_worker": 1}
    first = train_job(loading.parse_recipe(small_recipe(manifest, tmp_path, **changes, train__length__steps=5)))
    assert checkpoint.read_description(first.checkpoint).step == 5
    before = copies()
    second = train_job(loading.parse_recipe(small_recipe(manifest, tmp_path, **changes, train__length__steps=10)))
    # the driver's copy is its answer; copies to resume from are deleted
    assert copies() - before <= {second.checkpoint, second.checkpoint.parent}
    found = checkpoint.read_description(second.checkpoint)
    assert (found.step, found.state["num_images"]) == (10, 160)
    assert storage.fetch_newest_checkpoint(place("runs"), "small").name == checkpoint.checkpoint_name(10)
    assert not (tmp_path / "runs").exists()
    step = ema_snapshots.export_average(place("runs/small"), tmp_path / "averaged", 0.07)
    assert step == 10
    assert checkpoint.read_description(tmp_path / "averaged").state["ema_std"] == 0.07


def test_a_missing_place_is_named(place):
    with pytest.raises(ValueError, match="s3://bucket/nothing"):
        open_source(place("nothing"))
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        read_manifest(place("nothing"))


def test_a_run_in_an_object_store_has_one_command(place):
    """A command that lives keeps its run; a run that was let go is free, and its claims are numbered on."""
    said: list[str] = []
    with hold_run(place("runs/held"), 60.0, said.append) as lease:
        with pytest.raises(ValueError, match="run 'held' is being trained by process"):
            claim_run(place("runs/held"), 60.0, said.append)
        lease.confirm()
    with hold_run(place("runs/held"), 60.0, said.append):
        assert Claims(place("runs/held")).newest().number == 2
    assert said == []
