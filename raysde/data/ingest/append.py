"""Append to a data set: the next version's manifest from the one before and the shards that an ingest adds."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from raysde.data.classes import order_labels
from raysde.data.dataset.kept_columns import join_kept
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.reader import open_segments
from raysde.data.dataset.shard_table import SPLITS, Shards
from raysde.data.dataset.versions import Version, read_versions, write_versions
from raysde.data.ingest.convert import Rules
from raysde.images.sizes import format_size


def check_appendable(base: Manifest, rules: Rules) -> None:
    """Check that the rules make rows like those of a data set.

    Raises:
        ValueError: naming the option that differs.
    """
    size = rules.shape if rules.bucket_multiple else rules.stored
    has_buckets = bool(base.shapes - {None, base.size})
    kept = () if base.kept is None else tuple(base.kept.types)
    numbers = [each.name for each in base.attributes]
    second = [each.describe() if each is not None else "none" for each in (base.condition, rules.condition)]
    for option, before, now in (
        ("--channels", base.channels, rules.channels),
        ("--size and --fit", _name_size(base.size), _name_size(size)),
        ("--row-group", base.row_group, rules.row_group),
        ("--attributes", ",".join(numbers) or "none", ",".join(rules.attributes) or "none"),
        ("--condition-image", *second),
        ("--keep-columns", ",".join(sorted(kept)) or "none", ",".join(sorted(rules.keep)) or "none"),
    ):
        if before != now:
            raise ValueError(
                f"--append: the data set at {base.path} has {option} {before}, these options make {now}; leave the "
                "option out or give it as before"
            )
    if has_buckets and not rules.bucket_multiple:
        raise ValueError(f"--append: the data set at {base.path} has buckets; give --buckets as before")


def follow_order(names: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the order of ``before`` if they are the same ones, and ``before`` if none are given."""
    return tuple(before) if not names or set(names) == set(before) else tuple(names)


def _name_size(size: tuple[int, int] | None) -> str:
    return "of each image's own" if size is None else format_size(size)


def extend_labels(before: Sequence[str], labels: Iterable[str]) -> tuple[str, ...]:
    """Return the class names of a grown data set: the earlier ones keep their class numbers, new ones follow.

    Raises:
        ValueError: if two labels spell the same number differently.
    """
    more = set(labels) - set(before)
    order_labels([*before, *more])  # refuses two spellings of a number
    return (*before, *order_labels(more))


def join_manifests(base: Manifest, added: Manifest) -> Manifest:
    """Return the manifest of the version after ``base``.

    Args:
        added: manifest of the appended shards alone, but for the labels, which are already those of
            :func:`extend_labels`, and the ranges of the attributes, which already include those of ``base``.

    Raises:
        ValueError: if the kept columns differ.
    """
    shards = [
        shard for split in SPLITS for manifest in (base, added) for shard in manifest.shards if shard.split == split
    ]
    training = int(base.shards.in_split("train").sum())
    return replace(
        base,
        shards=Shards.of(shards),
        labels=added.labels,
        captions=base.captions + added.captions,
        statistics=join_statistics((base.statistics, base.rows), (added.statistics, added.rows)),
        source="; ".join(dict.fromkeys([base.source, added.source])),
        attributes=added.attributes,
        licence="; ".join(dict.fromkeys(name for name in (base.licence, added.licence) if name)),
        skipped=base.skipped + added.skipped,
        format=added.format,
        kept=None if base.kept is None or added.kept is None else join_kept(base.kept, added.kept),
        version=base.version + 1,
        parent=base.fingerprint,
        inherited=(training, len(base.shards) - training),
    )


def join_lengths(base: Manifest, lengths: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the bytes of all shards' segments by file, given those of the appended shards; empty if ``base`` has none.

    Raises:
        ValueError: if the index of ``base`` is damaged.
    """
    places = open_segments(base)
    if places is None:
        return {}
    return {file: places.of_shard(number) for number, file in enumerate(base.shards.files.to_pylist())} | lengths


def join_statistics(first: tuple[dict[str, Any], int], second: tuple[dict[str, Any], int]) -> dict[str, Any]:
    """Return the statistics of two data sets together, each given with its number of rows.

    Means weigh every image alike, so that they are exact for images of one size.
    """
    (one, rows), (other, more) = first, second
    if not one:
        return {}  # of a format without statistics
    labels = Counter(one["labels"]) + Counter(other["labels"])
    said, also = one["captions"], other["captions"]
    images, others = one["images"], other["images"]
    moments = []
    for each, count in ((images, rows), (others, more)):
        moments.append([(count, mean, std**2 + mean**2) for mean, std in zip(each["mean"], each["std"], strict=True)])
    means = [(a[0] * a[1] + b[0] * b[1]) / (rows + more) for a, b in zip(*moments, strict=True)]
    squares = [(a[0] * a[2] + b[0] * b[2]) / (rows + more) for a, b in zip(*moments, strict=True)]
    count = said["in_all"] + also["in_all"]
    characters = said["in_all"] * said["mean_characters"] + also["in_all"] * also["mean_characters"]
    numbers = _join_moments(one.get("attributes", {}), other.get("attributes", {}))
    return {
        **({"attributes": numbers} if numbers else {}),
        "labels": dict(sorted(labels.items())),
        "captions": {
            "in_all": count,
            "mean_characters": round(characters / max(1, count), 2),
            "longest": max(said["longest"], also["longest"]),
        },
        "images": {
            **{
                side: [min(images[side][0], others[side][0]), max(images[side][1], others[side][1])]
                for side in ("width", "height")
            },
            "mean": [round(mean, 6) for mean in means],
            "std": [round(max(0.0, square - mean**2) ** 0.5, 6) for mean, square in zip(means, squares, strict=True)],
        },
    }


def _join_moments(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return number, mean and standard deviation of the attributes of two data sets together, by name."""
    joined = dict(first)
    for name, more in second.items():
        parts = [more] if name not in first else [first[name], more]
        rows = sum(part["rows"] for part in parts)
        mean = sum(part["rows"] * part["mean"] for part in parts) / rows
        square = sum(part["rows"] * (part["std"] ** 2 + part["mean"] ** 2) for part in parts) / rows
        joined[name] = {"rows": rows, "mean": mean, "std": max(0.0, square - mean**2) ** 0.5}
    return joined


def publish_version(base: Manifest, grown: Manifest, source: str) -> None:
    """List the version of ``grown`` after that of ``base``, which makes it the newest.

    Args:
        source: origin of the appended rows.

    Raises:
        OSError: if versions.json cannot be written.
    """
    before = read_versions(base.path) or (Version(1, base.fingerprint, base.rows, base.source),)
    write_versions(base.path, (*before, Version(grown.version, grown.fingerprint, grown.rows, source)))
