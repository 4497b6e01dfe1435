"""Seven labelled images as files, in several layouts, and the samples that a source reads from them."""

import io
import json
import pickle
import tarfile
from dataclasses import dataclass

from raysde.data.ingest.samples import Bad
from raysde.data.ingest.sources import open_source
from raysde.data.ingest.sources.arrays import array_to_png
from tests.support.pictures import rng_image

COUNT = 7
NAMES = [f"{number:02d}" for number in range(COUNT)]
IMAGES = [rng_image(number) for number in range(COUNT)]
FILES = [array_to_png(image) for image in IMAGES]


def rows_of(source):
    """Return the samples of all parts of a source, with each part unpickled as in another process."""
    return [sample for part in pickle.loads(pickle.dumps(source.parts)) for sample in part.read()]


def read(path, **options):
    return rows_of(open_source(str(path), order="source", **options))


def said(samples):
    """Return the samples without their keys."""
    assert not [sample for sample in samples if isinstance(sample, Bad)]
    return [(sample.data, sample.captions, sample.label) for sample in samples]


def reasons(samples):
    return [sample.reason for sample in samples if isinstance(sample, Bad)]


def write_images(folder, names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(names, FILES, strict=False):
        target = folder / (name if "." in name else f"{name}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def write_lines(folder, rows, file="metadata.jsonl"):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / file).write_text(text, encoding="utf-8")
    return folder


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for member, data in members:
            header = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


@dataclass(frozen=True)
class Given:
    """A part with its samples in memory."""

    samples: tuple
    name: str = "given"

    @property
    def count(self):
        return len(self.samples)

    def read(self):
        yield from self.samples
