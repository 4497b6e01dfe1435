"""Random crop, scale and caption of each row, drawn from a stream keyed by the microbatch so that runs repeat."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from raysde.images.geometry import Box, placed_box, resize_box
from raysde.rng import AUGMENT, key

Crop = Literal["center", "random"]
CAPTION, SCALE, LEFT, TOP = range(4)


@dataclass(frozen=True)
class View:
    """Crop settings that turn a stored image into a training image.

    Attributes:
        shape: (height, width) of training images; None for the stored size.
        crop: place of the box, in the middle or uniformly random.
        scale: smallest and largest side of the box as a fraction of the largest box; its area is uniform in between.
    """

    shape: tuple[int, int] | None = None
    crop: Crop = "center"
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def changes(self) -> bool:
        """True if the view may also change images that have the right shape."""
        return self.scale != (1.0, 1.0)

    def box(self, size: tuple[int, int], shape: tuple[int, int], draw: np.ndarray) -> Box:
        """Return the box in a picture of (width, height) ``size``, given its row [4] of :func:`draw_uniforms`.

        The box has the proportions of (height, width) ``shape``, the size of the training image."""
        low, high = self.scale
        scale = float(np.sqrt(low**2 + (high**2 - low**2) * draw[SCALE]))
        x, y = (float(draw[LEFT]), float(draw[TOP])) if self.crop == "random" else (0.5, 0.5)
        return placed_box(size, shape, scale, x, y)

    def show(
        self,
        image: np.ndarray,
        shape: tuple[int, int],
        draw: np.ndarray,
        resample: Image.Resampling = Image.Resampling.LANCZOS,
    ) -> np.ndarray:
        """Cut an image, uint8 [H, W, C], by :meth:`box` and scale it to [height, width, C] of ``shape``.

        Args:
            shape: (height, width) of the result.
            draw: the image's row [4] of :func:`draw_uniforms`.
            resample: resampling filter.
        """
        if image.shape[:2] == shape and not self.changes:
            return image
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        found = np.asarray(resize_box(picture, shape, self.box(picture.size, shape, draw), resample))
        return found.reshape(*shape, image.shape[2])


STILL = np.array([0.0, 1.0, 0.5, 0.5])
"""Row of draws for validation: first caption, largest box, in the middle."""


def draw_uniforms(seed: int, step: int, index: int, count: int) -> np.ndarray:
    """Return uniform numbers in [0, 1), float64 [count, 4], for the rows of a microbatch: caption, scale, left, top.

    Args:
        seed, step, index: seed of the run, step, and number of the microbatch in it; all determine the numbers.
    """
    words = np.random.Philox(key=key(seed, AUGMENT, step, index)).random_raw(4 * count)
    return (words >> np.uint64(11)).astype(np.float64).reshape(count, 4) * 2.0**-53
