"""Compare the speed and pixels of libraries that decode the images of shards.

    pip install opencv-python-headless imagecodecs    # peers; missing ones are skipped
    python benchmarks/decoders.py --font NotoColorEmoji.ttf [--count 400] [--repeats 7] [--seconds 0.3]

One thread. In every repeat the libraries take turns, each for about ``--seconds``; images/s are medians over repeats.
The line "raysde" is raysde.images.codec, which should be the fastest or within a few percent of it. Its pixels must
equal Pillow's for PNG, and be within a few levels for JPEG, where decoders may round differently.
"""

import argparse
import importlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pictures256 import SIDE, drawn, jpeg, png, small_grey
from raysde.images.codec import decode_image

Decode = Callable[[bytes], np.ndarray]


def pillow(kind: str, grey: bool) -> Decode:
    def decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
            return np.asarray(picture)

    return decode


def raysde(kind: str, grey: bool) -> Decode:
    return lambda data: decode_image(data, 1 if grey else 3)


def opencv(kind: str, grey: bool) -> Decode:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    how = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), how)


def simplejpeg(kind: str, grey: bool) -> Decode | None:
    if kind != "JPEG":
        return None
    decode = importlib.import_module("simplejpeg").decode_jpeg
    return lambda data: decode(data, "GRAY" if grey else "RGB")


def imagecodecs(kind: str, grey: bool) -> Decode:
    found = importlib.import_module("imagecodecs")
    return found.jpeg8_decode if kind == "JPEG" else found.png_decode


LIBRARIES: dict[str, tuple[Callable[[str, bool], Decode | None], str]] = {
    "Pillow": (pillow, "PIL"),
    "OpenCV": (opencv, "cv2"),
    "simplejpeg": (simplejpeg, "simplejpeg"),
    "imagecodecs": (imagecodecs, "imagecodecs"),
    "raysde": (raysde, "raysde"),
}
"""Factory of each library's decoder (it returns None for unsupported files), and the name of the module to import."""


def contents(font: str, count: int) -> dict[str, tuple[str, bool, list[bytes]]]:
    """Return for each case the kind of file, True if it is grey, and the files."""
    pictures = [drawn(index, font)[0] for index in range(count)]
    return {
        f"{SIDE}x{SIDE} JPEG": ("JPEG", False, [jpeg(picture) for picture in pictures]),
        f"{SIDE}x{SIDE} PNG": ("PNG", False, [png(picture) for picture in pictures]),
        "28x28 grey PNG": ("PNG", True, [png(small_grey(picture, 28)) for picture in pictures]),
        "8x8 grey PNG": ("PNG", True, [png(small_grey(picture, 8)) for picture in pictures]),
    }


def decoders(kind: str, grey: bool) -> dict[str, Decode]:
    """Return the decoders of the installed libraries."""
    made = {name: make(kind, grey) for name, (make, module) in LIBRARIES.items() if importlib.util.find_spec(module)}
    return {name: decode for name, decode in made.items() if decode is not None}


def rate(decode: Decode, files: list[bytes], seconds: float) -> float:
    """Return images/s over whole rounds of the files, for at least ``seconds``."""
    begin, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds or not done:
        for data in files:
            decode(data)
        done += len(files)
    return done / spent


def difference(decode: Decode, reference: Decode, files: list[bytes]) -> int:
    """Return the largest difference of two decoders' pixels, in levels."""
    pairs = ((np.squeeze(decode(data)).astype(int), reference(data)) for data in files)
    return max(int(np.abs(found - expected).max()) for found, expected in pairs)


def measure(case: str, kind: str, grey: bool, files: list[bytes], repeats: int, seconds: float) -> None:
    """Print the table of a case."""
    found = decoders(kind, grey)
    rates: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, decode in found.items():
            rates[name].append(rate(decode, files, seconds))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{case}, {statistics.median(len(data) for data in files) / 1e3:.1f} kB")
    for name, decode in found.items():
        apart = difference(decode, found["Pillow"], files)
        low, high = min(rates[name]), max(rates[name])
        relative = medians[name] / medians["Pillow"]
        print(
            f"  {name:12} {medians[name]:9.0f} images/s  {relative:5.2f} x Pillow  "
            f"({low:.0f} to {high:.0f}); pixels differ by {apart} at most"
        )
    others = {name: median for name, median in medians.items() if name != "raysde"}
    best = max(others, key=others.__getitem__)
    print(f"  fastest: {best}; raysde / {best} {medians['raysde'] / others[best]:.3f}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--font", required=True, help="a colour emoji font with bitmaps: NotoColorEmoji.ttf")
    arguments.add_argument("--count", type=int, default=400, help="number of files of each kind")
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=0.3)
    given = arguments.parse_args()
    missing = [name for name, (_, module) in LIBRARIES.items() if not importlib.util.find_spec(module)]
    if missing:
        print(f"not installed, skipped: {', '.join(missing)}")
    for case, (kind, grey, files) in contents(given.font, given.count).items():
        measure(case, kind, grey, files, given.repeats, given.seconds)


if __name__ == "__main__":
    main()
