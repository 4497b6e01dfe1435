"""Small feature networks for evaluation."""

import torch
from torch import nn


class Grey(nn.Module):
    """A network that returns the pixels of grey images."""

    channels = 1

    def forward(self, images):
        return images.float().flatten(1)


class Four(nn.Module):
    """A network that does not declare its number of channels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        return self.layer(images.float()).flatten(1)


class Network(nn.Module):
    """A network that returns features [B, 4] and logits [B, 6] of grey images, different for each image."""

    channels = 1

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.register_buffer("weight", torch.randn(64, 10, generator=g))

    def forward(self, images):
        found = torch.tanh((images.float().flatten(1) / 255.0 - 0.5) @ self.weight)
        return found[:, :4], 2.0 * found[:, 4:]
