"""A network that ends its process by SIGKILL, once, in the middle of training."""

import os
import signal
from pathlib import Path

from torch import Tensor

from raysde.networks import UNet, UNetConfig


class KilledUNet(UNet):
    """Dies at training call number ``at``, unless the file ``marker`` says that it already has."""

    def __init__(self, image, condition, at: int, marker: str) -> None:
        size = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
        super().__init__(size, image, condition)
        self.calls, self.at, self.marker = 0, at, Path(marker)

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*inputs)
