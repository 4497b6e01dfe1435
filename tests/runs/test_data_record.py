"""Runs on filtered data and on versions of a data set: every row once, bit-equal after a kill, and on one version."""

import json
from dataclasses import replace

import numpy as np
import pytest

from raysde.cluster.stream import stream_spec
from raysde.cluster.train import prepare_folder
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.sources import Source
from raysde.distributed.world import current_world
from raysde.runs import identity
from raysde.runs.build import sample_captions
from raysde.runs.data_record import open_selection, read_record, record_data
from raysde.runs.history import run_folder, settle_run_word
from raysde.runs.local import train_here
from raysde.runs.order import make_feed
from raysde.runs.run import check_resumable, describe_selection, list_remarks, open_run
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.training import Recorded, same_tensors, small_recipe

FILTER = "score > 3 and language == 'en'"
WANTED = [row for row in range(240) if row % 7 and row > 30 and row % 2]


class StopAt(Recorded):
    """A sink that stops training when a step is logged."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.last = step

    def metrics(self, step, values) -> None:
        super().metrics(step, values)
        if step == self.last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return ingest_here(scored_parts(240), tmp_path_factory.mktemp("scored"), RULES)


def tree_of(manifest, tmp_path, name="run", **changes):
    settings = {"data__filter": FILTER, "text": None, "validation__rows": 0, "train__batch": 12, "train__microbatch": 2}
    return small_recipe(manifest, tmp_path / "runs", **{"name": name, **settings, **changes})


def open_tree(tree):
    return open_run(loading.parse_recipe(tree))


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_world_sees_the_matching_rows_once(scored, tmp_path, world, window):
    """In an epoch the ranks together read each matching row once, the same in each step for any number of ranks."""
    run = open_tree(tree_of(scored, tmp_path, data__shuffle_window=window, train__length={"epochs": 2}))
    assert run.plan.has_lanes == (window is not None)
    assert (run.plan.rows, run.steps) == (len(WANTED), round(2 * len(WANTED) / 12))
    steps = len(WANTED) // 12 + 1
    seen = []
    for rank in range(world):
        batches = read_batches(run.feed, Reader(run.manifest), 0, steps, rank, world)
        seen += [(each.step, each.index, each.rows, each.captions) for step in batches for each in step]
    seen.sort(key=lambda found: found[:2])
    rows = np.concatenate([found[2] for found in seen])
    captions = [f"row {row}" for row in rows]
    assert [caption for found in seen for caption in found[3]] == captions or run.feed.fields != {"captions"}
    wanted = [np.asarray(run.feed.rows[run.plan.rows_of(step, index)]) for step in range(steps) for index in range(6)]
    assert rows.tolist() == np.concatenate(wanted).tolist()
    counts = np.bincount(rows, minlength=240)
    assert set(np.flatnonzero(counts)) <= set(WANTED)
    if window is None:
        assert sorted(rows[: len(WANTED)]) == WANTED
    assert counts[WANTED].max() <= 2
    assert (counts[WANTED] == 0).sum() <= (0 if window is None else 12)


@pytest.mark.parametrize("window", [None, 24])
def test_a_resumed_run_is_bit_equal(scored, tmp_path, window, monkeypatch):
    """A run that was killed ends with the weights of one that was not; the stored selection is not computed again."""
    whole = train_here(open_tree(tree_of(scored, tmp_path, "whole", data__shuffle_window=window)), None)
    tree = tree_of(scored, tmp_path, data__shuffle_window=window)
    run = open_tree(tree)
    settle_run_word(run)
    with pytest.raises(KeyboardInterrupt):
        train_here(run, StopAt(7))
    monkeypatch.setattr("raysde.runs.data_record.select_rows", lambda *_: pytest.fail("the filter ran again"))
    again = open_tree(tree)
    assert again.selection.sha256 == run.selection.sha256
    resumed = train_here(again, None)
    assert same_tensors(resumed.model.state_dict(), whole.model.state_dict())
    monkeypatch.undo()
    everything = train_here(open_tree(tree_of(scored, tmp_path, "all", data__filter=None)), None)
    assert not same_tensors(everything.model.state_dict(), whole.model.state_dict())


def test_tasks_read_the_selection_by_its_hash(scored, tmp_path):
    """A task of the cluster opens the same rows from the run's folder, and refuses a selection that was changed."""
    run = open_tree(tree_of(scored, tmp_path))
    prepare_folder(run, print)
    reference = stream_spec(run, 0).data
    feed, _ = reference.open()
    everything = np.arange(run.plan.rows)
    assert np.array_equal(feed.rows[everything], run.feed.rows[everything])
    record = read_record(run_folder(run))
    assert record["selection"]["rows"] == len(WANTED)
    file = tmp_path / "runs" / "run" / record["selection"]["file"]
    file.write_bytes(file.read_bytes()[:-9] + bytes(9))
    with pytest.raises(ValueError, match="was removed or changed while it was in use"):
        replace(reference, split_seed=1).open()
    with pytest.raises(ValueError, match=r"selection-.*\.arrow is damaged: .*; remove it"):
        open_tree(tree_of(scored, tmp_path))
    file.unlink()
    assert open_selection(run.config, 0, run.manifest).sha256 == run.selection.sha256


