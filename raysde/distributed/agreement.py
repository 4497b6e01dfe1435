"""Agreement of all ranks on a request to stop, without waiting for the device.

Reading a reduction back after every step would make the host wait for the device. The ranks therefore begin a reduction
after one step and read it after the next, about twice a second.
"""

import math
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from raysde.distributed.world import World

SECONDS, MOST = 0.5, 100
"""Seconds between two exchanges, and the largest number of steps between them."""


class Agreement:
    """A flag that all ranks see at the same step; every rank makes one. ``count`` is the number of exchanges.

    Args:
        world: the ranks; a single one needs no exchange.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.pending: Callable[[], list[float]] | None = None
        self.count, self.wait, self.steps, self.since = 0, 0, 0, time.perf_counter()

    def any(self, flag: bool) -> bool:
        """Return True on all ranks, at the same step, soon after ``flag`` is True on one; called after every step.

        A flag must stay True. With steps of half a second and more, it is seen one step later.
        """
        if self.world.size == 1:
            return flag
        self.steps += 1
        if self.pending is not None:
            agreed, seconds = self.pending()
            self.pending = None
            if agreed:
                return True
            # equal on all ranks, so that they meet again at the same step
            self.wait = min(MOST, math.floor(SECONDS / seconds))
        if self.wait > 0:
            self.wait -= 1
            return False
        now = time.perf_counter()
        seconds = max((now - self.since) / self.steps, 1e-6)
        self.pending = begin_maximum([float(flag), seconds], self.world.device)
        self.count, self.steps, self.since = self.count + 1, 0, now
        return False

    def finish(self) -> None:
        """Wait for an exchange that was begun; called after the last step."""
        if self.pending is not None:
            self.pending()
            self.pending = None


def begin_maximum(values: list[float], device: torch.device) -> Callable[[], list[float]]:
    """Begin to take the maximum over ranks of each of ``values``; the function returned waits for it.

    On CUDA that function waits for what was queued before this call alone, not for the step queued since.
    """
    reduced = torch.tensor(values, device=device)
    work = dist.all_reduce(reduced, dist.ReduceOp.MAX, async_op=True)
    if device.type != "cuda":

        def read() -> list[float]:
            work.wait()
            return [float(value) for value in reduced]

        return read
    work.wait()  # the stream waits, not the host
    host = torch.empty(len(values), pin_memory=True).copy_(reduced, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read_copy() -> list[float]:
        copied.synchronize()
        return [float(value) for value in host]

    return read_copy
