"""Second images as conditions: the recipe, training, sampling, serving and evaluation of models that take them."""

import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raysde import rng
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.cluster.stream import row_bytes
from raysde.conditioning.conditioner import Encoded
from raysde.conditioning.images import ColumnCondition, InpaintCondition, draw_planes
from raysde.config import loading
from raysde.data.batches.arrow import from_table
from raysde.data.batches.blocks import Block, StreamSpec, make_block
from raysde.data.batches.microbatch import make_microbatch, read_batches
from raysde.data.condition_column import CONDITION
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import LatentViews
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.digits import load_digits
from raysde.data.ingest.samples import Sample
from raysde.evaluation.evaluate import choose_conditions
from raysde.evaluation.generated import Drawer
from raysde.evaluation.held_out import check_image_condition
from raysde.evaluation.question import Question
from raysde.inference.bulk import Bulk, draw_all
from raysde.inference.image_conditions import image_columns
from raysde.inference.model import Model
from raysde.inference.prompt_file import read_requests
from raysde.inference.samples import place_beside
from raysde.models.autoencoder import LatentSpec, encode_moments, load_vae
from raysde.models.spec import ModelSpec
from raysde.precompute.jobs import LatentsJob, show_views
from raysde.registry.serving import Served, request_columns
from raysde.runs.build import make_objective, make_validator
from raysde.runs.hooks import draw_sample_grid
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.sampling.sampler import sample
from raysde.training.objective import microbatch_loss
from raysde.training.validation import measure_bins
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.edges import EDGES as COLUMN
from tests.support.edges import edge_shards, sobel_edges, to_png
from tests.support.encoders import autoencoder
from tests.support.ingested import ingest_here
from tests.support.models import noisy_model, spec_with
from tests.support.precomputed import done
from tests.support.ranks import on_ranks, train
from tests.support.sources import Given
from tests.support.training import same_tensors, small_recipe, stirred

EDGES = ColumnCondition(name="edges", channels=1)


@pytest.fixture(scope="module")
def edges(tmp_path_factory) -> Manifest:
    return edge_shards(tmp_path_factory.mktemp("edges"), validation=0.2)


def column_recipe(data, runs, /, **changes):
    return small_recipe(data, runs, **{"text": None, "image_condition": {"kind": "column", "dropout": 0.3}, **changes})


def everything(data, runs, /, **changes):
    """Return a recipe with captions, classes, a number, second images, flips and random crops."""
    keys = {
        "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2}, "class_conditional": True,
        "attributes": {"names": ["thickness"], "dropout": 0.2}, "train__condition_dropout": 0.2,
        "data__flip": True, "data__crop": "random", "data__scale": [0.6, 1.0],
    }  # fmt: skip
    return column_recipe(data, runs, **{**keys, **changes})


def opened(recipe):
    return open_run(loading.parse_recipe(recipe))


def column_model(condition=EDGES, **changes) -> Model:
    """Return a model of second images, with random weights wherever they start at zero."""
    return noisy_model(spec_with(image_condition=condition, **changes))


def pictures(count=3, side=8, channels=1):
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, side, side), generator=g, dtype=torch.uint8)


def test_planes_are_the_channels_and_ones():
    """For latents, plane k of a block is its k-th pixel, row by row; dropped planes are zeros."""
    second = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rgb = replace(EDGES, channels=3)
    plain = rgb.given(second, (8, 8))
    assert torch.equal(plain, torch.cat([second, torch.ones(5, 1, 8, 8)], dim=1))
    assert rgb.planes(1) == plain.shape[1]
    folded = rgb.given(second, (4, 4))
    assert rgb.planes(4, 2) == folded.shape[1] == 13
    assert (folded[:, -1] == 1.0).all()
    for channel in range(3):
        for row in range(2):
            for column in range(2):
                plane = folded[:, 4 * channel + 2 * row + column]
                assert torch.equal(plane, second[:, channel, row::2, column::2])
    x0 = torch.zeros(2000, 4, 1, 1)
    some = draw_planes(replace(EDGES, dropout=0.3), x0, torch.Generator().manual_seed(5), torch.rand(2000, 1, 1, 1))
    gone = (some == 0.0).flatten(1).all(dim=1)
    assert abs(gone.double().mean().item() - 0.3) < 4.0 * math.sqrt(0.3 * 0.7 / len(x0))
    assert (some[~gone][:, 1] == 1.0).all()


