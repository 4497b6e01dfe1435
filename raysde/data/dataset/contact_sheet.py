"""Summary of a data set as text and as a contact sheet."""

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from raysde.data.attributes import Attribute
from raysde.data.dataset.filter_terms import Bounds
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.selection import read_bounds
from raysde.data.dataset.versions import read_versions
from raysde.images.captions import SMALLEST, draw_lines, fit_text, line_height
from raysde.images.codec import decode_image
from raysde.images.geometry import resize_box
from raysde.io.filesystems import child_path, open_filesystem

CELL, WIDE, LINE = 112, 8, line_height(SMALLEST)


def describe_manifest(manifest: Manifest) -> list[str]:
    """Return the lines of text that `raysde inspect` prints about a data set."""
    statistics = manifest.statistics
    size = f"{manifest.size[0]} x {manifest.size[1]}" if manifest.size else "as they were found"
    colour = "grey" if manifest.channels == 1 else "RGB"
    megabytes = manifest.bytes / 1e6
    lines = [
        f"data set       {manifest.path}",
        f"fingerprint    {manifest.fingerprint}",
        *describe_versions(manifest),
        f"source         {manifest.source or '-'}",
        f"licence        {manifest.licence or '-'}",
        f"rows           {manifest.rows_in('train')} for training, {manifest.rows_in('validation')} for validation, "
        f"{manifest.skipped} skipped",
        f"shards         {len(manifest.shards)} of {megabytes:.1f} MB in all, row groups of {manifest.row_group} rows",
        f"images         {size}, {colour}",
    ]
    shapes, places = manifest.shards.buckets()
    counts = np.bincount(places, weights=manifest.shards.rows, minlength=len(shapes))
    buckets = [(shape, count) for shape, count in zip(shapes, counts, strict=True) if shape]
    if len(buckets) > 1:
        lines += [f"  {high:>4} x {wide:<4}  {count:.0f} rows" for (high, wide), count in buckets]
    if statistics:
        images, captions = statistics["images"], statistics["captions"]
        lines += [
            f"found          {images['height'][0]} to {images['height'][1]} high, "
            f"{images['width'][0]} to {images['width'][1]} wide",
            f"pixels         mean {_format_numbers(images['mean'])}, deviation {_format_numbers(images['std'])} of 1",
            f"captions       {captions['in_all']} for {manifest.captions} rows, {captions['mean_characters']} "
            f"characters on average, at most {captions['longest']}",
        ]
        lines.append(f"classes        {manifest.classes}")
        lines += [f"  {name:<12} {statistics['labels'].get(name, 0)} rows" for name in manifest.labels[:20]]
        lines += [f"  ... and {manifest.classes - 20} more"] if manifest.classes > 20 else []
    second = [] if manifest.condition is None else [f"condition      {manifest.condition.describe()}, in every row"]
    return (
        lines + second + [_describe_attribute(each, manifest) for each in manifest.attributes] + describe_kept(manifest)
    )


def describe_versions(manifest: Manifest) -> list[str]:
    """Return the line of text about the versions of a data set; none if nothing was ever appended."""
    versions = read_versions(manifest.path)
    rows = ", ".join(f"{each.version}: {each.rows} rows" for each in versions)
    return [f"version        {manifest.version} of {len(versions)} ({rows})"] if versions else []


def describe_kept(manifest: Manifest) -> list[str]:
    """Return the lines of text about the kept columns: type, least and largest value, and missing values of each."""
    if manifest.kept is None:
        return []
    known: dict[str, list[Bounds]] = {name: [] for name in manifest.kept.types}
    for file in manifest.kept.files:
        system, inside = open_filesystem(child_path(manifest.path, file.file))
        with system.open_input_file(inside) as source:
            footer = pq.read_metadata(source)
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            for place in range(footer.num_columns):
                found = read_bounds(group.column(place), group.num_rows)
                known[group.column(place).path_in_schema] += [] if found is None else [found]
    lines = [f"columns        {len(known)} for data.filter"]
    for name, parts in known.items():
        # Parquet stores a least value of zero as -0.0
        lows = [part.low + 0.0 if isinstance(part.low, float) else part.low for part in parts if part.low is not None]
        highs = [part.high for part in parts if part.high is not None]
        values = f", {str(min(lows))[:40]} to {str(max(highs))[:40]}" if lows and highs else ""
        missing = sum(part.missing for part in parts)
        lines.append(f"  {name:<12} {manifest.kept.types[name]}{values}" + (f", {missing} missing" if missing else ""))
    return lines


def _describe_attribute(each: Attribute, manifest: Manifest) -> str:
    """Return the line about a numeric attribute: its range, and moments where the manifest has statistics."""
    found = manifest.statistics.get("attributes", {}).get(each.name)
    more = f", mean {found['mean']:g}, deviation {found['std']:g}, {found['rows']} rows" if found else ""
    return f"attribute      {each.name}: {each.low:g} to {each.high:g}{more}"


def _format_numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def draw_contact_sheet(reader: Reader, count: int, seed: int) -> Image.Image:
    """Draw random images of a data set, each above the beginning of its caption or label, with second images beside.

    Args:
        count: number of images, at least 1; all are drawn if the data set has fewer.
        seed: seed of the random choice.

    Raises:
        ValueError: naming the shard or image that is missing or damaged.
    """
    total = reader.manifest.rows
    rows = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    cells = 1 if reader.manifest.condition is None else 2
    columns = min(WIDE // cells, len(rows))
    high = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * cells * (CELL + 4) + 4, high * (CELL + 2 * LINE + 4) + 4), "white")
    for place, row in enumerate(rows.tolist()):
        left, top = 4 + place % columns * cells * (CELL + 4), 4 + place // columns * (CELL + 2 * LINE + 4)
        shown = [decode_image(reader.image_file(row), reader.manifest.channels)]
        shown += [] if cells == 1 else [reader.condition_picture(row)]
        for number, picture in enumerate(map(make_thumbnail, shown)):
            across = left + number * (CELL + 4)
            sheet.paste(picture, (across + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        about = reader.about(row)
        said = about["captions"][0] if about["captions"] else about["label"] or ""  # type: ignore[index]
        draw_lines(sheet, fit_text(str(said), SMALLEST, CELL, 2), SMALLEST, (left, top + CELL, CELL))
    sheet.info.update(fingerprint=reader.manifest.fingerprint, seed=seed, rows=rows.tolist())
    return sheet


def make_thumbnail(image: np.ndarray) -> Image.Image:
    """Return an image, uint8 [H, W, C], at a longer side of ``CELL`` pixels; small ones grow by a whole factor."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    if max(picture.size) <= CELL:
        factor = CELL // max(picture.size)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    scale = CELL / max(picture.size)
    shape = (max(1, round(picture.height * scale)), max(1, round(picture.width * scale)))
    return resize_box(picture, shape)
