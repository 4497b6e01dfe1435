"""Mixtures and weighted rows of data sets with filters and versions: their rows, bit equality after a kill, records."""

import numpy as np
import pytest

from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.runs.data_record import read_record
from raysde.runs.history import run_folder, settle_run_word
from raysde.runs.local import train_here
from raysde.runs.run import list_remarks, open_run
from tests.runs.test_data_record import StopAt
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.training import same_tensors, small_recipe

FILTER = "score > 3 and language == 'en'"
SELECTED = {row for row in range(240) if row % 7 and row > 30 and row % 2}


@pytest.fixture
def both(tmp_path):
    """Return a data set of 240 scored rows, and another of 120 with keys from 1000 on."""
    first = ingest_here(scored_parts(240), tmp_path / "first", RULES)
    return first, ingest_here(scored_parts(120, first=1000), tmp_path / "second", RULES)


def open_mix(both, tmp_path, name="run", first=None, **changes):
    mix = [{"path": both[0].path, "weight": 2, "filter": FILTER, **(first or {})}, {"path": both[1].path, "weight": 1}]
    settings = {"text": None, "validation__rows": 0, "train__batch": 12, "train__microbatch": 2}
    data = {"mix": mix, "shuffle_window": 24}
    return open_run(
        loading.parse_recipe(small_recipe(both[0], tmp_path / "runs", name=name, data=data, **settings, **changes))
    )


def keys_of(run, steps, rank=0, world=1):
    """Return the keys of the rows of a rank's microbatches, by step and index."""
    reader = run.sources.open_reader(frozenset())
    batches = read_batches(run.feed, run.sources.open_reader(run.feed.fields), 0, steps, rank, world)
    return {
        (each.step, each.index): [int(reader.about(int(row))["key"]) for row in each.rows]
        for step in batches
        for each in step
    }


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_filter_of_one_data_set_holds_in_a_mixture(both, tmp_path, world):
    """The first data set gives its selected rows alone, each once in its epoch, and two of three rows of a batch."""
    run = open_mix(both, tmp_path)
    assert run.plan.has_lanes
    assert run.plan.rows == len(SELECTED) + 120
    seen = {place: keys for rank in range(world) for place, keys in keys_of(run, 30, rank, world).items()}
    keys = np.array([key for place in sorted(seen) for key in seen[place]])
    assert len(keys) == 30 * 12
    first = np.cumsum(keys < 1000)
    assert np.abs(first - 2 * np.arange(1, len(keys) + 1) / 3).max() <= 1
    counts = np.bincount(keys[keys < 1000], minlength=240)
    assert set(np.flatnonzero(counts)) == SELECTED
    # 240 draws are whole epochs and a part; a segment's lanes begin the next epoch before others end theirs
    whole, _ = divmod(240, len(SELECTED))
    chosen = counts[sorted(SELECTED)]
    assert chosen.min() >= whole - 1
    assert chosen.max() <= whole + 2


def test_balanced_classes_of_selected_rows(both, tmp_path):
    """Weights apply to the rows that the filter selects: each of the three classes has a third of an epoch's draws."""
    data = {"path": both[0].path, "filter": FILTER, "weights": "balanced"}
    changes = {"text": None, "validation__rows": 0, "train__batch": 12, "train__microbatch": 2, "data": data}
    run = open_run(loading.parse_recipe(small_recipe(both[0], tmp_path / "runs", **changes)))
    epoch = len(SELECTED)
    keys = np.array([key for _, keys in sorted(keys_of(run, 2 * epoch).items()) for key in keys])
    assert set(keys) == SELECTED
    rows = np.bincount([row % 3 for row in SELECTED])
    share = np.array([len(keys) / 3 / rows[row % 3] for row in sorted(SELECTED)])
    counts = np.bincount(keys, minlength=240)[sorted(SELECTED)]
    # 24 epochs, in each of which a row is drawn within one time of its share
    assert np.abs(counts - share).max() < 24
    assert np.abs(np.bincount(keys % 3) / len(keys) - 1 / 3).max() < 1 / epoch
    assert run.data_identity["sources"][0]["selected"] == epoch


