"""The loop around a step: shares of ranks, averages, scheduled actions and their modes, patience, and the clock."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.agreement import Agreement
from raysde.distributed.world import World
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.hooks import RunHooks
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training import loop
from raysde.training.clock import Clock
from raysde.training.ema import Ema
from raysde.training.loop import (
    Schedule,
    fit,
    flush_losses,
    run_due_actions,
    train_step,
)
from raysde.training.measuring import validate_average
from raysde.training.objective import microbatch_loss
from raysde.training.posthoc_ema import PowerEma
from raysde.training.state import TrainState
from tests.support.training import Recorded, stirred

CPU = torch.device("cpu")


def gradients_of(monkeypatch) -> list[list[torch.Tensor]]:
    """Record the gradients of each update, without changing weights."""
    seen = []

    def spy(optimizer, scaler, parameters, clip, lr):
        seen.append([parameter.grad.clone() for parameter in parameters])
        optimizer.zero_grad()
        return torch.zeros(()), True

    monkeypatch.setattr("raysde.training.loop.optimizers.update_parameters", spy)
    return seen


@pytest.mark.parametrize("workers", [2, 3])
def test_ranks_of_unequal_shares_give_the_mean_over_rows(recipe, monkeypatch, workers):
    """With five microbatches on two ranks, gradients and losses averaged over ranks are those of the global batch."""
    elastic = {"train__batch": 20, "train__microbatch": 4, "resources__workers": [1, workers]}
    run = open_run(loading.parse_recipe(recipe(**elastic)))
    state, task, plan = stirred(run), make_objective(run), make_schedule(run)
    batches = next(read_batches(run.feed, Reader(run.manifest), 0, 1))
    losses = [microbatch_loss(state.model, state.model, batch, task, CPU) for batch in batches]
    wanted = torch.autograd.grad(torch.stack(losses).mean(), list(state.trained.values()))
    seen = gradients_of(monkeypatch)
    counts = []
    for rank in range(workers):
        mine = next(read_batches(run.feed, Reader(run.manifest), 0, 1, rank, workers))
        counts.append(len(mine))
        train_step(state, state.model, mine, task, plan, World(rank, workers))
    assert sum(counts) == 5
    assert max(counts) > min(counts)
    for found, expected in zip(zip(*seen, strict=True), wanted, strict=True):
        torch.testing.assert_close(torch.stack(found).mean(dim=0), expected, rtol=1e-4, atol=1e-6)
    mean = sum(loss for loss, _, _ in state.pending) / workers
    torch.testing.assert_close(mean, torch.stack(losses).mean().detach())


def test_averages_follow_the_weights_of_each_step(recipe):
    """Averages follow their recursions with all ranks' images after the step; the schedule's progress counts steps."""
    changes = {"train__ema__half_life": 40.0, "train__ema__rampup": 0.7, "train__ema__profiles": [0.1, 0.2]}
    run = open_run(loading.parse_recipe(recipe(**changes, train__decay="cosine", train__warmup=2, train__microbatch=4)))
    state, task, plan = new_state(run, CPU), make_objective(run), make_schedule(run)
    name = next(iter(state.trained))
    means = {key: state.trained[name].detach().double() for key in ("ema", 0.1, 0.2)}
    for step, batches in enumerate(read_batches(run.feed, Reader(run.manifest), 0, 4, 0, 2), 1):
        train_step(state, state.model, batches, task, plan, World(0, 2))
        weight, images = state.trained[name].detach().double(), 16 * step
        kept = {"ema": 0.5 ** (16 / min(40.0, 0.7 * images))}
        for profile in state.profiles:
            # the profile tau^g has std^2 = (g + 1) / ((g + 2)^2 (g + 3))
            g = profile.exponent
            assert (g + 1.0) / ((g + 2.0) ** 2 * (g + 3.0)) == pytest.approx(profile.std**2)
            kept[profile.std] = (1.0 - 1.0 / step) ** (g + 1.0)
        means = {key: kept[key] * means[key] + (1.0 - kept[key]) * weight for key in means}
        found = {"ema": state.ema.average[name], **{each.std: each.average[name] for each in state.profiles}}
        for key, value in found.items():
            torch.testing.assert_close(value.double(), means[key], rtol=1e-5, atol=1e-7)
        assert (state.step, state.updates, state.num_images) == (step, step, images)
        rate = 1e-3 * min(1.0, step / 2) * 0.5 * (1.0 + math.cos(math.pi * (step - 1) / 10))
        assert state.pending[-1][2] == pytest.approx(rate, rel=1e-12)


def test_a_skipped_step_advances_the_decay_but_not_the_warmup(recipe):
    run = open_run(loading.parse_recipe(recipe(train__precision="fp16", train__decay="cosine", train__warmup=4)))
    state, task, plan = new_state(run, CPU), make_objective(run), make_schedule(run)
    for step, batches in enumerate(read_batches(run.feed, Reader(run.manifest), 0, 3)):
        scale = 2.0**126 if step == 1 else 1024.0
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
        train_step(state, state.model, batches, task, plan, World())
    assert (state.step, state.updates) == (3, 2)
    fall = [0.5 * (1.0 + math.cos(math.pi * step / 10)) for step in range(3)]
    rates = [rate for _, _, rate in state.pending]
    assert rates == pytest.approx([1e-3 * 0.25 * fall[0], 1e-3 * 0.5 * fall[1], 1e-3 * 0.5 * fall[2]], rel=1e-12)


# actions due after a step


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def tiny_state(profiles: bool = True) -> TrainState:
    """Return a state of one weight, 1, whose average is 10."""
    model = Tiny()
    state = TrainState(model, Ema(model, half_life=1.0, rampup=0.0), SimpleNamespace(param_groups=[]), None)
    state.scaler = torch.amp.GradScaler("cpu", enabled=False)
    state.profiles = [PowerEma(model, std=0.1)] if profiles else []
    model.weight.data.fill_(1.0)
    state.ema.average["weight"].fill_(10.0)
    return state


class Noted:
    """A recorder of its calls: step, weights, mode, and if gradients are recorded."""

    def __init__(self, state: TrainState, stop_at: int | None = None) -> None:
        self.state, self.stop_at, self.events = state, stop_at, []

    def note(self, what: str) -> None:
        model = self.state.model
        mode = "train" if model.training else "eval"
        grad = "grad" if torch.is_grad_enabled() else "no grad"
        self.events.append((self.state.step, what, model.weight.item(), mode, grad))

    def log(self, step, metrics) -> None:
        assert step == self.state.step
        self.note(f"log {min(metrics).partition('/')[0]}")

    def save(self, state) -> None:
        self.note("save")

    def snapshot(self, state) -> None:
        self.note("snapshot")

    def sample(self, state) -> None:
        self.note("sample")

    def validate(self, model) -> dict[str, float]:
        assert model is self.state.model
        self.note("validate")
        return {"val/loss": 1.0}

    def should_stop(self) -> bool:
        self.note("ask")
        return self.stop_at is not None and self.state.step >= self.stop_at


def walked(plan: Schedule, stop_at: int | None = None, world: World | None = None, **settings) -> Noted:
    """Return all recorded calls of a run whose steps do nothing."""
    state = tiny_state(**settings)
    noted = Noted(state, stop_at)
    state.model.train()
    clock, agreement, leaving = Clock(state), Agreement(World()), False
    while state.step < plan.steps and not leaving:
        state.step += 1
        state.num_images += 16
        state.pending.append((torch.tensor(0.5), torch.tensor(1.0), 1e-3))
        leaving = run_due_actions(state, plan, noted, world or World(), noted.validate, clock, agreement)
        assert state.model.training
        assert state.model.weight.item() == 1.0
        assert state.ema.average["weight"].item() == 10.0
    return noted


PLAN = Schedule(steps=13, lr=1e-3, log_every=3, validate_every=4, sample_every=5, save_every=6, snapshot_every=2)


def test_everything_is_done_when_it_is_due_in_its_order_with_its_weights():
    """Actions happen when due, in order, with the right weights.

    Validation and sample grids use the averaged weights and put the trained ones back. Validation is in evaluation mode
    without gradients. A snapshot precedes its checkpoint. The last step does everything.
    """
    expected = []
    for step in range(1, 14):
        last = step == 13
        trained, averaged = (1.0, "train", "grad"), (10.0, "eval", "no grad")
        if step % 3 == 0 or last:
            expected.append((step, "log train", *trained))
        if step % 4 == 0 or last:
            expected += [(step, "validate", *averaged), (step, "log val", *trained)]
        if step % 5 == 0 or last:
            expected.append((step, "sample", 10.0, "train", "grad"))
        expected.append((step, "ask", *trained))
        if step % 2 == 0 or last:
            expected.append((step, "snapshot", *trained))
        if step % 6 == 0 or last:
            expected.append((step, "save", *trained))
    assert walked(PLAN).events == expected


def test_what_is_never_due_is_never_done():
    plan = Schedule(steps=5, lr=1e-3, log_every=0)
    events = [(step, what) for step, what, *_ in walked(plan, profiles=False).events if what != "ask"]
    assert events == [(5, "save")]


def test_a_stop_saves_at_once_and_leaves_a_run_that_can_go_on():
    """A stop is polled after each step; checkpoint and snapshot follow at that step. Several ranks agree on the step
    first, see tests/multiprocess.

    The checkpoint is not marked as stopped early, which would end the run for good.
    """
    noted = walked(PLAN, stop_at=7)
    done = [(when, what) for when, what, *_ in noted.events if when == 7 and what not in ("log train", "ask")]
    assert done == [(7, "snapshot"), (7, "save")]
    assert noted.events[-1][0] == noted.state.step == 7
    assert not noted.state.stopped
    early = walked(Schedule(steps=9, lr=1e-3, log_every=1), stop_at=2, profiles=False)
    assert [(step, what) for step, what, *_ in early.events if step > 1] == [(2, "log train"), (2, "ask"), (2, "save")]


def test_other_ranks_validate_and_save_but_neither_log_nor_draw():
    names = {what for _, what, *_ in walked(PLAN, world=World(rank=1)).events}
    assert names == {"ask", "validate", "save"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_validation_without_a_number_is_no_improvement(bad):
    """A NaN loss, first, in between or last, counts against patience, and the best stays the best."""
    state, hooks, seen = tiny_state(), Recorded(), []
    hooks.log = hooks.metrics
    for loss in (bad, 1.0, bad, 1.0, 0.9, 0.95, bad, bad):
        validate_average(state, 3, hooks, World(), lambda _, loss=loss: {"val/loss": loss})
        seen.append((state.best, state.stale, state.stopped))
    inf = math.inf
    assert seen == [
        (inf, 1, False), (1.0, 0, False), (1.0, 1, False), (1.0, 2, False),
        (0.9, 0, False), (0.9, 1, False), (0.9, 2, False), (0.9, 3, True),
    ]  # fmt: skip
    assert len(hooks.values) == 8


def test_without_patience_nothing_stops_and_a_stop_stays():
    state, hooks = tiny_state(), SimpleNamespace(log=lambda *_: None)
    for _ in range(5):
        validate_average(state, 0, hooks, World(), lambda _: {"val/loss": 1.0})
    assert (state.stale, state.stopped) == (4, False)
    state.stopped = True
    validate_average(state, 10, hooks, World(), lambda _: {"val/loss": 0.5})
    assert (state.stale, state.stopped) == (0, True)


def test_validation_that_fails_puts_the_weights_back():
    state = tiny_state()

    def fails(model):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        validate_average(state, 0, None, World(), fails)
    assert state.model.weight.item() == 1.0
    assert state.ema.average["weight"].item() == 10.0


def test_the_report_is_of_the_steps_since_the_last(monkeypatch):
    """A log has means of loss and gradient norm, the last rate, and images per second without pauses, by a fake
    clock."""
    now = [100.0]
    monkeypatch.setattr("raysde.training.clock.time.perf_counter", lambda: now[0])
    state, sink = tiny_state(), Recorded()
    sink.log = sink.metrics
    sink.should_stop = lambda: False
    state.num_images = 320
    clock = Clock(state)
    with clock.waiting():
        now[0] += 1.0
    now[0] += 4.0
    with clock.pause():
        now[0] += 50.0
    state.step, state.num_images = 22, 352
    state.pending = [(torch.tensor(1.0), torch.tensor(3.0), 0.1), (torch.tensor(2.0), torch.tensor(5.0), 0.2)]
    loop.log_pending_losses(state, sink, World(), clock)
    ((step, metrics),) = sink.values
    assert step == 22
    assert metrics == pytest.approx({
        "train/loss": 1.5, "train/grad_norm": 4.0, "train/lr": 0.2, "train/images": 352.0,
        "train/images_per_second": 32 / 5, "train/data_wait": 1 / 5,
    })  # fmt: skip
    assert state.pending == []
    now[0] += 2.0
    assert (clock.elapsed(), clock.rate(), clock.waited) == (2.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("norms", "logged"), [([3.0, math.inf, 5.0], 4.0), ([math.nan, 7.0], 7.0), ([math.inf, math.nan], None)]
)
def test_steps_that_the_scaler_skipped_are_not_in_the_mean_gradient(norms, logged):
    """Infinite and NaN norms are left out; if only skipped steps remain there is no mean."""
    state, sink = tiny_state(), Recorded()
    state.scaler = torch.amp.GradScaler("cpu")
    sink.log, sink.should_stop = sink.metrics, lambda: False
    state.step, state.pending = len(norms), [(torch.tensor(1.0), torch.tensor(norm), 0.1) for norm in norms]
    loop.log_pending_losses(state, sink, World(), Clock(state))
    ((_, metrics),) = sink.values
    assert metrics.get("train/grad_norm") == logged


def test_flushed_losses_stay_pending_as_the_average_over_ranks():
    """Flushed losses are plain numbers for a checkpoint, so that a resumed run logs the same values."""

    class OfTwo(World):
        def mean(self, values):
            return 0.5 * (values + 3.0)  # the other rank's losses are 3

    state = tiny_state()
    state.step = 2
    state.pending = [(torch.tensor(1.0), torch.tensor(3.0), 0.1), (torch.tensor(2.0), torch.tensor(5.0), 0.2)]
    assert flush_losses(state, OfTwo()) == [(2.0, 3.0, 0.1), (2.5, 5.0, 0.2)]
    assert state.values()["pending"] == [[2.0, 3.0, 0.1], [2.5, 5.0, 0.2]]


@pytest.mark.parametrize(
    ("losses", "culprit"), [([1.0, math.inf, math.nan], "step 9"), ([math.nan, 1.0, 1.0], "step 8")]
)
def test_the_first_bad_loss_is_named(losses, culprit):
    state = tiny_state()
    state.step = 10
    state.pending = [(torch.tensor(loss), torch.tensor(1.0), 0.1) for loss in losses]
    with pytest.raises(FloatingPointError, match=f"at {culprit}"):
        flush_losses(state, World())


def test_an_overflow_that_the_scaler_skipped_ends_nothing():
    """A finite loss with an infinite gradient is an error only without a scaler, where it would spoil the weights."""
    state = tiny_state()
    state.step, state.pending = 1, [(torch.tensor(1.0), torch.tensor(math.inf), 0.1)]
    with pytest.raises(FloatingPointError, match="norm is inf at step 1"):
        flush_losses(state, World())
    state.scaler = torch.amp.GradScaler("cpu")
    assert flush_losses(state, World()) == [(1.0, math.inf, 0.1)]


@pytest.mark.parametrize(("step", "profiles"), [(6, True), (6, False), (2, True), (13, False)])
def test_weights_that_are_spoiled_are_neither_saved_nor_kept(step, profiles):
    """Nothing is written at a checkpoint with and without post-hoc EMA, at a snapshot alone, and at the end."""
    state = tiny_state(profiles=profiles)
    state.step, state.pending = step, [(torch.tensor(math.nan), torch.tensor(1.0), 0.1)]
    noted = Noted(state)
    with pytest.raises(FloatingPointError):
        loop.keep_checkpoint(state, PLAN, noted, World())
    assert noted.events == []


@pytest.mark.parametrize("profiles", [True, False])
def test_a_checkpoint_holds_the_losses_of_all_ranks(profiles):
    """Pending losses are averaged over ranks before saving, or a resumed run would log one rank's own."""

    class OfTwo(World):
        def mean(self, values):
            return 0.5 * (values + 3.0)  # the other rank's losses are 3

    state, saved = tiny_state(profiles=profiles), []
    state.step, state.pending = 6, [(torch.tensor(1.0), torch.tensor(3.0), 0.1)]
    hooks = SimpleNamespace(save=lambda state: saved.append(list(state.pending)), snapshot=lambda state: None)
    loop.keep_checkpoint(state, PLAN, hooks, OfTwo())
    assert saved == [[(2.0, 3.0, 0.1)]]


