"""Measurements beside training, with the actors' work in this process: decisions, kills, and refused recipes."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raysde.checkpoints import checkpoint, late_results
from raysde.checkpoints.description import FILE
from raysde.cluster.beside import CheckpointActors, CheckpointMeasurer
from raysde.cluster.reporting import ReportedBeside
from raysde.cluster.resources import Cluster, Share, assign_share, check_resources, count_concurrent_runs
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.distributed.world import World
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.hooks import RunHooks
from raysde.runs.local import check_place, train_here
from raysde.runs.resume import is_run_over, resume_newest
from raysde.runs.run import open_run
from raysde.runs.saving import Saver
from raysde.training.beside import Measurement, OpenMeasurements
from raysde.training.loop import fit
from tests.runs.test_quality import METRICS, home, tree_of  # noqa: F401
from tests.support.paths import ROOT
from tests.support.training import Recorded

VALUES = {
    **dict.fromkeys(range(1, 20, 2), 0.05),
    2: 0.1,
    4: 0.7,
    6: 0.4,
    8: 0.5,
    10: 0.6,
    12: 0.9,
    14: 0.3,
    16: 0.2,
    18: 0.8,
    20: 0.1,
}
"""Accuracy of the checkpoint of each step."""


class Killed(BaseException):
    """Death of the process."""


class Events:
    """A counter of events that kills the process at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.names = last, []

    def note(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.last:
            raise Killed


class Sink(Recorded):
    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def metrics(self, step, values) -> None:
        self.events.note(f"log {step}")
        super().metrics(step, values)

    def image(self, step, name, image) -> None:
        pass


class Here(CheckpointActors):
    """Actors whose work is done in this process, and only when a decision waits for it."""

    def __init__(self, run, model, world, saver, events, measure=None) -> None:
        self.run, self.world, self.saver, self.aside, self.events = run, world, saver, World(), events
        self.busy, self.made = {}, []
        self.measure = measure or CheckpointMeasurer(run.config.model_dump(mode="json"), {}, Share(1, 0, "cpu")).measure

    def _start(self, step) -> None:
        self.busy.pop(step, None)
        if self._recorded(step) is None:
            self.busy[step] = 0, None

    def _wait(self, step):
        self.saver.writer.wait()
        state, schedule = self.saver.state, make_schedule(self.run)
        assert state.step >= min(step + schedule.delay, schedule.steps) or state.stopped
        if step not in self.busy:
            found = self._recorded(step)
            if found is not None:
                return found
            self._start(step)
        del self.busy[step]
        self.made.append(step)
        return self.measure(step)

    def submit(self, step) -> None:
        self.events.note(f"submit {step}")
        super().submit(step)

    def record(self, step, metrics) -> None:
        self.events.note(f"record {step}")
        super().record(step, metrics)

    def finish(self, step, values) -> None:
        self.events.note(f"finish {step}")
        super().finish(step, values)


def scripted(run):
    """Return a measurement whose accuracy is that of VALUES, from the checkpoint's own step."""

    def measure(step):
        folder = Path(run.config.storage) / run.config.name / checkpoint.checkpoint_name(step)
        assert checkpoint.read_description(folder).step == step
        return {"val/accuracy": VALUES[step]}

    return measure


def train(tree, events=None, measure=scripted):
    """Train from the newest checkpoint on; return the state, the sink and the actors."""
    events = events or Events()
    run, world = open_run(loading.parse_recipe(tree)), World()
    state, sink = new_state(run, world.device), Sink(events)
    run = resume_newest(run, state, world, lambda message: None)
    batches = read_batches(run.feed, run.sources.open_reader(run.feed.fields), state.position, run.steps, 0, 1)
    with Saver(run, state, world) as saver:
        actors = Here(run, state.model, world, saver, events, measure and measure(run))
        hooks = RunHooks(run, sink, saver.save, keep_averages=saver.snapshot, load=saver.restore)
        fit(state, batches, make_objective(run), make_schedule(run), hooks, world,
            validate=make_validator(run, world), beside=actors)  # fmt: skip
    return state, sink, actors


def beside_tree(digits, place, /, **changes):
    keep = {"newest": 1, "best": 1, "by": "val/accuracy"}
    given = {"validation__where": "beside", "validation__metrics": ["accuracy"], "validation__every": 0,
             "validation__patience": 2, "train__length__steps": 20, "checkpoint_every": 4, "keep": keep}  # fmt: skip
    return tree_of(digits, place, **{**given, **changes})


def outcome(place: Path) -> dict:
    """Return the checkpoints of a run with their metrics, and what decides their ranking and the stop."""
    found = {}
    for path in sorted(place.glob("step_*")):
        state = checkpoint.read_description(path).state
        found[path.name] = {name: state.get(name) for name in ("metrics", "best", "stale", "stopped", "beside")}
    return found


def steps_of(place: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in sorted(place.glob("step_*"))]


def test_decisions_are_taken_one_interval_later(digits, tmp_path):
    """The second value below the best is that of step 8. It ends the run two steps later; the checkpoint of step 4 is
    the best one, though none is due there. All results are in, each under its own step."""
    state, sink, actors = train(beside_tree(digits, tmp_path, checkpoint_every=20, keep__best=1))
    assert (state.step, state.stopped, state.best, state.stale) == (10, True, -0.7, 2)
    assert sink.of("val/accuracy") == {step: VALUES[step] for step in (2, 4, 6, 8, 10)}
    assert actors.made == [2, 4, 6, 8, 10]
    assert steps_of(tmp_path / "small") == [4, 10]
    assert outcome(tmp_path / "small")["step_000000004"]["metrics"]["val/accuracy"] == 0.7
    found = checkpoint.read_description(tmp_path / "small" / "step_000000010")
    run = open_run(loading.parse_recipe(beside_tree(digits, tmp_path, checkpoint_every=20, keep__best=1)))
    assert is_run_over(run, found)


@pytest.mark.parametrize(("delay", "end"), [(1, 9), (3, 11), (5, 13)])
def test_the_delay_is_a_number_of_steps(digits, tmp_path, delay, end):
    """The value of step 8 is used ``delay`` steps later, whatever is measured in between; the last checkpoint too."""
    state, sink, _ = train(beside_tree(digits, tmp_path, validation__delay=delay))
    assert (state.step, state.stopped) == (end, True)
    assert sorted(sink.of("val/accuracy")) == [*range(2, end, 2), end]


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """Return the outcome, the logged accuracies and the events of a run that nothing kills."""
    place, events = tmp_path_factory.mktemp("whole"), Events()
    state, sink, _ = train(beside_tree(digits, place, validation__delay=3), events)
    assert state.stopped
    return outcome(place / "small"), sink.of("val/accuracy"), events.names


@pytest.mark.parametrize("kills", [(1,), (4, 7), (9,), (12, 3), (-3,), (-1,)])
def test_a_killed_run_decides_as_if_it_never_was(digits, tmp_path, undisturbed, kills):
    """Killed while it submits, logs, records or ends, perhaps twice, a run ends at the same step, keeps the same
    checkpoints with the same metrics, and has every result."""
    wanted, logged, events = undisturbed
    reported = {}
    for number, kill in enumerate((*kills, None)):
        at = kill if kill is None or kill >= 0 else len(events) + kill
        noted = Events(at)
        try:
            state, sink, _ = train(beside_tree(digits, tmp_path, validation__delay=3), noted)
        except Killed:
            assert number < len(kills)
        else:
            assert kill is None
            reported |= sink.of("val/accuracy")
            assert state.stopped
    assert outcome(tmp_path / "small") == wanted
    assert reported == {step: value for step, value in logged.items() if step in reported}
    assert max(reported) == max(logged)


@pytest.mark.slow
def test_a_run_killed_anywhere_decides_as_if_it_never_was(digits, tmp_path, undisturbed):
    wanted, _, events = undisturbed
    for kill in range(len(events)):
        place = tmp_path / str(kill)
        with pytest.raises(Killed):
            train(beside_tree(digits, place, validation__delay=3), Events(kill))
        train(beside_tree(digits, place, validation__delay=3))
        assert outcome(place / "small") == wanted, events[kill]


def test_patience_does_not_count_checkpoints_of_the_clock(digits, tmp_path):
    """With keep.best, checkpoints between the intervals are measured too, and ranked. Patience counts steps 2, 4, ..."""
    values = {step: 0.95 if step == 7 else VALUES.get(step, 0.05) for step in range(1, 21)}

    def measure(run):
        return lambda step: {"val/accuracy": values[step]}

    tree = beside_tree(digits, tmp_path, checkpoint_every=1)
    state, sink, _ = train(tree, measure=measure)
    assert (state.step, state.stopped, state.best) == (10, True, -0.7)
    assert sink.of("val/accuracy") == {step: values[step] for step in range(1, 11)}
    assert steps_of(tmp_path / "small") == [7, 10]


def test_open_measurements_keep_their_checkpoints(digits, tmp_path):
    """With a delay of five steps, the checkpoint of a step that waits stays, though one checkpoint is kept; a resumed
    run measures it again."""
    tree = beside_tree(digits, tmp_path, validation__delay=5, keep={"newest": 1, "best": 0})
    with pytest.raises(Killed):
        train(tree, Kill("submit 6"))
    assert steps_of(tmp_path / "small") == [2, 4, 6]
    known = OpenMeasurements.from_values(outcome(tmp_path / "small")["step_000000006"]["beside"])
    assert sorted(known.open) == [2, 4, 6]
    assert known.open[4].images == 4 * tree["train"]["batch"]
    state, sink, actors = train(tree)
    assert actors.made[:3] == [2, 4, 6]
    assert steps_of(tmp_path / "small") == [state.step]
    assert sorted(sink.of("val/accuracy")) == list(range(2, state.step + 1, 2))


class Kill(Events):
    """Events that kill the process at the first one with a name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def note(self, name: str) -> None:
        if name == self.name:
            raise Killed


def test_a_run_with_open_results_is_not_over(digits, tmp_path):
    """Killed between its last checkpoint and the results, a run goes on and waits for them."""
    tree = beside_tree(digits, tmp_path, train__length__steps=6, validation__patience=0)
    with pytest.raises(Killed):
        train(tree, Kill("record 6"))
    run = open_run(loading.parse_recipe(tree))
    last = tmp_path / "small" / checkpoint.checkpoint_name(6)
    assert not is_run_over(run, checkpoint.read_description(last))
    _, sink, actors = train(tree)
    assert actors.made == [6]
    assert sink.of("val/accuracy")[6] == VALUES[6]
    assert is_run_over(run, checkpoint.read_description(last))


def test_a_run_that_goes_on_with_its_workers_says_so(digits, tmp_path):
    """Open measurements are left out with a warning once the workers measure, and no checkpoint waits for them."""
    tree = beside_tree(digits, tmp_path, validation__delay=5, keep={"newest": 1, "best": 0})
    with pytest.raises(Killed):
        train(tree, Kill("submit 6"))
    plain = {**tree, "validation": {**tree["validation"], "metrics": [], "where": "workers", "delay": None}}
    plain["train"] = {**plain["train"], "length": {"steps": 8}}
    with pytest.warns(
        UserWarning, match="checkpoints at steps 2, 4, 6 are left out: .* validation.where is workers now"
    ):
        train_here(open_run(loading.parse_recipe(plain)), None)
    assert steps_of(tmp_path / "small") == [8]


def test_a_longer_run_decides_as_one_that_was_that_long_at_once(digits, tmp_path):
    """A run of 6 steps that goes on to 20 uses the results of its last steps where the longer run does."""
    whole, short = (beside_tree(digits, tmp_path / name, validation__delay=3) for name in ("whole", "short"))
    train(whole)
    train({**short, "train": {**short["train"], "length": {"steps": 6}}})
    train(short)
    first, second = (outcome(tmp_path / name / "small") for name in ("whole", "short"))
    assert first == second


def test_metrics_are_those_of_the_workers(digits, tmp_path):
    """The metrics of each checkpoint, measured from its files, are those that the workers log at its step, and so are
    the weights, bit for bit."""
    changes = {"validation__metrics": list(METRICS), "validation__patience": 0, "train__length__steps": 4,
               "checkpoint_every": 2}  # fmt: skip
    trees = [
        beside_tree(digits, tmp_path / where, **{**changes, "validation__where": where, "keep": {"newest": 3}})
        for where in ("beside", "workers")
    ]
    state, beside, _ = train(trees[0], measure=None)
    workers = Recorded()
    other = train_here(open_run(loading.parse_recipe(trees[1])), workers)
    for name in METRICS:
        for key in (f"val/{name}", f"val/{name}/low", f"val/{name}/high"):
            assert beside.of(key) == workers.of(key)
            assert sorted(beside.of(key)) == [2, 4]
    for first, second in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(first, second)
    kept = [outcome(tmp_path / where / "small") for where in ("beside", "workers")]
    assert [kept[0][name]["metrics"] for name in kept[0]] == [kept[1][name]["metrics"] for name in kept[0]]


def test_late_results_leave_the_rest_of_a_description_alone(digits, tmp_path):
    """Metrics join those that were measured at the step; the description stays valid, and a change elsewhere shows."""
    tree = beside_tree(digits, tmp_path, train__length__steps=2, validation__every=2)
    train(tree)
    folder = tmp_path / "small"
    place = folder / checkpoint.checkpoint_name(2) / FILE
    before = json.loads(place.read_text())
    late_results.add_metrics(str(folder), 2, {"val/kid": 0.25, "val/fid": float("nan")})
    after = json.loads(place.read_text())
    assert {key for key in after if after[key] != before[key]} == {"state", "sha256"}
    assert after["state"]["metrics"] == {**before["state"]["metrics"], "val/kid": 0.25, "val/fid": None}
    assert {"val/loss", "val/accuracy"} <= after["state"]["metrics"].keys()
    assert checkpoint.read_description(place.parent).state == after["state"]
    place.write_text(json.dumps({**after, "state": {**after["state"], "best": 0.0}}))
    with pytest.raises(ValueError, match="does not match its own sha256"):
        late_results.add_metrics(str(folder), 2, {"val/kid": 0.25})
    with pytest.raises(ValueError, match="is missing, and the metrics of its step are not measured yet"):
        late_results.read_metrics(str(folder), 1)


def test_a_trial_reports_each_result_once_decisions_use_it(digits, tmp_path):
    """The mailbox gets the result of each step with its images; the result of the last step says so. A resumed trial
    sends those in its checkpoint again."""
    sent = []
    slot = type("Slot", (), {"metric": "val/accuracy", "send": staticmethod(sent.append)})()
    run = open_run(loading.parse_recipe(beside_tree(digits, tmp_path)))
    state = new_state(run, torch.device("cpu"))
    inner = type("Inner", (), {"collect": staticmethod(lambda step: {"val/accuracy": VALUES[step]})})()
    reported = ReportedBeside(inner, state, World(), slot, 4)
    state.beside = OpenMeasurements({2: Measurement(32), 4: Measurement(64)})
    for step in (2, 4):
        assert reported.collect(step) == {"val/accuracy": VALUES[step]}
    wanted = [
        {"step": step, "images": 16 * step, "metrics": {"val/accuracy": VALUES[step]}, "last": step == 4}
        for step in (2, 4)
    ]
    assert sent == wanted
    sent.clear()
    done = [replace(Measurement(16 * step), metrics={"val/accuracy": VALUES[step]}) for step in (2, 4)]
    state.beside = OpenMeasurements({4: done[1], 6: Measurement(96)}, {2: done[0]})
    state.load_values(json.loads(json.dumps(state.values())))
    reported.report_again()
    assert sent == wanted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validation__where": "aside"}, "validation.where: must be 'workers' or 'beside'"),
        ({"validation__metrics": []}, "where=beside measures metrics, and there are none"),
        ({"validation__delay": 0}, "validation.delay: must be at least 1"),
        ({"validation__cpus": 0}, "validation.cpus: must be at least 1"),
        ({"validation__gpus": -1}, "validation.gpus: must be at least 0"),
        ({"validation__where": "workers", "validation__delay": 4}, "delay goes with where=beside"),
        ({"validation__where": "workers", "validation__gpus": 1}, "gpus goes with where=beside"),
    ],
)
def test_a_bad_value_is_a_sentence(digits, tmp_path, changes, sentence):
    changes = {"keep": {}, "validation__patience": 0, **changes}
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        loading.parse_recipe(beside_tree(digits, tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_training_without_ray_is_refused(digits, tmp_path):
    with pytest.raises(ValueError, match=r"validation\.where=beside needs Ray, whose actors measure beside training"):
        check_place(open_run(loading.parse_recipe(beside_tree(digits, tmp_path))))


def test_actors_have_a_place_beside_the_workers(digits, tmp_path):
    """CPUs and GPUs of actors are taken from those of the workers; a cluster without them is refused with a sentence,
    and one that may grow is not."""
    recipe = loading.parse_recipe(beside_tree(digits, tmp_path, validation__actors=2, validation__cpus=2))
    assert assign_share(recipe, Cluster(16, nodes=2)) == Share(10)
    assert count_concurrent_runs(recipe, Cluster(16, nodes=2), 9) == 2
    check_resources(recipe, Cluster(16, nodes=2), Share(10), 1, "x")
    said = "validation.where=beside: the actors need 4 CPUs beside the 1 of workers, and the cluster has 2 beside"
    with pytest.raises(ValueError, match=said):
        check_resources(recipe, Cluster(3), Share(1), 1, "resources.workers")
    check_resources(recipe, Cluster(3, joined=True), Share(1), 1, "resources.workers")
    graphic = loading.parse_recipe(beside_tree(digits, tmp_path, validation__gpus=0.5))
    assert assign_share(graphic, Cluster(16, 2)) == Share(4, 1)
    assert assign_share(graphic, Cluster(16, 1)) == Share(14)
    with pytest.raises(ValueError, match=r"the actors need 0.5 GPUs beside the 0 of workers, and the cluster has 0"):
        check_resources(graphic, Cluster(16), Share(14), 1, "x")


def die_at(tree: str, kill: int) -> None:
    """Train, and send SIGKILL to this process at an event; called in a process of its own."""

    class Dying(Events):
        def note(self, name: str) -> None:
            self.names.append(name)
            if len(self.names) - 1 == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    train(json.loads(tree), Dying())


@pytest.mark.slow
@pytest.mark.parametrize("kill", [2, 6, 11, -4, -1])
def test_a_process_killed_by_a_signal_decides_as_if_it_never_was(digits, tmp_path, undisturbed, kill):
    """SIGKILL comes at an event, perhaps while a checkpoint is being written; the run ends as the undisturbed one."""
    wanted, _, events = undisturbed
    tree = beside_tree(digits, tmp_path, validation__delay=3)
    called = f"die_at({json.dumps(tree)!r}, {kill % len(events)})"
    called = f"from tests.cluster_without_ray.test_beside import die_at; {called}"
    died = subprocess.run([sys.executable, "-c", called], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert died.returncode == -signal.SIGKILL
    state, _, _ = train(tree)
    assert state.stopped
    assert outcome(tmp_path / "small") == wanted
