"""The next step's microbatches are fetched, and brought to the device, while the present one is trained on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from raysde.data.batches.microbatch import Microbatch

Item = TypeVar("Item")


def fetch_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; a thread fetches the first at once and each next one when its predecessor is handed out.

    An error in ``items`` is raised in the place of the item that it prevented.
    """
    pool = ThreadPoolExecutor(1, "fetch")
    upcoming = pool.submit(_next_item, items)

    def hand_out() -> Iterator[Item]:
        nonlocal upcoming
        try:
            while found := upcoming.result():
                upcoming = pool.submit(_next_item, items)
                yield found[0]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return hand_out()


def _next_item(items: Iterator[Item]) -> tuple[Item] | None:
    for item in items:
        return (item,)
    return None


def prefetch_to_device(batches: Iterator[list[Microbatch]], device: torch.device) -> Iterator[list[Microbatch]]:
    """The same microbatches a step ahead; with their tensors on ``device`` where that is a CUDA device.

    There they are copied from page-locked memory on a stream of its own, which the training stream waits for.
    """
    if device.type != "cuda":
        return fetch_ahead(batches)
    copies = torch.cuda.Stream(device)
    return _wait_for_copies(fetch_ahead(_start_copies(batches, device, copies)), device)


Moved = tuple[list[Microbatch], torch.cuda.Event]


def _start_copies(
    batches: Iterator[list[Microbatch]], device: torch.device, copies: "torch.cuda.Stream"
) -> Iterator[Moved]:
    """Each step's microbatches with copies to the device under way, and the event that ends these."""
    for step in batches:
        with torch.cuda.stream(copies):
            moved = [batch.map_tensors(lambda x: x.pin_memory().to(device, non_blocking=True)) for batch in step]
        yield moved, copies.record_event()


def _wait_for_copies(steps: Iterator[Moved], device: torch.device) -> Iterator[list[Microbatch]]:
    """The microbatches, safe to use on the present stream."""
    for batches, copied in steps:
        training = torch.cuda.current_stream(device)
        training.wait_event(copied)

        def record_use(x: torch.Tensor, stream: torch.cuda.Stream = training) -> torch.Tensor:
            x.record_stream(stream)  # its memory is not given to a later copy before the step is done
            return x

        yield [batch.map_tensors(record_use) for batch in batches]
