"""The loop: the computation of each step in every precision, and bitwise resume."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.world import World
from raysde.inference.samples import Drawn
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.local import train_here
from raysde.runs.run import check_resumable, open_run
from raysde.sde import VE
from raysde.training import optimizers
from raysde.training.ema import Ema, ema_decay
from raysde.training.loop import flush_losses, train_step
from raysde.training.objective import DTYPES, microbatch_loss
from raysde.training.state import TrainState
from raysde.training.time_sampling import draw_stratified
from tests.support.checkpoints import description_of
from tests.support.training import Recorded, same_tensors, stirred

CPU = torch.device("cpu")


def trained(recipe: dict, sink=None) -> TrainState:
    return train_here(open_run(loading.parse_recipe(recipe)), sink)


def everything(state: TrainState) -> dict:
    return {
        **{f"weights/{k}": v for k, v in state.model.state_dict().items()},
        **{f"ema/{k}": v for k, v in state.ema.state().items()},
        **state.optimizer_tensors(),
    }


class StopAt:
    """A sink that raises when metrics of a step arrive, like a crash."""

    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, step, values) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def image(self, step, name, image) -> None:
        pass


@pytest.mark.parametrize(
    ("precision", "text_lr", "optimizer"),
    [("fp32", None, "adamw"), ("bf16", None, "adamw"), ("fp16", None, "adamw"), ("fp32", 2e-4, "adamw"),
     ("fp16", 2e-4, "adamw"), ("bf16", None, "muon"), ("fp16", 2e-4, "muon")],
)  # fmt: skip
def test_resume_is_bitwise(recipe, tmp_path, sink, precision, text_lr, optimizer):
    """10 steps equal 6 steps, a crash, and a resume from step 5: weights, EMA, optimizer, counters, metrics."""
    settings = {"train__precision": precision, "validation__rows": 24, "validation__every": 4, "log_every": 3}
    settings |= {"train__text_lr": text_lr, "train__optimizer": optimizer}
    if optimizer == "muon":  # eight channels are too few for Muon
        settings |= {"network__channels": 32, "network__multipliers": [1, 1], "train__batch": 4}
    whole = trained(recipe(**settings, storage=str(tmp_path / "a")), sink)
    broken = recipe(**settings, storage=str(tmp_path / "b"))
    with pytest.raises(KeyboardInterrupt):
        trained(broken, StopAt(6))
    resumed_sink = type(sink)()
    resumed = trained(broken, resumed_sink)
    assert same_tensors(everything(whole), everything(resumed))
    assert whole.values() == resumed.values()
    for key in ("train/loss", "train/grad_norm", "train/lr", "val/loss", *["train/text_lr"] * bool(text_lr)):
        late = {step: value for step, value in sink.of(key).items() if step > 5}
        assert late
        assert resumed_sink.of(key) == late
    assert same_tensors(saved(tmp_path / "a"), saved(tmp_path / "b"))


def saved(folder: Path) -> dict:
    from safetensors.torch import load_file

    last = folder / "small" / checkpoint.checkpoint_name(10)
    return {
        f"{path.name}/{key}": value for path in last.glob("*.safetensors") for key, value in load_file(path).items()
    }


def test_each_row_is_seen_as_planned(recipe):
    """The digest of the trained rows is that of the plan, computed independently."""
    run = open_run(loading.parse_recipe(recipe(train__length__steps=4)))
    state = train_here(run, None)
    expected = new_state(run, CPU)
    for step in range(4):
        expected.note_rows(run.feed.rows[run.plan.rows_of(step, 0)])
    assert state.rows_digest == expected.rows_digest
    expected.note_rows(run.feed.rows[run.plan.rows_of(4, 0)])
    assert state.rows_digest != expected.rows_digest


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(recipe, sink, precision):
    """The loss falls, and reduced precision starts at full precision's loss, up to rounding."""
    trained(recipe(train__precision=precision, train__length__steps=30, train__lr=3e-3, log_every=10), sink)
    losses = list(sink.of("train/loss").values())
    assert losses[-1] < 0.8 * losses[0]