def test_descriptions_record_name_and_channels(edges, tmp_path):
    spec = opened(column_recipe(edges, tmp_path)).spec
    assert spec.image_condition == replace(EDGES, dropout=0.3)
    assert ModelSpec.parse(json.loads(json.dumps(spec.dump()))) == spec
    assert spec.network_image == (3, 8, 8)
    latent = LatentSpec(vae="v", sha256="", scaling_factor=1.0, shift_factor=0.0, shape=(2, 4, 4), pixels=(1, 8, 8))
    assert spec_with(image=(2, 4, 4), latent=latent, image_condition=EDGES).planes == 5
    assert "image_condition" not in spec_with().dump()


def test_recipes_that_do_not_fit_get_a_sentence(edges, tmp_path):
    def refuse(said, data=edges, **changes):
        with pytest.raises(ValueError, match=said):
            opened(column_recipe(data, tmp_path, **changes))

    bare = write_digit_shards(tmp_path / "bare", rows=20)
    refuse("image_condition.kind=column: the data set at .* has no second images; ingest it with", bare)
    refuse("the name is depth, and the condition image of .* has edges", image_condition__name="depth")
    refuse("the channels is 3, and the condition image of .* has 1", image_condition__channels=3)
    refuse("channels must be 1, 3 or null, got 2", image_condition__channels=2)
    refuse(r"dropout must lie in \[0, 1\]", image_condition__dropout=-0.1)
    refuse("image_condition.kind=inpaint works on pixels", latent={"vae": "none"}, image_condition={"kind": "inpaint"})


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Times so small that x_t is the image but for noise of a few levels."""

    def quantile(self, sde, u):
        return torch.full_like(u, 1e-4)

    def correction(self, sde, t):
        return torch.ones_like(t)


def twins(folder, rows=96, size=(12, 10)) -> Manifest:
    """Write noise images whose second image is the image itself."""
    images = [np.random.default_rng(row).integers(0, 256, size, np.uint8) for row in range(rows)]
    samples = tuple(Sample(f"{row}", to_png(each), condition=to_png(each)) for row, each in enumerate(images))
    return ingest_here([Given(samples)], folder, Rules(channels=1, size=size, row_group=16, condition=COLUMN))


def test_flips_and_crops_keep_an_image_and_its_twin_together(tmp_path):
    """The second image is the image: planes and images are equal bit for bit in the microbatch, half of the rows are
    mirrored, and both are mirrored together."""
    data = twins(tmp_path / "twins")
    changes = {"data__crop": "random", "data__scale": [0.5, 0.9], "data__image_size": 8, "train__batch": 96}
    run = opened(column_recipe(data, tmp_path, **changes, data__flip=True, image_condition__dropout=0.0))
    objective = replace(make_objective(run), times=Clean(), condition_dropout=0.0)
    state, seen = stirred(run), []
    forward = lambda x_t, t, condition: (seen.append((x_t, condition.image)), (torch.zeros_like(x_t), None))[1]  # noqa: E731  # fmt: skip
    (batch,) = next(read_batches(run.feed, Reader(data, fields=run.feed.fields), 0, 1))
    assert torch.equal(batch.images, batch.condition_images)
    microbatch_loss(forward, state.model, batch, objective, torch.device("cpu"))
    x_t, planes = seen[0]
    given = batch.condition_images.float() / 127.5 - 1.0
    flipped = [not torch.allclose(plane, each, atol=1e-5) for plane, each in zip(planes[:, :1], given, strict=True)]
    coins = torch.tensor(flipped)
    torch.testing.assert_close(planes[:, :1], torch.where(coins[:, None, None, None], given.flip(-1), given))
    # 96 fair coins: standard error 1 / (2 sqrt(96))
    assert abs(coins.double().mean().item() - 0.5) < 4.0 * 0.5 / math.sqrt(96)
    # sigma is 0.003 at this time, and noise images differ from their mirror images by 0.8 on average
    assert (x_t - planes[:, :1]).abs().max() < 0.1


def test_blocks_of_a_stream_hold_the_same_microbatches(edges, tmp_path):
    """Microbatches that a task makes are those that one process reads, bit for bit, and every row comes once."""
    run = opened(everything(edges, tmp_path, train__microbatch=8))
    spec = StreamSpec(data=run.sources.reference(run.config, run.feed), start=0, stop=3, block_steps=3, row_bytes=1)
    read = list(read_batches(run.feed, Reader(run.manifest, fields=run.feed.fields), 0, 3))
    for index in range(2):
        found = list(from_table(make_block(spec, Block(0, 3, index)), 1))
        for step, batch in enumerate(found):
            assert np.array_equal(batch.rows, read[step][index].rows)
            for name in ("images", "condition_images", "attributes", "labels"):
                assert torch.equal(getattr(batch, name), getattr(read[step][index], name))
    rows = [row for step in read_batches(run.feed, Reader(run.manifest, fields=run.feed.fields), 0, 400) for batch in step for row in batch.rows][: run.feed.rows.count]  # fmt: skip
    assert len(set(rows)) == run.feed.rows.count
    assert row_bytes(run) == 64 + 64


def test_a_run_with_all_conditions_is_the_same_after_a_restart(edges, tmp_path):
    """Captions, classes, a number and second images, flipped and cropped: weights are bit-equal after a restart."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    recipe = everything(edges, whole, validation__every=5, data__image_size=8)
    train_here(opened(recipe), None)
    short = {**recipe["train"], "length": {"steps": 5}}
    train_here(opened({**recipe, "storage": str(halved), "train": short}), None)
    train_here(opened({**recipe, "storage": str(halved)}), None)
    ends = [checkpoint.load_model(folder / "small" / checkpoint.checkpoint_name(10)) for folder in (whole, halved)]
    assert same_tensors(*(each.score_model.state_dict() for each in ends))
    model = ends[0]
    asked = {"prompts": ["two"] * 2, "labels": ["3", "4"], "attributes": {"thickness": 1.5}, "steps": 2}
    first, other = (model.sample(**asked, condition_images=each) for each in (pictures(2), 255 - pictures(2)))
    assert not torch.equal(first.images, other.images)
    assert first.captions == ["two (3, thickness 1.5)", "two (4, thickness 1.5)"]


