"""Small networks that do what a cluster does to a run: they die, take their time, and spoil the data."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from raysde.networks import UNet, UNetConfig


class SmallUNet(UNet):
    """The U-Net of the tests' small recipe."""

    def __init__(self, image, condition) -> None:
        size = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
        super().__init__(size, image, condition)


class Killed(SmallUNet):
    """Ends its process by SIGKILL at training call number ``at``, unless the file ``marker`` says that it already has."""

    def __init__(self, image, condition, at: int, marker: str) -> None:
        super().__init__(image, condition)
        self.calls, self.at, self.marker = 0, at, Path(marker)

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*inputs)


class Slow(SmallUNet):
    """Sleeps in each training call, so that a test can change the cluster under it."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.1)
        return super().forward(*inputs)


class Watched(SmallUNet):
    """Sleeps in each training call, and adds a byte to the file that RAYSDE_KILLS_PROGRESS names, so that another
    process knows how far training is."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.1)
            with open(os.environ["RAYSDE_KILLS_PROGRESS"], "ab") as out:
                out.write(b".")
        return super().forward(*inputs)


class Thief(SmallUNet):
    """When it is built, which is when the stream has begun, every shard vanishes or loses its end."""

    def __init__(self, image, condition, folder: str, harm: str) -> None:
        super().__init__(image, condition)
        for path in Path(folder).glob("*.parquet"):
            path.unlink() if harm == "vanishes" else path.write_bytes(path.read_bytes()[:-200])


class Mortal(nn.Module):
    """A feature network of 8 x 8 grey images that ends every process but the one that made it by SIGKILL: the first
    ``times`` that one uses it, or each time.

    Args:
        marker: folder that remembers the deaths.
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
