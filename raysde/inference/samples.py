"""Results of sampling: images and their paths as tensors, PNG files and grids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from raysde.images.tensors import make_grid as image_grid
from raysde.images.tensors import save_picture, save_png, to_uint8

WIDEST = 20
"""Largest number of different prompts for which a grid has one column for each."""


@dataclass(frozen=True)
class Drawn:
    """Images sampled from a model.

    Attributes:
        images: [N, C, H, W], uint8; or float32 in ``data_range`` if requested, neither clipped nor rounded.
        prompts: the prompt of each image, None if there were none.
        seed: one seed for all images, or one for each.
        nfe: number of function evaluations of the score for each image.
        data_range: float values of black and white.
    """

    images: Tensor
    prompts: list[str] | None
    seed: int | Sequence[int]
    nfe: int
    data_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def pictures(self) -> Tensor:
        """Images as uint8 [N, C, H, W]."""
        return self.images if self.images.dtype == torch.uint8 else to_uint8(self.images, *self.data_range)

    def save(self, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Write ``image-000.png`` and so on, and ``grid.png`` with a column for each prompt; return paths, grid last.

        Args:
            progress: callback that gets the number of images written so far and the number of all.

        Raises:
            OSError: naming the folder or file, if it cannot be written.
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
        times, log_snr: [K], time and log-SNR of each state, evenly spaced in log-SNR, from noise to data.
        x: x_t, float [N, K, C, H, W] in pixels or latents.
        x0_hat: x0 predicted from each state, float [N, K, C, H, W] in pixels or latents.
        frames: uint8 [N, 2, K, C, H, W]: x_t, scaled to the range of images, and x0_hat.
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
        """Write the files of :meth:`Drawn.save`, and ``path.png`` with the strip; return paths, grid last."""
        paths = super().save(folder, progress)
        save_picture(self.strip(), Path(folder) / "path.png")
        return paths