def test_the_filter_belongs_to_the_run(scored, tmp_path):
    """Another filter, or other kept columns, do not continue a run; the spelling of a filter does not matter."""
    tree = tree_of(scored, tmp_path)
    train_here(open_tree(tree), None)
    from raysde.checkpoints import storage

    found = storage.find_newest_checkpoint(tree["storage"], "run").description
    same = '(score>3)  and  language=="en"'
    check_resumable(open_tree(tree_of(scored, tmp_path, data__filter=same)), found)
    with pytest.raises(ValueError, match=r"run 'run' has data.filter=score > 3 and .*choose another name"):
        check_resumable(open_tree(tree_of(scored, tmp_path, data__filter="score > 4")), found)
    assert found.data["selected"] == len(WANTED)
    run = open_tree(tree)
    with pytest.raises(ValueError, match=r"trained on \d+ rows that data.filter selected, other than the"):
        check_resumable(replace(run, sources=open_tree(tree_of(scored, tmp_path, data__filter="safe")).sources), found)


def test_a_filter_is_reported_and_checked(scored, tmp_path):
    run = open_tree(tree_of(scored, tmp_path))
    (said,) = describe_selection(run)
    assert said == f"data.filter selects {len(WANTED)} of 240 rows ({100 * len(WANTED) / 240:.3g}%)"
    assert said in list_remarks(run)
    for text, sentence in (
        ("score > 99", "data.filter: none of the 240 rows"),
        ("scores > 9", r"data.filter: there is no column scores; did you mean score\?"),
        ("score > 'x'", "data.filter: column score holds numbers"),
        ("score >", r"filter: 'score >' is no filter"),
    ):
        with pytest.raises(ValueError, match=sentence):
            open_tree(tree_of(scored, tmp_path, data__filter=text))
    with pytest.raises(ValueError, match=r"data.version=2: the data set at .* has one version, 1"):
        open_tree(tree_of(scored, tmp_path, data__version=2))
    with pytest.raises(ValueError, match="version"):
        open_tree(tree_of(scored, tmp_path, data__version=0))


def test_no_validation_row_is_reported(tmp_path):
    """A filter applies to the validation split, and a run without validation rows says so."""
    apart = ingest_here(scored_parts(120), tmp_path / "apart", replace(RULES, validation=0.1))
    run = open_tree(tree_of(apart, tmp_path, data__filter="score > 2", validation__rows=None))
    assert len(run.held_out)
    reader = Reader(apart)
    assert all(int(reader.about(int(row))["key"]) > 20 for row in run.held_out)
    keys = [int(reader.about(row)["key"]) for row in range(apart.rows_in("train"))]
    number = next(key for key in keys if key % 7)
    only = f"score > {number / 10 - 0.01} and score < {number / 10 + 0.01}"
    assert describe_selection(open_tree(tree_of(apart, tmp_path, data__filter=only, validation__rows=None)))[1:] == [
        "data.filter selects no validation row, so that the run has no validation"
    ]


