"""Classes and captions together, from shards to images."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.dataset.manifest import SCHEMA, Manifest, write_manifest
from raysde.data.dataset.shards import write_shard
from raysde.images.codec import encode_image
from raysde.images.tensors import make_grid
from raysde.inference.model import Model
from raysde.runs.build import new_state
from raysde.runs.hooks import draw_sample_grid
from raysde.runs.local import train_here
from raysde.runs.run import open_run

WORDS = ("dark below", "light below")


def halves(above: int, below: int) -> np.ndarray:
    """Return a 4 x 4 image whose upper half depends on the class and whose lower half on the caption."""
    picture = np.full((4, 4), 40 + 175 * below, dtype=np.uint8)
    picture[:2] = 40 + 175 * above
    return picture


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("halves")
    rows = [
        {
            "image": {"bytes": encode_image(Image.fromarray(halves(above, below)), quality=None), "path": None},
            "captions": [WORDS[below]],
            "label": ("night", "day")[above],
            "key": f"{number}.png",
            "width": 4,
            "height": 4,
            "hash": f"{number:016x}",
        }
        for number, (above, below) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)] * 8)
    ]
    shard = write_shard(
        pa.Table.from_pylist(rows, schema=SCHEMA), str(folder), "train-00000.parquet", row_group=32, image=(4, 4)
    )
    manifest = Manifest(str(folder), 1, (4, 4), 32, (shard,), labels=("night", "day"), captions=len(rows))
    write_manifest(manifest)
    return manifest


def test_class_and_caption_are_both_obeyed(data, tmp_path):
    """Samples follow every combination of class and caption, also with guidance, and each condition alone."""
    tree = {
        "name": "both", "storage": str(tmp_path), "data": {"path": data.path}, "class_conditional": True,
        "network": {"kind": "unet", "channels": 16, "multipliers": [1], "blocks": 1, "attention": [4], "head_channels": 16},
        "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2},
        "train": {"length": {"steps": 200}, "batch": 32, "lr": 3e-3, "weighting": "target", "warmup": 10, "decay": "cosine", "ema": {"half_life": 300}},
        "sampling": {"every": 200, "count": 4, "labels": ["night", "day"], "prompts": list(WORDS), "steps": 2},
        "log_every": 200, "checkpoint_every": 200,
    }  # fmt: skip
    train_here(open_run(loading.parse_recipe(tree)), None)
    model = checkpoint.load_model(tmp_path / "both" / checkpoint.checkpoint_name(200))
    labels, words = [0, 0, 1, 1] * 4, [0, 1, 0, 1] * 4
    settings = {"seed": 3, "solver": "heun", "steps": 8}
    for guidance in (1.0, 2.0):
        drawn = model.sample(labels=labels, prompts=[WORDS[word] for word in words], guidance=guidance, **settings)
        upper, lower = (
            drawn.images[:, 0, rows].float().mean(dim=(1, 2)) > 127.5 for rows in (slice(0, 2), slice(2, 4))
        )
        assert upper.tolist() == [bool(label) for label in labels]
        assert lower.tolist() == [bool(word) for word in words]
    by_class = model.sample(labels=labels, guidance=2.0, **settings).images[:, 0, :2].float().mean(dim=(1, 2)) > 127.5
    assert by_class.tolist() == [bool(label) for label in labels]
    by_words = model.sample(prompts=[WORDS[word] for word in words], guidance=2.0, **settings).images
    assert (by_words[:, 0, 2:].float().mean(dim=(1, 2)) > 127.5).tolist() == [bool(word) for word in words]
    assert torch.equal(
        model.sample(labels=[1], prompts=[WORDS[0]], **settings).images[0, 0] > 127,
        torch.from_numpy(halves(1, 0) > 127),
    )


def test_a_grids_classes_are_the_data_sets(data, tmp_path):
    tree = {
        "name": "grid", "storage": str(tmp_path), "data": {"path": data.path}, "class_conditional": True,
        "network": {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []}, "sampling": {"labels": ["day", "dya"]},
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"sampling\.labels: 'dya' is no class; did you mean 'day'\? there are night, day"
    ):
        open_run(loading.parse_recipe(tree))


def test_a_grid_takes_prompts_and_classes_in_turn(data, tmp_path):
    tree = {
        "name": "grid", "storage": str(tmp_path), "data": {"path": data.path}, "class_conditional": True,
        "network": {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []},
        "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2},
        "sampling": {"count": 5, "steps": 2, "labels": ["day", "night"], "prompts": [*WORDS, ""], "guidance": 2.0, "seed": 7},
    }  # fmt: skip
    run = open_run(loading.parse_recipe(tree))
    state = new_state(run, torch.device("cpu"))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=g))
    asked = {"labels": [1, 0, 1, 0, 1], "prompts": [*WORDS, "", *WORDS]}
    drawn = Model(state.model, run.spec).sample(**asked, guidance=2.0, seed=7, solver=run.spec.default_solver, steps=2)
    columns = len(WORDS) + 1  # one column per prompt
    captions = [f"{prompt or '(empty prompt)'} ({label})" for prompt, label in
                zip(asked["prompts"], ["day", "night", "day", "night", "day"], strict=True)]  # fmt: skip
    wanted = make_grid(drawn.images, columns, captions=captions)
    assert draw_sample_grid(run, state.model).tobytes() == wanted.tobytes()
    other = Model(state.model, run.spec).sample(
        **{**asked, "labels": [0] * 5}, guidance=2.0, seed=7, solver=run.spec.default_solver, steps=2
    )
    assert not torch.equal(other.images[0], drawn.images[0])
