"""Images as conditions: super-resolution and inpainting, from the recipe to edited images."""

import gzip
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from raysde import rng
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.conditioning.conditioner import Condition, Conditioner, Encoded
from raysde.conditioning.images import InpaintCondition, UpscaleCondition, draw_planes
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.manifest import SCHEMA, Manifest, write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shards import write_shard
from raysde.evaluation.held_out import check_image_condition
from raysde.images.codec import encode_image
from raysde.inference.bulk import Bulk, draw_all
from raysde.inference.conditions import encode_rows
from raysde.inference.guidance import Guidance
from raysde.inference.image_conditions import image_columns, sample_with_planes
from raysde.inference.model import Model
from raysde.inference.prompt_file import read_requests
from raysde.models.spec import ModelSpec
from raysde.registry.serving import Served, request_columns
from raysde.runs.build import make_objective
from raysde.runs.hooks import draw_sample_grid
from raysde.runs.local import train_here
from raysde.runs.run import check_run, open_run
from raysde.sampling.sampler import sample
from raysde.training.objective import microbatch_loss
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.models import inputs, noisy_model, spec_with
from tests.support.real import real
from tests.support.training import same_tensors, small_recipe, stirred

UPSCALE, INPAINT = UpscaleCondition(factor=2, noise=0.5), InpaintCondition(hole=(0.25, 0.75))


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Manifest:
    return write_digit_shards(tmp_path_factory.mktemp("digits"))


def conditional_recipe(data, runs, /, kind="upscale", **changes):
    return small_recipe(data, runs, **{"text": None, "image_condition": {"kind": kind, "dropout": 0.3}, **changes})


def conditional_model(condition, **changes) -> Model:
    """Return a model with an image condition, with random weights wherever they start at zero."""
    return noisy_model(spec_with(image_condition=condition, **changes))