@pytest.mark.parametrize("recorded", ["checkpoint", "record"])
def test_a_run_stays_on_its_version(tmp_path, recorded):
    """An append between a kill and the resume changes nothing: the weights are those of an undisturbed run."""
    base = ingest_here(scored_parts(120), tmp_path / "data", RULES)
    whole = train_here(open_tree(tree_of(base, tmp_path, "whole")), None)
    tree = tree_of(base, tmp_path)
    run = open_tree(tree)
    settle_run_word(run)
    if recorded == "checkpoint":
        with pytest.raises(KeyboardInterrupt):
            train_here(run, StopAt(7))
        (tmp_path / "runs" / "run" / "data.json").unlink()
    grown = ingest_here(scored_parts(60, first=1000), tmp_path / "data", RULES, base)
    resumed = open_tree(tree)
    assert (resumed.manifest, resumed.config.data.version) == (base, 1)
    assert any("the run is on version 1 of" in remark for remark in list_remarks(resumed))
    assert same_tensors(train_here(resumed, None).model.state_dict(), whole.model.state_dict())
    fresh = open_tree(tree_of(base, tmp_path, "fresh"))
    assert (fresh.manifest, fresh.config.data.version, fresh.config.flat()["data.version"]) == (grown, 2, 2)
    assert open_tree(tree_of(base, tmp_path, "fresh", data__version=1)).manifest == base
    from raysde.checkpoints import storage

    found = storage.find_newest_checkpoint(tree["storage"], "run").description
    with pytest.raises(ValueError, match="was trained on other data"):
        check_resumable(open_tree(tree_of(base, tmp_path, data__version=2)), found)


def test_a_run_that_ended_begins_on_the_newest_version(tmp_path):
    """Without its checkpoints an ended run starts anew, and a damaged record is named."""
    base = ingest_here(scored_parts(120), tmp_path / "data", RULES)
    tree = tree_of(base, tmp_path, data__filter=None)
    run = open_tree(tree)
    settle_run_word(run)
    grown = ingest_here(scored_parts(60, first=1000), tmp_path / "data", RULES, base)
    assert open_tree(tree).manifest == base
    identity.note_end(run_folder(run))
    assert open_tree(tree).manifest == grown == read_manifest(base.path)
    record_data(run.config, [Source(grown)])
    assert json.loads((tmp_path / "runs" / "run" / "data.json").read_text())["version"] == 2
    (tmp_path / "runs" / "run" / "data.json").write_text("[]")
    with pytest.raises(ValueError, match=r"data.json is damaged: it lacks"):
        read_record(run_folder(run))


def test_the_order_of_filtered_rows_has_no_chunk_of_nothing(scored, tmp_path):
    """A window of all rows, or a batch larger than the rows, still gives every row once."""
    for batch in (2, 120):
        run = open_tree(tree_of(scored, tmp_path, train__batch=batch, data__shuffle_window=2))
        feed = make_feed(run.config, run.manifest, run.feed.rows, run.feed.view)
        steps = len(WANTED) // batch + 1
        rows = [
            row
            for step in range(steps)
            for index in range(batch // 2)
            for row in feed.rows[feed.plan.rows_of(step, index)]
        ]
        assert set(rows) <= set(WANTED)
        assert len(set(rows[: len(WANTED)])) == len(WANTED)


def test_a_tokenizer_learns_from_selected_captions(scored, tmp_path):
    run = open_tree(tree_of(scored, tmp_path, text={"kind": "scratch", "width": 16, "layers": 1, "heads": 2}))
    assert sample_captions(run, current_world()) == sorted(f"row {row}" for row in WANTED)
