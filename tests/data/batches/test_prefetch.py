"""Prefetching changes only the time at which a step's data are read."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from raysde.data.batches.microbatch import Microbatch
from raysde.data.batches.prefetch import _wait_for_copies, fetch_ahead, prefetch_to_device

WAIT = 10.0


class Recorded:
    """An iterable of the numbers from 0 on that records the taken numbers and the threads."""

    def __init__(self, stop: int, error_at: int | None = None) -> None:
        self.stop, self.error_at = stop, error_at
        self.taken: list[int] = []
        self.threads: set[str] = set()
        self.reached = [threading.Event() for _ in range(stop + 1)]

    def __iter__(self) -> Iterator[int]:
        for number in range(self.stop):
            if number == self.error_at:
                raise RuntimeError(f"item {number} is broken")
            self.taken.append(number)
            self.threads.add(threading.current_thread().name)
            self.reached[number].set()
            yield number


def test_items_come_in_order_and_to_the_end():
    assert list(fetch_ahead(iter(Recorded(50)))) == list(range(50))
    assert list(fetch_ahead(iter([]))) == []


def test_the_first_is_fetched_before_anybody_asks_and_each_next_one_while_its_predecessor_is_used():
    source = Recorded(5)
    items = fetch_ahead(iter(source))
    assert source.reached[0].wait(WAIT)
    assert next(items) == 0
    assert source.reached[1].wait(WAIT)  # fetched without a request
    assert source.taken == [0, 1]  # and no more than one ahead
    assert next(items) == 1
    assert source.threads != {threading.current_thread().name}
    items.close()


def test_several_items_are_fetched_ahead():
    source = Recorded(9)
    items = fetch_ahead(iter(source), 3)
    for number in range(3):
        assert next(items) == number
        assert source.reached[number + 3].wait(WAIT)
        assert source.taken == list(range(number + 4))
    assert list(items) == [3, 4, 5, 6, 7, 8]


def test_an_error_is_raised_in_its_place():
    items = fetch_ahead(iter(Recorded(5, error_at=2)))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(RuntimeError, match="item 2 is broken"):
        next(items)


def test_nothing_is_fetched_after_the_reader_has_gone():
    source = Recorded(5)
    items = fetch_ahead(iter(source))
    next(items)
    assert source.reached[1].wait(WAIT)
    items.close()
    assert not source.reached[2].wait(0.2)


def steps(count: int) -> list[list[Microbatch]]:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (count, 4, 8, 8, 3), dtype=np.uint8))
    return [
        [Microbatch(step, 0, np.arange(4), images[step].permute(0, 3, 1, 2), ["x"] * 4, torch.arange(4))]
        for step in range(count)
    ]


def test_every_tensor_of_a_microbatch_is_moved_and_nothing_else():
    ((batch,),) = steps(1)
    moved = batch.map_tensors(lambda x: x + 1)
    assert torch.equal(moved.images, batch.images + 1)
    assert torch.equal(moved.labels, batch.labels + 1)
    assert moved.context is None
    assert (moved.step, moved.captions) == (batch.step, batch.captions)


def test_a_step_waits_for_its_copies(monkeypatch):
    """Streams and events are replaced by recorders, because no GPU shows this race reliably."""
    said = []

    class Stream:
        def wait_event(self, event):
            said.append(f"wait for {event}")

    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: said.append("use"), raising=False)
    for number, (batch,) in enumerate(_wait_for_copies(zip(steps(2), "ab", strict=True), torch.device("cuda"))):
        assert isinstance(batch, Microbatch)
        said.append(f"step {number}")
    tensors = sum(isinstance(value, torch.Tensor) for value in vars(batch).values())
    assert said == ["wait for a", *["use"] * tensors, "step 0", "wait for b", *["use"] * tensors, "step 1"]


@pytest.mark.gpu
def test_a_device_gets_the_same_pixels():
    device, expected = torch.device("cuda"), steps(20)
    for found, (batch,) in zip(prefetch_to_device(iter(steps(20)), device), expected, strict=True):
        assert found[0].images.device.type == "cuda"
        torch.cuda._sleep(10_000_000)  # the copies of the next step must not wait for this
        assert torch.equal(found[0].images.cpu(), batch.images)
        assert torch.equal(found[0].labels.cpu(), batch.labels)
