"""Defaults of an ingest, chosen from the first images of its source."""

import contextlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from raysde.data.condition_column import ConditionColumn, Resample
from raysde.data.dataset.duplicates import Criterion
from raysde.data.ingest.convert import Rules, convert_condition, encode_stored, resize_picture
from raysde.data.ingest.kept_values import SIZES, column_identifier
from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.sources import Source
from raysde.images.choices import Encode, Fit
from raysde.images.open import is_grey, open_picture
from raysde.images.sizes import Size
from raysde.io.near import did_you_mean

KEY = re.compile(r"key '(.*)' of \.json")
"""The remark on a key that is not read, see :func:`raysde.data.ingest.sources.sidecars.read_object`."""
LOOKED_AT = 16
FURTHER = 256
"""Number of images that are checked for colour by their format, in at most 16 parts spread over the source."""
GROUP_BYTES = 1 << 20
"""Least size of a row group: large enough for one request, small enough for hundreds of them in a batch."""


def read_first_samples(source: Source) -> list[Sample]:
    """Return the first ``LOOKED_AT`` samples of a source whose images can be read, or fewer if it has fewer.

    Raises:
        ValueError: if no image can be read, with the reason for the first.
    """
    found: list[Sample] = []
    reasons: list[str] = []
    for sample in itertools.chain.from_iterable(part.read() for part in source.parts):
        if isinstance(sample, Bad):
            reasons.append(sample.reason)
            continue
        try:
            open_picture(sample.data, 3)
            found.append(sample)
        except ValueError as error:
            reasons.append(f"image {sample.key} cannot be read: {error}")
        if len(found) == LOOKED_AT:
            break
    if not found:
        raise ValueError(f"no image of the source can be read: {reasons[0] if reasons else 'there is none'}")
    return found


def choose_rules(
    source: Source,
    *,
    size: Size | int | None = None,
    channels: int | None = None,
    fit: Fit = "crop",
    bucket_multiple: int = 0,
    encode: Encode = "auto",
    quality: int = 95,
    background: int = 255,
    validation: float = 0.0,
    row_group: int | None = None,
    shard_rows: int = 8192,
    keep: tuple[str, ...] = (),
    near: Criterion | None = None,
    condition_channels: int | None = None,
    condition_resample: Resample = "smooth",
) -> Rules:
    """Return the rules for a source; arguments that are None are chosen from its first images.

    Args:
        size: by default, see :func:`choose_size`.
        channels: by default 1 if all images that are checked have grey formats, else 3.
        row_group: by default the smallest power of two, up to 1024, that makes at least 1 MB.
        fit, bucket_multiple, encode, quality, background, validation, shard_rows, keep, near: see
            :class:`raysde.data.ingest.convert.Rules`.
        condition_channels: channels of second images; by default 1 if those of the first samples have grey formats,
            else 3.
        condition_resample: way of scaling second images.

    Raises:
        ValueError: if no image can be read, none of the first ones has a column to keep, or second images are asked
            for and none of the first ones has one.
    """
    samples = read_first_samples(source)
    check_kept(samples, keep)
    pictures = [open_picture(sample.data, 3) for sample in samples]
    rules = Rules(
        channels=channels or (1 if all(is_grey(sample.data) for sample in samples) and is_all_grey(source) else 3),
        size=None if fit == "keep" else size or choose_size(pictures, keeps=fit != "short" and not bucket_multiple),
        fit=fit,
        bucket_multiple=bucket_multiple,
        attributes=source.attributes,
        encode=encode,
        quality=quality,
        background=background,
        validation=validation,
        shard_rows=shard_rows,
        keep=keep,
        near=near,
        condition=choose_condition(source, samples, condition_channels, condition_resample),
    )
    return replace(rules, row_group=row_group or choose_row_group(samples, rules))


def choose_condition(
    source: Source, samples: Sequence[Sample], channels: int | None, resample: Resample
) -> ConditionColumn | None:
    """Return the description of the source's second images, given its first samples; None without them.

    Raises:
        ValueError: if none of the first samples has one.
    """
    if source.condition is None:
        return None
    found = [sample.condition for sample in samples if sample.condition is not None]
    if not found:
        raise ValueError(
            f"--condition-image {source.condition!r}: none of the first {len(samples)} images has one; see docs/data.md"
        )
    return ConditionColumn(source.condition, channels or (1 if all(map(_is_grey, found)) else 3), resample)


def _is_grey(data: bytes) -> bool:
    """Return True if a file's format stores grey; the conversion reports files that are no images."""
    try:
        return is_grey(data)
    except ValueError:
        return True


def check_kept(samples: Sequence[Sample], keep: Sequence[str]) -> None:
    """Check that the first samples have each column to keep, so that a misspelt name is found before the conversion.

    Raises:
        ValueError: naming the column that none of them has.
    """
    unread = (KEY.fullmatch(about) for sample in samples for about in sample.unread)
    there = {name for sample in samples for name in sample.kept} | set(SIZES)
    known = there | {column_identifier(found[1]) for found in unread if found}
    for name in keep:
        if name not in there:
            raise ValueError(
                f"--keep-columns: none of the first {len(samples)} images has a column or key {name!r}"
                f"{did_you_mean(name, known) or ';'} they have {', '.join(sorted(known))}"
            )


def choose_size(pictures: Sequence[Image.Image], *, keeps: bool) -> Size | int:
    """Return the size in pixels for the images of a source, given its first pictures.

    It is their (height, width) if they agree, so that nothing is cut, or else the short side of the first one.

    Args:
        keeps: True if the rules store all images at one (height, width); False always gives the short side.
    """
    sizes = {picture.size for picture in pictures}
    width, height = pictures[0].size
    return (height, width) if keeps and len(sizes) == 1 and width != height else min(width, height)


def is_all_grey(source: Source) -> bool:
    """Return True if the formats of the first files of parts spread over the source store grey only."""
    count = min(LOOKED_AT, len(source.parts))
    parts = [source.parts[number * len(source.parts) // count] for number in range(count)]
    for part in parts:
        for sample in itertools.islice(part.read(), FURTHER // count):
            if isinstance(sample, Bad):
                continue
            with contextlib.suppress(ValueError):  # the conversion reports files that are no images
                if not is_grey(sample.data):
                    return False
    return True


def choose_row_group(samples: list[Sample], rules: Rules) -> int:
    """Return the number of rows of a row group of 1 to 2 MB: the smallest power of two, up to 1024.

    Raises:
        ValueError: if a sample is no complete image.
    """
    sizes = []
    for sample in samples:
        picture = open_picture(sample.data, rules.channels, background=rules.background)
        with contextlib.suppress(ValueError):  # the conversion reports images that cannot be fitted to the size
            size = len(encode_stored(sample.data, picture, resize_picture(picture, rules), rules))
            if rules.condition is not None:
                size += len(convert_condition(sample, picture, rules.condition, rules)[0])
            sizes.append(size)
    wanted = max(1, min(1024, -(-GROUP_BYTES * len(sizes) // max(1, sum(sizes)))))
    return 1 << (wanted - 1).bit_length()
