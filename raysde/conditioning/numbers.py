"""Numeric attributes as conditioning vectors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

FREQUENCIES = 6
"""Number of frequencies of the features; the highest has eight periods over an attribute's range."""


class NumberEmbedding(nn.Module):
    """A map from a numeric attribute [B] to vectors [B, width]; an unknown value, NaN, has a vector of its own.

    The value is scaled so that its range becomes [-1, 1]. A two-layer network reads it, and its sines and cosines at
    FREQUENCIES octaves (Tancik et al. 2020, arXiv 2006.10739, section 6, "positional encoding"). Values outside the
    range are extrapolated.

    Args:
        low, high: range of the attribute.
        width: width of the vectors.
    """

    frequencies: Tensor

    def __init__(self, low: float, high: float, width: int) -> None:
        super().__init__()
        assert low < high
        self.middle, self.radius = 0.5 * (low + high), 0.5 * (high - low)
        octaves = torch.arange(FREQUENCIES, dtype=torch.float32)
        self.register_buffer("frequencies", 0.25 * math.pi * 2.0**octaves, persistent=False)
        self.layers = nn.Sequential(nn.Linear(1 + 2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        known = ~torch.isnan(values)
        # unknown values are replaced before the layers, since the gradient of NaN is NaN even where it is masked
        scaled = torch.where(known, (values.float() - self.middle) / self.radius, 0.0)[:, None]
        angles = scaled * self.frequencies
        vectors = self.layers(torch.cat([scaled, angles.sin(), angles.cos()], dim=1))
        return torch.where(known[:, None], vectors, self.unknown.to(vectors.dtype))


def embed_numbers(ranges: Sequence[tuple[float, float]], width: int) -> nn.ModuleList:
    """Return an embedding of ``width`` for each attribute, given its range (low, high)."""
    return nn.ModuleList([NumberEmbedding(low, high, width) for low, high in ranges])
