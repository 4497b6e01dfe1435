"""The InceptionV3 of the Fréchet inception distance, as in torchmetrics and torch-fidelity.

It is TensorFlow's classification network of 2015-12-05 (1,008 outputs). It differs from later Inceptions: average pools
exclude the padding, and the last block pools by maximum. Its layers bear the names of the weights that torch-fidelity
and pytorch-fid publish, ``pt_inception-2015-12-05-6726825d.pth``.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 299
WIDTH = 2048
CLASSES = 1008
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
"""Source of torchmetrics' weights; the last digits are the start of their sha256."""

Kernel = int | tuple[int, int]
Link = str | tuple[str, str]


class Unit(nn.Module):
    """A convolution without bias, batch normalisation and ReLU: [B, inputs, H, W] -> [B, outputs, H', W'].

    Height and width are kept unless ``stride`` is above 1 or ``pad`` is False.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Kernel = 1, stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """A block of parallel branches.

    Args:
        units: convolutions by the name of their weights.
        branches: names of each branch's units in sequence; a pair at its end applies two units to the same input.
        pool: key of POOLS, applied before the last branch; that branch is the pool alone if it names no unit.
    """

    def __init__(self, units: dict[str, Unit], branches: Sequence[Sequence[Link]], pool: str) -> None:
        super().__init__()
        for name, unit in units.items():
            self.add_module(name, unit)
        self.branches, self.pool = branches, POOLS[pool]

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the branches' outputs, concatenated along the channels."""
        parts = [self._branch(x, branch) for branch in self.branches[:-1]]
        return torch.cat([*parts, self._branch(self.pool(x), self.branches[-1])], dim=1)

    def _branch(self, x: Tensor, branch: Sequence[Link]) -> Tensor:
        for link in branch:
            names = (link,) if isinstance(link, str) else link
            x = torch.cat([self.get_submodule(name)(x) for name in names], dim=1)
        return x


POOLS = {
    "average": partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False),
    "maximum": partial(F.max_pool2d, kernel_size=3, stride=1, padding=1),
    "halving": partial(F.max_pool2d, kernel_size=3, stride=2),
}


def block_a(inputs: int, pooled: int) -> Mixed:
    """Build a block of maps of 35 x 35 pixels, from ``inputs`` channels; its pooling branch has ``pooled`` channels."""
    units = {
        "branch1x1": Unit(inputs, 64),
        "branch5x5_1": Unit(inputs, 48),
        "branch5x5_2": Unit(48, 64, 5),
        "branch3x3dbl_1": Unit(inputs, 64),
        "branch3x3dbl_2": Unit(64, 96, 3),
        "branch3x3dbl_3": Unit(96, 96, 3),
        "branch_pool": Unit(inputs, pooled),
    }
    return Mixed(
        units, [["branch1x1"], list_chain("branch5x5", 2), list_chain("branch3x3dbl", 3), ["branch_pool"]], "average"
    )


def block_b(inputs: int) -> Mixed:
    """Build a block from maps of 35 x 35 pixels with ``inputs`` channels to 17 x 17 pixels."""
    units = {
        "branch3x3": Unit(inputs, 384, 3, 2),
        "branch3x3dbl_1": Unit(inputs, 64),
        "branch3x3dbl_2": Unit(64, 96, 3),
        "branch3x3dbl_3": Unit(96, 96, 3, 2),
    }
    return Mixed(units, [["branch3x3"], list_chain("branch3x3dbl", 3), []], "halving")


def block_c(inputs: int, inner: int) -> Mixed:
    """Build a block of maps of 17 x 17 pixels, with convolutions of length 7 along rows and columns in turn.

    Args:
        inputs: number of input channels.
        inner: number of channels between these convolutions.
    """
    units = {
        "branch1x1": Unit(inputs, 192),
        "branch7x7_1": Unit(inputs, inner),
        "branch7x7_2": Unit(inner, inner, (1, 7)),
        "branch7x7_3": Unit(inner, 192, (7, 1)),
        "branch7x7dbl_1": Unit(inputs, inner),
        "branch7x7dbl_2": Unit(inner, inner, (7, 1)),
        "branch7x7dbl_3": Unit(inner, inner, (1, 7)),
        "branch7x7dbl_4": Unit(inner, inner, (7, 1)),
        "branch7x7dbl_5": Unit(inner, 192, (1, 7)),
        "branch_pool": Unit(inputs, 192),
    }
    return Mixed(
        units, [["branch1x1"], list_chain("branch7x7", 3), list_chain("branch7x7dbl", 5), ["branch_pool"]], "average"
    )


