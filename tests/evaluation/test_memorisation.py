"""Memorised images: planted copies are found, held-out images are not taken for copies, and the report shows pairs."""

import dataclasses
import io
import json
from functools import lru_cache

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import betabinom

from raysde.cli import main
from raysde.data.dataset.manifest import write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.digits import load_digits
from raysde.evaluation import memorisation
from raysde.evaluation.evaluate import evaluate
from raysde.evaluation.features.networks import wrap_as_network
from raysde.evaluation.generated import Drawer
from raysde.evaluation.memorisation import TRAINING, UNSEEN, open_rows
from raysde.evaluation.metrics.nearest import NEIGHBOURS
from raysde.evaluation.question import Question
from raysde.evaluation.workload import Bench, measure_here
from raysde.images.png import is_own
from raysde.registry import load
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.feature_networks import Grey

TRAINED, HELD, PLANTED = 1000, 400, 12
FAST = {"solver": "ddim", "steps": 2}


@lru_cache
def shuffled_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits in random order, since those of one writer are adjacent, and splits are of all writers."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def shards(folder, rows: int, trained: int):
    """Digits, of which those after ``trained`` are the validation split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.digits.load_digits", shuffled_digits)
        manifest = write_digit_shards(folder, rows, trained)
    held = tuple(dataclasses.replace(shard, split="validation") for shard in manifest.shards[1:])
    manifest = dataclasses.replace(manifest, shards=(manifest.shards[0], *held))
    write_manifest(manifest)
    return manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("data") / "shards", TRAINED + HELD, TRAINED)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "plain", text=None)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Return grey levels [H, W] as JPEG keeps them."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def plant() -> tuple[torch.Tensor, list[int]]:
    """Return images uint8 [N, 1, 8, 8] and the training rows of the first of them: exact copies, mirrored ones, JPEG
    copies, and mirrored JPEG copies; the others are digits that the data has not."""
    digits = shuffled_digits()[0]
    rows = [17 * number % TRAINED for number in range(4 * PLANTED)]
    copies = digits[rows].copy()
    copies[PLANTED : 2 * PLANTED] = copies[PLANTED : 2 * PLANTED, :, ::-1]
    copies[3 * PLANTED :] = copies[3 * PLANTED :, :, ::-1]
    for number in range(2 * PLANTED, 4 * PLANTED):
        copies[number] = compress(copies[number], 75)
    return torch.from_numpy(np.concatenate([copies, digits[TRAINED + HELD : TRAINED + HELD + 250]])).unsqueeze(1), rows


def draw_planted(monkeypatch) -> tuple[int, list[int]]:
    """Let the model draw planted images; return their number, and the rows that the first are copies of."""
    images, rows = plant()
    monkeypatch.setattr(Drawer, "images", lambda self, first, count, progress=None: images[first : first + count])
    return len(images), rows


def measure(model: str, data, count: int, cache, metrics=(memorisation.NAME,)):
    network = wrap_as_network("pixels", Grey())
    question = Question(metrics, count, allow_few=True, settings=FAST)
    return evaluate(load(model), data.path, question, open_features=lambda _: network, cache=cache)


def is_as_unseen(hits: int, images: int, calibration: dict) -> bool:
    """Return True if the number of ``hits`` is one of images that are like the calibrating ones, with the probability
    of four standard errors."""
    law = betabinom(images, calibration["rank"], calibration["images"] + 1 - calibration["rank"])
    return law.ppf(3e-5) <= hits <= law.ppf(1.0 - 3e-5)


def test_planted_copies_are_found_and_unseen_images_are_not_taken_for_copies(model, data, tmp_path, monkeypatch):
    """Exact, mirrored and JPEG-compressed copies are all at or below the threshold, whose share of other digits and of
    the second half of the held-out ones lies in its 95% band; by Grey, whose features are pixels."""
    count, rows = draw_planted(monkeypatch)
    answer = measure(model, data, count, tmp_path)
    (figure,), found = answer.figures, answer.about["memorisation"]
    hits = figure.influence.values["drawn"]
    assert hits[: len(rows)].all()
    low, high = found["held_out"]["band"]
    assert low <= found["held_out"]["share"] <= high
    others = hits[len(rows) :]
    assert is_as_unseen(int(others.sum()), len(others), found["calibration"])
    assert figure.value == pytest.approx(hits.mean().item())
    assert figure.low > high > figure.value - len(rows) / count
    assert (figure.samples, figure.reference, figure.entry()["best"]) == (count, TRAINED, "lower")
    assert found["calibration"] == {"images": HELD // 2, "rank": 10, "expected": 10 / 201}


def test_the_closest_pairs_are_the_copies_and_their_originals(model, data, tmp_path, monkeypatch):
    """The exact and mirrored copies come first, each beside its training image as it is stored."""
    count, rows = draw_planted(monkeypatch)
    answer = measure(model, data, count, tmp_path)
    pairs = answer.about["memorisation"]["pairs"]
    assert len(pairs) == memorisation.PAIRS
    digits = shuffled_digits()[0]
    assert sorted(each["image"] for each in pairs) == list(range(memorisation.PAIRS))
    for number, each in enumerate(pairs):
        assert each["row"] == rows[each["image"]]
        assert each["distance"] == pytest.approx(0.0, abs=1e-3)
        assert each["mirrored"] == (each["image"] >= PLANTED)
        drawn, real = answer.pairs.images[2 * number : 2 * number + 2, 0].numpy()
        assert np.array_equal(real, digits[each["row"]])
        assert np.array_equal(drawn, real[:, ::-1] if each["mirrored"] else real)
        assert ("mirrored" in answer.pairs.captions[2 * number + 1]) == each["mirrored"]
    relative = [each["relative"] for each in pairs]
    assert relative == sorted(relative)


def test_a_model_that_draws_held_out_digits_alone_is_in_the_band(model, data, tmp_path, monkeypatch):
    """The share of digits that the data has not is that of other images of the same distribution."""
    digits = torch.from_numpy(shuffled_digits()[0][TRAINED + HELD :]).unsqueeze(1)
    monkeypatch.setattr(Drawer, "images", lambda self, first, count, progress=None: digits[first : first + count])
    found = measure(model, data, len(digits), tmp_path).about["memorisation"]
    hits = round(found["drawn"]["share"] * len(digits))
    assert is_as_unseen(hits, len(digits), found["calibration"])


def test_distances_are_those_of_brute_force_whatever_else_is_measured(model, data, tmp_path, monkeypatch):
    """The first images that are kept count, also beside metrics that keep all, and the halves follow the seed."""
    monkeypatch.setattr("raysde.evaluation.real.KEPT", 100)
    count, _ = draw_planted(monkeypatch)
    alone, beside = (measure(model, data, count, tmp_path, names) for names in (("memorised",), ("kid", "memorised")))
    assert alone.about["memorisation"] == beside.about["memorisation"]
    assert alone.figures[0] == beside.figures[1]
    assert alone.figures[0].samples == 100
    digits = shuffled_digits()[0].reshape(-1, 64).astype(float)
    images = plant()[0].numpy().astype(float)[:100]
    turned = images[..., ::-1].reshape(100, 64)
    apart = np.minimum(*(np.linalg.norm(each[:, None] - digits[None, :TRAINED], axis=2)
                         for each in (images.reshape(100, 64), turned)))  # fmt: skip
    near = np.sort(apart, axis=1)[:, :NEIGHBOURS]
    hits = near[:, 0] / near.mean(axis=1) <= alone.about["memorisation"]["threshold"]
    assert alone.figures[0].influence.values["drawn"].tolist() == hits.tolist()


def test_rows_are_measured_in_their_order_and_held_out_ones_with_their_mirror_images(data):
    network = wrap_as_network("pixels", Grey())
    rows = open_rows(Reader(data), (8, 8), network)
    assert rows[TRAINING].rows.tolist() == list(range(TRAINED))
    assert rows[UNSEEN].rows.tolist() == list(range(TRAINED, TRAINED + HELD))
    digits = torch.from_numpy(shuffled_digits()[0])
    (part,) = measure_here(Bench(others=rows), TRAINING, [(7, 5)])
    assert torch.equal(part.values["features"], digits[7:12].flatten(1).float())
    (part,) = measure_here(Bench(others=rows), UNSEEN, [(3, 4)])
    held = digits[TRAINED + 3 : TRAINED + 7]
    assert torch.equal(part.values["features"], held.flatten(1).float())
    assert torch.equal(part.values["mirrored"], held.flip(2).flatten(1).float())


def command(model: str, data, tmp_path, *more: str) -> list[str]:
    given = ["evaluate", model, "--data", data.path, "--solver", "ddim", "--steps", "2", "--metrics", "memorised"]
    given += ["--features", "tests.support.feature_networks:Grey", "--allow-code", "--cache", str(tmp_path)]
    return [*given, "--output", str(tmp_path / "report.json"), *more]


def test_the_command_writes_a_picture_beside_the_report(model, data, tmp_path, monkeypatch, capsys):
    count, _ = draw_planted(monkeypatch)
    assert main(command(model, data, tmp_path, "--samples", str(count))) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    picture = tmp_path / "report.memorised.png"
    assert report["memorisation"]["picture"] == str(picture)
    assert is_own(picture)
    assert Image.open(picture).width > 4 * 8
    share = report["memorisation"]["drawn"]["share"]
    assert f"memorised: {share:.1%} of {count} samples" in said
    assert "of 200 held-out images" in said
    assert str(picture) in said


def test_mistakes_are_one_sentence(model, digits, tmp_path, capsys):
    assert "has no validation split" in refused(capsys, *command(model, digits, tmp_path))
    few = shards(tmp_path / "few", 137, 100)
    assert "memorised: 37 images in the validation split of" in refused(capsys, *command(model, few, tmp_path))
    small = shards(tmp_path / "small", 98, 49)
    assert "memorised: 49 training images at" in refused(capsys, *command(model, small, tmp_path))
    (tmp_path / "report.memorised.png").mkdir()
    enough = shards(tmp_path / "enough", 88, 50)
    assert "report.memorised.png is a folder" in refused(capsys, *command(model, enough, tmp_path, "--samples", "4"))
    (tmp_path / "report.memorised.png").rmdir()
    assert main(command(model, enough, tmp_path, "--samples", "4")) == 0
