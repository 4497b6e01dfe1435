"""Measurements shared among the ranks of a training run: each draws its part of the images, and all get the whole."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from raysde.distributed.world import World
from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.workload import Bench, Measure, measure_here
from raysde.io.atomic import write_atomically
from raysde.io.hashing import file_hash
from raysde.io.progress import Progress


def share_among_ranks(world: World) -> Measure:
    """Return a measure whose ranges are dealt to the ranks in turn; every rank must call it, with equal arguments.

    Each rank receives the measurements of all images. They are the bits that one process measures, since a range is
    always measured as a whole.
    """

    def measure(
        bench: Bench, work: str, stretches: Sequence[tuple[int, int]], progress: Progress | None = None
    ) -> Iterator[MeasuredRange]:
        mine = list(measure_here(bench, work, stretches[world.rank :: world.size], None))
        yield from gather_parts(mine, stretches, world)

    return measure if world.size > 1 else measure_here


def gather_parts(
    mine: Sequence[MeasuredRange], stretches: Sequence[tuple[int, int]], world: World
) -> Iterator[MeasuredRange]:
    """Yield the parts of all ranks in the order of ``stretches``, ranges (first, count) that begin at 0.

    Args:
        mine: this rank's parts; the first rank has at least one, whose values tell the other ranks names and shapes.
    """
    total = sum(count for _, count in stretches)
    first = mine[0].values if mine else {}
    shapes = {name: (str(each.dtype).removeprefix("torch."), list(each.shape[1:])) for name, each in first.items()}
    whole: dict[str, Tensor] = {}
    for name, (kind, shape) in json.loads(world.share_text(json.dumps(shapes))).items():
        values = torch.zeros(total, *shape, dtype=getattr(torch, kind))
        for part in mine:
            values[part.first : part.first + part.count] = part.values[name]
        # rows of other ranks are zeros here, so the sum over ranks changes no bit
        whole[name] = world.sum(values.to(world.device)).cpu()
    for place, count in stretches:
        yield MeasuredRange(place, {name: value[place : place + count] for name, value in whole.items()})


def share_cache(cache: Path, fingerprint: str, world: World) -> None:
    """Give all ranks the first rank's judges and reference statistics of a data set, so that all measure alike.

    Args:
        cache: folder of those files on every rank, perhaps of one machine, perhaps of several.
        fingerprint: fingerprint of the data set, which is part of the files' names.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    if world.size == 1:
        return
    found = {path.name: file_hash(path) for path in list_cache(cache, fingerprint)} if world.is_first else {}
    for name, digest in json.loads(world.share_text(json.dumps(found))).items():
        path = cache / name
        lacks = not path.exists() or file_hash(path) != digest
        if world.any(lacks):
            content = world.share_bytes(path.read_bytes() if world.is_first else b"")
            if lacks:
                write_cache(cache, {name: content})


def list_cache(cache: Path, fingerprint: str) -> list[Path]:
    """Return the files of judges and reference statistics of a data set, sorted."""
    return sorted(cache.glob(f"*-{fingerprint}-*"))


def write_cache(cache: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a cache, by name; a file with the same content is left alone.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    for name, content in files.items():
        path = cache / name
        if not path.exists() or path.read_bytes() != content:
            with write_atomically(path, "an evaluation's cache") as partial:
                partial.write_bytes(content)