def test_a_kept_column_weighs_rows(both, tmp_path):
    """Each row is drawn in proportion to its score; a row without a score is refused by its number."""
    changes = {"text": None, "validation__rows": 0, "train__batch": 12, "train__microbatch": 2}
    data = {"path": both[0].path, "filter": "score >= 0", "weights": {"column": "score"}}
    run = open_run(loading.parse_recipe(small_recipe(both[0], tmp_path / "runs", **changes, data=data)))
    scores = np.array([0 if row % 7 == 0 else row / 10 for row in range(240)])
    epoch = int((scores > 0).sum())
    keys = np.array([key for _, keys in sorted(keys_of(run, epoch).items()) for key in keys])
    assert len(keys) == 12 * epoch
    counts = np.bincount(keys, minlength=240)
    # over 12 epochs the golden ratio leaves 2 (0.31 log 12 + 1) draws at most; equal draws would be up to 12 away
    assert np.abs(counts - len(keys) * scores / scores.sum()).max() < 4
    for weights, sentence in (({"column": "score"}, "has no number in column 'score'"),
                              ({"column": "scor"}, "did you mean score"),
                              ({"column": "safe"}, "no column of numbers 'safe'")):  # fmt: skip
        tree = small_recipe(both[0], tmp_path / "runs", **changes, data={"path": both[0].path, "weights": weights})
        recipe = loading.parse_recipe(tree)
        with pytest.raises(ValueError, match=sentence):
            open_run(recipe)


def test_a_mixture_stays_on_its_versions_and_rows(both, tmp_path, monkeypatch):
    """An append between a kill and the resume changes nothing, and the stored selection is not computed again."""
    whole = train_here(open_mix(both, tmp_path, "whole"), None)
    run = open_mix(both, tmp_path)
    settle_run_word(run)
    sources = read_record(run_folder(run))["sources"]
    assert [each["fingerprint"] for each in sources] == [each.fingerprint for each in both]
    with pytest.raises(KeyboardInterrupt):
        train_here(run, StopAt(7))
    grown = ingest_here(scored_parts(60, first=2000), tmp_path / "second", RULES, both[1])
    monkeypatch.setattr("raysde.runs.data_record.select_rows", lambda *_: pytest.fail("the filter ran again"))
    again = open_mix(both, tmp_path)
    assert [each.version for each in again.config.data.mix] == [None, 1]
    assert any(f"is on version 1 of {both[1].path}" in remark for remark in list_remarks(again))
    assert same_tensors(train_here(again, None).model.state_dict(), whole.model.state_dict())
    monkeypatch.undo()
    fresh = open_mix(both, tmp_path, "fresh")
    assert fresh.sources.sources[1].manifest == grown
    assert fresh.manifest.fingerprint != run.manifest.fingerprint


def test_tasks_open_the_same_rows(both, tmp_path):
    run = open_mix(both, tmp_path)
    settle_run_word(run)
    feed, _ = run.sources.reference(run.config, run.feed).open()
    positions = run.plan.rows_of(5, 3)
    assert np.array_equal(feed.rows[positions], run.feed.rows[positions])
    (tmp_path / "runs" / "run" / read_record(run_folder(run))["sources"][0]["selection"]["file"]).unlink()
    with pytest.raises(ValueError, match="was removed or changed while it was in use"):
        run.sources.reference(run.config, run.feed).sources[0].open()


def test_keys_of_one_data_set_are_refused_for_a_mixture(both, tmp_path):
    for key, value in (("filter", "score > 1"), ("version", 1)):
        tree = small_recipe(both[0], tmp_path, data={"mix": [{"path": both[0].path, "weight": 1}], key: value})
        with pytest.raises(ValueError, match=f"{key} goes with path; .* entries of mix {key} of their own"):
            loading.parse_recipe(tree)
    for entry, sentence in (
        ({"filter": "scores > 1"}, r"data.mix.0.filter: there is no column scores; did you mean score\?"),
        ({"version": 3}, "data.mix.0.version=3: the data set at .* has one version, 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            open_mix(both, tmp_path, first=entry)
