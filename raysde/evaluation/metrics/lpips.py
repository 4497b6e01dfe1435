"""LPIPS version 0.1, a perceptual distance of two images (Zhang et al. 2018, arXiv 1801.03924), with AlexNet."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from raysde.evaluation.features.networks import fetch_weights, fit_channels, read_weights
from raysde.io.hashing import weights_hash

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
HEADS = Path("functional", "image", "lpips_models", "alex.pth")
"""The paper's channel weights, a file in torchmetrics."""
SEEN = (1, 4, 7, 9, 11)
"""Indices of the layers that are compared."""
SMALLEST = 31
"""Smallest side of an image in pixels; the last pool leaves one pixel of it."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet's colours, in [-1, 1]."""


def build_convolutions() -> nn.Sequential:
    """Build AlexNet's convolutions as in torchvision ("one weird trick", Krizhevsky 2014), up to the last of SEEN."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


class Lpips(nn.Module):
    """A module that computes the LPIPS distance of pairs of images.

    Args:
        features: AlexNet's convolutions.
        heads: channel weights of each layer that is compared, [C].

    Attributes:
        shift, scale: mean and standard deviation of AlexNet's inputs by channel, [3, 1, 1].
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential, heads: list[Tensor]) -> None:
        super().__init__()
        self.features = features
        self.heads = nn.ParameterList(heads)
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(3, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance of pairs of uint8 images [B, 3, H, W] (sides >= SMALLEST), float64 [B]; 0 if equal."""
        layers = zip(self.layers(first), self.layers(second), self.heads, strict=True)
        parts = [(head.reshape(-1, 1, 1) * (one - two).square()).sum(dim=1) for one, two, head in layers]
        return torch.stack([part.mean(dim=(1, 2)) for part in parts]).double().sum(dim=0)

    def layers(self, images: Tensor) -> list[Tensor]:
        """Return the layers of uint8 images [B, 3, H, W] that are compared, [B, C, H, W], of unit length along C."""
        x, found = (images.float() / 127.5 - 1.0 - self.shift) / self.scale, []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in SEEN:
                found.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return found


class Perceptual:
    """LPIPS for grey or colour images, on the module's device.

    Attributes:
        hash: hash of the weights; distances of different hashes cannot be compared.
    """

    def __init__(self, module: Lpips) -> None:
        self.module, self.hash = module, weights_hash(module)

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance of each pair of uint8 images [B, C, H, W], C being 1 or 3, float64 [B] on the CPU.

        Raises:
            ValueError: if the images have another number of channels.
        """
        device = self.module.shift.device
        one, two = (fit_channels(images, 3, "of LPIPS").to(device) for images in (first, second))
        found: Tensor = self.module(one, two)
        return found.cpu()


def open_lpips(source: str, device: torch.device | str = "cpu") -> Perceptual:
    """Return LPIPS with AlexNet's weights from ``source``.

    Args:
        source: alexnet (torchvision's weights, fetched once by torch.hub) or a file of such weights.

    Raises:
        ValueError: if there are no such weights.
    """
    file = Path(source).expanduser()
    if source != "alexnet" and not file.is_file():
        raise ValueError(f"there is no file {source!r} of weights for LPIPS: give alexnet or a file of them")
    weights = fetch_weights(URL, "--lpips") if source == "alexnet" else read_weights(file)
    network = build_convolutions()
    kept = {name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")}
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    if wanted != {name: value.shape for name, value in kept.items()}:
        raise ValueError(f"{source} does not hold the weights of torchvision's AlexNet")
    network.load_state_dict(kept)
    place = find_spec("torchmetrics")  # without its import, which takes two seconds
    assert place is not None
    assert place.origin is not None
    weights = read_weights(Path(place.origin).parent / HEADS)
    heads = [value.float().reshape(-1) for _, value in sorted(weights.items())]
    return Perceptual(Lpips(network, heads).to(device).eval().requires_grad_(False))