def block_d(inputs: int) -> Mixed:
    """Build a block from maps of 17 x 17 pixels with ``inputs`` channels to 8 x 8 pixels."""
    units = {
        "branch3x3_1": Unit(inputs, 192),
        "branch3x3_2": Unit(192, 320, 3, 2),
        "branch7x7x3_1": Unit(inputs, 192),
        "branch7x7x3_2": Unit(192, 192, (1, 7)),
        "branch7x7x3_3": Unit(192, 192, (7, 1)),
        "branch7x7x3_4": Unit(192, 192, 3, 2),
    }
    return Mixed(units, [list_chain("branch3x3", 2), list_chain("branch7x7x3", 4), []], "halving")


def block_e(inputs: int, pool: str) -> Mixed:
    """Build a block of maps of 8 x 8 pixels, from ``inputs`` channels; ``pool`` is a key of :data:`POOLS`."""
    units = {
        "branch1x1": Unit(inputs, 320),
        "branch3x3_1": Unit(inputs, 384),
        "branch3x3_2a": Unit(384, 384, (1, 3)),
        "branch3x3_2b": Unit(384, 384, (3, 1)),
        "branch3x3dbl_1": Unit(inputs, 448),
        "branch3x3dbl_2": Unit(448, 384, 3),
        "branch3x3dbl_3a": Unit(384, 384, (1, 3)),
        "branch3x3dbl_3b": Unit(384, 384, (3, 1)),
        "branch_pool": Unit(inputs, 192),
    }
    three: list[Link] = ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")]
    double: list[Link] = [*list_chain("branch3x3dbl", 2), ("branch3x3dbl_3a", "branch3x3dbl_3b")]
    return Mixed(units, [["branch1x1"], three, double, ["branch_pool"]], pool)


def list_chain(name: str, count: int) -> list[str]:
    """Return the names of units that are applied in sequence."""
    return [f"{name}_{number}" for number in range(1, count + 1)]


class Inception(nn.Module):
    """The network from uint8 [B, 3, H, W] to features [B, 2048] and, with a classifier, logits [B, 1008].

    The logits lack the bias as in Salimans et al. 2016's code, torch-fidelity and torchmetrics (``logits_unbiased``).
    """

    channels = 3

    def __init__(self, *, classifier: bool = True) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c = block_c(768, 128), block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = block_c(768, 160), block_c(768, 192)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b, self.Mixed_7c = block_e(1280, "average"), block_e(2048, "maximum")
        self.fc = nn.Linear(WIDTH, CLASSES) if classifier else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features [B, 2048] of uint8 images [B, 3, H, W], and logits [B, 1008], None without a classifier.

        Images are resized to 299 x 299 by torchmetrics' antialiased interpolation and scaled to (x - 128) / 128.
        """
        x = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        features = self.features((x - 128.0) / 128.0)
        return features, None if self.fc is None else features @ self.fc.weight.T

    def features(self, x: Tensor) -> Tensor:
        """Return the features [B, 2048] of images [B, 3, 299, 299] in [-1, 1)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(POOLS["halving"](x)))
        x = POOLS["halving"](x)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


def network_with_weights(weights: dict[str, Tensor], source: str) -> Inception:
    """Return the network with published weights by name, of its parameters' shapes; with a classifier if they have one.

    Raises:
        ValueError: if the weights do not belong to this network.
    """
    network = Inception(classifier="fc.weight" in weights)
    kept = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    off = sorted(set(kept) ^ set(wanted)) or [name for name in wanted if kept[name].shape != wanted[name].shape]
    if off:
        raise ValueError(f"{source} does not hold the weights of the FID Inception: {off[0]} is missing or unfit")
    network.load_state_dict(kept, strict=False)
    # half as fast again on CPUs, and the preferred layout of GPU convolutions
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def network_of_arrays(values: Sequence[Tensor]) -> Inception:
    """Return the network without a classifier, from the weight, beta, mean and variance of each unit in sequence.

    Each value has the shape of its parameter.

    Raises:
        ValueError: if their number or a shape differs.
    """
    network = Inception(classifier=False).eval()
    order = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    units = [module.state_dict() for module in network.modules() if isinstance(module, Unit)]
    places = [unit[name] for unit in units for name in order]
    if [place.shape for place in places] != [value.shape for value in values]:
        raise ValueError("these are not the units of the FID Inception")
    with torch.no_grad():
        for place, value in zip(places, values, strict=True):
            place.copy_(value)
    return network
