"""Conversion of one part of a source to shards, the work of one ingest task, independent of other tasks."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raysde.data.condition_column import CONDITION, ConditionColumn
from raysde.data.dataset.duplicates import Criterion
from raysde.data.dataset.hash_files import write_hashes
from raysde.data.dataset.manifest import shard_schema
from raysde.data.dataset.segments import segment_lengths
from raysde.data.dataset.shard_table import Shard, Split
from raysde.data.dataset.shards import write_shard
from raysde.data.ingest.identities import write_identities
from raysde.data.ingest.kept_values import SIZES, Value, write_part
from raysde.data.ingest.samples import Bad, Sample, SourcePart
from raysde.data.ingest.statistics import Statistics
from raysde.images.choices import Encode, Fit
from raysde.images.codec import JPEG, decode_image, encode_image
from raysde.images.geometry import bucket_shapes, centred_box, fit_picture, nearest_bucket, resize_box
from raysde.images.open import is_plain, read_picture
from raysde.images.perceptual import make_thumbnail
from raysde.images.remarks import Change, Remarks
from raysde.images.sizes import Size, format_size, read_size
from raysde.io.filesystems import child_path

SMALL = 64
SHARD_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules for the conversion of samples to rows.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        size, fit: size of the stored images, (height, width) or one number for both, and the way to fit images to it,
            see :data:`raysde.images.choices.FITS`; None keeps every image's size.
        bucket_multiple: number that divides the sides of aspect-ratio buckets, each of about as many pixels as a square
            ``size``; 0 disables buckets.
        encode, quality: encoding of the stored files, see :data:`raysde.images.choices.ENCODINGS`, and JPEG quality.
        background: grey level from 0 to 255 under transparent pixels and of the border of padded images.
        validation: share of the rows, from 0 to 1, for validation, selected by the hash of their content.
        row_group, shard_rows: number of rows in a row group, and maximum number in a shard.
        attributes: names of the numeric attributes to store.
        keep: names of the columns to keep beside the shards, for filters.
        near: criterion of near duplicates, which are left out; None keeps them.
        condition: the second image of each row; None for none.

    Raises:
        ValueError: if buckets are requested for a size that is not square.
    """

    channels: int
    size: Size | int | None = None
    fit: Fit = "crop"
    bucket_multiple: int = 0
    encode: Encode = "auto"
    quality: int = 95
    background: int = 255
    validation: float = 0.0
    row_group: int = 1024
    shard_rows: int = 8192
    attributes: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    near: Criterion | None = None
    condition: ConditionColumn | None = None

    def __post_init__(self) -> None:
        shape = self.shape
        if self.bucket_multiple and shape is not None and shape[0] != shape[1]:
            raise ValueError(
                f"the size {format_size(shape)} cannot be used with buckets, which have aspect ratios of their own; "
                "give one number, the side of a square of about as many pixels as each bucket"
            )

    @property
    def shape(self) -> Size | None:
        """(height, width) that images are fitted to; None keeps every image's size."""
        return None if self.size is None else read_size(self.size)

    @property
    def stored(self) -> Size | None:
        """(height, width) that all stored images have; None if sizes differ or there are buckets."""
        one = not self.bucket_multiple and self.fit in ("crop", "pad", "stretch")
        return self.shape if one else None


