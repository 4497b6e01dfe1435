"""Prefetching: read the next step's microbatches and copy them to the device while the current step is trained."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from raysde.data.batches.microbatch import Microbatch

Item = TypeVar("Item")


def fetch_ahead(items: Iterator[Item], ahead: int = 1) -> Iterator[Item]:
    """Return an iterator of the same items, with a thread that fetches the next ``ahead`` items while one is in use.

    The first item is fetched at once. An error in ``items`` is raised instead of the item that failed.
    """
    pool = ThreadPoolExecutor(1, "fetch")
    upcoming = deque(pool.submit(_next_item, items) for _ in range(ahead))

    def hand_out() -> Iterator[Item]:
        try:
            while found := upcoming.popleft().result():
                upcoming.append(pool.submit(_next_item, items))
                yield found[0]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return hand_out()


def _next_item(items: Iterator[Item]) -> tuple[Item] | None:
    for item in items:
        return (item,)
    return None


def prefetch_to_device(batches: Iterator[list[Microbatch]], device: torch.device) -> Iterator[list[Microbatch]]:
    """Return an iterator of the same microbatches, read one step ahead; tensors are moved to a CUDA ``device``.

    They are copied from page-locked memory on a separate CUDA stream, for which the training stream waits. For any
    other device they are not moved.
    """
    if device.type != "cuda":
        return fetch_ahead(batches)
    copies = torch.cuda.Stream(device)
    return _wait_for_copies(fetch_ahead(_start_copies(batches, device, copies)), device)


Moved = tuple[list[Microbatch], torch.cuda.Event]


def _start_copies(
    batches: Iterator[list[Microbatch]], device: torch.device, copies: "torch.cuda.Stream"
) -> Iterator[Moved]:
    """Yield each step's microbatches while they are copied to the device, and the event at the end of the copies."""
    for step in batches:
        with torch.cuda.stream(copies):
            moved = [batch.map_tensors(lambda x: x.pin_memory().to(device, non_blocking=True)) for batch in step]
        yield moved, copies.record_event()


def _wait_for_copies(steps: Iterator[Moved], device: torch.device) -> Iterator[list[Microbatch]]:
    """Yield each step's microbatches once the current stream waits for their copies."""
    for batches, copied in steps:
        training = torch.cuda.current_stream(device)
        training.wait_event(copied)

        def record_use(x: torch.Tensor, stream: torch.cuda.Stream = training) -> torch.Tensor:
            x.record_stream(stream)  # the allocator reuses this memory for a later copy only after the step
            return x

        yield [batch.map_tensors(record_use) for batch in batches]
