"""Drawing for a file of prompts by Ray Data, on a pool of actors that hold the model.

The model is sent once, through Ray's object store: every actor has the weights that the name meant when the job began.
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
"""Times that an actor comes back, and that its part is drawn anew."""


def draw_on_actors(workers: int, device: str | None = None) -> Draw:
    """Draws parts on so many actors at most.

    Args:
        device: cpu, cuda, ...; None for GPUs if the cluster has some.

    Raises:
        ValueError: if there is no actor to be.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")

    def draw(bulk: Bulk, parts: Sequence[int], told: Callable[[int, float], None]) -> Iterator[int]:
        if parts:
            connect()
            yield from draw_parts(bulk, parts, min(workers, len(parts)), device)

    return draw


def draw_parts(bulk: Bulk, parts: Sequence[int], actors: int, device: str | None) -> Iterator[int]:
    """Draws parts; their numbers come as they are done.

    Raises:
        ValueError: if one cannot be drawn.
        OSError: if one cannot be written.
        RuntimeError: if actors fail, or are lost too often.
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
    """An actor that holds the model.

    Args:
        held: reference to the job.
        place: what the actor takes.
    """

    def __init__(self, held: list[ray.ObjectRef], place: Share) -> None:
        torch.set_num_threads(place.threads)
        self.bulk: Bulk = ray.get(held[0])
        self.bulk.model.to(place.device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        part = int(batch["part"][0])
        return attempt_as_row(part, lambda: self.bulk.draw(part))
