"""Learned uncertainty: the difficulty of each noise level (Karras et al. 2024, arXiv 2312.02696, eq. 21)."""

import math

import torch
from torch import Tensor, nn


class Uncertainty(nn.Module):
    """A map from log-SNR [B] to the log-variance u [B] of the loss there, which becomes ``loss / exp(u) + u``.

    It has random Fourier features, with ``frequencies`` and ``phases`` [features], and one linear layer, which starts
    at zero: u = 0 gives the plain loss.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequencies", 0.5 * torch.randn(features))
        self.register_buffer("phases", 2.0 * math.pi * torch.rand(features))
        self.out = nn.Linear(features, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, log_snr: Tensor) -> Tensor:
        angles = 0.5 * log_snr.float()[:, None] * self.frequencies + self.phases
        return self.out(math.sqrt(2.0) * torch.cos(angles)).squeeze(1)
