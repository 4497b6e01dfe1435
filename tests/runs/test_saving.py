"""Checkpoints written beside training: of the right step, in order, none skipped, whole after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint, storage
from raysde.config import loading
from raysde.distributed.world import World
from raysde.runs import hooks, saving
from raysde.runs.build import new_state
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.paths import ROOT
from tests.support.training import STDS, same_tensors, small_recipe

STEPS = 4
KINDS = ("ema", "weights", "optimizer", "profiles")


def tree_of(digits, place: Path, /, **changes) -> dict:
    given = {"text": None, "train__lr": 3e-2, "train__length__steps": STEPS, "checkpoint_every": 1,
             "keep_checkpoints": 9, "train__ema__profiles": list(STDS)}  # fmt: skip
    return small_recipe(digits, place, **{**given, **changes})


def train(tree: dict) -> None:
    train_here(open_run(loading.parse_recipe(tree)), None)


def steps_of(tree: dict) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (Path(tree["storage"]) / "small").glob("step_*"))


def at(tree: dict, step: int) -> Path:
    return Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(step)


@pytest.fixture(scope="module")
def at_once(digits, tmp_path_factory):
    """Return the recipe of a run whose checkpoints were written by the training thread at each step."""
    tree = tree_of(digits, tmp_path_factory.mktemp("at_once"))
    run = open_run(loading.parse_recipe(tree))
    folder = Path(run.config.storage) / "small"

    def save(self, state) -> None:
        hooks.save_checkpoint(run, state, folder, World())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(saving.Saver, "save", save)
        train_here(run, None)
    return tree


def test_a_checkpoint_is_of_its_step_though_training_went_on(digits, tmp_path, monkeypatch, at_once):
    """Each checkpoint is written after the next step is taken, and equals that of the training thread to the bit."""
    states, plain, late = [], saving.write_staged, []

    def stage(state, *given):
        states.append(state)
        return stage_plain(state, *given)

    stage_plain = saving.stage_checkpoint

    def write(target, staged, *given) -> None:
        end = time.monotonic() + 60.0
        while staged.step < STEPS and states[0].step == staged.step and time.monotonic() < end:
            time.sleep(0.002)
        late.append(states[0].step - staged.step)
        plain(target, staged, *given)

    monkeypatch.setattr(saving, "stage_checkpoint", stage)
    monkeypatch.setattr(saving, "write_staged", write)
    tree = tree_of(digits, tmp_path)
    train(tree)
    assert late == [1] * (STEPS - 1) + [0]
    assert steps_of(tree) == steps_of(at_once) == list(range(1, STEPS + 1))
    for step in range(1, STEPS + 1):
        for kind in KINDS:
            ours, theirs = (load_file(at(each, step) / f"{kind}.safetensors") for each in (tree, at_once))
            assert ours
            assert same_tensors(ours, theirs), (step, kind)
        ours, theirs = (checkpoint.verify_checkpoint(at(each, step)) for each in (tree, at_once))
        assert (ours.state, ours.files) == (theirs.state, theirs.files)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_staged_tensor_shares_memory_with_the_state(digits, tmp_path, dtype):
    """Any tensor of a state may change in the next step: weights, averages, moments, step counters, buffers."""
    run = open_run(loading.parse_recipe(tree_of(digits, tmp_path)))
    state = new_state(run, torch.device("cpu"))
    for parameter in state.trained.values():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.model.network.register_buffer("count", torch.zeros(3, dtype=dtype))
    staged = saving.stage_checkpoint(state, World())
    before = {name: {key: value.clone() for key, value in file.tensors.items()} for name, file in staged.files.items()}
    assert "network.count" in before["ema.safetensors"]
    live = [*state.model.state_dict().values(), *state.ema.average.values(), *state.optimizer_tensors().values(),
            *state.profile_tensors().values()]  # fmt: skip
    with torch.no_grad():
        for value in live:
            value.add_(1)
    for name, file in staged.files.items():
        assert same_tensors(dict(file.tensors), before[name]), name


def test_saves_keep_their_order_and_one_is_in_flight(digits, tmp_path, monkeypatch):
    """A state is copied only after the checkpoint before it is written and noted; averages come before checkpoints."""
    happened, plain = [], {name: getattr(saving, name) for name in ("stage_checkpoint", "write_staged")}
    snapshot = saving.ema_snapshots.write_staged_snapshot

    def stage(state, *given):
        happened.append(("copy", state.step))
        return plain["stage_checkpoint"](state, *given)

    def write(target, staged, *given) -> None:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.1)
        plain["write_staged"](target, staged, *given)
        happened.append(("written", staged.step))

    def average(run, staged) -> None:
        time.sleep(0.1)
        snapshot(run, staged)
        happened.append(("averages", staged.step))

    monkeypatch.setattr(saving, "stage_checkpoint", stage)
    monkeypatch.setattr(saving, "write_staged", write)
    monkeypatch.setattr(saving.ema_snapshots, "write_staged_snapshot", average)
    run = open_run(loading.parse_recipe(tree_of(digits, tmp_path)))
    state = new_state(run, torch.device("cpu"))
    with saving.Saver(run, state, World(), written=lambda step: happened.append(("noted", step))) as saver:
        for state.step in (1, 2, 3):
            saver.snapshot(state)
            saver.save(state)
    of_a_step = ["copy", "averages", "written", "noted"]
    for step in (1, 2, 3):
        assert sorted(what for what, number in happened if number == step) == sorted(of_a_step)
        assert happened.index(("averages", step)) < happened.index(("written", step)) < happened.index(("noted", step))
    for step in (1, 2):
        assert happened.index(("written", step)) < happened.index(("noted", step)) < happened.index(("copy", step + 1))


@pytest.mark.parametrize("wrong", [2, STEPS])
def test_an_error_ends_the_run_at_the_next_save_or_at_its_end(digits, tmp_path, monkeypatch, wrong):
    plain = saving.write_staged

    def write(target, staged, *given) -> None:
        if staged.step == wrong:
            raise OSError(f"the checkpoint of step {wrong} cannot be written to {target}: No space left on device")
        plain(target, staged, *given)

    monkeypatch.setattr(saving, "write_staged", write)
    tree = tree_of(digits, tmp_path)
    with pytest.raises(OSError, match=rf"the checkpoint of step {wrong} cannot be written to .*No space left"):
        train(tree)
    assert steps_of(tree) == list(range(1, wrong))


def test_a_checkpoint_does_not_outlive_the_loss_of_its_averages(digits, tmp_path, monkeypatch):
    """A run resumed from the checkpoint would never write the averages of its step."""

    def fail(run, staged) -> None:
        time.sleep(0.2)  # the checkpoint is queued meanwhile
        raise OSError("No space left on device")

    monkeypatch.setattr(saving.ema_snapshots, "write_staged_snapshot", fail)
    tree = tree_of(digits, tmp_path, checkpoint_every=2)
    with pytest.raises(OSError, match="No space left"):
        train(tree)
    assert steps_of(tree) == []


def test_an_interrupted_run_ends_after_the_checkpoint_that_is_being_written(digits, tmp_path, monkeypatch):
    """The error of the loop is raised, and the thread has ended: nothing is written after the run."""
    plain = saving.write_staged

    def write(target, staged, *given) -> None:
        time.sleep(0.5)
        plain(target, staged, *given)

    monkeypatch.setattr(saving, "write_staged", write)
    run = open_run(loading.parse_recipe(tree_of(digits, tmp_path)))
    state = new_state(run, torch.device("cpu"))

    def begin() -> None:
        with saving.Saver(run, state, World()) as saver:
            state.step = 1
            saver.save(state)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert not [each for each in threading.enumerate() if each.name == "raysde-saving"]
    assert checkpoint.verify_checkpoint(tmp_path / "small" / checkpoint.checkpoint_name(1)).step == 1


@pytest.mark.parametrize("far", [False, True], ids=["folder", "uri"])
def test_a_run_that_another_command_took_over_writes_no_checkpoint(digits, tmp_path, far):
    """Whoever lost the run learns it just before a checkpoint becomes visible, and stops there."""
    place = f"file://{tmp_path}/runs" if far else str(tmp_path / "runs")
    run = open_run(loading.parse_recipe({**tree_of(digits, tmp_path), "storage": place}))
    state, asked = new_state(run, torch.device("cpu")), []

    def confirm() -> None:
        found = storage.find_newest_checkpoint(place, "small")
        asked.append((state.step, None if found is None else found.step))
        if len(asked) == 2:
            raise RuntimeError("taken over")

    def begin() -> None:
        with saving.Saver(run, state, World(), confirm=confirm) as saver:
            for state.step in (1, 2, 3):
                saver.save(state)
                saver.writer.wait()

    with pytest.raises(RuntimeError, match="taken over"):
        begin()
    assert asked == [(1, None), (2, 1)]
    assert storage.find_newest_checkpoint(place, "small").step == 1


KILLED = """
import json, os, signal, sys
from pathlib import Path
from raysde.checkpoints import storage, writing
from raysde.config import loading
from raysde.distributed.world import World
from raysde.io import atomic
from raysde.runs import local
from raysde.runs.run import open_run

