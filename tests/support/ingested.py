"""Data sets that are ingested in this process, without Ray."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from raysde.data.condition_column import ConditionColumn
from raysde.data.dataset.manifest import INGESTING, Manifest
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import Rules, convert_part
from raysde.data.ingest.samples import Sample
from raysde.data.ingest.sources.arrays import array_to_png
from tests.support.sources import Given


def ingest_here(parts, out: Path, rules: Rules, base: Manifest | None = None) -> Manifest:
    """Convert the parts of a source into a data set, or into the next version of ``base``."""
    (out / INGESTING).mkdir(parents=True, exist_ok=True)
    version = 1 if base is None else base.version + 1
    done = [convert_part(part, number, rules, str(out), version) for number, part in enumerate(parts)]
    return collect_parts(done, rules, str(out), source=f"source {version}", licence="", base=base)


def scored_parts(rows: int, each: int = 50, first: int = 0, side: int = 8) -> list[Given]:
    """Return parts of grey images with a score, a language, a flag, a label and a caption.

    Row i has the score i / 10, or none for every seventh row, and is English if i is odd.
    """
    samples = []
    for row in range(first, first + rows):
        pixels = np.random.default_rng(row).integers(0, 256, (side, side, 1), dtype=np.uint8)
        kept = {"score": None if row % 7 == 0 else row / 10, "language": "en" if row % 2 else "de", "safe": row % 5 > 0}
        samples.append(Sample(f"{row:06d}", array_to_png(pixels), (f"row {row}",), str(row % 3), kept=kept))
    return [Given(tuple(samples[start : start + each])) for start in range(0, rows, each)]


RULES = Rules(channels=1, size=8, row_group=8, shard_rows=40, keep=("score", "language", "safe"))


def described_parts(rows: int, first: int = 0) -> list[Given]:
    """Return the parts of :func:`scored_parts` with the attribute ``tilt``, row i modulo 10, and second images.

    The second image is the image itself.
    """
    return [
        Given(
            tuple(replace(each, attributes=(float(int(each.key) % 10),), condition=each.data) for each in part.samples)
        )
        for part in scored_parts(rows, first=first)
    ]


DESCRIBED = replace(RULES, attributes=("tilt",), condition=ConditionColumn("same"))
"""Rules for :func:`described_parts`."""