def test_precisions_agree_on_the_first_loss(recipe):
    """First losses differ at most by the autocast dtype's epsilon times the depth of the network."""
    run = open_run(loading.parse_recipe(recipe()))
    state = new_state(run, CPU)
    (batch,) = next(read_batches(run.feed, Reader(run.manifest), 0, 1))
    torch.nn.init.normal_(state.model.network.leave.weight, std=0.05)
    losses = {}
    for precision, dtype in DTYPES.items():
        task = make_objective(open_run(loading.parse_recipe(recipe(train__precision=precision))))
        seen = []
        hook = state.model.network.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out.dtype))
        losses[precision] = microbatch_loss(state.model, state.model, batch, task, CPU).item()
        hook.remove()
        assert seen == [dtype]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=16 * torch.finfo(torch.bfloat16).eps)
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=16 * torch.finfo(torch.float16).eps)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("microbatch", [16, 8, 4])
def test_accumulation_is_the_whole_batch(recipe, microbatch):
    """The gradient of a step is the mean over its microbatches' losses, each with its own stream."""
    run = open_run(loading.parse_recipe(recipe(train__microbatch=microbatch)))
    state, task = new_state(run, CPU), make_objective(run)
    batches = next(read_batches(run.feed, Reader(run.manifest), 0, 1))
    assert len(batches) == 16 // microbatch
    losses = torch.stack([microbatch_loss(state.model, state.model, batch, task, CPU) for batch in batches])
    parameters = list(state.trained.values())
    gradients = torch.autograd.grad(losses.mean(), parameters)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    train_step(state, state.model, batches, task, make_schedule(run), World())
    loss, got_norm, _ = state.pending[0]
    torch.testing.assert_close(loss, losses.mean().detach())
    torch.testing.assert_close(got_norm, norm)


def test_microbatches_differ_in_noise_not_in_rows(recipe, monkeypatch):
    """A step's times do not depend on its microbatches: they are stratified over the global batch."""
    seen = []

    def spy(*args):
        seen.append(draw_stratified(*args))
        return seen[-1]

    monkeypatch.setattr("raysde.training.objective.draw_stratified", spy)
    for microbatch in (16, 4):
        run = open_run(loading.parse_recipe(recipe(train__microbatch=microbatch)))
        state = new_state(run, CPU)
        batches = next(read_batches(run.feed, Reader(run.manifest), 0, 1))
        train_step(state, state.model, batches, make_objective(run), make_schedule(run), World())
    assert torch.equal(seen[0], torch.cat(seen[1:]))


def test_non_finite_losses_are_named_with_their_step(recipe):
    """Weights that overflow at step 3 are reported as step 3, though losses are checked every 5 steps."""
    run = open_run(loading.parse_recipe(recipe(log_every=5)))
    state, task = new_state(run, CPU), make_objective(run)
    for step, batches in enumerate(read_batches(run.feed, Reader(run.manifest), 0, 5)):
        if step == 2:
            next(iter(state.trained.values())).data.fill_(float("nan"))
        train_step(state, state.model, batches, task, make_schedule(run), World())
    with pytest.raises(FloatingPointError, match="at step 3"):
        flush_losses(state, World())


def test_non_finite_gradients_end_the_run_before_a_checkpoint(recipe):
    """A finite loss with an infinite gradient has already spoiled the weights: nothing may be saved."""
    run = open_run(loading.parse_recipe(recipe()))
    state = new_state(run, CPU)
    state.step = 7
    state.pending = [
        (torch.tensor(0.5), torch.tensor(1.0), 1e-3),
        (torch.tensor(0.5), torch.tensor(float("inf")), 1e-3),
    ]
    with pytest.raises(FloatingPointError, match="norm is inf at step 7"):
        flush_losses(state, World())