def test_two_ranks_are_one_process(edges, tmp_path):
    """Weights agree to summation order after three steps on one and on two ranks."""
    shared = {"train__microbatch": 4, "train__length__steps": 3, "validation__every": 3, "checkpoint_every": 3}
    one = everything(edges, tmp_path / "one", **shared)
    two = everything(edges, tmp_path / "two", **shared, resources__workers=2)
    train_here(opened(one), None)
    on_ranks(2, train, two)
    first, second = (
        checkpoint.load_model(Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(3)).score_model.state_dict()
        for tree in (one, two)
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=1e-3)


def test_validation_gives_each_row_its_own_second_image(edges, tmp_path):
    """The network sees the planes of the row in every bin, without dropout; another image gives another loss."""
    run = opened(column_recipe(edges, tmp_path, image_condition__dropout=0.9))
    model = stirred(run).model.eval()
    reader = Reader(edges, fields=run.feed.fields)
    rows = run.held_out[:5]
    batch = make_microbatch(0, 0, rows, reader.read(rows))
    planes = EDGES.given(batch.condition_images.float() / 127.5 - 1.0, (8, 8))
    seen, eps_hat = [], model.eps_hat
    model.eps_hat = lambda x_t, t, encoded: (seen.append(encoded.image), eps_hat(x_t, t, encoded))[1]
    measure = lambda each: measure_bins(model, each, 0, (-1.0, 1.0), torch.device("cpu"), None, run.spec.image_condition)  # noqa: E731  # fmt: skip
    with torch.no_grad():
        own = measure(batch)
        assert all(torch.allclose(each, planes, atol=1e-6) for each in seen)
        other = measure(replace(batch, condition_images=batch.condition_images.flip(0)))
    assert not torch.allclose(own.loss, other.loss)
    del model.eps_hat
    values = make_validator(run, SimpleNamespace(rank=0, size=1, device=torch.device("cpu"), sum=lambda x: x, any=bool))(model)  # fmt: skip
    assert values["val/loss"] > 0.0