tree, point = json.loads(sys.argv[1]), sys.argv[2]
step = "step_000000003"
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
plain = writing.write_file

def write(system, path, parts):
    if step in path and path.endswith(point):
        def torn():
            whole = b"".join(parts())
            yield whole[: len(whole) // 2]
            die()
        return plain(system, path, torn)
    return plain(system, path, parts)

if point == "rename":
    move = atomic.move_into_place
    atomic.move_into_place = lambda partial, folder: die() if folder.name == step else move(partial, folder)
elif point == "prune":
    prune = storage.prune_checkpoints
    storage.prune_checkpoints = lambda folder, keep, saved, base: die() if saved == 3 else prune(folder, keep, saved)
else:
    writing.write_file = write
local.check_place = lambda run: None  # a URI is written here as under Ray
run = open_run(loading.parse_recipe(tree))
local.train_here(run, None)
"""


POINTS = ("ema.safetensors", "optimizer.safetensors", "checkpoint.json", "rename", "prune")


# an object store has no rename
@pytest.mark.parametrize(("point", "far"), [(point, far) for point in POINTS for far in (False, True)
                                            if (point, far) != ("rename", True)])  # fmt: skip
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(digits, tmp_path, monkeypatch, at_once, point, far):
    """Killed in the middle of a file, before the rename or before older checkpoints are deleted, the run goes on from a
    whole checkpoint and ends with the weights of an undisturbed run. Nothing is left in the temporary folder."""
    (tmp_path / "temporary").mkdir()
    place = f"file://{tmp_path}/runs" if far else str(tmp_path / "runs")
    tree = {**tree_of(digits, tmp_path / "runs"), "storage": place}
    command = [sys.executable, "-c", KILLED, json.dumps(tree), point]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    newest = 3 if point == "prune" else 2
    found = storage.find_newest_checkpoint(place, "small")
    assert found.step == newest
    checkpoint.verify_checkpoint(tmp_path / "runs" / "small" / checkpoint.checkpoint_name(newest))
    assert list((tmp_path / "temporary").iterdir()) == []
    monkeypatch.setattr("raysde.runs.local.check_place", lambda run: None)
    train(tree)
    local = {**tree, "storage": str(tmp_path / "runs")}
    for kind in KINDS:
        ours, theirs = (load_file(at(each, STEPS) / f"{kind}.safetensors") for each in (local, at_once))
        assert same_tensors(ours, theirs), kind
    names = {path.name for path in (tmp_path / "runs" / "small").iterdir()}
    assert names == {"profiles", *(checkpoint.checkpoint_name(step) for step in range(1, STEPS + 1))}
