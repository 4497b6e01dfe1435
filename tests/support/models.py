"""Small models with random weights, and their descriptions."""

import torch

from raysde.conditioning.text import ScratchText
from raysde.inference.model import Model
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec, fresh_model
from raysde.networks import UNetConfig
from raysde.sde import VP

UNET = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
CAPTIONS = ["a handwritten zero", "the digit one", "two", "somebody wrote a three in pencil, twice"]


def spec_with(**changes) -> ModelSpec:
    """Return the description of a digits model, unconditional unless ``changes`` add conditions."""
    values = {"image": (1, 8, 8), "data_range": (-1.0, 1.0), "data_std": 0.5, "sde": VP(), "network": UNET,
              "target": "noise", "text": None, "classes": 0}  # fmt: skip
    return ModelSpec(**{**values, **changes})


def caption_spec(**changes) -> ModelSpec:
    """Return the description of a v-prediction model with captions, unless ``changes`` say otherwise."""
    return spec_with(**{"target": "v", "text": ScratchText(width=16, layers=1, heads=2), **changes})


def filled_model(**changes) -> ScoreModel:
    """Return the model of :func:`caption_spec` with random weights in zero-initialised layers, so that every input
    matters."""
    model = fresh_model(caption_spec(**changes), CAPTIONS, 0)
    g = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(0.0, 0.1, generator=g)
    return model.eval()


class Own(torch.nn.Module):
    """A network as a user might write it."""

    def __init__(self, image, condition, gain=1.0) -> None:
        super().__init__()
        self.image, self.condition = image, condition
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x, t, pooled=None, context=None, mask=None):
        return self.gain * x


def inputs(count=4):
    g = torch.Generator().manual_seed(3)
    return torch.randn(count, 1, 8, 8, generator=g), torch.linspace(0.1, 0.9, count)


def noisy_model(spec: ModelSpec) -> Model:
    """Return a model with random weights wherever they start at zero, so that its output depends on all inputs."""
    model = fresh_model(spec, ["a b"], 0).eval()
    g = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(0.0, 0.1, generator=g)
    return Model(model, spec)