def test_overflowing_gradients_skip_the_step_and_the_warmup(recipe):
    """fp16 gradients that overflow cause no update, no EMA, no progress of the warm-up, and a smaller scale."""
    run = open_run(loading.parse_recipe(recipe(train__precision="fp16")))
    state, task = new_state(run, CPU), make_objective(run)
    batches = list(read_batches(run.feed, Reader(run.manifest), 0, 2))
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**126})
    before = {key: value.clone() for key, value in everything(state).items()}  # no moments so far
    train_step(state, state.model, batches[0], task, make_schedule(run), World())
    assert (state.step, state.updates, state.num_images) == (1, 0, 16)
    after = everything(state)
    assert same_tensors(before, {key: after[key] for key in before})
    assert not any(value.any() for key, value in after.items() if key not in before)
    assert state.scaler.get_scale() < 2.0**126
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 1024.0})
    train_step(state, state.model, batches[1], task, make_schedule(run), World())
    assert state.updates == 1
    assert state.pending[1][2] == pytest.approx(1e-3 / 3)


@pytest.mark.parametrize(
    ("updates", "warmup", "rule", "progress", "expected"),
    [(0, 4, "constant", 0.0, 0.25), (3, 4, "constant", 0.5, 1.0), (99, 4, "constant", 0.9, 1.0),
     (0, 0, "constant", 0.0, 1.0),
     (99, 4, "cosine", 0.5, 0.5), (99, 4, "cosine", 1.0, 0.0), (1, 4, "cosine", 0.0, 0.5)],
)  # fmt: skip
def test_learning_rate(updates, warmup, rule, progress, expected):
    assert optimizers.learning_rate(1.0, updates, warmup, rule, progress) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("precision", "clip"), [("fp32", 1.0), ("fp32", 0.0), ("fp16", 1.0)])
def test_the_text_encoder_takes_its_own_learning_rate(recipe, precision, clip):
    """AdamW's first step is proportional to the rate: the text encoder's scales by text_lr / lr, decay included,
    alone."""
    moved = {}
    for text_lr in (None, 2e-3):
        settings = {
            "lr": 1e-2,
            "text_lr": text_lr,
            "warmup": 0,
            "weight_decay": 0.1,
            "precision": precision,
            "clip": clip,
        }
        run = open_run(loading.parse_recipe(recipe(**{f"train__{key}": value for key, value in settings.items()})))
        state = stirred(run)
        before = {name: p.detach().clone() for name, p in state.trained.items()}
        (batches,) = read_batches(run.feed, Reader(run.manifest), 0, 1)
        train_step(state, state.model, batches, make_objective(run), make_schedule(run), World())
        assert state.updates == 1
        moved[text_lr] = {name: p.detach() - before[name] for name, p in state.trained.items()}
    text = [name for name in moved[None] if name.startswith("conditioner.encoder.")]
    assert 0 < len(text) < len(moved[None])
    for name, whole in moved[None].items():
        own = moved[2e-3][name]
        if name in text:
            assert whole.any()
            torch.testing.assert_close(own, 0.2 * whole, rtol=1e-3, atol=1e-6)
        else:
            assert torch.equal(own, whole)


def test_both_learning_rates_are_logged_and_scheduled_alike(recipe, sink):
    trained(recipe(train__text_lr=2e-4, train__decay="cosine", train__length__steps=6), sink)
    rates = sink.of("train/lr")
    assert len(set(rates.values())) == 6
    assert sink.of("train/text_lr") == pytest.approx({step: 0.2 * rate for step, rate in rates.items()}, rel=1e-12)


def test_the_optimisers_tensors_are_stored_by_name(recipe):
    """The text encoder's moments have the same names with and without its own learning rate."""
    states = [
        trained(recipe(name=f"run{place}", train__text_lr=lr, train__length__steps=1))
        for place, lr in enumerate((None, 2e-4))
    ]
    names = [set(state.optimizer_tensors()) for state in states]
    assert names[0] == names[1]
    assert len(names[0]) == 3 * len(states[0].trained)