def test_views_of_latents_and_second_images_agree(tmp_path):
    """For each view that latents are made of, the second image of a twin is the view itself, bit for bit."""
    data = twins(tmp_path / "twins", rows=6)
    views = LatentViews(flip=True, crops=2, scale=(0.5, 0.9))
    shown = [each.numpy() for each in show_views(Reader(data), range(6), views)]
    assert len(shown) == views.count == 6
    reader = Reader(data, fields={CONDITION})
    reader.groups.columns, reader.groups.segments = [f"{CONDITION}.bytes"], None  # as a reader of latents reads them
    reader.moments = SimpleNamespace(
        derived=SimpleNamespace(views=views, pixels=(1, 12, 10)),
        read=lambda rows, shown: np.zeros((len(rows), 2, 3, 3)),
    )
    for number in range(views.count):
        draws = np.tile(np.array([0.0, (number + 0.5) / views.count, 0.1, 0.9]), (6, 1))
        found = reader.read(np.arange(6), None, draws).condition_images
        assert np.array_equal(found.transpose(0, 3, 1, 2), shown[number])


def test_latents_of_an_image_are_those_of_its_twin(tmp_path):
    """The autoencoder's posterior of a row's second image is the row's own latent, for mirrored and cropped views, from
    the run's stream; the trained model draws for second images in pixels."""
    data, vae = twins(tmp_path / "twins", rows=40, size=(8, 8)), autoencoder(tmp_path / "vae")
    views = LatentViews(flip=True, crops=1, scale=(0.5, 0.9))
    done(LatentsJob.of(data, vae, dtype="fp32", batch_size=8, views=views), data)
    latent = {"vae": vae, "flip": True, "crops": 1, "scale": [0.5, 0.9]}
    run = opened(column_recipe(data, tmp_path, latent=latent, train__length__steps=2, validation__rows=8))
    assert run.spec.planes == 5
    assert row_bytes(run) == 2 * 4 * 32 + 64
    spec = StreamSpec(data=run.sources.reference(run.config, run.feed), start=0, stop=2, block_steps=2, row_bytes=1)
    encoder, mirrored = load_vae(vae), 0
    for batch in from_table(make_block(spec, Block(0, 2, 0)), 1):
        torch.testing.assert_close(encode_moments(encoder, batch.condition_images), batch.moments, rtol=1e-4, atol=1e-5)
        whole = Reader(data).read(batch.rows).images[..., 0]
        mirrored += int(sum(np.array_equal(each[0], own[:, ::-1]) for each, own in zip(batch.condition_images.numpy(), whole, strict=True)))  # fmt: skip
    assert mirrored > 0
    train_here(run, None)
    model = checkpoint.load_model(tmp_path / "small" / checkpoint.checkpoint_name(2))
    drawn = model.sample(condition_images=pictures(), steps=1)
    assert drawn.images.shape == (3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"condition_images must be uint8 or float \[3, 1, 8, 8\]"):
        model.sample(condition_images=pictures(3, 4), steps=1)


def test_sampling_takes_the_second_images():
    """Images are those of the sampler under the planes, in any batch, as floats, at another size and along a path."""
    model, second = column_model(), pictures()
    settings = {"steps": 3, "solver": "heun", "seed": 4, "dtype": torch.float32}
    drawn = model.sample(condition_images=second, **settings)
    planes = EDGES.given(second.float() / 127.5 - 1.0, (8, 8))
    for index in range(3):
        encoded = Encoded(image=planes[index : index + 1])
        score = lambda x, t, encoded=encoded: model.score_model.score(x, t, encoded)  # noqa: E731
        stream = rng.generator(4, rng.IMAGE, index)
        alone = sample(score, model.sde, (1, 1, 8, 8), solver="heun", steps=3, generator=[stream])
        torch.testing.assert_close(drawn.images[index : index + 1], alone.x, atol=1e-4, rtol=1e-4)
    others = (
        model.sample(condition_images=second, batch_size=2, **settings),
        model.sample(condition_images=second.float() / 127.5 - 1.0, **settings),
        model.sample_path(3, condition_images=second, **settings),
    )
    for other in others:
        torch.testing.assert_close(other.images, drawn.images, atol=1e-4, rtol=1e-4)
        assert torch.equal(other.condition_images, second)
    bare = model.sample(n=3, **settings)
    assert not torch.allclose(bare.images, drawn.images, atol=1e-3)
    led = model.sample(condition_images=second, guidance=2.0, **settings)
    assert not torch.allclose(led.images, drawn.images, atol=1e-3)
    wide = model.sample(condition_images=pictures(2, 16), size=16, **settings)
    assert wide.images.shape == (2, 1, 16, 16)


