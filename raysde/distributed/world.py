"""The process group as the training loop sees it: rank, size and reductions, bare, under torchrun and under Ray."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process's rank among the workers, their number and this rank's device.

    Attributes:
        rank, size: number of this process, from 0, and number of all.
        device: device of this rank's model.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = None
    """Process group of the reductions; None for the default one."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks, equal on all of them and of the shape of ``values``."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over ranks, equal on all of them and of the shape of ``values``."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values, group=self.group)
        return values

    def any(self, flag: bool) -> bool:
        """Return True on all ranks if ``flag`` is True on any rank."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0.0)

    def beside(self) -> "World":
        """Return the same ranks with a group of their own on the CPU, for one thread beside training.

        Threads must not share a group: their reductions would meet in another order on each rank. Every rank must call
        this. A rank may wait a day for another one that writes slowly; a rank that dies ends the wait at once.
        """
        if self.size == 1:
            return World()
        return World(self.rank, self.size, group=dist.new_group(backend="gloo", timeout=timedelta(days=1)))

    def share_text(self, text: str) -> str:
        """Return the first rank's text on all ranks; the texts of other ranks are ignored."""
        return self.share_bytes(text.encode()).decode()

    def share_bytes(self, content: bytes) -> bytes:
        """Return the first rank's bytes on all ranks; those of other ranks are ignored."""
        if self.size == 1:
            return content
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        data = data.to(self.device)
        count = torch.tensor([len(data)], device=self.device)
        dist.broadcast(count, src=0, group=self.group)
        if not self.is_first:
            data = torch.empty(int(count), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, src=0, group=self.group)
        return data.cpu().numpy().tobytes()

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            self.any(False)


def current_world() -> World:
    """Return the world of the initialised process group, or of a single process; on CUDA where available."""
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        rank, size = 0, 1
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        return World(rank, size, torch.device("cuda", local))
    return World(rank, size)


def wrap_module(module: nn.Module, world: World) -> nn.Module:
    """Wrap a module in DistributedDataParallel; with a single rank return it unchanged."""
    if world.size == 1:
        return module
    ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)
