"""Small real data sets and recipes that the tests share."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.checkpoints.description import content_hash
from raysde.config import loading
from raysde.data.dataset.manifest import SCHEMA, Manifest, write_manifest
from raysde.data.dataset.shards import write_shard
from raysde.data.ingest.digits import caption, load_digits
from raysde.images.codec import encode_image

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Networks of the tests are so small that threads only wait for each other. Programs that tests start have as many
# threads, since kernels of other numbers of threads may round otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).resolve().parents[1]


def open_image(path: str | Path) -> torch.Tensor:
    """Read a PNG that raysde wrote, by Pillow alone: uint8 [C, H, W]."""
    with Image.open(path) as opened:
        array = np.array(opened)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()


def write_digit_shards(folder: Path, rows: int = 200, shard_rows: int = 120, row_group: int = 1024) -> Manifest:
    """The first real digits with captions and labels, in shards, without Ray."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits()
    table = [
        {
            "image": {"bytes": encode_image(Image.fromarray(images[i]), quality=None), "path": None},
            "captions": [caption(int(labels[i]), i)],
            "label": str(labels[i]),
            "key": f"{i:04d}.png",
            "width": 8,
            "height": 8,
            "hash": f"{i:016x}",
        }
        for i in range(rows)
    ]
    parts = [table[start : start + shard_rows] for start in range(0, rows, shard_rows)]
    shards = tuple(
        write_shard(
            pa.Table.from_pylist(part, schema=SCHEMA),
            str(folder),
            f"train-{number:05d}.parquet",
            row_group=row_group,
            image=(8, 8),
        )
        for number, part in enumerate(parts)
    )
    names = tuple(str(digit) for digit in range(10))
    manifest = Manifest(str(folder), 1, (8, 8), row_group, shards, labels=names, captions=rows)
    write_manifest(manifest)
    return manifest


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Manifest:
    return write_digit_shards(tmp_path_factory.mktemp("digits") / "shards")


def small_recipe(data: Manifest, runs: Path, /, **changes) -> dict:
    """A recipe that trains in a second a step or less, with everything switched on."""
    tree = {
        "name": "small",
        "storage": str(runs),
        "data": {"path": data.path},
        "network": {
            "kind": "unet",
            "channels": 8,
            "multipliers": [1, 2],
            "blocks": 1,
            "attention": [4],
            "head_channels": 8,
        },
        "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2},
        "train": {"length": {"steps": 10}, "batch": 16, "lr": 1e-3, "warmup": 3, "ema": {"half_life": 100}},
        "log_every": 1,
        "checkpoint_every": 5,
    }
    for path, value in changes.items():
        loading.place(tree, path.split("__"), value)
    return tree


@pytest.fixture
def recipe(digits, tmp_path):
    """Makes recipes on the shared digits whose runs are kept in the test's own folder."""
    return lambda **changes: small_recipe(digits, tmp_path / "runs", **changes)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database in which there is nothing yet, to be copied; making its tables takes seconds."""
    from raysde.tracking import client_for

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    client_for(f"sqlite:///{path}")
    return path


class Recorded:
    """A sink that keeps metrics and pictures in memory."""

    def __init__(self) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[int] = []

    def metrics(self, step, values) -> None:
        self.values.append((step, dict(values)))

    def image(self, step, name, image) -> None:
        self.pictures.append(step)

    def of(self, key: str) -> dict[int, float]:
        return {step: values[key] for step, values in self.values if key in values}


@pytest.fixture
def sink() -> Recorded:
    return Recorded()


@contextmanager
def description_of(folder: Path) -> Iterator[dict]:
    """The content of checkpoint.json, to be changed as its writer would: its own hash fits afterwards."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    yield content
    content["sha256"] = content_hash(content)
    path.write_text(json.dumps(content))


def same_tensors(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def rng_image(seed: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)
