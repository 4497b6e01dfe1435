"""Sizes of images: one notation everywhere, and every size that a network can take."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.config import loading
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import Rules, convert_part, resize_picture
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.samples import Sample
from raysde.data.ingest.sources import open_source
from raysde.images.choices import FITS
from raysde.images.geometry import fit_picture
from raysde.images.sizes import format_size, read_size
from raysde.inference.model import Model
from raysde.models.spec import fresh_model
from raysde.networks import DiffusersConfig, DiTConfig, ExternalConfig, NCSNppConfig, UNetConfig
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.sampling.sampler import sample
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.encoders import autoencoder
from tests.support.models import caption_spec
from tests.support.pictures import array_file, open_image, rng_image
from tests.support.sources import Given
from tests.support.training import small_recipe


@pytest.mark.parametrize(
    ("given", "size"),
    [(32, (32, 32)), ("32", (32, 32)), ("16x32", (16, 32)), ([16, 32], (16, 32)), ((7, 1), (7, 1)), (" 8x9 ", (8, 9))],
)
def test_sizes_are_read_height_first(given, size):
    assert read_size(given) == size == read_size(format_size(size))


@pytest.mark.parametrize("given", [0, -3, "0x4", "4x", "x4", "4x4x4", "a", (1, 2, 3), [], None, 2.5, (4, 2.0), True])
def test_what_is_no_size_is_refused(given):
    with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
        read_size(given)


def nearest(picture: Image.Image, y: float, x: float) -> int:
    return picture.getpixel((min(int(x), picture.width - 1), min(int(y), picture.height - 1)))


@pytest.mark.parametrize("fit", [fit for fit in FITS if fit != "keep"])
@pytest.mark.parametrize("found", [(60, 90), (90, 60), (40, 40), (37, 80)])
@pytest.mark.parametrize("size", [(16, 32), (32, 16), (24, 24)])
def test_pictures_are_brought_to_a_height_and_a_width(fit, found, size):
    """A smooth ramp keeps its middle in the middle, and its slope changes by the factor of the fit."""
    rows, cols = found
    ramp = np.add.outer(np.arange(rows), np.zeros(cols))  # grey levels rise by one a row
    picture = Image.fromarray(ramp.astype(np.uint8))
    result = fit_picture(picture, fit, size, 255)
    scale = {
        "crop": max(size[0] / rows, size[1] / cols), "short": max(size[0] / rows, size[1] / cols),
        "pad": min(size[0] / rows, size[1] / cols), "stretch": size[0] / rows,
    }[fit]  # fmt: skip
    if fit == "short":
        assert (result.height, result.width) == (max(1, round(rows * scale)), max(1, round(cols * scale)))
        assert result.height >= size[0] - 1
        assert result.width >= size[1] - 1
    else:
        assert (result.height, result.width) == size
    middle = np.asarray(result)[:, result.width // 2].astype(float)
    inside = np.arange(result.height // 2 - 3, result.height // 2 + 3)
    assert np.diff(middle[inside]).mean() == pytest.approx(1.0 / scale, rel=0.12)
    assert middle[inside].mean() == pytest.approx((rows - 1) / 2.0, abs=1.5 / scale)


def test_a_pair_of_equal_sides_is_the_number(tmp_path):
    picture = Image.fromarray(rng_image(0, 90)[:50])
    for fit in FITS:
        one, two = (resize_picture(picture, Rules(channels=3, size=size, fit=fit)) for size in (24, (24, 24)))
        assert np.array_equal(np.asarray(one), np.asarray(two))


@pytest.mark.parametrize(
    ("shape", "given", "stored"),
    [((5, 1, 8), None, (1, 8)), ((5, 6, 4), None, (6, 4)), ((5, 6, 6), None, (6, 6)), ((5, 6, 4), 3, (3, 3)),
     ((5, 6, 4, 3), (2, 4), (2, 4))],
)  # fmt: skip
def test_images_of_one_size_keep_it(tmp_path, shape, given, stored):
    """An array that is ingested without a size keeps every pixel."""
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", values)
    source = open_source(str(tmp_path / "images.npy"))
    rules = choose_rules(source, size=given)
    assert rules.stored == stored
    if given is None:
        kept = [np.asarray(resize_picture(Image.fromarray(value), rules)) for value in values]
        assert np.array_equal(np.stack(kept), values)


def test_pictures_of_many_sizes_take_the_first_short_side(tmp_path):
    for number, (height, width) in enumerate([(20, 30), (30, 20)]):
        Image.fromarray(rng_image(number, 30)[:height, :width]).save(tmp_path / f"{number}.png")
    source = open_source(str(tmp_path), order="source")
    assert choose_rules(source).stored == (20, 20)
    assert choose_rules(source, fit="short").shape == (20, 20)
    with pytest.raises(ValueError, match="16x32 cannot be used with buckets"):
        choose_rules(source, size=(16, 32), bucket_multiple=8)


def test_wrong_sizes_are_refused_by_commands(tmp_path, capsys):
    assert "--size" in refused(capsys, "ingest", "sklearn:digits", str(tmp_path / "d"), "--size", "4x")
    folder = write_model(tmp_path / "model", text=None)
    assert "--size" in refused(capsys, "sample", folder, "--size", "8x8x8")
    assert "multiples of 2" in refused(capsys, "sample", folder, "--size", "8x9")


def test_a_recipe_asks_for_a_height_and_a_width(tmp_path):
    """Digits cut to 4 x 8 are the middle rows, and the model has that shape."""
    manifest = write_digit_shards(tmp_path / "shards", 40)
    whole = Reader(manifest).read(np.arange(3)).images
    for size in ([4, 8], "4x8"):
        tree = {**small_recipe(manifest, tmp_path), "data": {"path": manifest.path, "image_size": size}}
        run = open_run(loading.parse_recipe(tree))
        assert run.spec.image == (1, 4, 8)
        assert run.config.flat()["data.image_size"] == [4, 8]
        assert np.array_equal(Reader(manifest).read(np.arange(3), run.feed.view).images, whole[:, 2:6])
    tree["data"]["image_size"] = [8, 8]
    assert loading.parse_recipe(tree).flat()["data.image_size"] == 8


NETWORKS = {
    "unet": (UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8), 2, (6, 14)),
    "patched": (UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(2,), head_channels=8, patch=2), 4, (4, 12)),
    "ncsnpp": (
        NCSNppConfig(channels=16, multipliers=(1, 1, 1), blocks=1, attention=(), fir=True, progressive="output_skip",
                     progressive_input="input_skip"), 4, (4, 12),
    ),
    "dit": (DiTConfig(channels=16, blocks=1, heads=2, patch=2), 2, (6, 14)),
    "diffusers": (
        DiffusersConfig(architecture="UNet2DModel", config={
            "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
        }), 2, (6, 14),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_size_that_a_network_allows_is_drawn(kind):
    """The images equal the sampler's for noise of that shape; a size that the network cannot take is refused."""
    network, multiple, size = NETWORKS[kind]
    spec = dataclasses.replace(caption_spec(text=None), network=network)
    model = Model(fresh_model(spec, [], 0).eval().requires_grad_(False), spec)
    drawn = model.sample(n=2, seed=3, size=size, steps=3)
    assert drawn.images.shape == (2, 1, *size)
    score = model.conditioned(None, None, 2, 1.0).score
    generators = model_generators(3, 2)
    wanted = sample(score, spec.sde, (2, 1, *size), generator=generators, steps=3, solver="heun").x
    assert torch.equal(drawn.images, model.pixels(wanted))
    assert torch.equal(model.sample(n=2, size=8, steps=2).images, model.sample(n=2, steps=2).images)
    with pytest.raises(ValueError, match=f"multiples of {multiple}"):
        model.sample(size=(size[0] + 1, size[1]))


