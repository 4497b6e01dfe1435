"""Image models with an exactly known score."""

import torch

from raysde.inference.model import Model
from raysde.models.spec import ModelSpec, fresh_model
from raysde.networks import UNetConfig
from raysde.sde import VP


class GaussianPixels(torch.nn.Module):
    """The exact noise prediction for pixels N(0.1, 0.5^2) that are equal in all channels except for noise N(0,
    0.1^2)."""

    def __init__(self, sde, channels: int) -> None:
        super().__init__()
        self.sde, self.channels, self.weight = sde, channels, torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        alpha, sigma = (value[:, None, None, None] for value in self.sde.marginal(t))
        x = x * torch.sqrt(0.25 * alpha**2 + sigma**2) - alpha * 0.1  # undo the input scaling for data_std 0.5
        common = x.mean(dim=1, keepdim=True)
        level = common / (alpha**2 * (0.24 + 0.01 / self.channels) * 1.0 + sigma**2 / self.channels) / self.channels
        own = (x - common) / (alpha**2 * 0.01 + sigma**2)
        return self.weight * sigma * (level + own)


def pixel_spec(channels: int) -> ModelSpec:
    return ModelSpec(
        image=(channels, 4, 4), data_range=(-1.0, 1.0), data_std=0.5, sde=VP(),
        network=UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), head_channels=8),
        target="noise", text=None, classes=0,
    )  # fmt: skip


def exact_model(channels: int) -> Model:
    spec = pixel_spec(channels)
    model = fresh_model(spec, [], 0)
    model.network = GaussianPixels(spec.sde, channels)
    return Model(model.eval(), spec)


KEPT = torch.tensor([[True] * 4, [True] * 4, [False] * 4, [False] * 4])
