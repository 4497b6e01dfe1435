"""Metrics of drawn images are measured against the run's own images: its version, its selected rows, its shares."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.config import loading
from raysde.data.batches.shares import fit_shares, split_count
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.sources import Source
from raysde.evaluation.features import classifier
from raysde.evaluation.real import RealImages
from raysde.evaluation.real_data import RealData, choice_of, open_filtered, open_sources
from raysde.evaluation.report import parse_figures
from raysde.evaluation.selection import captions_by_label, draw_conditions, list_rows, select_rows
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.training import Recorded, small_recipe

FILTER = "score > 3 and language == 'en'"
WANTED = [row for row in range(240) if row % 7 and row > 30 and row % 2]
METRICS = ("kid", "accuracy")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep judges and statistics in a folder of each test's own, with a judge that is trained for seconds."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in (("IMAGES", 300), ("LEAST", 1), ("MOST", 1)):
        monkeypatch.setattr(classifier, name, value)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return a data set of 240 scored rows, and another of 120 with keys from 1000 on."""
    folder = tmp_path_factory.mktemp("both")
    first = ingest_here(scored_parts(240), folder / "first", RULES)
    return first, ingest_here(scored_parts(120, first=1000), folder / "second", RULES)


def tree_of(manifest, place, data, **changes):
    given = {"name": "run", "text": None, "class_conditional": True, "train__lr": 3e-2, "train__length__steps": 2,
             "train__batch": 12, "train__microbatch": 6, "checkpoint_every": 2, "validation__rows": 0,
             "validation__metrics": list(METRICS), "validation__every": 0, "validation__metrics_every": 2,
             "validation__samples": 24, "validation__features": "judge", "validation__seed": 3,
             "validation__sampler": {"solver": "euler", "steps": 2, "guidance": 1.0}}  # fmt: skip
    return {**small_recipe(manifest, place / "runs", **{**given, **changes}), "data": data}


def train(tree):
    sink = Recorded()
    train_here(open_run(loading.parse_recipe(tree)), sink)
    return sink


def evaluated(place: Path, *more: str) -> dict:
    """Return the report of `raysde evaluate` of the run's last checkpoint."""
    folder, report = place / "runs" / "run" / checkpoint.checkpoint_name(2), place / "report.json"
    command = ["evaluate", str(folder), "--metrics", ",".join(METRICS), "--samples", "24", "--features", "judge"]
    command += ["--seed", "3", "--solver", "euler", "--steps", "2", "--guidance", "1", "--device", "cpu"]
    assert main([*command, "--output", str(report), *more]) == 0
    return json.loads(report.read_text())


def values_of(report: dict) -> dict[str, list[float]]:
    return {each["name"]: [each[key] for key in ("value", "low", "high")] for each in report["figures"]}


def logged(sink: Recorded) -> dict[str, list[float]]:
    return {name: [sink.of(f"val/{name}{end}")[2] for end in ("", "/low", "/high")] for name in METRICS}


def test_metrics_are_of_the_version_and_the_selected_rows(tmp_path, home):
    """A run on version 1 and a filter logs what `raysde evaluate` measures on that version and filter, bit for bit,
    with the options and by the checkpoint's own record, after version 2 came. All 90 selected rows count."""
    base = ingest_here(scored_parts(240), tmp_path / "data", RULES)
    ingest_here(scored_parts(60, first=1000), tmp_path / "data", RULES, base)
    sink = train(tree_of(base, tmp_path, {"path": base.path, "version": 1, "filter": FILTER}))
    asked = ["--data", base.path, "--data-version", "1", "--filter", FILTER]
    options, record = evaluated(tmp_path, *asked), evaluated(tmp_path)
    assert values_of(options) == values_of(record) == logged(sink)
    (entry,) = record["data"]["sources"]
    assert (entry["selected"], record["data"]["fingerprint"]) == (len(WANTED), base.fingerprint)
    assert {each["reference"] for each in record["figures"] if each["name"] == "kid"} == {len(WANTED)}
    kept = {path.name for path in home.glob("**/*.safetensors")}
    others = evaluated(tmp_path, "--data", base.path), evaluated(tmp_path, *asked[:4])
    for other in others:
        assert values_of(other)["kid"] != values_of(record)["kid"]
        assert "choice" not in other["data"]
    assert len({path.name for path in home.glob("**/*.safetensors")} - kept) == 4  # a judge and statistics of each
    compared = [{each.name: each.data for each in parse_figures(report, "")}["kid"] for report in (record, *others)]
    assert len(set(compared)) == 3


def test_metrics_of_a_mixture_take_the_shares(both, tmp_path):
    """A run on two data sets logs what `raysde evaluate` measures by the checkpoint's record. Of 3 : 1, the filter's
    rows and a third as many of the other data set are the real images."""
    mix = [{"path": both[0].path, "weight": 0.75, "filter": FILTER}, {"path": both[1].path, "weight": 0.25}]
    sink = train(tree_of(both[0], tmp_path, {"mix": mix}))
    report = evaluated(tmp_path)
    assert values_of(report) == logged(sink)
    (kid,) = (each for each in report["figures"] if each["name"] == "kid")
    assert kid["reference"] == len(WANTED) * 4 // 3
    assert [each["share"] for each in report["data"]["sources"]] == [3, 1]


