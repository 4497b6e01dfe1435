"""Run a frozen encoder over a data set with Ray Data; an interrupted job can be resumed.

While it runs, the output folder holds .precompute: plan.json (the identity of the job) and a record of each finished
unit of work.
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
from raysde.data.dataset.manifest import Manifest, read_same_manifest
from raysde.data.dataset.precomputed import Derived, PrecomputedFile, read_derived, verify_derived, write_derived
from raysde.data.dataset.verify import is_local, verify_here
from raysde.io.filesystems import child_path, exists
from raysde.io.journal import Journal, has_whole_files
from raysde.precompute.jobs import Job, Work

STATE = ".precompute"


def precompute(job: Job, manifest: Manifest) -> Derived:
    """Write the output folder of a job, on Ray; return it unchanged if it is complete already.

    Raises:
        ValueError: if the folder belongs to other data or another unfinished job, or a unit cannot be encoded.
        OSError: if the folder cannot be reached or is full.
        RuntimeError: if workers are lost too often.
    """
    verify_here(manifest, (), "schema" if is_local(manifest.path) else "listing")
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
    """Return the complete output folder of an earlier job.

    Raises:
        ValueError: if it belongs to other data or is damaged.
    """
    found = read_derived(job.out)
    if found.fingerprint != job.fingerprint:
        raise ValueError(
            f"{job.out} was made from other data (fingerprint {found.fingerprint}, now {job.fingerprint}); remove it"
        )
    verify_derived(found, manifest, hashes=True)
    return found


def precompute_journal(out: str) -> Journal:
    """Return the journal of a job; its units of work are the output files."""
    folder = child_path(out, STATE)
    return Journal(child_path(folder, "plan.json"), folder, "unit-{:06d}.json")


def begin_job(job: Job) -> dict[int, PrecomputedFile]:
    """Prepare the folder, and return the units that the same job finished there before.

    Raises:
        ValueError: if the folder holds another unfinished job.
    """
    refused = f"{job.out} holds an unfinished job of other data or with another --batch-size; remove it or repeat that"
    precompute_journal(job.out).begin(job.identity, lambda found, plan: None if found == plan else refused)
    recorded = {unit: PrecomputedFile(**content) for unit, content in precompute_journal(job.out).records()}
    return {unit: file for unit, file in recorded.items() if has_whole_files(job.out, {file.file: file.bytes})}


def encode_units(job: Job, manifest: Manifest, units: list[int]) -> Iterator[tuple[int, PrecomputedFile]]:
    """Encode units on actors that load the encoder once; yield number and file of each as it finishes.

    Raises:
        ValueError: if a unit cannot be encoded.
        OSError: if an output file cannot be written.
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
    """An actor that holds the encoder and encodes one unit per call."""

    def __init__(self, job: Job, shards: str) -> None:
        torch.set_num_threads(1)  # the output must not depend on the number of CPUs
        self.job, self.shards = job, shards
        self.work: Work | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        unit = int(batch["unit"][0])

        def work() -> dict[str, Any]:
            if self.work is None:
                self.work = self.job.work(read_same_manifest(self.shards, self.job.fingerprint))
            content = asdict(self.work(unit))
            precompute_journal(self.job.out).keep(unit, content)
            return content

        return attempt_as_row(unit, work)
