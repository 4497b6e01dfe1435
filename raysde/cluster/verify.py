"""Verification of large data sets as a Ray job: every node hashes some files, and a progress bar counts bytes."""

import itertools
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import ray.data
from tqdm import tqdm

from raysde.cluster.backpressure import set_up_data
from raysde.cluster.connection import connect
from raysde.cluster.errors import attempt_as_row, iterate_results
from raysde.data.dataset.manifest import Manifest, read_manifest
from raysde.data.dataset.precomputed import Derived, check_derived_list, read_derived, verify_file
from raysde.data.dataset.verify import (
    Verification,
    check_columns,
    hashing_needs_ray,
    verify_here,
    verify_kept,
    verify_shard,
)
from raysde.data.dataset.versions import find_version

TASK_BYTES = 1 << 30
TASK_FILES = 256
"""Limits of a task, so that the progress bar moves and a lost worker costs little."""


def verify_data(manifest: Manifest, precomputed: Iterable[Derived], verification: Verification) -> list[str]:
    """Check a data set and its precomputed folders: hashes of remote or large ones on Ray, all else in this process.

    Returns:
        Remarks for the user, a sentence each.

    Raises:
        ValueError: naming a file that differs, and the difference.
        OSError: if a file cannot be read, or the store cannot be listed.
        RuntimeError: if workers are lost too often.
    """
    folders = list(precomputed)
    if verification != "hash" or not hashing_needs_ray(manifest, folders):
        return verify_here(manifest, folders, verification)
    check_columns(manifest)
    verify_kept(manifest, hashes=True)
    for derived in folders:
        check_derived_list(derived, manifest)
    connect()
    size = manifest.bytes + sum(file.bytes for derived in folders for file in derived.all_files)
    with tqdm(total=size, unit="B", unit_scale=True, desc="hashing", file=sys.stderr) as bar:
        _hash_files(manifest.shards.bytes, shard_checker(manifest.path, manifest.fingerprint), bar)
        for derived in folders:
            sizes = np.array([file.bytes for file in derived.all_files], dtype=np.int64)
            _hash_files(sizes, derived_checker(derived.path), bar)
    return []


def _hash_files(sizes: np.ndarray, check: Callable[[int], None], bar: tqdm) -> None:
    """Run ``check`` of every file's number on Ray, and add its bytes to the bar."""
    set_up_data()
    cuts = cut_tasks(sizes)
    stream = ray.data.from_items(
        [{"first": first, "stop": stop} for first, stop in cuts], override_num_blocks=len(cuts)
    ).map_batches(_make_checker(check), batch_size=1)
    for first, stop in iterate_results(stream):
        bar.update(int(sizes[first:stop].sum()))


def cut_tasks(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Return the first file and the end of each task's range of files, given their sizes in bytes, int64 [N]."""
    cuts, before, start = [0], np.concatenate([[0], np.cumsum(sizes)]), 0
    while start < len(sizes):
        fitting = int(np.searchsorted(before, before[start] + TASK_BYTES, side="right")) - 1
        start = min(max(fitting, start + 1), start + TASK_FILES, len(sizes))
        cuts.append(start)
    return list(itertools.pairwise(cuts))


def _make_checker(check: Callable[[int], None]) -> Callable[[dict[str, Any]], dict[str, list[Any]]]:
    def run(batch: dict[str, Any]) -> dict[str, list[Any]]:
        first, stop = int(batch["first"][0]), int(batch["stop"][0])

        def work() -> int:
            for number in range(first, stop):
                check(number)
            return stop

        return attempt_as_row(first, work)

    return run


def shard_checker(path: str, fingerprint: str) -> Callable[[int], None]:
    """Return a function that checks a shard by its number, for tasks on any node.

    Raises:
        ValueError: by the function, naming the shard and the difference, or if a node has another data set.
    """

    def check(number: int) -> None:
        manifest = _open_manifest(path, find_version(path, fingerprint))
        if manifest.fingerprint != fingerprint:
            raise ValueError(f"{path} holds another data set on the node of a task; put the same files on every node")
        verify_shard(manifest, number, hashes=True)

    return check


def derived_checker(path: str) -> Callable[[int], None]:
    """Return a function that checks a file of a precomputed folder by its number, for tasks on any node.

    Raises:
        ValueError: by the function, naming the file, if it differs from the manifest.
    """

    def check(number: int) -> None:
        derived = _open_derived(path)
        verify_file(derived, derived.all_files[number], hashes=True)

    return check


@lru_cache(maxsize=1)
def _open_manifest(path: str, version: int | None) -> Manifest:
    return read_manifest(path, version=version)


@lru_cache(maxsize=1)
def _open_derived(path: str) -> Derived:
    return read_derived(path)
