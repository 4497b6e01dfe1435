"""Sampled images in files: their pixels and their metadata."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.images.tensors import make_grid
from raysde.inference.samples import Drawn
from raysde.sampling.method import SETTINGS
from tests.support.checkpoints import write_model
from tests.support.pictures import open_image


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0), (-0.5, 2.0)])
def test_floats_are_saved_in_the_range_of_their_model(tmp_path, data_range):
    """Every float level is saved as its grey level, and values beyond black and white are clipped."""
    low, high = data_range
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    drawn = Drawn(low + (high - low) * levels / 255, None, 0, 1, data_range)
    path = drawn.save(tmp_path / "levels")[0]
    assert np.array_equal(np.asarray(Image.open(path)), levels[0, 0].numpy())
    beyond = Drawn(torch.tensor([low - 1.0, high + 1.0]).reshape(2, 1, 1, 1), None, 0, 1, data_range)
    assert [int(np.asarray(Image.open(path)).max()) for path in beyond.save(tmp_path / "beyond")[:2]] == [0, 255]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return Path(write_model(tmp_path_factory.mktemp("models") / "model", classes=3, class_names=("ant", "bee", "cow")))


def read_metadata(path: Path) -> dict:
    """The text of a PNG by keyword, each value in the type that it was given in."""
    with Image.open(path) as opened:
        metadata = dict(opened.info)
    assert metadata.pop("Software") == "raysde"
    for name, text in metadata.items():
        kept = name in ("prompt", "label", "negative", "model") or (name in SETTINGS and SETTINGS[name].kind is str)
        metadata[name] = text if kept and text != "-1" else json.loads(text)
    return metadata


@pytest.mark.parametrize(
    "asked",
    [
        {"prompts": ["two", "紅い 🚲", " a \n b "], "seed": 7, "guidance": 2.5, "guidance_interval": (0.2, math.inf)},
        {"labels": ["bee", 2, -1], "seed": 3, "negative": ["a", "", "c"], "guidance": 3.0, "solver": "edm", "churn": 5.0},
        {"prompts": ["a", "b", "c"], "labels": [0, 0, 1], "seed": [5, 0, 2**40], "first": 4, "solver": "ddim", "eta": 1.0},
        {"n": 3, "solver": "pc", "target_snr": 0.1, "corrector_steps": 2, "grid": "edm", "rho": 5.0, "denoise": True},
        {"n": 3, "times": [1.0, 0.5, 0.1, 0.01]},
    ],
    ids=["guided", "classes", "seeds", "corrected", "times"],
)  # fmt: skip
def test_an_image_can_be_drawn_again_from_what_its_file_says(folder, tmp_path, asked):
    """One alone, whatever stood beside it; and the file tells the weights by the hash of their own."""
    model, asked = checkpoint.load_model(folder), {**asked}
    asked |= {"times": torch.tensor(asked["times"], dtype=torch.float64)} if "times" in asked else {"steps": 4}
    drawn = model.sample(**asked)
    *paths, grid = drawn.save(tmp_path)
    for path, image in zip(paths, drawn.images, strict=True):
        assert torch.equal(open_image(path), image)
        metadata = read_metadata(path)
        assert metadata.pop("model") == hashlib.sha256((folder / "ema.safetensors").read_bytes()).hexdigest()
        again = {name: [metadata.pop(name)] for name in ("prompt", "label", "negative") if name in metadata}
        again = {name if name == "negative" else f"{name}s": value for name, value in again.items()}
        if "times" in metadata:
            metadata["times"] = torch.tensor(metadata["times"], dtype=torch.float64)
        again |= {"first": metadata.pop("number"), "n": 1, **metadata}
        assert torch.equal(model.sample(**again).images[0], image)
    whole, each = read_metadata(grid), [read_metadata(path) for path in paths]
    for name in ("prompt", "label", "seed", "negative"):
        values = [one.pop(name, None) for one in each]
        if len(set(values)) == 1:
            assert whole.pop(name, None) == values[0]
        else:
            assert whole.pop(f"{name}s") == values
    assert all({"number": one["number"], **whole} == one for one in each)


def test_the_command_says_what_it_drew_with(folder, tmp_path):
    """Every setting by its name, also those that were not given; files do not say where the model lay."""
    given = ["--prompt", "two", "--prompt", "три", "-n", "4", "--seed", "11", "--steps", "3", "--guidance", "1.5"]
    assert main(["sample", str(folder), *given, "--out", str(tmp_path / "out"), "--path", "2"]) == 0
    for number, name in enumerate(("two", "три", "two", "три")):
        path = tmp_path / "out" / f"image-00{number}.png"
        wanted = {"prompt": name, "seed": 11, "number": number, "steps": 3, "guidance": 1.5, "grid": "log_snr"}
        assert wanted.items() <= read_metadata(path).items()
        assert str(tmp_path).encode() not in path.read_bytes()
    for name in ("grid.png", "path.png"):
        metadata = read_metadata(tmp_path / "out" / name)
        assert (metadata["prompts"], metadata["seed"], metadata["steps"]) == (["two", "три", "two", "три"], 11, 3)


def test_a_strip_has_the_log_snr_of_each_column_above_it(folder):
    """By the SDE's own formula at the path's times, from the lowest on the left; the rest is the strip without it."""
    model = checkpoint.load_model(folder)
    path = model.sample_path(3, prompts=["two", "three"], seed=1, steps=2)
    log_snr = model.score_model.sde.log_snr(path.times).tolist()
    assert log_snr == sorted(log_snr)
    frames = path.frames.flatten(0, 2)
    captions = [word for word in ("two", "three") for _ in range(6)]
    wanted = make_grid(frames, 3, captions=captions, headings=[f"log-SNR {value:.1f}" for value in log_snr])
    assert np.array_equal(np.asarray(path.strip()), np.asarray(wanted))
    assert wanted.height > make_grid(frames, 3, captions=captions).height


@pytest.mark.parametrize(("kinds", "columns"), [(1, 3), (2, 2), (20, 20), (21, 7)])
def test_a_grid_has_a_column_for_each_of_at_most_twenty_prompts(kinds, columns):
    """Otherwise it is as square as possible: the smallest whole number whose square holds all images."""
    count = 9 if kinds == 1 else 2 * kinds
    prompts = [f"prompt {index % kinds}" for index in range(count)]
    images = torch.zeros(count, 1, 96, 96, dtype=torch.uint8)
    grid = Drawn(images, prompts, 0, 1).grid()
    assert grid.width == columns * (96 + 1) + 1
    shown = make_grid(images, columns, captions=prompts)
    assert grid.tobytes() == shown.tobytes()  # under the prompts
    assert grid.height > make_grid(images, columns).height
