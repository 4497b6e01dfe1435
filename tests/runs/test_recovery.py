"""Runs with bad steps: what is left out, to the bit, and the same after kills, departures and resumes."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint, storage
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.world import World
from raysde.runs import saving
from raysde.runs.build import make_objective, make_schedule, new_state
from raysde.runs.history import History
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training import loop
from raysde.training.objective import microbatch_loss
from raysde.training.state import TrainState
from tests.support.bad_steps import BAD, SETTINGS, Killed, interrupt, plant, train
from tests.support.training import Recorded, same_tensors

CPU = torch.device("cpu")
LEFT = {4, 5, 6, 11, 12, 13}
"""Plan positions since the checkpoints of steps 4 and 8 up to each of them."""


def everything(state: TrainState) -> dict:
    return {
        **{f"weights/{k}": v for k, v in state.model.state_dict().items()},
        **{f"ema/{k}": v for k, v in state.ema.state().items()},
        **state.optimizer_tensors(),
        **state.profile_tensors(),
    }


def trained_on(tree: dict, positions: list[int]) -> TrainState:
    """Return the state of a bare loop over plan positions, each of which is a step."""
    run = open_run(loading.parse_recipe({**tree, "train": {**tree["train"], "on_bad_step": "stop"}}))
    state, reader = new_state(run, CPU), Reader(run.manifest)
    for position in positions:
        (batches,) = read_batches(run.feed, reader, position, position + 1)
        loop.train_step(state, state.model, batches, make_objective(run), make_schedule(run), World())
    return state


def test_a_rollback_is_a_run_without_the_batches_since_the_checkpoint(recipe, monkeypatch):
    """A NaN and a spike each return to the last checkpoint, and the batches from there to the bad one are left out."""
    tree, sink = recipe(**SETTINGS, train__on_bad_step="rollback"), Recorded()
    whole = trained_on(tree, [position for position in range(18) if position not in LEFT])
    seen, written = plant(monkeypatch, BAD), saving.write_staged

    def slow(*given: Any) -> None:
        time.sleep(0.3)  # several steps: the bad one comes while its checkpoint is being written
        written(*given)

    monkeypatch.setattr(saving, "write_staged", slow)
    state = train(tree, sink)
    assert seen == list(range(18))  # the stream is read once, and beyond the length of the run
    assert same_tensors(everything(state), everything(whole))
    assert (state.bad.rollbacks, state.bad.skipped, state.bad.left_out) == (2, 0, [(4, 7), (11, 14)])
    assert (state.position, state.step) == (18, 12)
    for name in ("step", "num_images", "updates", "rows_digest"):
        assert getattr(state, name) == getattr(whole, name), name
    assert sink.of("train/rollbacks")[12] == 2.0
    assert sink.of("train/batches_passed_over")[12] == 6.0
    assert min(sink.of("train/images_per_second").values()) > 0.0
    folder = Path(tree["storage"]) / "small"
    assert sorted(path.name for path in folder.glob("step_*")) == [checkpoint.checkpoint_name(k) for k in (4, 8, 12)]
    found = checkpoint.read_description(folder / checkpoint.checkpoint_name(8))
    assert (found.step, found.position, found.bad.left_out) == (8, 11, [(4, 7)])


@pytest.mark.parametrize(
    ("bad", "left", "ranges"),
    [({2: "inf"}, {0, 1, 2}, [(0, 3)]),  # before the first checkpoint: back to the initial weights
     ({5: "gradient", 8: "nan"}, {4, 5, 6, 7, 8}, [(4, 9)]),  # twice from one checkpoint
     ({0: "nan", 11: "gradient"}, {0, 9, 10, 11}, [(0, 1), (9, 12)])],  # the first batch, and the last step
)  # fmt: skip
def test_a_rollback_leaves_out_what_led_to_the_bad_step(recipe, monkeypatch, bad, left, ranges):
    tree = recipe(**SETTINGS, train__on_bad_step="rollback")
    whole = trained_on(tree, [position for position in range(12 + len(left)) if position not in left])
    plant(monkeypatch, bad)
    state = train(tree)
    assert state.bad.left_out == ranges
    assert state.bad.rollbacks == len(bad)
    assert same_tensors(everything(state), everything(whole))


def bare_loop_without(tree: dict, skipped: set[int]) -> TrainState:
    """Return the state of a loop in plain torch that leaves out the update of some steps."""
    run = open_run(loading.parse_recipe(tree))
    state, objective = new_state(run, CPU), make_objective(run)
    for step, (batch,) in enumerate(read_batches(run.feed, Reader(run.manifest), 0, 12)):
        if step not in skipped:
            microbatch_loss(state.model, state.model, batch, objective, CPU).backward()
            torch.nn.utils.clip_grad_norm_(list(state.trained.values()), 1.0)
            rate = 1e-3 * min(1.0, (step + 1) / 9) * 0.5 * (1.0 + math.cos(math.pi * (step / 12)))
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.ema.update(16, 16 * (step + 1))
        for profile in state.profiles:
            profile.update(16, 16 * (step + 1))
    return state


@pytest.mark.parametrize("bad", [{6: "nan", 10: "spike"}, {0: "gradient", 11: "inf"}, {7: "spike", 8: "gradient"}])
def test_a_skip_is_a_loop_that_leaves_out_the_update(recipe, monkeypatch, bad):
    """Plan position, learning rate and random streams advance; weights, moments and the average do not."""
    tree, sink = recipe(**SETTINGS, train__on_bad_step="skip"), Recorded()
    whole = bare_loop_without(tree, set(bad))
    seen = plant(monkeypatch, bad)
    state = train(tree, sink)
    assert seen == list(range(12))
    assert same_tensors(everything(state), everything(whole))
    assert (state.step, state.updates, state.num_images, state.position) == (12, 10, 192, 12)
    assert (state.bad.skipped, state.bad.rollbacks, state.bad.left_out) == (2, 0, [])
    assert sink.of("train/skipped_steps")[12] == 2.0
    # a step that was left out has no loss to log
    assert sorted(set(range(1, 13)) - set(sink.of("train/loss"))) == [position + 1 for position in bad]


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize(
    ("at", "leave"), [(3, False), (5, False), (6, False), (7, False), (11, True), (6, True), (7, True), (13, True)]
)
def test_rollbacks_are_repeated_after_kills_and_departures(recipe, tmp_path, monkeypatch, keep, at, leave):
    """A run that ends anywhere before or after a rollback ends with the weights of one that ran through.

    Leaving writes a checkpoint between the one that a bad step returns to and the bad step. It is not returned to, and
    with room for one checkpoint it does not replace the other.
    """
    settings = {**SETTINGS, "train__on_bad_step": "rollback", "keep_checkpoints": keep}
    whole, broken = (recipe(**settings, storage=str(tmp_path / name)) for name in "ab")
    plant(monkeypatch, BAD)
    expected = train(whole)
    with monkeypatch.context() as patched:
        interrupt(patched, at, leave)
        if leave:
            assert train(broken).step < 12
        else:
            with pytest.raises(Killed):
                train(broken)
    state = train(broken)
    assert same_tensors(everything(state), everything(expected))
    assert state.values() == expected.values()


def test_a_kill_within_a_rollback_changes_nothing(recipe, tmp_path, monkeypatch):
    """Killed once the weights of the checkpoint are loaded, and killed again while later checkpoints are deleted."""
    settings = {**SETTINGS, "train__on_bad_step": "rollback"}
    whole, broken = (recipe(**settings, storage=str(tmp_path / name)) for name in "ab")
    plant(monkeypatch, BAD)
    expected = train(whole)
    with monkeypatch.context() as patched:
        interrupt(patched, 6, True)
        train(broken)  # leaves a checkpoint of step 6 behind

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(storage, "delete_later_checkpoints", kill)
        with pytest.raises(Killed):
            train(broken)
    assert (tmp_path / "b" / "small" / checkpoint.checkpoint_name(6)).exists()
    state = train(broken)
    assert same_tensors(everything(state), everything(expected))
    assert state.values() == expected.values()
    assert not (tmp_path / "b" / "small" / checkpoint.checkpoint_name(6)).exists()


@pytest.mark.parametrize("at", [4, 7, 10])
def test_skips_are_repeated_after_kills(recipe, tmp_path, monkeypatch, at):
    """The detector's window is part of the checkpoint, so that a resumed run sees the same spike."""
    settings = {**SETTINGS, "train__on_bad_step": "skip"}
    whole, broken = (recipe(**settings, storage=str(tmp_path / name)) for name in "ab")
    plant(monkeypatch, {6: "nan", 9: "spike"})
    expected = train(whole)
    with monkeypatch.context() as patched:
        interrupt(patched, at, False)
        with pytest.raises(Killed):
            train(broken)
    state = train(broken)
    assert same_tensors(everything(state), everything(expected))
    assert state.values() == expected.values()
    assert state.bad.skipped == 2


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_too_many_bad_steps_end_the_run(recipe, monkeypatch, policy):
    tree = recipe(**{**SETTINGS, "train__bad_steps": {"most": 2}}, train__on_bad_step=policy)
    plant(monkeypatch, dict.fromkeys(range(5, 40), "nan"))
    with pytest.raises(FloatingPointError, match=r"train\.bad_steps\.most=2: bad step 3 .* the loss is nan at step"):
        train(tree)