def test_clipping_bounds_the_norm():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.tensor([3.0, 0.0, 4.0])
    norm, stepped = optimizers.update_parameters(
        optimizer, torch.amp.GradScaler("cpu", enabled=False), [weight], 1.0, 1.0
    )
    assert (norm.item(), stepped) == (5.0, True)
    torch.testing.assert_close(weight.data, torch.tensor([-0.6, 0.0, -0.8]))


def test_ema_is_the_geometric_sum():
    """With a constant decay d the average is d^n w_0 + (1 - d) sum d^(n-k) w_k."""
    module = torch.nn.Linear(3, 1, bias=False).double()
    ema = Ema(module, half_life=64.0, rampup=0.0)
    history = [module.weight.detach().clone()]
    for step in range(1, 9):
        module.weight.data.normal_(generator=torch.Generator().manual_seed(step))
        history.append(module.weight.detach().clone())
        ema.update(16, 16 * step)
    d = 0.5 ** (16 / 64)
    expected = d**8 * history[0] + (1 - d) * sum(d ** (8 - k) * history[k] for k in range(1, 9))
    torch.testing.assert_close(ema.average["weight"], expected)
    with ema.swap_weights():
        torch.testing.assert_close(module.weight.data, expected)
    assert torch.equal(module.weight.data, history[8])


def test_ema_rampup_limits_the_half_life():
    assert ema_decay(10, 1000, half_life=1e9, rampup=0.05) == pytest.approx(0.5 ** (10 / 50))
    assert ema_decay(10, 10**9, half_life=500.0, rampup=0.05) == pytest.approx(0.5 ** (10 / 500))


def test_training_stops_early_when_validation_stalls(recipe, sink):
    """A learning rate near zero never improves on the first validation: patience 2 stops the run at the third."""
    settings = {"train__lr": 1e-12, "validation__rows": 24, "validation__every": 2, "validation__patience": 2}
    state = trained(
        recipe(**settings, train__length__steps=50, train__ema__half_life=1e12, train__ema__rampup=0.0), sink
    )
    assert state.stopped
    assert state.stale == 2
    assert state.step < 50
    assert checkpoint.find_newest_checkpoint(Path(recipe()["storage"]) / "small").name == checkpoint.checkpoint_name(
        state.step
    )


STALLING = {
    "train__lr": 1e-12, "train__ema__half_life": 1e12, "train__ema__rampup": 0.0, "train__length__steps": 20,
    "validation__rows": 24, "validation__every": 2, "checkpoint_every": 0,
}  # fmt: skip


@pytest.mark.parametrize("patience", [3, 4, 0])
def test_a_run_that_stopped_early_goes_on_with_more_patience(recipe, sink, patience):
    """A resumed run with more patience is bit-equal to one that had it from the start; the same recipe does nothing."""
    settings = {**STALLING, "storage": recipe()["storage"]}
    first = trained(recipe(**settings, validation__patience=2), sink)
    assert (first.step, first.stopped) == (6, True)
    assert trained(recipe(**settings, validation__patience=2), sink).step == 6
    again = trained(recipe(**settings, validation__patience=patience), sink)
    whole = trained(recipe(**settings, validation__patience=patience, name="whole"), sink)
    assert again.step == (2 + 2 * patience if patience else 20)
    assert again.values() == whole.values()
    assert same_tensors(everything(again), everything(whole))


def test_a_run_that_stopped_early_goes_on_when_it_is_wanted_longer(recipe, sink):
    """A longer run has its full patience again and ends that many validations later, with a patience-free run's
    weights."""
    first = trained(recipe(**STALLING, validation__patience=2), sink)
    assert (first.step, first.stopped) == (6, True)
    longer = trained(recipe(**{**STALLING, "train__length__steps": 30}, validation__patience=2), sink)
    assert (longer.step, longer.stopped) == (10, True)
    patient = trained(recipe(**{**STALLING, "train__length__steps": 10}, name="patient"), sink)
    assert same_tensors(everything(longer), everything(patient))


