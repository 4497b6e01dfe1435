"""Checks of network sizes; the messages name keys of the recipe."""

from collections.abc import Sequence

from raysde.images.sizes import format_size


def check_at_least_one(values: dict[str, int]) -> None:
    """Raise ValueError if a count is below 1, naming the first such count."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_levels(multipliers: Sequence[int], dropout: float) -> None:
    """Check the levels of a U-Net, independently of the image size.

    Raises:
        ValueError: if a multiplier is not positive or ``dropout`` is outside [0, 1).
    """
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers must be positive, got {multipliers}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def check_patch(patch: int, height: int, width: int) -> None:
    """Raise ValueError unless the patch size divides the image's height and width, both in pixels."""
    if height % patch or width % patch:
        raise ValueError(
            f"network.patch={patch} does not divide the image size {(height, width)}; choose a divisor of both"
        )


def check_multiple(size: tuple[int, int], multiple: int, key: str) -> None:
    """Check that a network accepts images of a size that it was not built for.

    Args:
        size: (height, width) of the images, in pixels of the network's input.
        multiple: number that must divide height and width.
        key: key of the recipe that determines ``multiple``.

    Raises:
        ValueError: if it does not divide them, naming the nearest accepted size.
    """
    if size[0] % multiple or size[1] % multiple:
        height, width = (max(1, round(side / multiple)) * multiple for side in size)
        raise ValueError(
            f"size {format_size(size)}: the network takes sides that are multiples of {multiple} ({key}), such as "
            f"{height}x{width}"
        )


def patched_shape(image: tuple[int, int, int], patch: int) -> tuple[int, int, int]:
    """Return the shape (channels, height, width) after each ``patch`` x ``patch`` square of pixels became channels.

    Raises:
        ValueError: if ``patch`` does not divide the height and width.
    """
    channels, height, width = image
    check_patch(patch, height, width)
    return channels * patch**2, height // patch, width // patch


def level_heights(image: tuple[int, int, int], multipliers: Sequence[int], attention: Sequence[int]) -> list[int]:
    """Return the height in pixels at each level, from the highest resolution to the lowest.

    Args:
        image: shape (channels, height, width) of the images.
        multipliers: one entry for each level; only their number counts.
        attention: heights in pixels of the levels that get attention.

    Raises:
        ValueError: if the image cannot be halved at every level, or an attention resolution never occurs.
    """
    factor = 2 ** (len(multipliers) - 1)
    if image[1] % factor or image[2] % factor:
        raise ValueError(
            f"network.multipliers has {len(multipliers)} levels: the image size {list(image[1:])} must be divisible "
            f"by {factor}; set another data.image_size, or fewer levels"
        )
    heights = [image[1] // 2**level for level in range(len(multipliers))]
    if unknown := set(attention) - set(heights):
        raise ValueError(
            f"network.attention names resolutions {sorted(unknown)}, the levels have {heights}; choose of these"
        )
    return heights
