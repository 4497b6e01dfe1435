"""A frozen encoder over a data set, by Ray Data; an interrupted job goes on where it stopped.

While it runs, the folder that it makes holds .precompute: plan.json, the identity of the job, and a record of each
finished unit.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import torch
from tqdm import tqdm

from raysde.cluster.backpressure import set_up_data
from raysde.cluster.connection import connect
from raysde.cluster.errors import attempt_as_row, iterate_results
from raysde.cluster.resources import count_workers
from raysde.data.dataset.manifest import Manifest, read_manifest
from raysde.data.dataset.precomputed import Derived, PrecomputedFile, read_derived, verify_derived, write_derived
from raysde.data.dataset.shards import verify_shards
from raysde.io.filesystems import child_path, exists
from raysde.io.journal import Journal, has_whole_files
from raysde.precompute.jobs import Job, Work

STATE = ".precompute"


def precompute(job: Job, manifest: Manifest) -> Derived:
    """Makes the folder of a job, on Ray; one that is whole already stays as it is.

    Raises:
        ValueError: if the folder was made from other data, holds another unfinished job, or a unit cannot be done.
        OSError: if the folder cannot be reached, or has no room.
        RuntimeError: if workers are lost too often.
    """
    verify_shards(manifest, hashes=False)
    if exists(child_path(job.out, "manifest.json")):
        return find_finished_folder(job, manifest)
    done = begin_job(job)
    connect()
    units = job.units(manifest)
    todo = [unit for unit in range(units) if unit not in done]
    with tqdm(total=units, initial=len(done), unit="file", desc=f"precomputing {job.kind}", file=sys.stderr) as bar:
        for unit, file in encode_units(job, manifest, todo):
            done[unit] = file
            bar.update()
    derived = job.derived([done[unit] for unit in range(units)])
    write_derived(derived)
    precompute_journal(job.out).forget()
    return derived


def find_finished_folder(job: Job, manifest: Manifest) -> Derived:
    """The folder that was made before.

    Raises:
        ValueError: if it was made from other data, or was damaged.
    """
    found = read_derived(job.out)
    if found.fingerprint != job.fingerprint:
        raise ValueError(
            f"{job.out} was made from other data (fingerprint {found.fingerprint}, now {job.fingerprint}); remove it"
        )
    verify_derived(found, manifest, hashes=True)
    return found


def precompute_journal(out: str) -> Journal:
    """Return the journal of a job, whose units are the files that it makes of shards."""
    folder = child_path(out, STATE)
    return Journal(child_path(folder, "plan.json"), folder, "unit-{:06d}.json")


def begin_job(job: Job) -> dict[int, PrecomputedFile]:
    """Make the folder ready, and return the units that the same job finished there before.

    Raises:
        ValueError: if another job was interrupted there.
    """
    refused = f"{job.out} holds an unfinished job of other data or with another --batch-size; remove it or repeat that"
    precompute_journal(job.out).begin(job.identity, lambda found, plan: None if found == plan else refused)
    recorded = {unit: PrecomputedFile(**content) for unit, content in precompute_journal(job.out).records()}
    return {unit: file for unit, file in recorded.items() if has_whole_files(job.out, {file.file: file.bytes})}


def encode_units(job: Job, manifest: Manifest, units: list[int]) -> Iterator[tuple[int, PrecomputedFile]]:
    """Does the units on actors that load the encoder once; results come as they are ready.

    Raises:
        ValueError: if one cannot be done.
        OSError: if what one makes cannot be written.
        RuntimeError: if workers are lost too often.
    """
    if not units:
        return
    set_up_data()
    actors, share = count_workers(len(units), ray.cluster_resources())
    stream = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units)).map_batches(
        Encoding,
        batch_size=1,
        concurrency=actors,
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        fn_constructor_args=(job, manifest.path),
    )
    for unit, content in iterate_results(stream):
        yield unit, PrecomputedFile(**content)


class Encoding:
    """An actor that holds the encoder."""

    def __init__(self, job: Job, shards: str) -> None:
        torch.set_num_threads(1)  # numbers do not depend on how many CPUs there are
        self.job, self.shards = job, shards
        self.work: Work | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        unit = int(batch["unit"][0])

        def work() -> dict[str, Any]:
            if self.work is None:
                self.work = self.job.work(read_manifest(self.shards))
            content = asdict(self.work(unit))
            precompute_journal(self.job.out).keep(unit, content)
            return content

        return attempt_as_row(unit, work)