@dataclass
class Converted:
    """Result of the conversion of a part: its shards, unusable samples, statistics and remarks.

    Attributes:
        bad: unusable samples, each with the reason.
        unread: number of samples with each ignored key of metadata.
        number: number of the part in its source, which names the file of its rows' identities.
        segments: bytes of each segment of a shard, by the shard's file, see :mod:`raysde.data.dataset.segments`.
        kept: type of each kept column in this part, see :func:`raysde.data.ingest.kept_values.find_type`.
        left_out: number of samples that were left out as near duplicates.
        condition_remarks: remarks on second images.
    """

    shards: list[Shard]
    bad: list[Bad]
    statistics: Statistics
    unread: Counter[str] = field(default_factory=Counter)
    remarks: Remarks = field(default_factory=Remarks)
    number: int = 0
    segments: dict[str, list[int]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    condition_remarks: Remarks = field(default_factory=Remarks)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values for :meth:`from_json`."""
        return {
            "shards": [asdict(shard) for shard in self.shards],
            "bad": [asdict(bad) for bad in self.bad],
            "statistics": self.statistics.to_json(),
            "unread": dict(sorted(self.unread.items())),
            "remarks": self.remarks.to_json(),
            "number": self.number,
            "segments": self.segments,
            "kept": self.kept,
            "left_out": self.left_out,
            "condition_remarks": self.condition_remarks.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Converted":
        """Return the result from the JSON values of :meth:`to_json`.

        Raises:
            KeyError, TypeError: if a value is missing or unknown; the caller names the file.
        """
        shards = [Shard(**{**s, "image": tuple(s["image"]) if s["image"] else None}) for s in values["shards"]]
        bad, statistics = [Bad(**one) for one in values["bad"]], Statistics.from_json(values["statistics"])
        counted = Counter(values["unread"]), Remarks.from_json(values["remarks"])
        # an ingest that an earlier version began recorded no segments
        later = values.get("segments", {}), values.get("kept", {}), values.get("left_out", 0)
        second = Remarks.from_json(values.get("condition_remarks", {}))
        return cls(shards, bad, statistics, *counted, values["number"], *later, second)


def convert_part(
    part: SourcePart, number: int, rules: Rules, out: str, version: int = 1, left_out: Collection[int] = ()
) -> Converted:
    """Write the shards of part ``number`` into the folder ``out``; the same part gives the same bytes.

    The identities of its rows are written too, for the report, their perceptual hashes, and the columns to keep. Each
    shard has rows of one split and one shape.

    Args:
        version: version of the data set that the rows belong to.
        left_out: positions of samples in the part that are near duplicates and get no row.

    Raises:
        ValueError: if the part cannot be read at all.
    """
    result = Converted([], [], Statistics(), number=number, left_out=len(left_out))
    identities: tuple[list[str], list[str]] = [], []
    kept: dict[str, list[Value]] = {name: [] for name in rules.keep}
    schema = shard_schema(rules.attributes, condition=rules.condition is not None)
    waiting: dict[tuple[Split, tuple[int, int] | None], list[dict[str, Any]]] = defaultdict(list)
    sizes: dict[tuple[Split, tuple[int, int] | None], int] = defaultdict(int)

    def write(kind: tuple[Split, tuple[int, int] | None]) -> None:
        split, shape = kind
        rows = waiting.pop(kind)
        table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
        for name, column in zip(("hash", "key"), identities, strict=True):
            column.extend(row[name] for row in rows)
        for name, values in kept.items():
            values.extend(row["kept"].get(name) for row in rows)
        file = shard_name(split, shape if rules.bucket_multiple else None, number, taken[kind], version)
        taken[kind] += 1
        result.shards.append(write_shard(table, out, file, row_group=rules.row_group, split=split, image=shape))
        thumbnails = np.stack([row["thumbnail"] for row in rows])
        write_hashes(
            out, result.shards[-1], thumbnails, *([row[name] for row in rows] for name in ("pixels", "sample"))
        )
        result.segments[file] = segment_lengths(child_path(out, file))
        sizes.pop(kind)

    taken: dict[tuple[Split, tuple[int, int] | None], int] = defaultdict(int)
    for kind, row in convert_rows(part, rules, result, left_out):
        waiting[kind].append(row)
        sizes[kind] += sum(len(row[name]["bytes"]) for name in ("image", CONDITION) if name in row)
        if len(waiting[kind]) == rules.shard_rows or sizes[kind] >= SHARD_BYTES:
            write(kind)
    for kind in sorted(waiting, key=str):
        write(kind)
    write_identities(out, number, *identities)
    result.kept = write_part(out, number, kept) if kept else {}
    return result


def shard_name(split: Split, shape: tuple[int, int] | None, number: int, again: int, version: int = 1) -> str:
    """Return a shard's name: train-00012.parquet, train-64x32-00012.parquet in a bucket, train-00012-1.parquet next.

    Shards of later versions are named train-v2-00012.parquet.

    Args:
        shape: (height, width) of the bucket in pixels; None without buckets.
        number: number of the part that the rows come from.
        again: number of earlier shards of the same part, split and bucket.
        version: version of the data set.
    """
    bucket = ("" if version == 1 else f"-v{version}") + (f"-{shape[0]}x{shape[1]}" if shape else "")
    return f"{split}{bucket}-{number:05d}{f'-{again}' if again else ''}.parquet"


def convert_rows(
    part: SourcePart, rules: Rules, result: Converted, left_out: Collection[int] = ()
) -> Iterator[tuple[tuple[Split, tuple[int, int] | None], dict[str, Any]]]:
    """Yield ((split, shape), row) of each usable sample; ``result`` collects unusable ones, statistics and remarks.

    Args:
        left_out: positions of samples to pass over.
    """
    for position, sample in enumerate(part.read()):
        if isinstance(sample, Bad):
            result.bad.append(sample)
            continue
        if position in left_out:
            continue
        try:
            read = read_picture(sample.data, rules.channels, background=rules.background)
            picture = read.picture
            stored = resize_picture(picture, rules)
            data = encode_stored(sample.data, picture, stored, rules)
        except ValueError as error:
            result.bad.append(Bad(sample.key, f"image {sample.key} cannot be read: {error}"))
            continue
        try:
            second = None if rules.condition is None else convert_condition(sample, picture, rules.condition, rules)
        except ValueError as error:
            result.bad.append(Bad(sample.key, str(error)))
            continue
        result.unread.update(sample.unread)
        result.remarks.count(sample.key, read.changes)
        attributes = dict(zip(rules.attributes, sample.attributes or [None] * len(rules.attributes), strict=True))
        result.statistics.count(stored, picture.size, sample.captions, sample.label, attributes)
        fixed = rules.stored or ((stored.height, stored.width) if rules.bucket_multiple else None)
        row = make_row(sample, stored, data) | {"kept": keep_values(sample, picture, rules.keep)}
        # a thumbnail of the stored image, which is the one that is trained on
        row |= {"thumbnail": make_thumbnail(stored), "pixels": picture.width * picture.height, "sample": position}
        if attributes:
            row["attributes"] = attributes
        if second is not None:
            row[CONDITION] = {"bytes": second[0], "path": None}
            result.condition_remarks.count(sample.key, second[1])
        yield (choose_split(row["hash"], rules.validation), fixed), row


def convert_condition(
    sample: Sample, picture: Image.Image, condition: ConditionColumn, rules: Rules
) -> tuple[bytes, frozenset[Change]]:
    """Return the stored file of a sample's second image, cut and scaled as its image, and the changes to its pixels.

    Args:
        picture: the source picture of the sample's image.

    Raises:
        ValueError: naming the image, if there is no second one, it cannot be read, or it has another size.
    """
    what = f"condition image {condition.name!r} of {sample.key}"
    if sample.condition is None:
        raise ValueError(f"{what} is missing; add it")
    try:
        read = read_picture(sample.condition, condition.channels, background=rules.background)
        found = read.picture
        if found.size != picture.size:
            one, other = (format_size((each.height, each.width)) for each in (found, picture))
            raise ValueError(f"it is {one} and the image {other} (height x width); give both one size")
        nearest = condition.resample == "nearest"
        stored = resize_picture(found, rules, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)
        encode: Encode = "png" if nearest else "auto" if rules.encode == "jpeg" else rules.encode
        return encode_stored(sample.condition, found, stored, replace(rules, encode=encode)), read.changes
    except ValueError as error:
        raise ValueError(f"{what} cannot be used: {error}") from error


def resize_picture(
    picture: Image.Image, rules: Rules, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Return a picture fitted to the stored size, or to the nearest bucket.

    Raises:
        ValueError: if the fitted picture would have too many pixels.
    """
    if not rules.bucket_multiple or rules.shape is None:
        return fit_picture(picture, rules.fit, rules.shape, rules.background, resample)
    shape = nearest_bucket(picture.size, bucket_shapes(rules.shape[0], rules.bucket_multiple))
    return resize_box(picture, shape, centred_box(picture.size, shape), resample)


def encode_stored(data: bytes, found: Image.Image, stored: Image.Image, rules: Rules) -> bytes:
    """Return the bytes of the image file to store.

    Args:
        data, found: the source file and its picture; the file is kept if the rules allow it and training can decode it.
        stored: the picture at the stored size, the same object as ``found`` if it is unchanged.

    Raises:
        ValueError: if the file is to be a JPEG and a side is too long for one.
    """
    if rules.encode in ("auto", "keep") and stored is found and is_readable(data, stored):
        return data
    lossy = rules.encode == "jpeg" or (rules.encode == "auto" and data[:2] == JPEG and max(stored.size) > SMALL)
    return encode_image(stored, quality=rules.quality if lossy else None)


def is_readable(data: bytes, stored: Image.Image) -> bool:
    """Return True if training can decode the source file; its decoder is stricter than Pillow, which ignores damage."""
    if not is_plain(data, stored):
        return False
    try:
        decode_image(data, len(stored.getbands()))
    except ValueError:
        return False
    return True


def make_row(sample: Sample, stored: Image.Image, data: bytes) -> dict[str, Any]:
    """Return a row of ``SCHEMA``, without attributes, for a sample, given its stored picture and file."""
    return {
        "image": {"bytes": data, "path": None},
        "captions": list(sample.captions),
        "label": sample.label,
        "key": sample.key,
        "width": stored.width,
        "height": stored.height,
        "hash": hashlib.blake2b(sample.data, digest_size=8).hexdigest(),
    }


def keep_values(sample: Sample, picture: Image.Image, keep: tuple[str, ...]) -> dict[str, Value]:
    """Return the values to keep of a sample; ``width`` and ``height`` are those of its source image in pixels."""
    values = {**sample.kept, **dict(zip(SIZES, picture.size, strict=True))}
    return {name: values[name] for name in keep if name in values}


def choose_split(content_hash: str, validation: float) -> Split:
    """Return the split of a row from the hash of its content, so that copies are in the same split.

    Args:
        content_hash: 64-bit hash in hexadecimal.
        validation: expected share of validation rows, from 0 to 1.
    """
    return "validation" if int(content_hash, 16) < validation * 2**64 else "train"
