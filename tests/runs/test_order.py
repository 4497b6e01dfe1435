"""The order of rows in a run: new runs read by lanes, and a resumed run keeps the order that it began with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.plan import LANED, WINDOWED
from raysde.data.dataset.layout import AlignedRows
from raysde.runs.local import train_here
from raysde.runs.order import make_feed
from raysde.runs.resume import follow_order
from raysde.runs.run import open_run
from tests.support.checkpoints import description_of
from tests.support.digits import write_digit_shards
from tests.support.training import Recorded, same_tensors, small_recipe


class StopAt(Recorded):
    """A sink that raises when metrics of a step arrive, like a crash."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def metrics(self, step, values) -> None:
        if step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def recipe(tmp_path):
    """Return a recipe factory by name of the run: lanes of two row groups each, for two steps."""
    data = write_digit_shards(tmp_path / "data", rows=200, shard_rows=60, row_group=8)
    return lambda name: small_recipe(
        data, tmp_path / "runs", name=name, data__shuffle_window=64, validation__rows=11, text=None,
        train__microbatch=4, train__length__steps=8, checkpoint_every=4,
    )  # fmt: skip


def run_of(tree: dict, order: int):
    run = open_run(loading.parse_recipe(tree))
    return replace(run, feed=make_feed(run.config, run.manifest, run.feed.rows, run.feed.view, order))


def newest(tree: dict) -> Path:
    return checkpoint.find_newest_checkpoint(Path(tree["storage"]) / tree["name"])


def rows_of(run) -> list[int]:
    return np.concatenate([run.feed.rows[run.plan.rows_of(step, index)] for step in range(8) for index in range(4)])


def test_new_runs_read_by_lanes(recipe):
    run = open_run(loading.parse_recipe(recipe("new")))
    assert (run.plan.order, run.plan.has_lanes, run.plan.segment) == (LANED, True, 4)
    assert isinstance(run.feed.rows, AlignedRows)
    earlier = run_of(recipe("new"), WINDOWED)
    assert earlier.plan.window == 64
    assert not np.array_equal(rows_of(run), rows_of(earlier))
    assert not set(rows_of(run)) & set(run.held_out)


@pytest.mark.parametrize("order", [LANED, WINDOWED])
def test_a_resumed_run_keeps_its_order(recipe, order):
    """A run that stopped after its checkpoint ends with the weights of one that did not, in the order it began with.

    Checkpoints from before orders had versions do not record one, and are of the first."""
    whole = train_here(run_of(recipe("whole"), order), None)
    tree = recipe("stopped")
    with pytest.raises(KeyboardInterrupt):
        train_here(run_of(tree, order), StopAt(6))
    assert checkpoint.read_description(newest(tree)).step == 4
    with description_of(newest(tree)) as content:
        assert content["data"]["order"] == order
        if order == WINDOWED:
            del content["data"]["order"]
    resumed = train_here(open_run(loading.parse_recipe(tree)), None)
    assert same_tensors(resumed.model.state_dict(), whole.model.state_dict())
    assert checkpoint.read_description(newest(tree)).data["order"] == order
    other = train_here(run_of(recipe("other"), WINDOWED + LANED - order), None)
    assert not same_tensors(other.model.state_dict(), whole.model.state_dict())


def test_an_order_of_a_newer_version_is_refused(recipe):
    tree = recipe("newer")
    train_here(open_run(loading.parse_recipe(tree)), None)
    with description_of(newest(tree)) as content:
        content["data"]["order"] = 3
    with pytest.raises(ValueError, match="run 'newer' reads its rows in order 3"):
        train_here(open_run(loading.parse_recipe(tree)), None)


def test_following_an_order_twice_changes_nothing(recipe):
    run = open_run(loading.parse_recipe(recipe("back")))
    there = follow_order(run, {"order": WINDOWED})
    assert follow_order(there, {}) is there
    back = follow_order(there, {"order": LANED})
    assert np.array_equal(rows_of(back), rows_of(run))
