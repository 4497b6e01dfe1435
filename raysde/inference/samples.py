"""Results of sampling: images and their paths as tensors, PNG files and grids."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raysde.data.classes import Label
from raysde.images.tensors import CAPTIONED, CELL, make_grid, save_picture, save_png, to_uint8
from raysde.inference.pixels import ModelLike, pixel_range, weights_hash
from raysde.sampling.method import Method, drop_grid_settings, make_method, select_readable

WIDEST = 20
"""Largest number of different prompts for which a grid has one column for each."""
EACH = ("prompt", "label", "negative", "seed")
"""Settings that may differ between the images of one call."""


@dataclass(frozen=True)
class Drawn:
    """Images sampled from a model.

    Attributes:
        images: [N, C, H, W], uint8; or float32 in ``data_range`` if requested, neither clipped nor rounded.
        prompts: prompt of each image, None without prompts.
        seed: one seed for all images, or one for each.
        nfe: number of function evaluations of the score for each image.
        data_range: float values of black and white.
        labels: class name of each image, or class number if the model stores no names; None without labels.
        attributes: numeric attributes of each image by name, None for unknown; None without attributes.
        first: number of the first image, None if images have no numbers.
        settings: all other settings that the images depend on, by keyword: solver, steps, guidance, the weights'
            sha256, ...
        condition_images: second image that each image was drawn for, such as a depth map, uint8 [N, C', H, W]; None
            without them.
    """

    images: Tensor
    prompts: list[str] | None
    seed: int | Sequence[int]
    nfe: int
    data_range: tuple[float, float] = (-1.0, 1.0)
    labels: list[Label] | None = None
    first: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Sequence[float | None]] | None = None
    condition_images: Tensor | None = None

    @property
    def captions(self) -> list[str] | None:
        """The conditions of each image as text; None without."""
        labels = None if self.labels is None else [_describe_label(label) for label in self.labels]
        prompts = None if self.prompts is None else [each.strip() or "(empty prompt)" for each in self.prompts]
        numbers = [_describe_attributes(self.attributes, index) for index in range(len(self.images))]
        notes = [labels] if labels is not None else []
        notes += [numbers] if any(numbers) else []
        joined = [", ".join(filter(None, each)) for each in zip(*notes, strict=True)] if notes else None
        if prompts is None or joined is None:
            return joined if prompts is None else prompts
        return [f"{prompt} ({note})" if note else prompt for prompt, note in zip(prompts, joined, strict=True)]

    @property
    def pictures(self) -> Tensor:
        """Images as uint8 [N, C, H, W]."""
        return self.images if self.images.dtype == torch.uint8 else to_uint8(self.images, *self.data_range)

    def metadata(self, index: int | None = None) -> dict[str, Any]:
        """Return the settings of an image, or of all images for None, for :func:`raysde.images.png.png_metadata`.

        For all images, a value that differs between images is a list under a name in the plural, such as ``prompts``.

        Args:
            index: place of the image among ``images``, from 0.
        """
        number = None if self.first is None or index is None else self.first + index
        metadata: dict[str, Any] = {"number": number}
        if self.attributes is not None:
            each = {name: values if index is None else values[index] for name, values in self.attributes.items()}
            metadata["attributes"] = {name: value for name, value in each.items() if value is not None}
        if self.condition_images is not None and index is not None:
            metadata["condition_image"] = hash_pixels(self.condition_images[index])
        for name, value in {"prompt": self.prompts, "label": self.labels, "seed": self.seed, **self.settings}.items():
            if name in EACH and isinstance(value, list | tuple):
                one = value[index or 0]
                own = index is not None or all(each == one for each in value)
                metadata |= {name: one} if own else {f"{name}s": value}
            else:
                metadata[name] = value
        return metadata

    def grid(self, columns: int | None = None) -> Image.Image:
        """Return the images side by side under their prompts or labels, each with its condition image on its right.

        Args:
            columns: number of images in a row; by default the number of different prompts or labels, if it is from 2
                to ``WIDEST``.

        Raises:
            ValueError: if there is no image, or an image has not one or three channels.
        """
        kinds = len(set(self.captions or ()))
        usual = kinds if 1 < kinds <= WIDEST else None
        shown, cell = self.pictures, None
        if self.condition_images is not None:
            shown = place_beside(shown, self.condition_images)
            cell = 2 * (CELL if self.captions is None else CAPTIONED)
        return make_grid(shown, columns or usual, cell=cell, captions=self.captions, metadata=self.metadata())

    def save(self, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Write ``image-000.png`` and so on, and ``grid.png`` with a column for each prompt; return paths, grid last.

        Args:
            progress: callback that gets the number of images written so far and the number of all.

        Raises:
            OSError: naming the folder or file, if it cannot be written.
        """
        folder, numbers = Path(folder), range(len(self.images))
        names, metadata = [f"image-{index:03d}" for index in numbers], [self.metadata(index) for index in numbers]
        paths = save_png(self.pictures, folder, names, progress, metadata)
        save_picture(self.grid(), folder / "grid.png")
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
        """Return the paths as a picture: two rows for each image, x_t above x0_hat, from noise on the left to data.

        Each column has its log-SNR as a heading.

        Raises:
            ValueError: if there is no image, or an image has not one or three channels.
        """
        points = self.frames.shape[2]
        captions = None if self.captions is None else [each for each in self.captions for _ in range(2 * points)]
        metadata = {**self.metadata(), "log_snr": self.log_snr.tolist()}
        headings = [f"log-SNR {round(each, 1) + 0.0:.1f}" for each in self.log_snr.tolist()]  # + 0.0: no minus before 0
        frames = self.frames.flatten(0, 2)
        return make_grid(frames, points, captions=captions, headings=headings, metadata=metadata)

    def save(self, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Write the files of :meth:`Drawn.save`, and ``path.png`` with the strip; return paths, grid last.

        Raises:
            OSError: naming the file that cannot be written.
        """
        paths = super().save(folder, progress)
        save_picture(self.strip(), Path(folder) / "path.png")
        return paths


def place_beside(images: Tensor, others: Tensor) -> Tensor:
    """Return images with others on their right, both uint8 [N, C, H, W] of one size: [N, C, H, 2 W + 1].

    A white line is between them. Grey ones become colour ones beside colour ones.
    """
    channels = max(images.shape[1], others.shape[1])
    left, right = (each.cpu().expand(-1, channels, -1, -1) for each in (images, others))
    line = torch.full((*left.shape[:3], 1), 255, dtype=torch.uint8)
    return torch.cat([left, line, right], dim=3)


def hash_pixels(image: Tensor) -> str:
    """Return a hash of the pixels of an image, uint8 [C, H, W], 16 hexadecimal digits."""
    return hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def make_samples(
    model: ModelLike,
    images: Tensor,
    prompts: Sequence[str] | None,
    seed: int | Sequence[int],
    nfe: int,
    settings: Mapping[str, Any],
    *,
    numbers: Sequence[int] | None = None,
    attributes: Mapping[str, Sequence[float | None]] | None = None,
    first: int | None = None,
    times: Tensor | None = None,
) -> Drawn:
    """Return sampled images with their prompts, labels and settings.

    Args:
        images: [N, C, H, W], uint8 or float32 in the model's data range.
        nfe: number of score evaluations per image.
        settings: sampler settings and all other settings that the images depend on, by keyword.
        numbers: class number of each image, -1 for no class.
        attributes: numeric attributes of each image by name, None for unknown.
        first: number of the first image.
        times: falling times, 1-D, that replaced the settings of the time grid.

    Raises:
        ValueError: if solver, grid and corrector are incompatible.
    """
    names, method = model.spec.class_names, Method(**make_method(settings))
    read = select_readable({**asdict(method), "grid": method.grid_for(model.score_model.sde)})
    recorded = {"model": weights_hash(model), **settings, **read}
    if times is not None:
        recorded = {**drop_grid_settings(recorded), "times": times.tolist()}
    return Drawn(
        images,
        None if prompts is None else list(prompts),
        seed,
        nfe,
        pixel_range(model.spec),
        None if numbers is None else [names[each] if names and each >= 0 else each for each in numbers],
        first,
        recorded,
        attributes,
    )


def _describe_attributes(attributes: Mapping[str, Sequence[float | None]] | None, index: int) -> str:
    """Return the known attributes of an image as text, such as ``age 30, score 0.5``."""
    known = [(name, values[index]) for name, values in (attributes or {}).items()]
    return ", ".join(f"{name} {value:.4g}" for name, value in known if value is not None)


def _describe_label(label: Label) -> str:
    """Return a class name, or a class number as text."""
    if isinstance(label, str):
        return label
    return "no label" if label < 0 else f"label {label}"
