"""Training in an autoencoder's latents: its own posteriors, the right scale, and images at the end."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.arrow import from_table
from raysde.data.batches.microbatch import read_batches
from raysde.data.batches.tables import to_table
from raysde.data.dataset.manifest import read_manifest, write_manifest
from raysde.data.dataset.precomputed import NUMBERS, read_derived
from raysde.data.dataset.precomputed_rows import LatentMoments
from raysde.data.dataset.reader import Reader
from raysde.images.tensors import to_uint8
from raysde.models import autoencoder as latents
from raysde.models.autoencoder import LatentSpec
from raysde.models.spec import ModelSpec
from raysde.precompute.jobs import LatentsJob
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training.objective import draw_clean
from tests.support.blocks import decode_steps
from tests.support.digits import write_digit_shards
from tests.support.encoders import autoencoder
from tests.support.precomputed import encode
from tests.support.training import same_tensors, small_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a data set, an autoencoder, and fp32 latents."""
    folder = tmp_path_factory.mktemp("latents")
    manifest = write_digit_shards(folder / "shards", 50, 30, 20)
    vae = autoencoder(folder / "vae")
    return manifest, vae, encode(manifest, vae)


@pytest.fixture
def own(tmp_path):
    """Return a copy of them for a test that changes them."""
    manifest, vae = write_digit_shards(tmp_path / "shards", 50, 30, 20), autoencoder(tmp_path / "vae")
    return manifest, vae, encode(manifest, vae)


def recipe_for(manifest, vae: str, runs: Path, **changes) -> dict:
    network = {"network__multipliers": [1], "network__attention": []}
    return small_recipe(manifest, runs, latent__vae=vae, text=None, **{**network, "train__microbatch": 8, **changes})