def test_second_images_that_do_not_fit_are_refused():
    model = column_model()
    for given, said in (
        (pictures(3, 6), r"condition_images must be uint8 or float \[3, 1, 8, 8\].*got torch.uint8 \[3, 1, 6, 6\]"),
        (pictures(3, 8, 3), r"3 images of 8 x 8 and grey, got .* \[3, 3, 8, 8\]"),
        (pictures().long(), "got torch.int64"),
        (pictures()[:, 0], r"got torch.uint8 \[3, 8, 8\]"),
    ):
        with pytest.raises(ValueError, match=said):
            model.sample(condition_images=given, steps=1)
    with pytest.raises(ValueError, match="must be uint8 or float"):
        model.sample(n=2, condition_images=pictures(), steps=1)
    for condition, said in ((None, "takes none; leave it out"), (InpaintCondition(), "takes none, but images to inpa")):
        with pytest.raises(ValueError, match=f"a condition image was given, and the model {said}"):
            column_model(condition).sample(condition_images=pictures(), steps=1)


def test_grids_show_second_images_beside():
    drawn = column_model().sample(condition_images=pictures(), steps=1)
    beside = place_beside(drawn.images, drawn.condition_images)
    assert torch.equal(beside[..., :8], drawn.images)
    assert torch.equal(beside[..., 9:], pictures())
    grid = np.asarray(drawn.grid(3))
    scale = 8  # cells of 17 pixels reach 128
    assert np.array_equal(grid[1 : 1 + 8 * scale : scale, 1 + 9 * scale : 1 + 17 * scale : scale], pictures()[0, 0])
    colour = place_beside(drawn.images, pictures(3, 8, 3))
    assert colour.shape == (3, 3, 8, 17)
    assert torch.equal(colour[:, :, :, 9:], pictures(3, 8, 3))
    hashes = {drawn.metadata(index)["condition_image"] for index in range(3)}
    assert len(hashes) == 3


def test_a_training_grid_takes_held_out_second_images(edges, tmp_path):
    asked = {"sampling__count": 3, "sampling__steps": 2, "sampling__seed": 6}
    run = opened(column_recipe(edges, tmp_path, **asked))
    state = stirred(run)
    rows = np.sort(run.held_out[:3])
    second = Reader(edges, fields={CONDITION}).read(rows).condition_images
    images = torch.from_numpy(second).permute(0, 3, 1, 2)
    drawn = Model(state.model, run.spec).sample(condition_images=images, seed=6, steps=2)
    assert draw_sample_grid(run, state.model).tobytes() == drawn.grid(3).tobytes()


def write_pictures(folder: Path, images: torch.Tensor) -> list[str]:
    names = [f"edge{number}.png" for number in range(len(images))]
    for file, image in zip(names, images, strict=True):
        Image.fromarray(image[0].numpy()).save(folder / file)
    return names


