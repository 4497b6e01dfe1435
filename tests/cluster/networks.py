"""Small networks that disturb a run as a cluster may: they die, slow it down, and damage the data."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from raysde.networks import UNet, UNetConfig


class SmallUNet(UNet):
    """The U-Net of the tests' small recipe."""

    def __init__(self, image, condition) -> None:
        size = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
        super().__init__(size, image, condition)


class Killed(SmallUNet):
    """A network that sends SIGKILL to its process at training call number ``at``, unless the file ``marker`` exists."""

    def __init__(self, image, condition, at: int, marker: str) -> None:
        super().__init__(image, condition)
        self.calls, self.at, self.marker = 0, at, Path(marker)

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*inputs)


class Spoiled(SmallUNet):
    """A network whose output is NaN at the training calls with the numbers ``bad``, counted from 1 in each process."""

    def __init__(self, image, condition, bad: list[int]) -> None:
        super().__init__(image, condition)
        self.calls, self.bad = 0, bad

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls += self.training
        found = super().forward(*inputs)
        return found * float("nan") if self.training and self.calls in self.bad else found


class Noted(SmallUNet):
    """A network that records its time inputs in training."""

    times: ClassVar[list[Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, *others: Tensor) -> Tensor:
        if self.training:
            Noted.times.append(t.detach().clone())
        return super().forward(x, t, *others)


class Slow(SmallUNet):
    """A network that sleeps in each training call, so that a test can change the cluster meanwhile."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.1)
        return super().forward(*inputs)


class Watched(SmallUNet):
    """A network that sleeps in each training call, and adds a byte to the file that RAYSDE_KILLS_PROGRESS names,
    which shows the progress to another process."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.1)
            with open(os.environ["RAYSDE_KILLS_PROGRESS"], "ab") as out:
                out.write(b".")
        return super().forward(*inputs)


class SpoiledAt(Watched):
    """A watched network whose output is NaN in training for a batch with a row of the time ``bad``.

    Times depend on the row's place in the run alone, so that kills and restarts change nothing.
    """

    def __init__(self, image, condition, bad: float) -> None:
        super().__init__(image, condition)
        self.bad = bad

    def forward(self, x: Tensor, t: Tensor, *others: Tensor) -> Tensor:
        found = super().forward(x, t, *others)
        return found * float("nan") if self.training and bool((t == self.bad).any()) else found


class Thief(SmallUNet):
    """A network that deletes or truncates every shard when it is built, after the stream has begun."""

    def __init__(self, image, condition, folder: str, harm: str) -> None:
        super().__init__(image, condition)
        for path in Path(folder).glob("*.parquet"):
            path.unlink() if harm == "vanishes" else path.write_bytes(path.read_bytes()[:-200])


class Mortal(nn.Module):
    """A feature network of 8 x 8 grey images that sends SIGKILL to every process except its creator: for the first
    ``times`` calls, or always.

    Args:
        marker: folder that counts the deaths.
    """

    channels = 1

    def __init__(self, marker: str, times: int | None) -> None:
        super().__init__()
        self.home, self.marker, self.times = os.getpid(), Path(marker), times
        self.register_buffer("weight", torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> Tensor:
        deaths = len(list(self.marker.iterdir()))
        if os.getpid() != self.home and (self.times is None or deaths < self.times):
            (self.marker / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tanh((images.float().flatten(1) / 255.0 - 0.5) @ self.weight)
