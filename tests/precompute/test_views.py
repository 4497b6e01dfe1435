"""Several views of precomputed latents: what they hold, how often each is drawn, and what is refused."""

import numpy as np
import pytest
import torch

from raysde.config import loading
from raysde.data.batches.microbatch import held_out_batches, read_batches
from raysde.data.dataset.precomputed import LatentViews, read_derived
from raysde.data.dataset.precomputed_rows import LatentMoments
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.view import View, draw_uniforms
from raysde.models.autoencoder import encode_moments, load_vae
from raysde.precompute.jobs import LatentsJob
from raysde.precompute.lookup import find_latents
from raysde.runs.run import open_run
from tests.support.command_line import refused
from tests.support.encoders import autoencoder
from tests.support.precomputed import done, encode, many_captions
from tests.support.training import small_recipe

FLIPPED = LatentViews(flip=True)
CROPPED = LatentViews(flip=True, crops=2, scale=(0.5, 0.9))


def encode_views(manifest, vae, views, batch_size=7):
    return done(LatentsJob.of(manifest, vae, dtype="fp32", batch_size=batch_size, views=views), manifest)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a data set, an autoencoder, and latents of whole images, with mirror images, and with crops."""
    folder = tmp_path_factory.mktemp("views")
    manifest, vae = many_captions(folder / "shards"), autoencoder(folder / "vae")
    return manifest, vae, encode(manifest, vae), *(encode_views(manifest, vae, views) for views in (FLIPPED, CROPPED))


def test_views_are_the_encoders_own(made):
    """View 0 is the latent of the whole image, view 1 that of its mirror image, and each pair after them of a crop."""
    manifest, path, whole, flipped, cropped = made
    vae, rows = load_vae(path), np.arange(manifest.rows)
    plain, two, six = (LatentMoments(each, manifest) for each in (whole, flipped, cropped))
    assert read_derived(cropped.path) == cropped
    assert len({whole.path, flipped.path, cropped.path}) == 3
    np.testing.assert_allclose(two.read(rows), plain.read(rows), rtol=1e-5, atol=1e-6)

    def expected(images: np.ndarray, mirrored: bool) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return encode_moments(vae, pixels.flip(-1) if mirrored else pixels).numpy()

    reader, view = Reader(manifest), View(crop="random", scale=CROPPED.scale)
    for number in range(6):
        crop, mirrored = divmod(number, 2)
        draws = np.concatenate([draw_uniforms(0, row, crop, 1) for row in rows.tolist()])
        images = reader.read(rows, view, draws).images if crop else reader.read(rows).images
        found = six.read(rows, np.full(len(rows), (number + 0.5) / 6))
        np.testing.assert_allclose(found, expected(images, bool(mirrored)), rtol=1e-4, atol=1e-5)
        if number < 2:
            other = two.read(rows, np.full(len(rows), (number + 0.5) / 2))
            np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-6)


def recipe(manifest, vae, runs, **changes):
    return small_recipe(manifest, runs, latent__vae=vae, text=None, network__multipliers=[1], train__microbatch=8,
                        validation__rows=8, **changes)  # fmt: skip


def test_a_run_draws_both_views_equally_often(made, tmp_path):
    """The share of mirror images lies within four standard errors of one half, and validation shows whole images."""
    manifest, vae, _, flipped, _ = made
    run = open_run(loading.parse_recipe(recipe(manifest, vae, tmp_path, latent__flip=True)))
    assert run.latents == flipped
    stored, reader = LatentMoments(flipped, manifest), run.sources.open_reader(run.feed.fields)
    counts = np.zeros(2, dtype=int)
    for (*batches,) in read_batches(run.feed, reader, 0, 60):
        for batch in batches:
            views = [stored.read(batch.rows, np.full(len(batch.rows), draw)) for draw in (0.0, 0.75)]
            same = np.array([(view == batch.moments.numpy()).all(axis=(1, 2, 3)) for view in views])
            assert (same.sum(axis=0) == 1).all()
            counts += same.sum(axis=1)
    assert counts.sum() == 960
    assert abs(counts[0] - 480) < 4 * np.sqrt(960 / 4)
    for batch in held_out_batches(reader, run.held_out, 8, run.feed.view, 0, 1):
        assert np.array_equal(batch.moments.numpy(), stored.read(batch.rows))


def test_views_do_not_depend_on_the_units(made):
    """Other batch sizes crop the same places; their latents agree up to the order of sums."""
    manifest, vae, *_, cropped = made
    job = LatentsJob.of(manifest, vae, dtype="fp32", batch_size=3, views=CROPPED)
    assert (job.out, job.identity["views"]) == (cropped.path, [True, 2, 0.5, 0.9])
    assert "views" not in LatentsJob.of(manifest, vae, dtype="fp32", batch_size=3).identity


def test_a_recipe_takes_the_views_that_it_names(made, tmp_path):
    manifest, vae, whole, _, cropped = made
    assert find_latents(manifest, vae, None) == whole
    assert find_latents(manifest, vae, None, CROPPED) == cropped
    with pytest.raises(ValueError, match=r"latent.crops=3 .* run `raysde precompute .* --crops 3 --scale 0.5 1`"):
        find_latents(manifest, vae, None, LatentViews(crops=3, scale=(0.5, 1.0)))
    for changes, said in (
        ({"latent__crops": 2}, "crops need a scale below 1"),
        ({"latent__scale": [0.5, 1.0]}, "a scale needs crops"),
        ({"latent__crops": 2, "latent__scale": [0.9, 0.5]}, "low <= high"),
        ({"data__flip": True}, "data.flip works on pixels, .*; remove it, or set latent.flip"),
    ):
        with pytest.raises(ValueError, match=said):
            loading.parse_recipe(recipe(manifest, vae, tmp_path, **changes))


def test_wrong_options_give_a_sentence(made, capsys):
    manifest, vae, *_ = made
    words = ["precompute", manifest.path]
    assert "give --vae" in refused(capsys, *words, "--text", "x", "--flip")
    assert "crops must be at least 0" in refused(capsys, *words, "--vae", vae, "--crops", "-1")
    assert "a scale needs crops" in refused(capsys, *words, "--vae", vae, "--scale", "0.5", "1")