def model_generators(seed: int, count: int):
    from raysde import rng

    return [rng.generator(seed, rng.IMAGE, number) for number in range(count)]


def test_sizes_are_left_to_a_network_of_the_users_own():
    ExternalConfig(factory="a.b:C").check_size(3, 5)
    square = DiffusersConfig(architecture="DiTTransformer2DModel")
    square.check_size(4, 4)
    for size in ((4, 6), (3, 3)):
        with pytest.raises(ValueError, match=r"square|multiples of 2"):
            square.check_size(*size)
    DiffusersConfig(architecture="UNet2DConditionModel").check_size(5, 7)


def test_latents_are_drawn_at_the_size_of_their_images(tmp_path):
    from raysde.models.autoencoder import latent_spec

    latent = latent_spec(autoencoder(tmp_path / "vae"), (1, 8, 8))
    spec = dataclasses.replace(caption_spec(text=None), image=latent.shape, latent=latent)
    model = Model(fresh_model(spec, [], 0).eval().requires_grad_(False), spec)
    assert spec.shape_of((12, 16)) == (2, 6, 8)
    assert model.sample(n=1, size=(12, 16), steps=1).images.shape == (1, 1, 12, 16)
    with pytest.raises(ValueError, match="autoencoder takes sides that are multiples of 2"):
        model.sample(size=(9, 8))
    with pytest.raises(ValueError, match=r"size 10x8 has latents of 5x4; their .*multiples of 2"):
        model.sample(size=(10, 8))


