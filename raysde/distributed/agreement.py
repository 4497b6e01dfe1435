"""Agreement of all ranks on a request to stop, without waiting for the device.

A reduction on the device after every step would make the host wait for it. The ranks therefore reduce on the CPU, in a
process group of their own and beside the step: begun after one step, read after the next, about twice a second.
"""

import math
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from raysde.distributed.world import World

SECONDS, MOST = 0.5, 100
"""Seconds between two exchanges, and the largest number of steps between them."""


class Agreement:
    """A flag that all ranks see at the same step; every rank makes one. ``count`` is the number of exchanges.

    Args:
        world: the ranks; a single one needs no exchange.
    """

    def __init__(self, world: World) -> None:
        self.group: Any = dist.new_group(backend="gloo") if world.size > 1 else None
        self.pending: tuple[dist.Work, Tensor] | None = None
        self.count, self.wait, self.steps, self.since = 0, 0, 0, time.perf_counter()

    def any(self, flag: bool) -> bool:
        """Return True on all ranks, at the same step, soon after ``flag`` is True on one; called after every step.

        A flag must stay True. With steps of half a second and more, it is seen one step later.
        """
        if self.group is None:
            return flag
        self.steps += 1
        if self.pending is not None:
            work, values = self.pending
            self.pending = None
            work.wait()
            agreed, seconds = values.tolist()
            if agreed:
                return True
            # equal on all ranks, so that they meet again at the same step
            self.wait = min(MOST, math.floor(SECONDS / seconds))
        if self.wait > 0:
            self.wait -= 1
            return False
        now = time.perf_counter()
        values = torch.tensor([float(flag), max((now - self.since) / self.steps, 1e-6)], dtype=torch.float64)
        self.steps, self.since = 0, now
        work = dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group, async_op=True)
        self.pending = (work, values)
        self.count += 1
        return False

    def finish(self) -> None:
        """Wait for an exchange that was begun; called after the last step."""
        if self.pending is not None:
            self.pending[0].wait()
            self.pending = None
