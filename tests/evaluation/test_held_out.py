"""Held-out rows: likelihoods, denoised and inpainted pairs against exact answers, and the choice of rows."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm, sem

from raysde import rng as randomness
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.data.dataset.manifest import write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.view import View
from raysde.data.ingest.digits import load_digits
from raysde.evaluation import held_out
from raysde.evaluation.chunks import merge_parts
from raysde.evaluation.evaluate import evaluate
from raysde.evaluation.held_out import (
    ROUNDING,
    HeldOut,
    choose_unseen_rows,
    mse,
    psnr,
    ssim,
)
from raysde.evaluation.metric import choose_direction
from raysde.evaluation.question import Question
from raysde.inference.guidance import Guidance
from raysde.inference.model import Model
from raysde.inference.ranges import split_range
from raysde.inference.sample import Drawn
from raysde.registry import load
from raysde.sampling import likelihood
from raysde.sampling.sampler import Samples
from raysde.sampling.solvers.ode import EdmHeun
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.models import UNET, caption_spec, filled_model

FAST = {"solver": "ddim", "steps": 4}
GREY = 100


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write 150 digits for training and 50 held-out ones."""
    manifest = write_digit_shards(tmp_path_factory.mktemp("data") / "shards", 200, 150)
    shards = (manifest.shards[0], dataclasses.replace(manifest.shards[1], split="validation"))
    manifest = dataclasses.replace(manifest, shards=shards)
    write_manifest(manifest)
    return manifest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        8: write_model(folder / "8", text=None, classes=10),
        16: write_model(folder / "16", text=None, image=(1, 16, 16), network=dataclasses.replace(UNET, attention=(8,))),
    }


class Exact:
    """The exact score of data that is one grey image."""

    def __init__(self, sde, level: float) -> None:
        self.sde, self.level = sde, level

    def score(self, x, t):
        alpha, sigma = (value.reshape(-1, 1, 1, 1).to(x) for value in self.sde.marginal(t))
        return (alpha * self.level - x) / sigma**2


