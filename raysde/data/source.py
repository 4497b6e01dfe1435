"""A folder of images with captions, as people have it: metadata.jsonl, a CSV, or a .txt beside each image."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FILE_KEYS = ("file_name", "file", "image", "path")
TEXT_KEYS = ("text", "caption", "prompt")
LABEL_KEYS = ("label", "class")


@dataclass(frozen=True)
class Item:
    """One image of the source: its path relative to the folder, its caption and label if it has them."""

    name: str
    caption: str | None
    label: int | None


def list_source(folder: Path) -> list[Item]:
    """All images of a folder in name order, with what is said about them.

    Images that the metadata does not mention have no caption and no label. Labels that are words are numbered in
    alphabetical order.

    Raises:
        ValueError: if the folder is missing or holds no image, or metadata mentions an image that is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"source {folder} is not a folder")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        raise ValueError(f"source {folder} holds no image ({', '.join(SUFFIXES)})")
    found, rows = _metadata(folder)
    known = set(names)
    said: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        name = _value(row, FILE_KEYS)
        if name is None:
            raise ValueError(f"{found}, entry {number}: no image is named (one of the keys {', '.join(FILE_KEYS)})")
        if name not in known:
            raise ValueError(f"{found}, entry {number}: image {name!r} is not in {folder}")
        said[name] = row
    numbers = _label_numbers([_value(row, LABEL_KEYS) for row in said.values()], found)
    return [_item(folder, name, said.get(name, {}), numbers) for name in names]


def _item(folder: Path, name: str, row: dict[str, Any], numbers: dict[str, int]) -> Item:
    caption, label = _value(row, TEXT_KEYS), _value(row, LABEL_KEYS)
    beside = (folder / name).with_suffix(".txt")
    if caption is None and beside.exists():
        caption = beside.read_text(encoding="utf-8").strip()
    return Item(name, None if caption is None else str(caption), None if label is None else numbers[str(label)])


def _value(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)


def _metadata(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The metadata file's name and its entries; no entries if there is none."""
    lines = folder / "metadata.jsonl"
    if lines.exists():
        result = []
        for number, line in enumerate(lines.read_text(encoding="utf-8-sig").splitlines(), start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except json.JSONDecodeError as error:
                raise ValueError(f"{lines}, line {number} is not valid JSON: {error}") from error
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"{lines}, line {number} is not a JSON object")
            result.extend([] if row is None else [row])
        return str(lines), result
    tables = sorted(folder.glob("*.csv"))
    if len(tables) > 1:
        raise ValueError(
            f"source {folder} holds {len(tables)} CSV files, expected one: {', '.join(path.name for path in tables)}"
        )
    if not tables:
        return str(folder), []
    with tables[0].open(newline="", encoding="utf-8-sig") as source:
        return str(tables[0]), list(csv.DictReader(source))


def _label_numbers(labels: list[Any], where: str) -> dict[str, int]:
    """The class number of each label: numbers as they are, words in alphabetical order."""
    present = {str(label) for label in labels if label is not None}
    if all(label.lstrip("-").isdigit() for label in present):
        if any(int(label) < 0 for label in present):
            raise ValueError(f"{where}: labels must not be negative")
        return {label: int(label) for label in present}
    return {label: number for number, label in enumerate(sorted(present))}


def open_image(path: Path, size: int | None, channels: int) -> np.ndarray:
    """Reads an image as uint8 [C, H, W], scaled so that its short side is ``size`` and cut square; as it is if None.

    Raises:
        ValueError: if the file cannot be read as an image.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be read: {' '.join(str(error).split())}") from error
    if size is not None and picture.size != (size, size):
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((size, size), Image.Resampling.LANCZOS, box=box)
    array = np.asarray(picture)
    return array[None] if channels == 1 else np.moveaxis(array, 2, 0)


def guess_format(folder: Path, items: list[Item]) -> tuple[int, int]:
    """Size and channels of the first readable image: its short side, and 1 if it is grey, otherwise 3.

    Raises:
        ValueError: if no image can be read.
    """
    for item in items:
        try:
            with Image.open(folder / item.name) as picture:
                grey = picture.mode in ("1", "L", "LA", "I", "I;16")
                return min(picture.size), 1 if grey else 3
        except (UnidentifiedImageError, OSError):
            continue
    raise ValueError(f"no image in {folder} can be read")
