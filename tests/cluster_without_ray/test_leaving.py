"""Leaving on purpose, with a dictionary for the cluster's key-value store."""

import threading
import time
from types import SimpleNamespace

import pytest
import ray.train
from ray.train.v2._internal.execution.controller.state import ResizingState, RestartingState, SchedulingState
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from raysde.cluster import leaving, train
from raysde.cluster.leaving import COMMAND, LEFT, Departure, Notices, SaveBeforeResize
from raysde.cluster.resources import Share
from raysde.cluster.train import run_worker_group
from raysde.config import loading
from raysde.runs.run import open_run

DECISION = ResizeDecision(num_workers=2, resources_per_worker={"CPU": 1})


class Store:
    """The key-value store of a cluster's head."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def _internal_kv_put(self, key, value, namespace) -> None:
        self.values[key] = value

    def _internal_kv_get(self, key, namespace) -> bytes | None:
        return self.values.get(key)

    def _internal_kv_del(self, key, namespace) -> None:
        self.values.pop(key, None)

    def _internal_kv_list(self, prefix, namespace) -> list[str]:
        return [key for key in self.values if key.startswith(prefix)]


@pytest.fixture(autouse=True)
def store(monkeypatch) -> Store:
    made = Store()
    monkeypatch.setattr(leaving, "store", made)
    monkeypatch.setattr(leaving, "POLL", 0.02)
    return made


def wait_for(condition) -> None:
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_wish_of_the_command_reaches_the_first_worker_alone():
    """Other workers hear of it from the first, in the training loop."""
    departure, first, other = Departure(), Notices("w", True), Notices("w", False)
    assert not departure.is_possible()
    with departure.passed_on("w"):
        assert not departure.is_possible()  # no worker trains yet: a signal acts at once
        with first.watching(), other.watching():
            wait_for(departure.is_possible)
            assert not first.should_leave()
            departure.should_stop = lambda: True
            wait_for(first.should_leave)
            assert not other.should_leave()
    assert not Notices("another", True).asked


def test_a_worker_of_another_trainer_is_not_asked(store):
    leaving.ask("one", COMMAND)
    with (other := Notices("other", True)).watching():
        time.sleep(0.2)
        assert not other.should_leave()


class Group:
    """A worker group that takes reports only when it is polled."""

    polls = 0

    def poll_status(self, timeout):
        self.polls += 1
        return SimpleNamespace(errors={})


def test_the_controller_waits_for_the_group_that_it_replaces(store):
    """It waits until all is written, and the next group finds no request and no answer of the group before."""
    callback, worker, group = SaveBeforeResize("w"), Notices("w", True), Group()
    callback.after_worker_group_start(group)
    with worker.watching():
        callback.after_controller_state_update(None, ResizingState(scaling_decision=DECISION))
        waiting = threading.Thread(target=callback.before_controller_execute_resize_decision, args=(DECISION,))
        waiting.start()
        wait_for(worker.should_leave)
        time.sleep(0.3)
        assert waiting.is_alive()
        assert group.polls > 0
    worker.answer()
    waiting.join(20.0)
    assert not waiting.is_alive()
    assert store.values == {}


def test_the_controller_does_not_wait_where_no_group_trains(store):
    """At the beginning, and after a group that failed."""
    callback = SaveBeforeResize("w")
    for state in (SchedulingState(scaling_decision=DECISION), RestartingState(training_failed_error=None)):
        callback.after_controller_state_update(None, state)
        callback.before_controller_execute_resize_decision(DECISION)
        assert store.values == {}


def test_nobody_waits_for_a_worker_that_is_silent(monkeypatch):
    monkeypatch.setattr(leaving, "SILENCE", 0.3)
    begin = time.monotonic()
    assert not leaving.await_departure("w", lambda: True)
    assert 0.3 <= time.monotonic() - begin < 10.0
    leaving.give_sign("w", LEFT)
    assert leaving.await_departure("w", lambda: True)


def test_nobody_waits_for_a_group_that_died():
    assert not leaving.await_departure("w", lambda: False)


@pytest.fixture
def groups(monkeypatch):
    """Replace the trainer by one whose groups give these answers, one after the other."""
    answers, words = [], []

    class Trainer:
        def __init__(self, worker, **given) -> None:
            words.append(given["train_loop_config"]["leaving"])

        def fit(self):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(return_value=answer)

    monkeypatch.setattr(train, "TorchTrainer", Trainer)
    monkeypatch.setattr(train, "release_orphaned_placement_groups", lambda: None)
    return answers, words


def launch(recipe, **given) -> None:
    run = open_run(loading.parse_recipe(recipe(resources__max_failures=0)))
    run_worker_group(run, tracking_uri="sqlite:///x", run_id="abc", started=5.0, share=Share(1, False), **given)


def test_a_group_that_left_is_followed_by_another_and_is_no_failure(recipe, groups, capsys):
    """However often: nodes go away, and ``resources.max_failures`` is 0. Each group answers to its own word."""
    answers, words = groups
    answers += [{"step": 3, "failed": "", "left": True}] * 3 + [{"step": 10, "failed": "", "left": False}]
    launch(recipe)
    assert answers == []
    assert len(set(words)) == 4
    said = "run 'small' saved its state, since a node goes away; starting again from step 0"
    assert capsys.readouterr().err.splitlines() == ["starting 1 worker", said, said, said]


DIED = ray.train.WorkerGroupError("died", {0: RuntimeError("died")})


@pytest.mark.parametrize("answer", [{"step": 3, "failed": "", "left": True}, DIED], ids=["left", "died"])
def test_a_group_that_left_for_its_command_is_the_last(recipe, groups, answer):
    answers, _ = groups
    answers += [answer] * 2
    departure = Departure()
    departure.should_stop = lambda: True
    launch(recipe, departure=departure)
    assert len(answers) == 1