def pictures(count=3, side=8):
    return torch.randint(0, 256, (count, 1, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_planes_of_a_smaller_copy_are_its_enlargement_its_noise_and_ones():
    """Without noise the copy is torch's bicubic enlargement of block means; with noise its level is the one drawn."""
    x0 = torch.rand(4096, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    small = x0.reshape(-1, 1, 2, 2, 2, 2).mean(dim=(3, 5))
    plain = replace(UPSCALE, noise=0.0).draw(x0, torch.Generator().manual_seed(3))
    enlarged = F.interpolate(small, size=(4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(plain, torch.cat([enlarged, torch.zeros_like(x0), torch.ones_like(x0)], dim=1))
    noisy = UPSCALE.draw(x0, torch.Generator().manual_seed(3))
    level = noisy[:, 1].flatten(1)
    assert torch.equal(level.amin(dim=1), level.amax(dim=1))
    level = level[:, 0]
    # uniform levels: mean 1/2, standard error 1 / sqrt(12 N)
    assert abs(level.mean().item() - 0.5) < 4.0 / math.sqrt(12.0 * len(x0))
    given = UPSCALE.given(small + (0.5 * level)[:, None, None, None], 0.5 * level)
    torch.testing.assert_close(given[:, 1], noisy[:, 1])
    # block means of the enlargement differ from the copy, but by a linear map that is one for constants
    shift = (noisy[:, 0] - plain[:, 0]).mean(dim=(1, 2)) / (0.5 * level)
    # the mean of four independent standard normals has variance 1/4; the sample variance an error of 1/4 sqrt(2 / N)
    assert abs(shift.var().item() - 0.25) < 4.0 * 0.25 * math.sqrt(2.0 / len(x0))


def test_a_hole_is_a_rectangle_of_the_sizes_asked_for():
    """Every hole is a full rectangle with sides from 2 to 6 of 8 pixels, each size and corner pixel occurs, and
    pixels outside are the image's."""
    x0 = torch.rand(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1.0
    planes = INPAINT.draw(x0, torch.Generator().manual_seed(4))
    hole = planes[:, 1] == 0.0
    assert torch.equal(planes[:, :1], torch.where(hole[:, None], 0.0, x0))
    rows, columns = hole.any(dim=2), hole.any(dim=1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    for sides in (rows, columns):
        assert set(sides.sum(dim=1).tolist()) == {2, 3, 4, 5, 6}
        assert ((sides[:, 1:] != sides[:, :-1]).sum(dim=1) <= 2).all()
        # a side of length s covers the first pixel with probability 1 / (8 - s + 1)
        lengths = sides.sum(dim=1).double()
        chance = 1.0 / (9.0 - lengths)
        error = (chance * (1.0 - chance)).sum().sqrt()
        assert abs(sides[:, 0].sum() - chance.sum()) < 4.0 * error
        assert abs(sides[:, -1].sum() - chance.sum()) < 4.0 * error


def test_dropped_planes_are_zeros_and_nothing_else_changes():
    x0 = torch.rand(2000, 1, 4, 4) + 1.0
    for condition in (UPSCALE, INPAINT):
        whole = draw_planes(condition, x0, torch.Generator().manual_seed(5))
        some = draw_planes(replace(condition, dropout=0.3), x0, torch.Generator().manual_seed(5))
        gone = (some == 0.0).flatten(1).all(dim=1)
        assert abs(gone.double().mean().item() - 0.3) < 4.0 * math.sqrt(0.3 * 0.7 / len(x0))
        assert torch.equal(some[~gone], whole[~gone])


def test_an_image_joins_the_other_conditions():
    """The joint dropout takes the image too, and batches of conditions are joined with their images."""
    conditioner = Conditioner(None, None, 2)
    planes = torch.rand(3, 2, 4, 4) + 1.0
    condition = Condition(labels=torch.tensor([0, 1, 0]), image=planes)
    dropped = condition.drop_rows(torch.tensor([False, True, False]), conditioner.null())
    assert dropped.labels.tolist() == [0, -1, 0]
    assert torch.equal(dropped.image, planes * torch.tensor([1.0, 0.0, 1.0])[:, None, None, None])
    encoded = conditioner(condition)
    assert torch.equal(encoded.image, planes)
    assert torch.equal(encoded.rows(torch.tensor([2])).image, planes[2:])
    null = replace(conditioner(Condition(labels=torch.tensor([-1]))), image=torch.zeros(1, 2, 4, 4))
    joined = encoded.join_rows(null)
    assert torch.equal(joined.image, torch.cat([planes, torch.zeros(1, 2, 4, 4)]))
    torch.testing.assert_close(joined.pooled[3:], null.pooled)
    assert not Condition(image=planes).is_empty


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"kind": "dit", "channels": 16, "blocks": 1, "heads": 2},
        {"kind": "ncsnpp", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "progressive": "output_skip", "progressive_input": "input_skip"},
    ],
)  # fmt: skip
def test_every_network_sees_the_image_and_returns_images(network, digits, tmp_path):
    changes = {f"network__{key}": value for key, value in network.items()}
    if network:
        changes = {"network": network}
    run = open_run(loading.parse_recipe(conditional_recipe(digits, tmp_path, **changes)))
    check_run(run)
    model = stirred(run).model.eval()
    x, t = inputs(4)
    planes = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        conditional, bare = (model.predict(x, t, Encoded(image=each)) for each in (planes, None))
        zeros = model.predict(x, t, Encoded(image=torch.zeros_like(planes)))
    assert conditional.shape == x.shape
    assert torch.equal(bare, zeros)
    assert (conditional - bare).abs().flatten(1).amax(dim=1).min() > 1e-4


def test_planes_have_their_own_stream(digits, tmp_path):
    """Noise and times are those of a run without the key; planes are keyed by (seed, step, microbatch)."""
    runs = [
        open_run(loading.parse_recipe(conditional_recipe(digits, tmp_path, **more)))
        for more in ({}, {"image_condition": None})
    ]
    seen = {0: [], 1: []}
    for number, run in enumerate(runs):
        state, objective = stirred(run), make_objective(run)
        forward = lambda x_t, t, condition, number=number: (seen[number].append((x_t, t, condition)), (torch.zeros_like(x_t), None))[1]  # noqa: E731  # fmt: skip
        reader = Reader(run.manifest, fields=run.feed.fields)
        batches = [batch for step in read_batches(run.feed, reader, 0, 3) for batch in step]
        for batch in batches:
            microbatch_loss(forward, state.model, batch, objective, torch.device("cpu"))
    for first, second in zip(seen[0], seen[1], strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    batch, condition = batches[-1], runs[0].spec.image_condition
    x0 = batch.images.float() / 127.5 - 1.0
    stream = rng.generator(runs[0].config.seed, rng.PLANES, batch.step, batch.index)
    wanted = draw_planes(condition, x0, stream)
    kept = seen[0][-1][2].image.flatten(1).any(dim=1)
    assert kept.any()
    torch.testing.assert_close(seen[0][-1][2].image[kept], wanted[kept])


@pytest.mark.parametrize("kind", ["upscale", "inpaint"])
def test_a_run_is_the_same_after_a_restart(digits, tmp_path, kind):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    recipe = conditional_recipe(digits, whole, kind, class_conditional=True, validation__rows=16, validation__every=5)
    train_here(open_run(loading.parse_recipe(recipe)), None)
    short = {**recipe["train"], "length": {"steps": 5}}
    train_here(open_run(loading.parse_recipe({**recipe, "storage": str(halved), "train": short})), None)
    train_here(open_run(loading.parse_recipe({**recipe, "storage": str(halved)})), None)
    ends = [checkpoint.load_model(folder / "small" / checkpoint.checkpoint_name(10)) for folder in (whole, halved)]
    assert same_tensors(*(each.score_model.state_dict() for each in ends))
    assert ends[0].spec.image_condition.kind == kind


def test_models_without_an_image_keep_their_description():
    assert "image_condition" not in spec_with().dump()
    conditional = spec_with(image_condition=UPSCALE)
    assert ModelSpec.parse(json.loads(json.dumps(conditional.dump()))) == conditional
    assert (conditional.planes, conditional.network_image) == (3, (4, 8, 8))
    assert spec_with(image_condition=INPAINT).planes == 2


def test_a_recipe_that_does_not_fit_gets_a_sentence(digits, tmp_path):
    def refuse(said, **changes):
        with pytest.raises(ValueError, match=said):
            open_run(loading.parse_recipe(conditional_recipe(digits, tmp_path, **changes)))

    refuse("factor must be at least 2", image_condition__factor=1)
    refuse("image_condition.factor=3 does not divide the image size", image_condition__factor=3)
    refuse("noise must be a number of at least 0", image_condition__noise=-1.0)
    refuse(r"dropout must lie in \[0, 1\]", image_condition__dropout=2.0)
    refuse("hole must be", image_condition={"kind": "inpaint", "hole": [0.5, 0.2]})
    refuse("image_condition", image_condition={"kind": "colorise"})
    refuse("works on pixels", latent={"vae": "none"})


def test_upscaling_takes_the_images_as_a_condition():
    """``upscale`` draws from the score under the planes of the given images, in any batch, and with guidance."""
    model, small = conditional_model(UPSCALE), pictures(3, 4)
    settings = {"steps": 3, "solver": "heun", "seed": 4, "dtype": torch.float32}
    drawn = model.upscale(small, 2, **settings)
    floats = small.float() / 127.5 - 1.0
    planes = UPSCALE.given(floats, torch.zeros(3))
    for index in range(3):
        encoded = Encoded(image=planes[index : index + 1])
        stream = rng.generator(4, rng.IMAGE, index)
        score = lambda x, t, encoded=encoded: model.score_model.score(x, t, encoded)  # noqa: E731
        alone = sample(score, model.sde, (1, 1, 8, 8), solver="heun", steps=3, generator=[stream])
        torch.testing.assert_close(drawn.images[index : index + 1], alone.x, atol=1e-4, rtol=1e-4)
    batches = model.upscale(small, 2, batch_size=2, **settings)
    torch.testing.assert_close(batches.images, drawn.images, atol=1e-4, rtol=1e-4)
    assert drawn.settings["method"] == "trained"
    led = model.upscale(small, 2, guidance=2.0, **settings)
    assert not torch.allclose(led.images, drawn.images, atol=1e-3)
    noisy = model.upscale(small, 2, noise=20.0, **settings)
    assert not torch.allclose(noisy.images, drawn.images, atol=1e-3)
    again = model.upscale(small[1:], 2, noise=20.0, first=1, **settings)
    torch.testing.assert_close(again.images, noisy.images[1:], atol=1e-4, rtol=1e-4)
    other = model.upscale(small, 2, method="replacement", steps=3)
    assert other.settings["method"] == "replacement"
    with pytest.raises(ValueError, match=r"noise=80, but the model was trained with noise from 0 to 63\.75"):
        model.upscale(small, 2, noise=80.0, **settings)
    with pytest.raises(ValueError, match="resample has no effect on a model that is trained for the task"):
        model.upscale(small, 2, resample=1, **settings)


def test_inpainting_takes_the_known_pixels_as_a_condition_and_keeps_them():
    model, images = conditional_model(INPAINT), pictures()
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[2:6, 3:7] = False
    settings = {"steps": 3, "solver": "heun", "seed": 4}
    drawn = model.inpaint(images, mask, **settings)
    assert torch.equal(drawn.images[..., mask], images[..., mask])
    hidden = torch.where(mask, images, 255 - images)
    assert torch.equal(model.inpaint(hidden, mask, **settings).images, drawn.images)
    shown = torch.where(mask, 255 - images, images)
    assert not torch.equal(model.inpaint(shown, mask, **settings).images[..., ~mask], drawn.images[..., ~mask])
    each = mask.expand(3, 1, 8, 8)
    assert torch.equal(model.inpaint(images, each, **settings).images, drawn.images)
    with pytest.raises(ValueError, match="noise=3 has no effect"):
        model.inpaint(images, mask, noise=3.0, **settings)


def test_guides_need_the_same_image():
    model, other = conditional_model(UPSCALE), conditional_model(INPAINT)
    with pytest.raises(ValueError, match="autoguide: it takes other images as conditions"):
        model.upscale(pictures(2, 4), 2, autoguide=other, guidance=2.0)


def test_the_command_line_upscales_by_the_trained_model(digits, tmp_path, capsys):
    train_here(open_run(loading.parse_recipe(conditional_recipe(digits, tmp_path))), None)
    where, small = tmp_path / "small" / checkpoint.checkpoint_name(10), pictures(1, 4)
    Image.fromarray(small[0, 0].numpy()).save(tmp_path / "small.png")
    edit = ["edit", str(where), "--image", str(tmp_path / "small.png"), "--upscale", "2", "--steps", "2"]
    assert main([*edit, "--out", str(tmp_path / "out")]) == 0
    wanted = checkpoint.load_model(where).upscale(small, 2, steps=2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "image-000.png")), wanted.images[0, 0].numpy())
    capsys.readouterr()
    said = refused(capsys, *edit, "--iterations", "3", "--out", str(tmp_path / "more"))
    assert "iterations has no effect on a model that is trained for the task" in said


def read_idx(file: Path, rows: int) -> np.ndarray:
    with gzip.open(file) as opened:
        return np.frombuffer(opened.read(16 + rows * 784), np.uint8, offset=16).reshape(rows, 28, 28)


@pytest.mark.slow
def test_clothes_are_upscaled_better_than_by_interpolation(tmp_path):
    """Fashion-MNIST from 14 to 28 pixels, on 64 test images: the mean of eight samples has a lower mean squared error
    than bicubic interpolation.
    """
    source = real("fashion-mnist")
    images = read_idx(next(source.glob("train-images*")), 12_000)
    rows = [
        {
            "image": {"bytes": encode_image(Image.fromarray(each), quality=None), "path": None}, "captions": [],
            "label": None, "key": f"{number:05d}", "width": 28, "height": 28, "hash": f"{number:016x}",
        }
        for number, each in enumerate(images)
    ]  # fmt: skip
    folder = tmp_path / "clothes"
    folder.mkdir()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    shard = write_shard(table, str(folder), "train-00000.parquet", row_group=1024, image=(28, 28))
    write_manifest(Manifest(str(folder), 1, (28, 28), 1024, (shard,)))
    steps = 400
    recipe = {
        "name": "clothes", "storage": str(tmp_path), "data": {"path": str(folder)},
        "sde": {"kind": "vp", "schedule": "cosine"},
        "image_condition": {"kind": "upscale", "factor": 2, "noise": 0.05, "dropout": 0.05},
        "network": {"kind": "unet", "channels": 32, "multipliers": [1, 2], "blocks": 1, "attention": [], "patch": 2},
        "train": {"length": {"steps": steps}, "batch": 32, "lr": 3e-3, "betas": [0.9, 0.99], "weighting": "target",
                  "times": {"kind": "lognormal", "mean": -0.4, "std": 1.2}, "warmup": 50, "decay": "cosine",
                  "ema": {"half_life": 2000}},
        "validation": {"rows": 0}, "log_every": 100, "checkpoint_every": 0,
    }  # fmt: skip
    train_here(open_run(loading.parse_recipe(recipe)), None)
    model = checkpoint.load_model(tmp_path / "clothes" / checkpoint.checkpoint_name(steps))
    truth = torch.from_numpy(read_idx(next(source.glob("t10k-images*")), 64).copy())[:, None]
    small = F.avg_pool2d(truth.float(), 2).round().to(torch.uint8)
    bicubic = F.interpolate(small.float(), scale_factor=2.0, mode="bicubic", align_corners=False).clamp(0, 255)
    drawn = model.upscale(small.repeat_interleave(8, dim=0), 2, steps=8).images.unflatten(0, (64, 8))
    mean = drawn.float().mean(dim=1)
    errors = [(each - truth.float()).square().mean().item() / 255.0**2 for each in (mean, bicubic, drawn[:, 0].float())]
    print(f"mean squared error: mean of 8 samples {errors[0]:.5f}, bicubic {errors[1]:.5f}, one sample {errors[2]:.5f}")
    assert errors[0] < errors[1]


def write_pictures(folder: Path, images: torch.Tensor, name: str) -> list[str]:
    names = [f"{name}{number}.png" for number in range(len(images))]
    for file, image in zip(names, images, strict=True):
        Image.fromarray(image[0].numpy()).save(folder / file)
    return names


def test_a_prompt_file_and_a_request_name_the_images(tmp_path):
    """Rows of a prompt file and of a request are drawn as by ``inpaint`` for the files that they name."""
    model, images = conditional_model(INPAINT), pictures()
    masks = torch.full((3, 1, 8, 8), 255, dtype=torch.uint8)
    masks[0, :, 2:6, 1:5], masks[1, :, :4], masks[2, :, :, 6:] = 0, 0, 0
    pairs = list(zip(write_pictures(tmp_path, images, "a"), write_pictures(tmp_path, masks, "m"), strict=True))
    file = tmp_path / "rows.csv"
    file.write_text("image,mask,seed\n" + "".join(f"{a},{m},{seed}\n" for seed, (a, m) in enumerate(pairs)))
    requests = read_requests(str(file), image_columns=image_columns(model.spec))
    settings = {
        "batch_size": 2,
        "guidance": 1.0,
        "guidance_interval": None,
        "autoguide": None,
        "steps": 2,
        "solver": "heun",
    }
    draw_all(Bulk(model, requests, str(tmp_path / "out"), "parquet", 0, None, settings, images_per_part=2))
    table = pa.concat_tables(pq.read_table(part) for part in sorted((tmp_path / "out").glob("*.parquet")))
    wanted = model.inpaint(images, masks > 0, seed=[0, 1, 2], steps=2, solver="heun", batch_size=2).images[:, 0].numpy()
    found = [np.asarray(Image.open(io.BytesIO(each["bytes"]))) for each in table.column("image").to_pylist()]
    assert np.array_equal(np.stack(found), wanted)
    assert [Path(each).name for each in table.column("mask_file").to_pylist()] == ["m0.png", "m1.png", "m2.png"]
    assert request_columns(model.spec) == {"image": False, "mask": False, "number": False}
    asked = pd.DataFrame({name: [(tmp_path / pair[number]).read_bytes() for pair in pairs] for number, name in enumerate(("image", "mask"))})  # fmt: skip
    served = Served(model).predict(asked, {"seed": 5, "steps": 2, "solver": "heun"})
    wanted = model.inpaint(images, masks > 0, seed=5, steps=2, solver="heun").images[:, 0].numpy()
    assert np.array_equal(np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in served["image"]]), wanted)

    columns = ("image", "mask")

    def refuse(text, said):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            Bulk(model, read_requests(str(file), (), columns), str(tmp_path), "png", 0, None, settings).check()

    refuse("image,mask\na0.png,m0.png\na1.png,no.png\n", r"row 2: mask .*no\.png does not exist")
    refuse("image,mask\nrows.csv,m0.png\n", r"row 1: image .*rows\.csv cannot be read as an image")
    refuse("image\na0.png\n", "the prompts have no column mask beside image; add it to their file")
    refuse("image,mask\na0.png,\n", "row 1 has no mask")
    with pytest.raises(ValueError, match="row 0 has no image"):
        Served(model).predict(pd.DataFrame({"image": [None], "mask": [b""]}))


def test_a_grid_takes_held_out_images(digits, tmp_path):
    """The grid is drawn under the planes of the first held-out rows, with the noise of the grid's seed."""
    asked = {"sampling__count": 3, "sampling__steps": 2, "sampling__seed": 6, "validation__rows": 8}
    run = open_run(loading.parse_recipe(conditional_recipe(digits, tmp_path, **asked)))
    state = stirred(run)
    images = Reader(digits).read(np.sort(run.held_out[:3])).images
    x0 = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    condition = replace(run.spec.image_condition, dropout=0.0)
    planes = draw_planes(condition, x0, rng.generator(6, rng.GIVEN))
    assert (planes[:, 2] == 1.0).all()
    drawn = sample_with_planes(Model(state.model, run.spec), 3, lambda rows: planes[rows], {}, {"seed": 6, "steps": 2})
    assert draw_sample_grid(run, state.model).tobytes() == drawn.grid(3).tobytes()


def test_metrics_that_give_no_image_are_refused():
    for condition, metric in ((UPSCALE, "fid"), (UPSCALE, "inpainted_mse"), (INPAINT, "bpd")):
        with pytest.raises(ValueError, match=f"{metric}: the model has an image condition \\(image_condition.kind="):
            check_image_condition(condition, (metric,))
    check_image_condition(INPAINT, ("inpainted_mse", "inpainted_psnr"))


@pytest.mark.parametrize("classes", [0, 3])
def test_guidance_leads_away_from_the_model_without_the_image(classes):
    """Inside the interval the score is null + scale (conditional - null), where null has neither image nor class;
    outside it is the plain score. Rows inside and outside share a call."""
    model = conditional_model(UPSCALE, classes=classes)
    x, t = inputs(4)
    planes, labels = torch.rand(4, 3, 8, 8), [0, 1, 2, 0] if classes else None
    encode = encode_rows(None, labels, 4, None, planes)
    conditioner = model.score_model.conditioner
    noise = torch.exp(-0.5 * model.sde.log_snr(t))
    interval = (noise[0].item() * 1.01, noise[2].item() * 1.01)
    led = Guidance(scale=2.5, interval=interval).score(model.score_model, encode, 4).score(x, t)
    conditional = model.score_model.score(x, t, encode(conditioner))
    null = model.score_model.score(x, t, conditioner.encode(None, None, 4))
    inside = torch.tensor([False, True, True, False])[:, None, None, None]
    torch.testing.assert_close(
        led, torch.where(inside, null + 2.5 * (conditional - null), conditional), rtol=1e-4, atol=1e-4
    )