def test_a_prompt_file_and_a_request_name_the_second_images(tmp_path):
    model, second = column_model(classes=3), pictures()
    names = write_pictures(tmp_path, second)
    file = tmp_path / "rows.jsonl"
    rows = [{"image": name, "label": label, "seed": label} for label, name in enumerate(names)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    requests = read_requests(str(file), image_columns=image_columns(model.spec)).labelled(3, ())
    settings = {"batch_size": 2, "guidance": 1.0, "guidance_interval": None, "autoguide": None, "steps": 2, "solver": "heun"}  # fmt: skip
    draw_all(Bulk(model, requests, str(tmp_path / "out"), "parquet", 0, None, settings, images_per_part=2))
    table = pa.concat_tables(pq.read_table(part) for part in sorted((tmp_path / "out").glob("*.parquet")))
    wanted = model.sample(condition_images=second, labels=[0, 1, 2], seed=[0, 1, 2], steps=2, solver="heun", batch_size=2)  # fmt: skip
    found = [np.asarray(Image.open(io.BytesIO(each["bytes"]))) for each in table.column("image").to_pylist()]
    assert np.array_equal(np.stack(found), wanted.images[:, 0].numpy())
    assert [Path(each).name for each in table.column("image_file").to_pylist()] == names
    assert request_columns(model.spec) == {"label": False, "image": False, "number": False}
    asked = pd.DataFrame({"image": [(tmp_path / name).read_bytes() for name in names], "label": [0, 1, 2]})
    served = Served(model).predict(asked, {"seed": 5, "steps": 2, "solver": "heun", "guidance": 1.0})
    wanted = model.sample(condition_images=second, labels=[0, 1, 2], seed=5, steps=2, solver="heun", guidance=1.0)
    found = np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in served["image"]])
    assert np.array_equal(found, wanted.images[:, 0].numpy())
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "edge1.png")
    with pytest.raises(ValueError, match=r"row 2: image .*edge1.png is 9 x 8 and grey, but the model's condition 'edges' takes"):  # fmt: skip
        Bulk(model, requests, str(tmp_path / "more"), "png", 0, None, settings).check()