def test_moments_are_the_autoencoders_own(made):
    """Mean and log-variance of every row equal diffusers' for one image at a time; fp16 is their rounding."""
    manifest, vae, derived = made
    assert read_derived(derived.path) == derived
    assert (derived.shape, derived.pixels) == ((2, 4, 4), (1, 8, 8))
    assert (derived.scaling_factor, derived.shift_factor) == (0.5, 0.25)
    model, rows = AutoencoderKL.from_pretrained(vae).eval(), np.arange(50)
    found = LatentMoments(derived, manifest).read(rows)
    for row in rows:
        image = torch.from_numpy(Reader(manifest).read(rows[row : row + 1]).images).permute(0, 3, 1, 2)
        with torch.no_grad():
            posterior = model.encode(image.float() / 127.5 - 1.0).latent_dist
        np.testing.assert_allclose(found[row, :2], posterior.mean[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(found[row, 2:], posterior.logvar[0].numpy(), atol=1e-5)
    half = LatentMoments(encode(manifest, vae, "fp16"), manifest).read(rows)
    assert half.dtype == np.float16
    assert np.array_equal(half, found.astype(np.float16))


def test_x0_has_the_posteriors_moments():
    """x0 is (z - shift) * scale: exact where the variance vanishes, otherwise with the posterior's mean and
    deviation."""
    spec = LatentSpec(vae="x", sha256="0", scaling_factor=0.5, shift_factor=0.25, shape=(2, 3, 3), pixels=(1, 6, 6))
    mean, eps = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    narrow = torch.cat([mean, torch.full_like(mean, -60.0)], dim=1)
    torch.testing.assert_close(spec.x0(narrow, eps), (mean - 0.25) * 0.5)
    torch.testing.assert_close(spec.latents(spec.x0(narrow, eps)), mean)
    many, deviation = 20_000, 0.3
    wide = torch.cat([mean[:1], torch.full_like(mean[:1], 2 * math.log(deviation))], dim=1).expand(many, -1, -1, -1)
    drawn = spec.x0(wide, torch.randn(many, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    error = 5 * 0.5 * deviation / many**0.5
    torch.testing.assert_close(drawn.mean(0), (mean[0] - 0.25) * 0.5, atol=error, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((2, 3, 3), 0.5 * deviation), atol=error, rtol=0)


def test_microbatches_carry_latents_of_their_rows(made, tmp_path):
    """Microbatches hold their rows' latents, also through an Arrow table; pixels are not read, and each has its own
    stream."""
    manifest, vae, derived = made
    run = open_run(loading.parse_recipe(recipe_for(manifest, vae, tmp_path)))
    assert (run.latents, run.spec.image) == (derived, (2, 4, 4))
    reader = Reader(manifest, latents=derived)
    batches = [batch for step in read_batches(run.feed, reader, 0, 3) for batch in step]
    moments = LatentMoments(derived, manifest)
    table = to_table(decode_steps(run.feed, reader, 0, 3), {"moments": NUMBERS["fp32"]})
    assert to_table([], {"moments": NUMBERS["fp32"]}).schema == table.schema
    for batch, twin in zip(batches, from_table(table, 1), strict=True):
        assert np.array_equal(batch.moments.numpy(), moments.read(batch.rows))
        assert torch.equal(batch.moments, twin.moments)
        assert batch.images.numel() == twin.images.numel() == 0
        assert torch.equal(batch.labels, twin.labels)
    eps = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    found = draw_clean(batches[0], (-1, 1), run.spec.latent, torch.Generator().manual_seed(5), torch.device("cpu"))
    assert torch.equal(found, run.spec.latent.x0(batches[0].moments, eps))


def test_a_latent_model_draws_pixels(made, tmp_path, sink):
    """Two runs, one interrupted, are bit-equal; sampled images are the decoded latents of the checkpoint's network."""
    manifest, vae, _ = made
    changes = {"validation__rows": 8, "validation__every": 5, "sampling__every": 10, "sampling__count": 2}
    ends = []
    for name in ("a", "b"):
        tree = recipe_for(manifest, vae, tmp_path / name, **changes, sampling__steps=2)
        if name == "b":
            train_here(
                open_run(loading.parse_recipe({**tree, "train": {**tree["train"], "length": {"steps": 5}}})), None
            )
        ends.append(train_here(open_run(loading.parse_recipe(tree)), sink))
    assert same_tensors(ends[0].model.state_dict(), ends[1].model.state_dict())
    assert sink.pictures
    assert all(math.isfinite(value) for value in sink.of("val/loss").values())
    model = checkpoint.load_model(tmp_path / "a" / "small" / checkpoint.checkpoint_name(10))
    assert ModelSpec.parse(model.spec.dump()) == model.spec
    drawn = model.sample(n=3, solver="euler", steps=3, seed=1).images
    assert (drawn.dtype, drawn.shape) == (torch.uint8, (3, 1, 8, 8))
    plain = dataclasses.replace(model, spec=dataclasses.replace(model.spec, latent=None))
    seen = plain.sample(n=3, solver="euler", steps=3, seed=1, dtype=torch.float32).images
    with torch.no_grad():
        pixels = AutoencoderKL.from_pretrained(vae).eval().decode(seen / 0.5 + 0.25).sample
    assert (drawn.float() - to_uint8(pixels, -1.0, 1.0).float()).abs().max() <= 1
    assert torch.equal(model.edit(drawn, 1.0, solver="euler", steps=3, seed=1).images, drawn)
    with torch.no_grad():
        own = AutoencoderKL.from_pretrained(vae).eval()
        again = own.decode(own.encode(drawn.float() / 127.5 - 1.0).latent_dist.mean).sample
    unchanged = model.edit(drawn, 0.0, solver="euler", steps=3).images
    assert (unchanged.float() - to_uint8(again, -1.0, 1.0).float()).abs().max() <= 1
    for refused in (model.log_prob, model.bits_per_dim, model.encode, model.decode):
        with pytest.raises(ValueError, match="needs a model of pixels, and this one samples latents"):
            refused(drawn)


def test_another_autoencoder_is_refused(own, tmp_path):
    """Another autoencoder is refused by its hash in training and sampling; so are other data, and recipes that need
    pixels."""
    manifest, vae, derived = own
    tree = recipe_for(manifest, vae, tmp_path / "runs", train__length__steps=1)
    for key in ("flip", "crop", "scale"):
        value = {"flip": True, "crop": "random", "scale": [0.5, 1.0]}[key]
        with pytest.raises(ValueError, match=rf"data\.{key} works on pixels"):
            loading.parse_recipe({**tree, "data": {**tree["data"], key: value}})
    with pytest.raises(ValueError, match=r"data\.image_size=4"):
        open_run(loading.parse_recipe({**tree, "data": {**tree["data"], "image_size": 4}}))
    train_here(open_run(loading.parse_recipe(tree)), None)
    autoencoder(Path(vae), seed=1)
    with pytest.raises(ValueError, match=f"{derived.sha256[:12]}.*raysde precompute .* --vae"):
        open_run(loading.parse_recipe(tree))
    model = checkpoint.load_model(tmp_path / "runs" / "small" / checkpoint.checkpoint_name(1))
    latents.open_autoencoder.cache_clear()
    with pytest.raises(ValueError, match=f"trained with {derived.sha256[:12]}"):
        model.sample(solver="euler", steps=1)


def test_images_that_do_not_fit_are_named(own, tmp_path, monkeypatch):
    manifest, vae, _ = own
    settings = {"dtype": "fp32", "batch_size": 4}
    with pytest.raises(ValueError, match="takes 3 channels, the images have 1"):
        LatentsJob.of(manifest, autoencoder(tmp_path / "rgb", channels=3), **settings)
    with pytest.raises(ValueError, match="multiples of 2, the images are 8x7"):
        latents.latent_spec(vae, (1, 8, 7))
    with pytest.raises(ValueError, match="scales its latents per channel"):
        LatentsJob.of(manifest, autoencoder(tmp_path / "std", latents_std=[1.0, 2.0]), **settings)
    shards = (dataclasses.replace(manifest.shards[0], image=(4, 16)), *manifest.shards[1:])
    write_manifest(dataclasses.replace(manifest, shards=shards))
    with pytest.raises(ValueError, match="several sizes"):
        LatentsJob.of(read_manifest(manifest.path), vae, **settings)
    with pytest.raises(ValueError, match="found no config"):
        latents.vae_hash(str(tmp_path / "nowhere"))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"needs diffusers: pip install 'raysde\[diffusers\]'"):
        latents.load_vae(vae)


WEIGHTS = "diffusion_pytorch_model.safetensors"


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["decoder.conv_in.bias"]
    save_file(weights, folder / WEIGHTS)


def rewritten(**changes):
    def rewrite(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **changes}))

    return rewrite


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (rewritten(layers_per_block=2), r"do not fit its config\.json: \d+ differ, such as decoder\.up_blocks\.0\.resnets\.2"),
        (rewritten(block_out_channels=[8, 16]), "no AutoencoderKL can be loaded: .*size mismatch"),
        (rewritten(norm_num_groups=0), "no AutoencoderKL can be loaded"),
        (without_a_weight, r"do not fit its config\.json: 1 differ, such as decoder\.conv_in\.bias"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 100), "no AutoencoderKL can be loaded"),
        (rewritten(scaling_factor=None), "scaling_factor of its config.json must be a positive number, got None"),
        (rewritten(scaling_factor="x"), "scaling_factor .* got 'x'"),
        (rewritten(scaling_factor=True), "scaling_factor .* got True"),
        (rewritten(scaling_factor=0.0), r"scaling_factor .* got 0\.0"),
        (rewritten(scaling_factor=math.inf), "scaling_factor .* got inf"),
        (rewritten(shift_factor="x"), "shift_factor of its config.json must be a finite number, got 'x'"),
        (rewritten(shift_factor=math.nan), "shift_factor .* got nan"),
    ],
)  # fmt: skip
def test_autoencoders_that_cannot_be_used_are_named(tmp_path, harm, culprit):
    """An unusable autoencoder is named; diffusers would initialise missing weights at random."""
    vae = autoencoder(tmp_path / "vae")
    harm(tmp_path / "vae")
    with pytest.raises(ValueError, match=culprit) as caught:
        latents.latent_spec(vae, (1, 8, 8))
    assert vae in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_autoencoder_may_lack_a_shift_and_have_older_names(tmp_path):
    """Attention weights named as before diffusers 0.17, as in files of the hub, are translated by diffusers."""
    vae = autoencoder(tmp_path / "vae", shift_factor=None)
    expected = latents.load_vae(vae).state_dict()
    older, weights = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}, {}
    for name, weight in load_file(tmp_path / "vae" / WEIGHTS).items():
        for now, before in older.items() if ".attentions." in name else ():
            name = name.replace(now, before)
        weights[name] = weight
    assert set(weights) != set(expected)
    save_file(weights, tmp_path / "vae" / WEIGHTS)
    assert same_tensors(latents.load_vae(vae).state_dict(), expected)
    assert latents.latent_spec(vae, (1, 8, 8)).shift_factor == 0.0
