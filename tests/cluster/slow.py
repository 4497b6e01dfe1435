"""A small network that takes its time, so that a test can change the cluster under it."""

import time

from torch import Tensor

from raysde.networks import UNet, UNetConfig


class SlowUNet(UNet):
    """Sleeps in each training call."""

    def __init__(self, image, condition) -> None:
        size = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
        super().__init__(size, image, condition)

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.1)
        return super().forward(*inputs)