def test_the_command_line_draws_for_second_images(edges, tmp_path, capsys):
    train_here(opened(column_recipe(edges, tmp_path, train__length__steps=2)), None)
    where, second = str(tmp_path / "small" / checkpoint.checkpoint_name(2)), pictures(2)
    files = [str(tmp_path / name) for name in write_pictures(tmp_path, second)]
    options = [part for file in files for part in ("--condition-image", file)]
    assert main(["sample", where, *options, "-n", "3", "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    wanted = checkpoint.load_model(Path(where)).sample(condition_images=second[[0, 1, 0]], steps=2)
    for number in range(3):
        found = np.asarray(Image.open(tmp_path / "out" / f"image-{number:03d}.png"))
        assert np.array_equal(found, wanted.images[number, 0].numpy())
    capsys.readouterr()
    sampled = ["sample", where, "--steps", "1", "--out", str(tmp_path / "more")]
    assert "there is no image" in refused(capsys, *sampled, "--condition-image", str(tmp_path / "none.png"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "red.png")
    said = refused(capsys, *sampled, "--condition-image", str(tmp_path / "red.png"))
    assert "8 x 8 and RGB, but the model's condition 'edges' takes images of 8 x 8 and grey" in said
    said = refused(capsys, *sampled, "--prompts-file", files[0], "--condition-image", files[0])
    assert "--condition-image cannot be given with --prompts-file" in said


def test_evaluation_draws_for_the_conditions_of_held_out_rows(edges, tmp_path):
    """Image i takes caption, class, number and second image of one row, and all held-out rows are taken in turn, in
    random order."""
    run = opened(everything(edges, tmp_path, sampling__count=1))
    model = Model(stirred(run).model, run.spec)
    question = Question(samples=10, metrics=("accuracy",), split="train")
    reader = Reader(edges)
    conditions = choose_conditions(model, reader, question)
    held = np.array(conditions.seconds.rows)
    assert sorted(held.tolist()) == list(range(edges.rows_in("train"), edges.rows))
    assert not (np.diff(held) > 0).all()
    count = len(held)
    arguments = conditions.drawing(range(count + 2))
    columns = Reader(edges, fields={CONDITION, "captions", "labels", "attributes"}).read(held)
    again = [*range(count), 0, 1]
    assert arguments["prompts"] == [columns.captions[place] for place in again]
    assert arguments["labels"] == [columns.labels[place] for place in again]
    assert arguments["attributes"]["thickness"] == pytest.approx([columns.attributes[place, 0] for place in again])
    second = torch.from_numpy(columns.condition_images[again]).permute(0, 3, 1, 2)
    assert torch.equal(arguments["condition_images"], second)
    assert [conditions.label(number) for number in range(3)] == columns.labels[:3].tolist()
    drawn = Drawer(model, conditions, 5, {"steps": 1}).images(count - 1, 2)
    own = {name: arguments[name][count - 1 : count + 1] for name in ("prompts", "labels", "condition_images")}
    number = {"thickness": arguments["attributes"]["thickness"][count - 1 : count + 1]}
    wanted = model.sample(**own, attributes=number, seed=5, first=count - 1, steps=1)
    assert torch.equal(drawn, wanted.images)
    check_image_condition(model.spec.image_condition, ("fid", "accuracy"))
    with pytest.raises(ValueError, match=r"bpd: the model has an image condition \(image_condition.kind=column\)"):
        check_image_condition(model.spec.image_condition, ("bpd",))
    bare = write_digit_shards(tmp_path / "bare", rows=30)
    with pytest.raises(ValueError, match=r"the model takes a condition image: the data set at .* has no second images"):
        choose_conditions(model, Reader(bare), question)


@pytest.mark.slow
def test_drawn_digits_have_the_edges_asked_for(tmp_path):
    """The edges of a digit drawn for the edges of a held-out digit are closer to them than to another digit's.

    Edges are min(255, sqrt(gx^2 + gy^2) / 4) of Sobel's filters. The statistic is the mean absolute difference of two
    edge maps in levels: of a drawn digit to those asked for, less that to those of another held-out digit. Over 200
    digits its standard error is its deviation divided by sqrt(200).
    """
    data = edge_shards(tmp_path / "digits", rows=1797, validation=0.2, row_group=256, shard_rows=2000)
    steps = 500
    recipe = {
        "name": "edges", "storage": str(tmp_path), "data": {"path": data.path}, "class_conditional": True,
        "image_condition": {"kind": "column", "dropout": 0.05},
        "network": {"kind": "unet", "channels": 24, "multipliers": [1, 2], "blocks": 1, "attention": []},
        "train": {"length": {"steps": steps}, "batch": 64, "lr": 3e-3, "betas": [0.9, 0.99], "weighting": "target",
                  "warmup": 50, "decay": "cosine", "ema": {"half_life": 3000}},
        "validation": {"rows": 0}, "log_every": 500, "checkpoint_every": 500,
    }  # fmt: skip
    train_here(opened(recipe), None)
    model = checkpoint.load_model(tmp_path / "edges" / checkpoint.checkpoint_name(steps))
    first = data.rows_in("train")
    found = Reader(data, fields={CONDITION, "labels"}).read(np.arange(first, first + 200))
    asked = torch.from_numpy(found.condition_images).permute(0, 3, 1, 2)
    drawn = model.sample(condition_images=asked, labels=found.labels.tolist(), guidance=1.0, steps=10)
    own = sobel_edges(drawn.images[:, 0].numpy()).astype(np.float64)
    wanted = asked[:, 0].numpy().astype(np.float64)
    apart = np.abs(own[:, None] - wanted[None]).mean(axis=(2, 3))
    to_own, to_next = apart.diagonal(), apart[np.arange(200), np.roll(np.arange(200), 1)]
    gap = to_next - to_own
    error = gap.std(ddof=1) / math.sqrt(len(gap))
    nearest = (apart.argmin(axis=1) == np.arange(200)).mean()
    print(
        f"edges differ by {to_own.mean():.2f} levels from those asked, {to_next.mean():.2f} from another's; gap "
        f"{gap.mean():.2f} +- {error:.2f}; nearest of 200 in {nearest:.1%}"
    )
    assert gap.mean() > 4.0 * error
    assert to_own.mean() < 0.5 * to_next.mean()
    assert nearest > 0.9


def test_edge_maps_of_digits_are_as_the_data_says():
    """Edges of a digit are not those of another: the statistic of the slow test can tell them apart."""
    wanted = sobel_edges(load_digits()[0][:200]).astype(np.float64)
    apart = np.abs(wanted[:, None] - wanted[None]).mean(axis=(2, 3)) + 1e9 * np.eye(200)
    assert apart.min() > 5.0
