"""Text chunks of PNG files, parsed by the PNG specification and by Pillow."""

import struct
import zlib
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.images.tensors import make_grid, save_picture, save_png
from raysde.runs.history import History
from raysde.tracking.spool import Spool

VALUES = {
    "prompt": "a red bicycle", "seed": 7, "guidance": 2.5, "guidance_interval": (0.2, 5.0), "negative": None,
    "scale": np.float32(0.5), "count": np.int64(3), "times": torch.tensor([1.0, 0.5]), "where": PurePosixPath("a/b"),
    "accents": "un vélo", "labels": ["дом", "紅い自転車 🚲"], "file": "a\udcff.png",
}  # fmt: skip
CHUNKS = {
    "Software": "raysde", "prompt": "a red bicycle", "seed": "7", "guidance": "2.5", "guidance_interval": "[0.2, 5.0]",
    "scale": "0.5", "count": "3", "times": "[1.0, 0.5]", "where": '"a/b"',
    "accents": "un vélo", "labels": '["дом", "紅い自転車 🚲"]', "file": "a\\udcff.png",
}  # fmt: skip


def read_text_chunks(file: bytes) -> dict[str, str]:
    """Return keyword and text of tEXt (Latin-1) and iTXt (UTF-8) chunks; PNG specification, 11.3.3."""
    found, place = {}, 8
    while file[place + 4 : place + 8] != b"IDAT":
        (length,) = struct.unpack(">I", file[place : place + 4])
        kind, content = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        assert struct.unpack(">I", file[place + 8 + length : place + 12 + length]) == (zlib.crc32(kind + content),)
        key, _, text = content.partition(b"\0")
        if kind == b"tEXt":
            found[key.decode("latin-1")] = text.decode("latin-1")
        if kind == b"iTXt":
            assert text[:2] == b"\0\0"  # not compressed
            found[key.decode("latin-1")] = text[2:].split(b"\0", 2)[2].decode()
        place += 12 + length
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_files_say_what_they_were_drawn_with(tmp_path, channels):
    """Text in any alphabet is read back unchanged, other values as JSON, and None is left out."""
    images = torch.randint(0, 256, (2, channels, 4, 5), dtype=torch.uint8)
    picture = make_grid(images)
    picture.info.update(VALUES)
    save_picture(picture, tmp_path / "grid.png")
    History(tmp_path, 0).image(3, "grid", picture)
    spooled = Spool(tmp_path / "spool.jsonl").add_picture(3, "grid", picture)
    paths = save_png(images, tmp_path, ["a", "b"], metadata=[VALUES, {**VALUES, "seed": 8}])
    for path in (tmp_path / "grid.png", tmp_path / "samples" / "grid-000000003.png", spooled, paths[0]):
        assert read_text_chunks(path.read_bytes()) == CHUNKS
        with Image.open(path) as opened:
            assert opened.info == CHUNKS
    assert read_text_chunks(paths[1].read_bytes()) == {**CHUNKS, "seed": "8"}


def test_files_without_values_say_who_wrote_them(tmp_path):
    images = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    (path,) = save_png(images, tmp_path, ["a"])
    save_picture(make_grid(images), tmp_path / "grid.png")
    for file in (path, tmp_path / "grid.png"):
        assert read_text_chunks(file.read_bytes()) == {"Software": "raysde"}
    save_picture(make_grid(images), tmp_path / "grid.jpg")
    with Image.open(tmp_path / "grid.jpg") as opened:
        assert opened.format == "JPEG"
