"""Digits and pictures with their edges as second images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raysde.data.condition_column import ConditionColumn
from raysde.data.dataset.manifest import Manifest
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.digits import load_digits, make_caption, stroke_thickness
from raysde.data.ingest.samples import Sample
from raysde.images.codec import encode_image
from tests.support.ingested import ingest_here
from tests.support.sources import Given

EDGES = ConditionColumn("edges", 1)


def sobel_edges(images: np.ndarray) -> np.ndarray:
    """Return min(255, sqrt(gx^2 + gy^2) / 4) of images, uint8 [N, H, W], by torch's correlation with Sobel's filters."""
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    padded = torch.nn.functional.pad(torch.from_numpy(images)[:, None].double(), (1, 1, 1, 1), mode="replicate")
    gx, gy = (torch.nn.functional.conv2d(padded, each[None, None]) for each in (kernel, kernel.T))
    return (torch.hypot(gx, gy) / 4.0).clamp(max=255.0).round().to(torch.uint8)[:, 0].numpy()


def to_png(pixels: np.ndarray) -> bytes:
    """Return an image, uint8 [H, W] or [H, W, 3], as the bytes of a PNG file."""
    return encode_image(Image.fromarray(pixels), quality=None)


def edge_shards(folder: Path, rows: int = 200, validation: float = 0.0, **rules) -> Manifest:
    """Write the first digits with captions, labels, stroke thickness and edges as shards, without Ray."""
    images, labels = load_digits()
    thick, edges = stroke_thickness(images), sobel_edges(images)
    samples = tuple(
        Sample(
            f"{row:04d}.png",
            to_png(images[row]),
            (make_caption(int(labels[row]), row),),
            str(labels[row]),
            attributes=(float(thick[row]),),
            condition=to_png(edges[row]),
        )
        for row in range(rows)
    )
    made = Rules(
        channels=1, size=8, validation=validation, attributes=("thickness",), condition=EDGES,
        **{"shard_rows": 120, "row_group": 32, **rules},
    )  # fmt: skip
    return ingest_here([Given(samples)], folder, made)
