"""What is drawn at random when an image is read, crop and caption: keyed by the microbatch, so part of the replay."""

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
    """How a stored image becomes one that is trained on.

    Attributes:
        shape: (height, width); None for what is stored.
        crop: whether a box lies in the middle or anywhere.
        scale: least and largest side of the box, of the largest that fits; uniform between them in area.
    """

    shape: tuple[int, int] | None = None
    crop: Crop = "center"
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def changes(self) -> bool:
        """Whether an image of the right shape could be changed."""
        return self.scale != (1.0, 1.0)

    def box(self, size: tuple[int, int], shape: tuple[int, int], draw: np.ndarray) -> Box:
        """The part of a picture of (width, height) ``size`` that is shown."""
        low, high = self.scale
        scale = float(np.sqrt(low**2 + (high**2 - low**2) * draw[SCALE]))
        x, y = (float(draw[LEFT]), float(draw[TOP])) if self.crop == "random" else (0.5, 0.5)
        return placed_box(size, shape, scale, x, y)

    def show(self, image: np.ndarray, shape: tuple[int, int], draw: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] at (height, width) ``shape``."""
        if image.shape[:2] == shape and not self.changes:
            return image
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        found = np.asarray(resize_box(picture, shape, self.box(picture.size, shape, draw)))
        return found.reshape(*shape, image.shape[2])


STILL = np.array([0.0, 1.0, 0.5, 0.5])
"""The draw of validation: first caption, largest box in the middle."""


def draw_uniforms(seed: int, step: int, index: int, count: int) -> np.ndarray:
    """Uniform numbers float64 [count, 4] for the rows of a microbatch: caption, scale, left, top."""
    words = np.random.Philox(key=key(seed, AUGMENT, step, index)).random_raw(4 * count)
    return (words >> np.uint64(11)).astype(np.float64).reshape(count, 4) * 2.0**-53
