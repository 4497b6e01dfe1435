"""Sampled images on disk in parts, each complete or treated as absent: Parquet files, or folders of PNG files.

part-00000.parquet    image: {bytes, path}, number, prompt, label, seed, negative, and numeric attributes by name
part-00000/           00000000.png and so on, and metadata.jsonl, written last, with the same columns
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysde.io.filesystems import child_path, open_filesystem, read_bytes, write_bytes

Form = Literal["parquet", "png"]
NUMBERS = {"number": "int64", "prompt": "string", "label": "int64", "seed": "int64", "negative": "string"}

Row = dict[str, Any]


def part_name(form: Form, part: int) -> str:
    """Return the name of the file or folder of a part."""
    return f"part-{part:05d}" + (".parquet" if form == "parquet" else "")


def image_schema(rows: Sequence[Row]) -> pa.Schema:
    """Return the Arrow schema of sampled images; ``label`` is text for class names, else int64, and further columns,
    the numeric attributes, are float64; paths of condition images are text."""
    named = any(isinstance(row["label"], str) for row in rows)
    kinds = {**NUMBERS, "label": "string"} if named else NUMBERS
    more = [name for row in rows[:1] for name in row if name not in NUMBERS]
    kinds = {**kinds, **{name: "string" if name.endswith("_file") else "float64" for name in more}}
    features = {
        "image": {"_type": "Image"},
        **{name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()},
    }
    return pa.schema(
        [
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), nullable=False),
            *(pa.field(name, getattr(pa, kind)()) for name, kind in kinds.items()),
        ],
        # Hugging Face's datasets recognises the image column by this entry
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def write_parquet(place: str, files: Sequence[bytes], rows: Sequence[Row]) -> None:
    """Write PNG files and their rows of metadata as one Parquet file.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    table = [{"image": {"bytes": file, "path": None}, **row} for file, row in zip(files, rows, strict=True)]
    out, schema = pa.BufferOutputStream(), image_schema(rows)
    pq.write_table(
        pa.Table.from_pylist(table, schema=schema),
        out,
        compression={"image.bytes": "none", "image.path": "zstd", **dict.fromkeys(schema.names[1:], "zstd")},
        write_page_checksum=True,
    )
    write_bytes(place, out.getvalue().to_pybytes())


def write_png(place: str, files: Sequence[bytes], rows: Sequence[Row]) -> None:
    """Write PNG files into a folder, and last their rows of metadata as ``metadata.jsonl``.

    Raises:
        OSError: naming the file that cannot be written.
    """
    system, inside = open_filesystem(place)
    system.create_dir(inside, recursive=True)
    for file, row in zip(files, rows, strict=True):
        write_bytes(child_path(place, png_name(row["number"])), file)
    said = [{"file_name": png_name(row["number"]), **{k: v for k, v in row.items() if v is not None}} for row in rows]
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in said)
    write_bytes(child_path(place, "metadata.jsonl"), lines.encode())


def png_name(number: int) -> str:
    """Return the file name of image ``number``."""
    return f"{number:08d}.png"


def is_complete_parquet(place: str, count: int) -> bool:
    """Return True if there is a Parquet file at ``place`` with ``count`` rows."""
    system, inside = open_filesystem(place)
    try:
        with system.open_input_file(inside) as source, pq.ParquetFile(source) as opened:
            return bool(opened.metadata.num_rows == count)
    except (FileNotFoundError, pa.ArrowInvalid):
        return False


def is_complete_png(place: str, count: int) -> bool:
    """Return True if the folder ``place`` has metadata of ``count`` images and all of their files."""
    try:
        lines = read_bytes(child_path(place, "metadata.jsonl")).decode().removesuffix("\n").split("\n")
    except FileNotFoundError:
        return False
    system, inside = open_filesystem(place)
    there = {info.base_name for info in system.get_file_info(pafs.FileSelector(inside)) if info.size}
    return len(lines) == count and {json.loads(line)["file_name"] for line in lines} <= there


WRITERS: dict[Form, Callable[[str, Sequence[bytes], Sequence[Row]], None]] = {
    "parquet": write_parquet,
    "png": write_png,
}
WHOLE: dict[Form, Callable[[str, int], bool]] = {"parquet": is_complete_parquet, "png": is_complete_png}