@pytest.fixture
def exact(monkeypatch):
    """Give every model the exact score of the grey image GREY."""
    monkeypatch.setattr(Guidance, "score", lambda self, model, encode, count: Exact(model.sde, GREY / 127.5 - 1.0))


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Compute likelihoods to two digits, in a tenth of the time."""
    plain = likelihood.bits_per_dim
    monkeypatch.setattr(
        "raysde.sampling.likelihood.bits_per_dim",
        lambda *given, **named: plain(*given, **{**named, "rtol": 1e-2, "atol": 1e-2}),
    )


def test_mse_is_of_pixels_from_black_to_white_and_psnr_is_its_logarithm():
    """Compare each pair with NumPy; the MSE between black and white is 1."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 5, 3, 16, 16), dtype=np.uint8)
    first[0], second[0] = 0, 255
    found = mse(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(found, ((first / 255.0 - second / 255.0) ** 2).mean(axis=(1, 2, 3)), rtol=1e-12)
    assert found[0] == 1.0
    np.testing.assert_allclose(
        psnr(torch.from_numpy(first), torch.from_numpy(second)), -10.0 * np.log10(found), atol=1e-5
    )


@pytest.mark.parametrize("task", ["denoised", "inpainted"])
def test_mse_is_measured_where_psnr_is(model, data, tmp_path, task):
    """MSE uses the rows and pixels of PSNR, is better when lower, and has a normal interval."""
    names = (f"{task}_psnr", f"{task}_mse")
    held = HeldOut(load(model[8]), Reader(data), choose_unseen_rows(Reader(data), 6), (8, 8), 0, 0.5, names, FAST)
    values = held.part(task, 0, 6).values
    np.testing.assert_allclose(values[f"{task}_psnr"], -10.0 * np.log10(values[f"{task}_mse"]))
    figure = held_out.average_metric(f"{task}_mse", values[f"{task}_mse"], 0, 0.5)
    assert figure.value == pytest.approx(values[f"{task}_mse"].mean().item())
    assert figure.entry()["best"] == choose_direction(f"{task}_mse") == "lower"


def test_psnr_and_ssim_are_their_formulas():
    truth = torch.full((2, 1, 16, 16), 100, dtype=torch.uint8)
    other = truth.clone()
    other[1] += 5
    assert psnr(other, truth).tolist() == pytest.approx([ROUNDING, 10.0 * math.log10(255.0**2 / 25.0)])
    constant = (2.0 * 100.0 * 105.0 + 2.55**2) / (100.0**2 + 105.0**2 + 2.55**2)
    assert ssim(other, truth).tolist() == pytest.approx([1.0, constant])


@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_an_exact_model_of_one_image_denoises_to_that_image(model, data, exact, t):
    """The score leads back to the image GREY from any noise, so the PSNR is that between GREY and the digits."""
    reader = Reader(data)
    rows = choose_unseen_rows(reader, 20)
    held = HeldOut(load(model[8]), reader, rows, (8, 8), 0, t, ("denoised_psnr",), {**FAST, "denoise": True})
    found = held.part("denoised", 0, 20).values["denoised_psnr"]
    images = reader.read(rows).images.astype(np.float64)
    expected = 10.0 * np.log10(255.0**2 / ((images - GREY) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_little_noise_leaves_the_image_and_more_takes_it_away(model, data):
    """An untrained model denoises badly, and the worse the larger t is."""
    reader, found = Reader(data), []
    for t in (0.002, 0.1, 0.5, 1.0):
        held = HeldOut(load(model[8]), reader, choose_unseen_rows(reader, 30), (8, 8), 0, t, ("denoised_psnr",), FAST)
        found.append(held.part("denoised", 0, 30).values["denoised_psnr"].mean().item())
    assert found[0] > 30.0
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("t", "steps"), [(0.05, 10), (0.5, 10), (0.5, 23), (1.0, 10)])
def test_each_step_has_the_churn_that_it_has_in_drawing(model, data, monkeypatch, t, steps):
    """S_churn is shared by all steps (Karras et al. 2022, algorithm 2), and denoising walks only the last of them."""
    walks = []
    plain = EdmHeun.__init__

    def watched(self, walk, **given):
        plain(self, walk, **given)
        walks.append((len(walk.times) - 1, self.gamma))

    monkeypatch.setattr(EdmHeun, "__init__", watched)
    own, own_settings = load(model[8]), {"solver": "edm", "steps": steps, "churn": 2.0}
    own.sample(n=1, labels=[3], guidance=1.0, **own_settings)
    held = HeldOut(
        own, Reader(data), choose_unseen_rows(Reader(data), 2), (8, 8), 0, t, ("denoised_psnr",), own_settings
    )
    held.part("denoised", 0, 2)
    (whole, gamma), (part, found) = walks
    assert whole == steps
    assert part < whole or t == 1.0
    assert found == pytest.approx(gamma, rel=1e-12) == 2.0 / steps


def test_the_noise_at_t_is_that_of_the_process(model, data, monkeypatch):
    """The start x_t has mean alpha x0 and deviation sigma, over 50 rows of 64 pixels and to four standard errors."""
    starts = []

    def watched(score, sde, shape, *, start, times, **given):
        starts.append((start, times))
        return Samples(start, 1)

    monkeypatch.setattr("raysde.evaluation.held_out.sample", watched)
    reader, held_model = Reader(data), load(model[8])
    rows = choose_unseen_rows(reader, 50)
    HeldOut(held_model, reader, rows, (8, 8), 0, 0.3, ("denoised_psnr",), FAST).part("denoised", 0, 50)
    ((start, times),) = starts
    alpha, sigma = (float(value) for value in held_model.sde.marginal(torch.tensor(0.3, dtype=torch.float64)))
    x0 = torch.from_numpy(reader.read(rows).images).permute(0, 3, 1, 2) / 127.5 - 1.0
    eps = (start - alpha * x0) / sigma
    assert abs(eps.mean()) < 4.0 / math.sqrt(3200.0)
    assert abs(eps.var() - 1.0) < 4.0 * math.sqrt(2.0 / 3200.0)
    assert times[0] == 0.3
    assert times[-1] == held_model.sde.sample_floor
    assert (times.diff() < 0.0).all()


def test_what_is_known_stays_and_the_hole_is_drawn(model, data, exact):
    reader = Reader(data)
    rows = choose_unseen_rows(reader, 10)
    metrics, settings = ("inpainted_psnr",), {**FAST, "steps": 50, "method": "replacement"}
    held = HeldOut(load(model[8]), reader, rows, (8, 8), 0, 0.5, metrics, settings)
    found = held.part("inpainted", 0, 10).values["inpainted_psnr"]
    hole = reader.read(rows).images[:, 2:6, 2:6].astype(np.float64)
    np.testing.assert_allclose(found, 10.0 * np.log10(255.0**2 / ((hole - GREY) ** 2).mean(axis=(1, 2, 3))), atol=0.1)


def test_likelihoods_are_those_of_the_model(model, data):
    """Compare with the model's own bits per dimension, with its dequantisation and one repeat of each part's seed."""
    reader, held_model = Reader(data), load(model[8])
    rows = choose_unseen_rows(reader, 20)
    held = HeldOut(held_model, reader, rows, (8, 8), 3, 0.5, ("bpd",))
    found = merge_parts(held.part("bpd", *each) for each in split_range(20, 16))["bpd"]
    columns = reader.read(rows[16:])
    images = torch.from_numpy(columns.images).permute(0, 3, 1, 2)
    seed = randomness.key(3, randomness.EVALUATION, 4, 16)
    expected = held_model.bits_per_dim(images, labels=columns.labels.tolist(), seed=seed, repeats=1).value
    torch.testing.assert_close(found[16:], expected.double())


def test_rows_are_held_out_ones(data, digits):
    rows = choose_unseen_rows(Reader(data), 30)
    assert len(set(rows.tolist())) == 30
    assert rows.min() >= 150
    assert choose_unseen_rows(Reader(data), 500).tolist() == list(range(150, 200))
    with pytest.raises(ValueError, match="no validation split"):
        choose_unseen_rows(Reader(digits), 5)


def test_results_do_not_depend_on_their_parts(model, data):
    reader, rows = Reader(data), choose_unseen_rows(Reader(data), 24)
    held = HeldOut(load(model[8]), reader, rows, (8, 8), 0, 0.4, ("denoised_psnr",), FAST)
    whole = held.part("denoised", 0, 24).values["denoised_psnr"]
    parts = merge_parts([held.part("denoised", *each) for each in ((20, 4), (0, 7), (7, 13))])["denoised_psnr"]
    torch.testing.assert_close(parts, whole, atol=0.05, rtol=0.0)


def test_holes_are_filled_by_the_number_of_their_row(model, data):
    """A row has the same noise in any part, hence the same image up to rounding; other rows have other noise."""
    reader, rows = Reader(data), np.repeat(choose_unseen_rows(Reader(data), 1), 6)
    settings = {**FAST, "method": "replacement", "denoise": True}
    held = HeldOut(load(model[8]), reader, rows, (8, 8), 0, 0.4, ("inpainted_psnr",), settings)
    whole = held.part("inpainted", 0, 6).values["inpainted_psnr"]
    parts = merge_parts([held.part("inpainted", *each) for each in ((4, 2), (0, 1), (1, 3))])["inpainted_psnr"]
    torch.testing.assert_close(parts, whole, atol=0.05, rtol=0.0)
    assert len({round(value, 3) for value in whole.tolist()}) == 6


def test_every_setting_of_held_out_rows_reaches_the_model(data, monkeypatch):
    """The model gets these rows' labels, the seed, the first number and the settings; metrics see only the hole, which
    is the middle of an image that is not square."""
    asked, reader = [], Reader(data)
    rows = choose_unseen_rows(reader, 9)

    def inpaint(self, images, mask, **given):
        asked.append((mask, given))
        drawn = images.clone()
        drawn[..., ~mask] += 3  # errors inside the hole, and one large error outside it
        drawn[0, :, 0, 0] += 100
        return Drawn(drawn, None, 0, 1)

    def drawn(self, run, count, **given):
        asked.append((count, given))
        return Drawn(torch.zeros(count, 1, 8, 16, dtype=torch.uint8), None, 0, 1)

    wide = {"classes": 10, "image": (1, 8, 16)}
    plain = Model(filled_model(text=None, **wide), caption_spec(text=None, **wide))
    monkeypatch.setattr(Model, "inpaint", inpaint)
    monkeypatch.setattr(Model, "drawn", drawn)
    settings = {**FAST, "guidance": 1.5, "guidance_interval": (0.2, 3.0), "batch_size": 3}
    metrics = ("inpainted_psnr", "denoised_psnr")
    held = HeldOut(plain, reader, rows, (8, 16), 7, 0.4, metrics, settings)
    found = [held.part(measure, 4, 5) for measure in ("inpainted", "denoised")]
    wanted = {**settings, "seed": 7, "first": 4, "prompts": None, "labels": load_digits()[1][rows[4:]].tolist()}
    (mask, first), (count, second) = asked
    assert first == second == wanted
    assert count == 5
    known = torch.ones(8, 16, dtype=torch.bool)
    known[2:6, 4:12] = False
    assert torch.equal(mask, known)
    images = reader.read(rows[4:], View((8, 16))).images[..., 0].astype(np.float64)
    hole = images[:, 2:6, 4:12]
    off = (np.where(hole > 252, hole - 256 + 3, hole + 3) - hole) ** 2  # uint8 wraps
    expected = 10.0 * np.log10(255.0**2 / off.mean(axis=(1, 2)))
    np.testing.assert_allclose(found[0].values["inpainted_psnr"], expected)
    expected = np.minimum(10.0 * np.log10(255.0**2 / (images**2).mean(axis=(1, 2))), ROUNDING)
    np.testing.assert_allclose(found[1].values["denoised_psnr"], expected)


def test_more_rows_than_a_part_are_measured_once_each(model, data, tmp_path, monkeypatch):
    """Each row keeps its own number, and the metric is the mean over all rows."""
    seen = []

    def measured(held, columns, first):
        seen.append((first, len(columns.labels)))
        return {"denoised_psnr": torch.from_numpy(columns.images).double().mean(dim=(1, 2, 3))}

    monkeypatch.setitem(held_out.MEASURES, "denoised", measured)
    question = Question(("denoised_psnr",), 1, rows=37, seed=3, settings=FAST)
    (found,) = evaluate(load(model[8]), data.path, question, cache=tmp_path).figures
    assert seen == [(0, 16), (16, 16), (32, 5)]
    values = load_digits()[0][choose_unseen_rows(Reader(data), 37)].mean(axis=(1, 2))
    assert (found.samples, found.seed, found.entry()["best"]) == (37, 3, "higher")
    assert found.value == pytest.approx(values.mean(), rel=1e-9)
    assert found.high - found.value == pytest.approx(norm.ppf(0.975) * sem(values), rel=1e-5)


def test_the_command_measures_held_out_rows(model, data, tmp_path, capsys):
    names = "denoised_psnr,inpainted_psnr,bpd"
    given = ["evaluate", model[8], "--data", data.path, "--metrics", names, "--rows", "5", "--t", "0.2"]
    more = ["--solver", "ddim", "--steps", "2", "--output", str(tmp_path / "report.json"), "--cache", str(tmp_path)]
    assert main([*given, *more]) == 0
    report = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert [each["name"] for each in report] == names.split(",")
    assert all(each["samples"] == 5 and each["low"] < each["value"] < each["high"] for each in report)
    for wrong, said in (
        (["--t", "1.5"], "t must lie above"),
        (["--rows", "0"], "rows must be at least 2"),
        (["--metrics", "denoised_ssim"], "SSIM needs images of at least 11 pixels"),
        (["--metrics", "inpainted_lpips"], "LPIPS needs images of at least 31 pixels"),
    ):
        assert said in refused(capsys, *given, *more, *wrong)


def test_a_models_own_settings_count_here_too(model, data, tmp_path):
    """A tuned model has the metrics of the plain model given the same settings, as in `raysde evaluate`."""
    own = {"solver": "ddim", "steps": 3, "guidance": 1.5}
    checkpoint.export_with_settings(Path(model[8]), tmp_path / "own", own)
    found = {}
    for name, source, settings in (("own", tmp_path / "own", {}), ("given", model[8], own), ("plain", model[8], FAST)):
        question = Question(("denoised_psnr", "inpainted_psnr"), 1, rows=4, settings=settings)
        found[name] = evaluate(load(source), data.path, question, cache=tmp_path)
    assert found["own"].figures == found["given"].figures
    assert all(one.value != two.value for one, two in zip(found["own"].figures, found["plain"].figures, strict=True))
    assert {name: answer.about["overrides"] for name, answer in found.items()} == {
        "own": None, "given": "guidance=1.5 solver=ddim steps=3", "plain": "solver=ddim steps=4",
    }  # fmt: skip
    assert found["own"].about["sampling"] == {"samples": 1, "seed": 0, **own}


def test_a_guide_leads_what_is_drawn_of_held_out_rows(model, data, tmp_path):
    """The guide also leads a model without conditions, which nothing else leads."""
    write_model(tmp_path / "plain", text=None)
    guide, found = load(write_model(tmp_path / "guide", text=None, classes=10)), set()
    for parameter in guide.score_model.parameters():
        parameter.data.mul_(0.9)
    question = Question(("denoised_psnr", "inpainted_psnr"), 1, rows=4, settings={**FAST, "guidance": 3.0})
    for away in ({}, {"guide": guide}, {"guide": guide, "autoguidance": 1.5}):
        answer = evaluate(load(model[8]), data.path, question, cache=tmp_path, **away)
        found |= {(figure.name, figure.value) for figure in answer.figures}
    assert len(found) == 6
    plain = load(tmp_path / "plain")
    question = dataclasses.replace(question, settings=FAST)
    alone, itself = (evaluate(plain, data.path, question, cache=tmp_path, **away) for away in ({}, {"guide": plain}))
    for one, two in zip(alone.figures, itself.figures, strict=True):  # its own guide
        # a grey level in every pixel moves the PSNR by 20 log10(1 + 1 / deviation); here they move by rounding alone
        level = 20.0 * math.log10(1.0 + 1.0 / (255.0 * 10.0 ** (-one.value / 20.0)))
        assert two.value == pytest.approx(one.value, abs=level)
        assert min(abs(two.value - value) for name, value in found if name == one.name) > level


def test_ssim_of_larger_images(model, tmp_path):
    """Measure a model of 16 x 16 pixels on digits enlarged to that size."""
    manifest = write_digit_shards(tmp_path / "shards", 40, 20)
    shards = (manifest.shards[0], dataclasses.replace(manifest.shards[1], split="validation"))
    write_manifest(dataclasses.replace(manifest, shards=shards))
    question = Question(("denoised_ssim", "inpainted_ssim"), 1, rows=4, t=0.002, settings=FAST)
    first, second = evaluate(load(model[16]), manifest.path, question, cache=tmp_path).figures
    assert 0.9 < first.value <= 1.0
    assert -1.0 <= second.value < first.value