def test_the_loop_refuses_steps_that_do_not_follow(recipe):
    run = open_run(loading.parse_recipe(recipe(train__length__steps=3)))
    for start, found in ((1, "data of step 1"), (3, "no more data")):
        state = new_state(run, CPU)
        batches = read_batches(run.feed, Reader(run.manifest), start, 3)
        with pytest.raises(ValueError, match=f"step 0 expected, {found}"):
            fit(state, batches, make_objective(run), make_schedule(run), Noted(state), World())
        assert state.step == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_are_compiled_only_if_asked(recipe, monkeypatch, compiled):
    seen = []
    monkeypatch.setattr("raysde.training.loop.compile_blocks", seen.append)
    state = train_here(open_run(loading.parse_recipe(recipe(train__compile=compiled, train__length__steps=1))), None)
    assert seen == ([state.model.network] if compiled else [])


# hooks of a run


def test_grids_and_validation_are_drawn_without_dropout_from_the_averaged_weights(recipe, sink):
    """Outside a step the network evaluates the averaged weights, and training continues afterwards."""
    changes = {"network__dropout": 0.5, "validation__rows": 24, "validation__every": 2, "sampling__every": 2}
    changes |= {"sampling__count": 2, "sampling__steps": 1, "train__length__steps": 4, "train__lr": 1e-2}
    run = open_run(loading.parse_recipe(recipe(**changes)))
    state = stirred(run)
    name, parameter = next(iter(state.trained.items()))
    last, asked = [], set()

    class Optimizer(type(state.optimizer)):
        def step(self, *arguments, **named):
            found = super().step(*arguments, **named)
            last.append(parameter.detach().clone())
            return found

    def note(module, inputs) -> None:
        grad = torch.is_grad_enabled()
        assert all(each.training == grad for each in module.modules())
        if not grad:
            # the average is in the model, and the trained weights are kept in its place
            assert torch.equal(state.ema.average[name], last[-1])
            assert not torch.equal(parameter, last[-1])
            asked.add(state.step)
        elif last:
            assert torch.equal(parameter, last[-1])

    state.optimizer.__class__ = Optimizer
    state.model.network.register_forward_pre_hook(note)
    batches = read_batches(run.feed, Reader(run.manifest), 0, 4)
    hooks = RunHooks(run, sink, lambda state: None)
    state.model.eval()  # a caller may have left it so
    fit(state, batches, make_objective(run), make_schedule(run), hooks, World(), validate=make_validator(run, World()))
    assert sink.pictures == [2, 4]
    assert sorted(sink.of("val/loss")) == [2, 4]
    assert asked == {2, 4}
    assert state.model.training


