"""Estimate what a training cluster needs: storage bandwidth, CPU cores for decoding, object-store memory, checkpoints.

    python benchmarks/scale_model.py [--decode-256 790] [--decode-512 200] [--write-gbps 1.0]

Every figure is an estimate by the formulas below, for a network of the size of Stable Diffusion 2 (866 M parameters).
Two costs are measured on the machine that runs this script, unless given: images that one core decodes per second at
256 and 512 px. The training rates per GPU are published ones, so the last columns compare linear scaling with what was
published for the same network: mosaicml/diffusion, A100, precomputed latents.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pictures256 import background
from raysde.data.dataset.split import lane_window
from raysde.data.ingest.probe import GROUP_BYTES
from raysde.images.codec import decode_image

GPUS = (1, 8, 32, 128)
PER_NODE, BATCH = 8, 2048
ROWS, MICROBATCH, SEGMENTS = 10**8, 64, 2
"""Rows of the data set, rows of a microbatch, and segments of each lane that exist at a time."""
AMPLIFICATION = 1.1
"""Bytes read for each byte used, see benchmarks/scale.py."""
PARAMETERS, STATE_BYTES = 866e6, 16
"""Parameters, and bytes of state of each in float32: weights, two moments, average."""
COPY_GBPS, EVERY = 20.0, 1000
"""GB/s from a GPU to page-locked memory, and steps between checkpoints."""
TEXT_BYTES = 77 * 1024 * 2
"""Embeddings of a caption: 77 tokens of 1,024 numbers in 16 bits."""
PUBLISHED = {256: {8: 1100, 32: 4080, 128: 11600}, 512: {8: 290, 128: 4590}}
"""Images/s of mosaicml/diffusion on A100 GPUs (its README)."""


@dataclass(frozen=True)
class Kind:
    """One kind of training data.

    Attributes:
        side: height and width of the images in pixels.
        latents: True for precomputed latents and embeddings, False for JPEG files.
        stored: bytes of a row in storage.
        decoded: bytes of a row in the object store.
    """

    side: int
    latents: bool
    stored: float
    decoded: float

    @property
    def rate(self) -> float:
        """Images/s that one A100 trains."""
        return PUBLISHED[self.side][8] / 8

    @property
    def rows_alive(self) -> int:
        """Decoded rows that the stream holds, over all workers: whole segments of every lane."""
        group = 1 << (-(-GROUP_BYTES // int(self.stored)) - 1).bit_length()
        shards = SimpleNamespace(bytes=int(ROWS * self.stored), rows=ROWS, row_group=group)
        return SEGMENTS * lane_window(shards, ROWS, BATCH, MICROBATCH, None)  # type: ignore[arg-type]


def list_kinds() -> Iterator[Kind]:
    """Yield pixels and latents at 256 and 512 px."""
    for side, file in ((256, 25e3), (512, 200e3)):
        yield Kind(side, False, file, side * side * 3)
        row = 2 * 4 * (side // 8) ** 2 * 2 + TEXT_BYTES
        yield Kind(side, True, row, row)


def measure_decoding(side: int, seconds: float = 2.0) -> float:
    """Return the JPEG images of a size that raysde decodes per second in this thread."""
    files = []
    for index in range(16):
        buffer = io.BytesIO()
        picture = background(np.random.default_rng([side, index])).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(buffer, format="JPEG", quality=90, subsampling="4:2:0")
        files.append(buffer.getvalue())
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        decode_image(files[done % len(files)], 3)
        done += 1
    return done / passed


def print_estimates(decoding: dict[int, float], write_gbps: float) -> None:
    """Print the table of the data path and of checkpoints."""
    print(
        "| data | GPUs | images/s | from storage | decoding cores per GPU | object store per node | "
        "checkpoint: copy, write | published |\n|---|---|---|---|---|---|---|---|"
    )
    for kind in list_kinds():
        for gpus in GPUS:
            rate = kind.rate * gpus
            cores = 0.0 if kind.latents else kind.rate / decoding[kind.side]
            nodes = -(-gpus // PER_NODE)
            store = kind.rows_alive * kind.decoded / nodes / 1e9
            state = PARAMETERS * STATE_BYTES / 1e9
            interval = EVERY * BATCH / rate
            write = state / write_gbps
            hidden = "hidden" if write <= interval else f"{write - interval:.0f} s exposed"
            published = PUBLISHED[kind.side].get(gpus) if kind.latents else None
            compared = f"{published} ({published / rate:.0%} of linear)" if published else ""
            what = f"{kind.side} px, {'latents and text' if kind.latents else 'JPEG'}"
            read = rate * kind.stored * AMPLIFICATION / 1e6
            print(
                f"| {what} | {gpus} | {rate:,.0f} | {read:,.0f} MB/s | {cores:.2f} | "
                f"{store:.1f} GB | {state / COPY_GBPS:.1f} s, {write:.0f} s {hidden} | {compared} |"
            )


def main() -> None:
    """Measure decoding unless given, and print the estimates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for side in (256, 512):
        parser.add_argument(f"--decode-{side}", type=float, help=f"images of {side} px that a core decodes per second")
    parser.add_argument("--write-gbps", type=float, default=1.0, help="GB/s that one node writes to object storage")
    args = parser.parse_args()
    decoding = {side: getattr(args, f"decode_{side}") or measure_decoding(side) for side in (256, 512)}
    print(f"estimated; one core decodes {decoding[256]:.0f} images/s of 256 px and {decoding[512]:.0f} of 512 px\n")
    print_estimates(decoding, args.write_gbps)


if __name__ == "__main__":
    main()