@pytest.mark.parametrize("count", [None, 1, 10, 50, 10_000])
def test_rows_of_a_mixture_are_in_exact_proportion(both, count):
    """Each data set gives its share of the rows to within one row; the rows are distinct, selected and of the split."""
    filtered = open_filtered(both[0].path, None, FILTER)
    selection = filtered.sources[0].selection
    reader = open_sources([Source(both[0], selection=selection), Source(both[1])], [2, 5])
    rows = select_rows(reader, "train", count)
    most = min(len(WANTED) * 7 / 2, 120 * 7 / 5)
    assert len(rows) == (int(most) if count is None else min(count, int(most)))
    assert (np.diff(rows) > 0).all()
    first = rows[rows < 240]
    assert abs(len(first) - len(rows) * 2 / 7) < 1
    assert set(first.tolist()) <= set(WANTED)
    assert list_rows(reader, "train").tolist() == [*WANTED, *range(240, 360)]
    assert list_rows(filtered, "train").tolist() == select_rows(filtered, "train", None).tolist() == WANTED


def test_shares_fit_the_rows():
    """No source gives more rows than it has, and one more period of all shares would not fit."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        shares = generator.integers(1, 30, 3).tolist()
        rows = generator.integers(0, 500, 3).tolist()
        count = fit_shares(rows, shares)
        assert all(part <= own for part, own in zip(split_count(count, shares), rows, strict=True))
        over = split_count(count + sum(shares), shares)
        assert any(part > own for part, own in zip(over, rows, strict=True))


def test_labels_and_captions_are_those_of_selected_rows(both):
    """A filter that leaves one class draws that class alone; captions are those of the rows, through the template."""
    # rows 3, 9, 15, ... have the class 0 and are odd; their scores are multiples of 0.3
    reader = open_filtered(both[0].path, None, "score in [0.3, 0.9, 1.5]")
    assert reader.classes_in("train") == (0,)
    assert draw_conditions(reader, "train", classes=3, captions=False, names=("0", "1", "2")).labels == (0,)
    assert captions_by_label(reader, list_rows(reader, "train")) == {0: {"row 3", "row 9", "row 15"}}
    selection = reader.sources[0].selection
    shown = open_sources([Source(both[0], "{caption} of {label}", selection=selection), Source(both[1])], [1, 1])
    found = captions_by_label(shown, np.array([3, 9, 240, 241]))
    assert found == {0: {"row 3 of 0", "row 9 of 0"}, 1: {"row 1000"}, 2: {"row 1001"}}
    images = shown.read(np.array([9, 241])).images
    assert np.array_equal(images[0], Reader(both[0]).read(np.array([9])).images[0])
    assert np.array_equal(images[1], Reader(both[1]).read(np.array([1])).images[0])
    assert Counter(shown.classes_in("train")) == Counter([0, 1, 2])


def test_statistics_are_cached_by_the_choice_of_rows(both):
    """All rows of one data set keep their former name in the cache; other filters and shares have names of their own."""
    plain = RealImages("data", "train", None, (8, 8), "net")
    assert plain.name == replace(plain, choice="").name
    narrow, wide = (open_filtered(both[0].path, None, text) for text in ("score > 3", "score > 2"))
    selection = narrow.sources[0].selection
    mixed = [Source(both[0], selection=selection), Source(both[1])]
    readers = [narrow, wide, RealData(mixed, [1, 1]), RealData(mixed, [1, 2]), RealData([replace(mixed[0], selection=None), mixed[1]], [1, 1])]  # fmt: skip
    choices = [choice_of(reader) for reader in readers]
    assert len({replace(plain, choice=choice).name for choice in ("", *choices)}) == 6
    assert choice_of(open_filtered(both[0].path, None, None)) == ""
    # a template changes prompts, not real images
    assert choice_of(RealData([Source(both[0], "a {label}")], [1])) == ""


def test_a_question_that_cannot_be_asked_is_a_sentence(both, tmp_path, capsys):
    train(tree_of(both[0], tmp_path, {"path": both[0].path, "filter": FILTER}))
    folder = tmp_path / "runs" / "run" / checkpoint.checkpoint_name(2)
    for given, sentence in (
        (["--filter", "score > 1"], "--filter goes with --data"),
        (["--data-version", "1"], "--data-version goes with --data"),
        (["--data", both[0].path, "--data-version", "4"], "has one version, 1"),
        (["--data", both[0].path, "--filter", "scores > 1"], "--filter: there is no column scores"),
        (["--data", both[0].path, "--filter", "score >"], "--filter: "),
        (["--data", both[0].path, "--filter", "score > 1", "--split", "validation"], "has no rows of split validation"),
    ):
        assert main(["evaluate", str(folder), "--features", "judge", "--metrics", "kid", *given]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.strip().count("\n") == 0
    about = json.loads((folder / "checkpoint.json").read_text())["data"]
    (Path(both[0].path) / "manifest.json").rename(tmp_path / "aside.json")
    try:
        assert main(["evaluate", str(folder), "--features", "judge", "--metrics", "kid"]) == 2
        assert f"the training data of {folder} {about['path']!r} holds no manifest.json" in capsys.readouterr().err
    finally:
        (tmp_path / "aside.json").rename(Path(both[0].path) / "manifest.json")