def test_a_stopped_run_goes_on_with_another_policy(recipe, tmp_path, monkeypatch):
    """A run that a NaN ended is resumed with skip or rollback, as if it had had that policy from the start."""
    plant(monkeypatch, {6: "nan"})
    for policy in ("skip", "rollback"):
        settings = {**SETTINGS, "train__bad_steps": {"threshold": None}}
        whole, stopped = (recipe(**settings, storage=str(tmp_path / policy / name)) for name in "ab")
        with pytest.raises(FloatingPointError, match=r"the loss is nan at step 7: lower train\.lr or set train\.clip"):
            train(stopped)
        states = []
        for tree in (whole, stopped):
            tree["train"]["on_bad_step"] = policy
            states.append(train(tree))
        assert same_tensors(*map(everything, states))
        assert states[0].bad.left_out == states[1].bad.left_out


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_run_without_bad_steps_is_that_of_stop(recipe, tmp_path, policy):
    trees = [recipe(**SETTINGS, storage=str(tmp_path / name), train__on_bad_step=name) for name in ("stop", policy)]
    states = [train(tree) for tree in trees]
    assert same_tensors(*map(everything, states))
    assert states[0].values() | {"bad_steps": None} == states[1].values() | {"bad_steps": None}


def test_overflows_that_the_scaler_skips_are_no_bad_steps(recipe, monkeypatch):
    """fp16 gradients that overflow lower the scale and count as no bad step; a NaN leaves the scale alone."""
    tree = recipe(**{**SETTINGS, "train__precision": "fp16"}, train__on_bad_step="skip")
    run = open_run(loading.parse_recipe(tree))
    state, schedule = new_state(run, CPU), make_schedule(run)
    plant(monkeypatch, {1: "nan"})
    scales = []
    for step, batches in enumerate(read_batches(run.feed, Reader(run.manifest), 0, 3)):
        if step == 0:
            state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**126})
        fault = loop.train_step(state, state.model, batches, make_objective(run), schedule, World())
        assert bool(fault) == (step == 1)
        scales.append(state.scaler.get_scale())
        if step == 0:
            assert state.updates == 0
            state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 1024.0})
    assert scales == [2.0**125, 1024.0, 1024.0]
    assert (state.updates, len(state.bad.losses)) == (1, 2)


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(recipe, tmp_path, monkeypatch):
    """A rollback whose checkpoint was damaged returns to the one before it, and says so."""
    tree = recipe(**SETTINGS, train__on_bad_step="rollback")
    plant(monkeypatch, {10: "nan"})
    plain = storage.find_newest_checkpoint

    def damage(*given, **named):
        path = Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(8) / "weights.safetensors"
        if path.exists():
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(bytes(data))
        return plain(*given, **named)

    monkeypatch.setattr(storage, "find_newest_checkpoint", damage)
    with pytest.warns(UserWarning, match="passed over a damaged checkpoint.*weights"):
        state = train_here(open_run(loading.parse_recipe(tree)), None)
    assert state.bad.left_out == [(4, 11)]


