"""Sampling for a file of prompts with Ray Data, on a pool of actors that hold the model.

The driver sends the model once, through Ray's object store. Every actor therefore has the weights that the model name
referred to when the job began.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
import torch

from raysde.cluster.backpressure import set_up_data
from raysde.cluster.connection import connect
from raysde.cluster.errors import attempt_as_row, iterate_results
from raysde.cluster.resources import Share, worker_share
from raysde.inference.bulk import Bulk, Draw

RETRIES = 3
"""Maximum restarts of an actor, and maximum retries of a part."""


def draw_on_actors(workers: int, device: str | None = None) -> Draw:
    """Return a function that samples the parts of a job on at most ``workers`` actors.

    Args:
        device: torch device such as cpu or cuda; None selects GPUs if the cluster has some.

    Raises:
        ValueError: if ``workers`` is less than 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")

    def draw(bulk: Bulk, parts: Sequence[int], progress: Callable[[int, float], None]) -> Iterator[int]:
        if parts:
            connect()
            yield from draw_parts(bulk, parts, min(workers, len(parts)), device)

    return draw


def draw_parts(bulk: Bulk, parts: Sequence[int], actors: int, device: str | None) -> Iterator[int]:
    """Sample the given parts and yield the number of each part once its files are written.

    Raises:
        ValueError: if a part cannot be sampled.
        OSError: if a part cannot be written.
        RuntimeError: if actors fail, or are lost more than ``RETRIES`` times.
    """
    set_up_data()
    place = worker_share(actors, device)
    stream = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        SamplingActor,
        batch_size=1,
        concurrency=actors,
        num_cpus=place.cpus,
        num_gpus=place.gpus,
        fn_constructor_args=([ray.put(bulk)], place),
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
    )
    for part, _ in iterate_results(stream):
        yield part


class SamplingActor:
    """An actor that holds the model and samples one part per call.

    Args:
        held: one-element list with the object reference of the :class:`Bulk` job (Ray would resolve a bare reference).
        place: resources of the actor.
    """

    def __init__(self, held: list[ray.ObjectRef], place: Share) -> None:
        torch.set_num_threads(place.threads)
        self.bulk: Bulk = ray.get(held[0])
        self.bulk.model.to(place.device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        part = int(batch["part"][0])
        return attempt_as_row(part, lambda: self.bulk.draw(part))
