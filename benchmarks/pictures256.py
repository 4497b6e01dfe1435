"""Generate distinct 256x256 JPEG pictures with captions: colour emoji on textured, noisy backgrounds.

    python benchmarks/pictures256.py FOLDER --font NotoColorEmoji.ttf [--count 6000]

Each picture depends only on its index. The files have quality 90 with chroma subsampling, as usual for photographs, and
about 10 to 25 kB. FOLDER receives the files and metadata.jsonl; other benchmarks import this script.
"""

import argparse
import io
import json
import unicodedata
from collections.abc import Iterator
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 256
BITMAP = 109
"""The only font size with bitmaps, of 136 x 128 pixels."""
RANGES = (range(0x2300, 0x2C00), range(0x1F300, 0x1FB00))
PROCESSES = 2


@lru_cache(maxsize=1)
def opened(font: str) -> tuple[ImageFont.FreeTypeFont, str]:
    """Return the font and the named characters that it has bitmaps of."""
    found = ImageFont.truetype(font, BITMAP)
    named = (chr(code) for codes in RANGES for code in codes if unicodedata.name(chr(code), ""))
    return found, "".join(each for each in named if found.getmask(each, mode="RGBA").getbbox())


def background(random: np.random.Generator) -> Image.Image:
    """Return a gradient between two colours with blotches of two sizes and grain like a camera's."""
    across = np.linspace(0.0, 1.0, SIDE)
    angle = random.uniform(0.0, 2.0 * np.pi)
    mix = np.cos(angle) * across[None, :, None] + np.sin(angle) * across[:, None, None]
    first, second = random.uniform(30.0, 225.0, (2, 3))
    colours = first + (second - first) * (mix - mix.min()) / (mix.max() - mix.min())
    for cells, strength in ((6, 30.0), (40, random.uniform(4.0, 14.0))):
        blotches = random.normal(0.0, strength, (cells, cells)).astype(np.float32)
        colours += np.asarray(Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC))[:, :, None]
    colours += random.normal(0.0, random.uniform(2.0, 6.0), (SIDE, SIDE, 1))
    return Image.fromarray(colours.clip(0.0, 255.0).astype(np.uint8))


def drawn(index: int, font: str) -> tuple[Image.Image, str]:
    """Return the picture of an index, and its caption."""
    random = np.random.default_rng([SIDE, index])
    letters, characters = opened(font)
    character = characters[index % len(characters)]
    glyph = Image.new("RGBA", (136, 136))
    ImageDraw.Draw(glyph).text((0, 4), character, font=letters, embedded_color=True, anchor="lt")
    side = int(random.integers(130, 230))
    glyph = glyph.resize((side, side), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(random.uniform(-25.0, 25.0), Image.Resampling.BICUBIC, expand=True)
    picture = background(random)
    room = max(1, SIDE - min(glyph.size))
    picture.paste(glyph, tuple(int(place) for place in random.integers(0, room, 2)), glyph)
    return picture, unicodedata.name(character).lower()


def jpeg(picture: Image.Image) -> bytes:
    """Return the picture as JPEG bytes with quality 90 and chroma subsampling."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90, subsampling="4:2:0")
    return buffer.getvalue()


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def small_grey(picture: Image.Image, side: int) -> Image.Image:
    """Return a small grey picture, as in MNIST or scikit-learn's digits."""
    return picture.convert("L").resize((side, side), Image.Resampling.BOX)


def written(index: int, folder: Path, font: str, grey: int) -> dict[str, str]:
    """Write one file, and return its line of metadata.jsonl."""
    picture, caption = drawn(index, font)
    name = f"{index:06d}.{'png' if grey else 'jpg'}"
    (folder / name).write_bytes(png(small_grey(picture, grey)) if grey else jpeg(picture))
    return {"file_name": name, "text": caption}


def make(folder: Path, font: str, count: int, *, grey: int = 0) -> Path:
    """Write a folder of ``count`` pictures with captions unless it exists; with ``grey``, grey PNGs of that side
    length."""
    listing = folder / "metadata.jsonl"
    if listing.exists():
        if (found := len(listing.read_text().splitlines())) != count:
            raise SystemExit(f"{folder} holds {found} pictures, not {count}; remove it or choose another folder")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(PROCESSES) as pool:
        lines = pool.map(partial(written, folder=folder, font=font, grey=grey), range(count), chunksize=64)
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and caption of each picture in a folder."""
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        entry = json.loads(line)
        yield folder / entry["file_name"], entry["text"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--font", required=True, help="a colour emoji font with bitmaps: NotoColorEmoji.ttf")
    arguments.add_argument("--count", type=int, default=6000)
    given = arguments.parse_args()
    sizes = [path.stat().st_size for path, _ in files(make(given.folder, given.font, given.count))]
    low, middle, high = np.percentile(sizes, [10, 50, 90]) / 1e3
    print(
        f"{len(sizes)} pictures in {given.folder}: {low:.1f}, {middle:.1f}, {high:.1f} kB (10th, 50th, 90th percentile)"
    )


if __name__ == "__main__":
    main()