def test_without_a_sink_nothing_is_drawn(recipe):
    run = open_run(loading.parse_recipe(recipe(sampling__every=1)))
    state = new_state(run, CPU)
    calls = []
    state.model.network.register_forward_pre_hook(lambda *_: calls.append(1))
    RunHooks(run, None, lambda state: None).sample(state)
    assert not calls


def test_checkpoints_by_time(recipe, monkeypatch):
    """One process saves as soon as 10 s have passed since the last checkpoint by time, and at the end."""
    run = open_run(loading.parse_recipe(recipe(checkpoint_every="10s", text=None, log_every=50)))
    state, saved = new_state(run, CPU), []
    monkeypatch.setattr(
        "raysde.training.clock.time", SimpleNamespace(monotonic=lambda: 4.0 * state.step, perf_counter=lambda: 0.0)
    )
    hooks = RunHooks(run, None, lambda state: saved.append(state.step))
    fit(
        state,
        read_batches(run.feed, Reader(run.manifest), 0, 10),
        make_objective(run),
        make_schedule(run),
        hooks,
        World(),
    )
    assert saved == [3, 6, 9, 10]


def test_a_run_keeps_its_newest_checkpoints(recipe):
    """The requested number of checkpoints is kept; one is written at every step and older ones are deleted."""
    run = open_run(loading.parse_recipe(recipe(train__length__steps=4, checkpoint_every=1, keep_checkpoints=2)))
    train_here(run, None)
    found = sorted(path.name for path in (Path(run.config.storage) / "small").glob("step_*"))
    assert found == [checkpoint.checkpoint_name(3), checkpoint.checkpoint_name(4)]
