"""A classifier trained on real images alone, which tells if a drawn image shows the class it was asked for."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from raysde import rng
from raysde.evaluation.real_data import RealReader, choice_of
from raysde.evaluation.selection import list_rows, read_images, to_image_tensor
from raysde.io.atomic import save_tensors
from raysde.io.hashing import weights_hash
from raysde.io.progress import Progress

VERSION = 1
"""Version of the network and its training; part of the file name in the cache."""
BATCH = 128
IMAGES = 180_000
"""Number of images that it is trained on, within LEAST to MOST epochs."""
LEAST, MOST = 2, 40
HELD_OUT = 10
"""Without a validation split, every 10th row is held out."""


class Classifier(nn.Module):
    """A CNN from uint8 [B, C, H, W] to features [B, 128] and logits [B, classes]; it halves images to 4 to 7 pixels.

    Args:
        channels: C, the number of colour channels.
        shape: (height, width) of the images in pixels.
        classes: number of classes.
    """

    def __init__(self, channels: int, shape: tuple[int, int], classes: int) -> None:
        super().__init__()
        stages = max(1, (min(shape) // 4).bit_length() - 1)
        widths = [min(16 << stage, 128) for stage in range(stages + 1)]
        self.channels = channels
        layers: list[nn.Module] = [*conv_unit(channels, widths[0], 1)]
        for before, after in pairwise(widths):
            layers += [*conv_unit(before, after, 2), *conv_unit(after, after, 1)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.inner = nn.Linear(16 * widths[-1], 128)
        self.outer = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.inner(self.body(images.float() / 127.5 - 1.0)))
        return features, self.outer(features)


def conv_unit(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    """Return a 3 x 3 convolution, batch normalisation and ReLU.

    Args:
        inputs, outputs: number of channels that go in and come out.
        stride: 2 halves height and width, 1 keeps them.
    """
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


@dataclass(frozen=True)
class Judge:
    """A trained classifier with its held-out accuracy.

    Attributes:
        hash: hash of its weights.
        right, asked: number of held-out real images that it reads correctly, and number of all.
    """

    classifier: Classifier
    hash: str
    right: int
    asked: int

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Return the class numbers, int64 [B] on the CPU, of uint8 images [B, C, H, W]."""
        device = next(self.classifier.parameters()).device
        return self.classifier(images.to(device))[1].argmax(dim=1).cpu()


def open_judge(
    reader: RealReader,
    shape: tuple[int, int],
    cache: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Judge:
    """Return the judge of a data set's labels from the cache, or train it on the training split.

    Args:
        shape: (height, width) of the images that it reads.
        progress: callback while it is trained, called with the batches done and their total.

    Raises:
        ValueError: if the data has fewer than two labels, or a row has none.
    """
    manifest = reader.manifest
    if len(reader.classes_in("train")) < 2:
        raise ValueError(
            f"the data at {manifest.path} has no labels to judge by; leave accuracy and the features judge out"
        )
    chosen = f"{choice}-" if (choice := choice_of(reader)) else ""
    name = f"judge-{manifest.fingerprint}-{chosen}{shape[0]}x{shape[1]}-seed{seed}-v{VERSION}.safetensors"
    classifier = new_classifier(manifest.channels, shape, manifest.classes, seed)
    if not (cache / name).exists():
        right, asked = train_classifier(classifier.to(device), reader, shape, seed, progress)
        save_tensors(cache / name, classifier.state_dict(), {"right": str(right), "asked": str(asked)})
    with safe_open(cache / name, "pt") as file:
        kept, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    classifier.load_state_dict(kept)
    classifier = classifier.to(device).eval().requires_grad_(False)
    return Judge(classifier, weights_hash(classifier), int(about["right"]), int(about["asked"]))


def new_classifier(channels: int, shape: tuple[int, int], classes: int, seed: int) -> Classifier:
    """Return a :class:`Classifier` with weights drawn from the seed, without touching PyTorch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(seed, rng.EVALUATION, 0))
        return Classifier(channels, shape, classes)


def train_classifier(
    classifier: Classifier, reader: RealReader, shape: tuple[int, int], seed: int, progress: Progress | None
) -> tuple[int, int]:
    """Train in place, and return the number of held-out images that it classifies correctly and the number of all.

    Raises:
        ValueError: if the data has no training rows, or a row has no label.
    """
    manifest = reader.manifest
    train = list_rows(reader, "train")
    if manifest.rows_in("validation") and len(apart := list_rows(reader, "validation")):
        held = apart
    else:
        held, train = train[::HELD_OUT], train[[row % HELD_OUT != 0 for row in range(len(train))]]
    device = next(classifier.parameters()).device
    images, labels = read_labelled_images(reader, train, shape)
    steps = -(-len(images) // BATCH) * min(MOST, max(LEAST, IMAGES // len(images)))
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    generator = rng.generator(seed, rng.EVALUATION, 1)
    classifier.train()
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) == 0:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        batch = shift_images(images[chosen], min(shape) // 14, generator).to(device)
        loss = F.cross_entropy(classifier(batch)[1], labels[chosen].to(device), label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    classifier.eval()
    return count_right(classifier, *read_labelled_images(reader, held, shape))


def shift_images(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Shift each uint8 image [N, C, H, W] at random by up to ``most`` pixels in both directions, repeating its edge."""
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (most,) * 4, mode="replicate").to(torch.uint8)
    places = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([each[:, y : y + height, x : x + width] for each, (y, x) in zip(padded, places, strict=True)])


def read_labelled_images(reader: RealReader, rows: np.ndarray, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read rows as images uint8 [N, C, H, W] and class numbers int64 [N].

    Raises:
        ValueError: if a row has no label.
    """
    columns = read_images(reader, rows, shape)
    if (columns.labels < 0).any():
        raise ValueError(
            f"not every row of {reader.manifest.path} has a label to judge by"
            "; leave accuracy and the features judge out"
        )
    return to_image_tensor(columns), torch.from_numpy(columns.labels)


@torch.no_grad()
def count_right(classifier: Classifier, images: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return the number of images [N, C, H, W] whose class is read as ``labels`` [N] says, and N."""
    device = next(classifier.parameters()).device
    right = sum(
        int((classifier(batch.to(device))[1].argmax(dim=1).cpu() == wanted).sum())
        for batch, wanted in zip(images.split(512), labels.split(512), strict=True)
    )
    return right, len(images)