def test_validation_bins_are_the_error_at_their_noise(recipe):
    """An untrained v network outputs 0: the error of eps_hat = sigma x_t has a closed form in each bin."""
    run = open_run(loading.parse_recipe(recipe(validation__rows=150, text=None)))
    state = new_state(run, CPU)
    with torch.no_grad():
        metrics = make_validator(run, World())(state.model.eval())
    pixels = torch.from_numpy(Reader(run.manifest).read(run.held_out).images).double() / 127.5 - 1
    power = pixels.square().flatten(1).mean(dim=1)[:, None]
    for low, high in ((-8, -5), (-1, 1), (5, 8)):
        # eps_hat - eps = sigma alpha x0 - alpha^2 eps: alpha^2 (sigma^2 power + alpha^2), averaged over the bin
        snr = torch.linspace(low, high, 2001, dtype=torch.float64)
        alpha2 = torch.sigmoid(snr)
        each = alpha2 * ((1 - alpha2) * power + alpha2)
        # averaged over places and rows, and over the noise of a row's 64 pixels
        noise = alpha2**3 * (2 * alpha2 + 4 * (1 - alpha2) * power) / 64
        error = ((each.var() + noise.mean()) / 150).sqrt().item()
        assert metrics[f"val/loss_snr_{low}_to_{high}"] == pytest.approx(each.mean().item(), abs=4 * error)
    bins = [value for key, value in metrics.items() if key.startswith("val/loss_snr")]
    assert metrics["val/loss"] == pytest.approx(np.mean(bins))


def test_dropout_layers_are_part_of_the_stream(recipe):
    """Dropout depends on the key alone; test_objective.py tests flips, dropped conditions and noise one by one."""
    run = open_run(loading.parse_recipe(recipe(train__condition_dropout=0.0, network__dropout=0.5)))
    state, task, masks = stirred(run), make_objective(run), []
    state.model.train()

    def note(module, inputs, output) -> None:
        masks.append(output == 0.0)

    for module in state.model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(note)

    def dropped(step: int, index: int, seed: int) -> tuple[float, torch.Tensor]:
        torch.randn(10)
        masks.clear()
        (batch,) = next(read_batches(run.feed, Reader(run.manifest), 3, 4))
        own = dataclasses.replace(batch, step=step, index=index)
        loss = microbatch_loss(state.model, state.model, own, dataclasses.replace(task, seed=seed), CPU).item()
        return loss, torch.cat([mask.flatten() for mask in masks])

    first, mask = dropped(3, 0, 0)
    again, same = dropped(3, 0, 0)
    assert again == first
    assert torch.equal(mask, same)
    assert abs(mask.double().mean() - 0.5) < 4.0 * 0.5 / len(mask) ** 0.5
    for key in ((4, 0, 0), (3, 1, 0), (3, 0, 1)):
        _, other = dropped(*key)
        # independent masks agree in half of the places
        assert abs((other == mask).double().mean() - 0.5) < 4.0 * 0.5 / len(mask) ** 0.5, key


def test_the_condition_of_each_image_is_dropped_by_itself(recipe):
    """Conditions are dropped at the requested rate and independently: each microbatch's count is binomial."""
    share, steps = 0.25, 20
    run = open_run(loading.parse_recipe(recipe(train__condition_dropout=share)))
    state, task, dropped = new_state(run, CPU), make_objective(run), []

    def forward(x, t, condition):
        dropped.append(int((condition.mask.sum(dim=1) == 2).sum()))  # start and end tokens only
        return torch.zeros_like(x), None

    for batches in read_batches(run.feed, Reader(run.manifest), 0, steps):
        for batch in batches:
            microbatch_loss(forward, state.model, batch, task, CPU)
    rows = run.plan.microbatch
    count, variance = len(dropped), rows * share * (1.0 - share)
    assert abs(sum(dropped) - count * rows * share) < 4.0 * math.sqrt(count * variance)
    # chi-square with as many degrees of freedom
    assert sum((each - rows * share) ** 2 for each in dropped) / variance < count + 4.0 * math.sqrt(2.0 * count)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"sde": {"kind": "ve"}}, "sde.kind=vp"),
        ({"train__lr": 1e-2}, "train.lr"),
        ({"seed": 4}, "seed"),
        ({"train__microbatch": 8}, "microbatches of 16"),
        ({"validation__rows": 10}, "validation.rows"),
    ],
)
def test_another_recipe_cannot_continue_a_run(recipe, change, culprit):
    trained(recipe(train__length__steps=1))
    with pytest.raises(ValueError, match=culprit):
        trained(recipe(**change))