def test_the_command_draws_a_size(tmp_path):
    """`raysde sample` draws a given size, alone and for a file of prompts, whose plan records the size."""
    folder = write_model(tmp_path / "model")
    wanted = checkpoint.load_model(tmp_path / "model").sample(prompts=["a"] * 2, size=(6, 10), guidance=2.0, steps=2)
    given = [folder, "--size", "6x10", "--steps", "2"]
    assert main(["sample", *given, "--prompt", "a", "-n", "2", "--out", str(tmp_path / "out")]) == 0
    for number, image in enumerate(wanted.images):
        assert torch.equal(open_image(tmp_path / "out" / f"image-{number:03d}.png"), image)
    (tmp_path / "prompts.txt").write_text("a\na\n")
    bulk = [*given, "--prompts-file", str(tmp_path / "prompts.txt"), "--form", "png", "--out", str(tmp_path / "bulk")]
    assert main(["sample", *bulk]) == 0
    assert json.loads((tmp_path / "bulk" / "sampling.json").read_text())["size"] == [6, 10]
    for number, image in enumerate(wanted.images):
        assert torch.equal(open_image(tmp_path / "bulk" / "part-00000" / f"{number:08d}.png"), image)


def test_a_model_of_buckets_draws_every_size_that_it_was_trained_on(tmp_path):
    """After a training step on pictures of three shapes, images are drawn in the shape of each bucket."""
    shapes = [(20, 40), (40, 20), (30, 30)] * 4
    given = Given(tuple(Sample(f"{n}", array_file(rng_image(n, 40)[:h, :w])) for n, (h, w) in enumerate(shapes)))
    rules, place = Rules(channels=3, size=16, bucket_multiple=4), str(tmp_path)
    manifest = collect_parts([convert_part(given, 0, rules, place)], rules, place, source="s", licence="")
    changes = {"text": None, "network__attention": [8], "train__batch": 4, "train__length__steps": 1}
    train_here(open_run(loading.parse_recipe(small_recipe(manifest, tmp_path / "runs", **changes))), None)
    model = checkpoint.load_model(tmp_path / "runs" / "small" / checkpoint.checkpoint_name(1))
    buckets = {shard.image for shard in manifest.shards}
    assert len(buckets) == 3
    for shape in buckets:
        assert model.sample(n=1, size=shape, steps=1).images.shape == (1, 3, *shape)
    out = tmp_path / "out"
    for height, width in buckets:
        asked = ["--size", f"{height}x{width}", "-n", "1", "--steps", "1", "--out", str(out)]
        assert main(["sample", str(tmp_path / "runs" / "small"), *asked]) == 0
        assert open_image(out / "image-000.png").shape == (3, height, width)