def test_without_a_checkpoint_to_return_to_the_run_ends(recipe, monkeypatch):
    tree = recipe(**SETTINGS, train__on_bad_step="rollback")
    plant(monkeypatch, {6: "nan"})
    monkeypatch.setattr(storage, "find_newest_checkpoint", lambda *given, **named: None)
    with pytest.raises(ValueError, match=r"has no checkpoint up to step 4 .* set train\.on_bad_step=skip"):
        train(tree)


def test_a_checkpoint_without_a_record_resumes(recipe, monkeypatch):
    """Checkpoints written before bad steps were recorded have the step for the plan position."""
    tree = recipe(**SETTINGS)
    whole = train(tree)
    folder = Path(tree["storage"]) / "small"
    for step in (8, 12):
        path = folder / checkpoint.checkpoint_name(step) / "checkpoint.json"
        content = json.loads(path.read_text())
        del content["state"]["bad_steps"], content["sha256"], content["bytes"]
        path.write_text(json.dumps(content))
    path.unlink()
    found = checkpoint.read_description(folder / checkpoint.checkpoint_name(8))
    assert found.position == 8
    for each in (folder / checkpoint.checkpoint_name(12)).iterdir():
        each.unlink()
    (folder / checkpoint.checkpoint_name(12)).rmdir()
    assert same_tensors(everything(train(tree)), everything(whole))
    assert load_file(folder / checkpoint.checkpoint_name(12) / "ema.safetensors")


def test_the_metrics_of_abandoned_steps_are_replaced(tmp_path):
    """An entry about an earlier step than the last replaces the entries from that step on."""
    history = History(tmp_path, 0)
    for step, value in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.4), (2, 0.5), (4, 0.6)):
        history.metrics(step, {"train/loss": value})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(1, 0.1), (2, 0.4), (2, 0.5), (4, 0.6)]
