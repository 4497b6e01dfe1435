"""Images that a model drew, and the paths that they came by: tensors, PNG files and strips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from raysde.images.tensors import make_grid as image_grid
from raysde.images.tensors import save_picture, save_png, to_uint8

WIDEST = 20
"""Prompts beyond which a grid has no column for each."""


@dataclass(frozen=True)
class Drawn:
    """Images sampled from a model.

    Attributes:
        images: [N, C, H, W], uint8; or float32 in ``data_range`` where that was asked for, neither clipped nor rounded.
        prompts: those that the images were drawn for.
        seed: of the images.
        nfe: network evaluations that each one took.
        data_range: float values of black and white.
    """

    images: Tensor
    prompts: list[str] | None
    seed: int | Sequence[int]
    nfe: int
    data_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def pictures(self) -> Tensor:
        """The images as uint8."""
        return self.images if self.images.dtype == torch.uint8 else to_uint8(self.images, *self.data_range)

    def save(self, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Writes ``image-000.png`` and so on, and ``grid.png``, a column for each prompt; the grid's path is last.

        Args:
            progress: called with the images written and to be written.
        """
        folder, pictures = Path(folder), self.pictures
        paths = save_png(pictures, folder, [f"image-{index:03d}" for index in range(len(pictures))], progress)
        kinds = len(set(self.prompts or ()))
        save_picture(image_grid(pictures, kinds if 1 < kinds <= WIDEST else None), folder / "grid.png")
        return [*paths, folder / "grid.png"]


@dataclass(frozen=True, kw_only=True)
class DrawnPath(Drawn):
    """Images sampled from a model, with K states of each image's path from noise to data.

    Attributes:
        times, log_snr: of the states, [K], evenly spaced in log-SNR, from noise to data.
        x: x_t, [N, K, ...] in the space that the model draws in.
        x0_hat: the clean data that the network predicted from each, [N, K, ...].
        frames: uint8 [N, 2, K, C, H, W]: x_t, scaled to be seen, and x0_hat.
    """

    times: Tensor
    log_snr: Tensor
    x: Tensor
    x0_hat: Tensor
    frames: Tensor

    def strip(self) -> Image.Image:
        """Return the paths as a picture: two rows for each image, x_t above x0_hat, from noise on the left to data."""
        return image_grid(self.frames.flatten(0, 2), self.frames.shape[2])

    def save(self, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Writes what :meth:`Drawn.save` does, and ``path.png`` with the strip; the grid's path is last."""
        paths = super().save(folder, progress)
        save_picture(self.strip(), Path(folder) / "path.png")
        return paths