def test_a_longer_run_continues(recipe, sink):
    trained(recipe(train__length__steps=3))
    state = trained(recipe(train__length__steps=6), sink)
    assert state.step == 6
    assert sorted(sink.of("train/loss")) == [4, 5, 6]


def test_a_checkpoint_of_another_sde_is_refused(recipe):
    run = open_run(loading.parse_recipe(recipe(train__length__steps=1)))
    train_here(run, None)
    folder = checkpoint.find_newest_checkpoint(Path(run.config.storage) / "small")
    state = new_state(run, CPU)
    state.model.sde = VE()
    with pytest.raises(ValueError, match=r"trained with VP.*asks for VE"):
        checkpoint.restore_state(state, folder)
    check_resumable(run, checkpoint.read_description(folder))


def test_a_checkpoint_from_before_there_was_a_key_had_its_default(recipe):
    run = open_run(loading.parse_recipe(recipe(train__length__steps=1)))
    train_here(run, None)
    found = checkpoint.read_description(checkpoint.find_newest_checkpoint(Path(run.config.storage) / "small"))
    older = {key: value for key, value in found.recipe.items() if key not in ("train.optimizer", "train.text_lr")}
    check_resumable(run, dataclasses.replace(found, recipe=older))
    changed = open_run(loading.parse_recipe(recipe(train__length__steps=1, train__optimizer="muon")))
    with pytest.raises(ValueError, match=r"train\.optimizer=adamw, the recipe says muon"):
        check_resumable(changed, dataclasses.replace(found, recipe=older))
    without = {key: value for key, value in older.items() if key != "network.channels"}
    with pytest.raises(ValueError, match=r"network\.channels=None"):
        check_resumable(run, dataclasses.replace(found, recipe=without))


def test_a_run_from_before_the_default_keeps_what_it_drew_with(recipe, monkeypatch):
    """A run that predates the default solver keeps its own in grids and models; a new checkpoint names the new
    default."""
    pictures = []
    plain = Drawn.grid
    monkeypatch.setattr(Drawn, "grid", lambda drawn, columns: pictures.append(drawn.images) or plain(drawn, columns))
    sampled = {"sampling__every": 2, "sampling__count": 2, "sampling__prompts": ["the digit 3"], "text": None}
    tree = recipe(train__length__steps=2, **{**sampled, "sampling__prompts": []})
    train_here(open_run(loading.parse_recipe(tree)), Recorded())
    folder = checkpoint.find_newest_checkpoint(Path(tree["storage"]) / "small")
    assert checkpoint.read_description(folder).spec.default_solver == "unipc"
    with description_of(folder) as content:
        del content["model"]["default_solver"]
    longer = {**tree, "train": {**tree["train"], "length": {"steps": 4}}}
    run = open_run(loading.parse_recipe(longer))
    train_here(run, Recorded())
    last = checkpoint.find_newest_checkpoint(Path(tree["storage"]) / "small")
    assert checkpoint.read_description(last).step == 4
    assert checkpoint.read_description(last).spec.default_solver == "heun"
    model = checkpoint.load_model(last)
    for solver, images in zip(("unipc", "heun"), pictures, strict=True):
        found = checkpoint.load_model(folder if solver == "unipc" else last).sample(n=2, solver=solver, steps=20)
        assert torch.equal(images, found.images)
    assert torch.equal(model.sample(n=2).images, pictures[1])
    refused = open_run(loading.parse_recipe({**longer, "sampling": {**longer["sampling"], "order": 2}}))
    with pytest.raises(ValueError, match="order=2 has no effect with heun"):
        train_here(refused, Recorded())
