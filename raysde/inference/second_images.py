"""Second images, such as depth maps, that a model takes as conditions when it is used."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raysde.conditioning.images import ColumnCondition
from raysde.images.files import decode_file, describe_shape, stack_images
from raysde.images.tensors import to_float
from raysde.inference.pixels import ModelLike, device_of
from raysde.models.spec import ModelSpec


def take_column(spec: ModelSpec) -> ColumnCondition:
    """Return the condition of a model that takes second images.

    Raises:
        ValueError: if it takes none.
    """
    if isinstance(spec.image_condition, ColumnCondition):
        return spec.image_condition
    other = "" if spec.image_condition is None else f", but images to {spec.image_condition.kind}"
    raise ValueError(f"a condition image was given, and the model takes none{other}; leave it out")


def read_seconds(spec: ModelSpec, files: Sequence[tuple[str, bytes]]) -> Tensor:
    """Return the second images of the model's own size in named files, uint8 [B, C, H, W].

    Raises:
        ValueError: naming the file that is no image or has another size or colours than the model takes.
    """
    condition, (height, width) = take_column(spec), (spec.image[1] * spec.fold, spec.image[2] * spec.fold)
    assert condition.channels is not None
    read = [(name, decode_file(data, name)[0]) for name, data in files]
    return stack_images(read, condition.channels, (height, width), f"the model's condition {condition.name!r}")


def second_planes(
    model: ModelLike, images: Tensor | None, shape: tuple[int, int, int, int]
) -> Callable[[slice], Tensor] | None:
    """Return a function from a slice of the images to be drawn to their planes [B, E, H, W]; None without images.

    Args:
        images: second images [N, C', H * fold, W * fold], uint8 or float in the data range.
        shape: shape [N, C, H, W] of the data to be drawn, in pixels or latents.

    Raises:
        ValueError: if the model takes none, or they have another type, number, size or number of channels.
    """
    if images is None:
        return None
    spec, condition = model.spec, take_column(model.spec)
    assert condition.channels is not None
    wanted = (shape[0], condition.channels, shape[2] * spec.fold, shape[3] * spec.fold)
    if images.shape != wanted or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(
            f"condition_images must be uint8 or float {list(wanted)}, {wanted[0]} images of "
            f"{describe_shape(*wanted[1:])}, got {images.dtype} {list(images.shape)}"
        )

    def planes(rows: slice) -> Tensor:
        part = images[rows].to(device_of(model))
        floats = to_float(part, *spec.data_range) if part.dtype == torch.uint8 else part.to(torch.float32)
        return condition.given(floats, shape[2:])

    return planes
