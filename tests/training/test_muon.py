"""Muon: against torch's own for matrices, against the SVD, and its selection of parameters."""

import pytest
import torch
from torch import nn

from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.world import World
from raysde.runs.build import make_objective, make_schedule, new_state
from raysde.runs.run import open_run
from raysde.training import muon
from raysde.training.loop import train_step
from raysde.training.muon import Muon, find_matrices, orthogonalise

CPU = torch.device("cpu")
SETTINGS = {"lr": 0.02, "weight_decay": 0.1}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def after(optimizer: torch.optim.Optimizer, *parameters: nn.Parameter, steps: int = 4) -> None:
    """Take steps along the same gradients, whatever the parameters' shapes."""
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            parameter.grad = normal(parameter.numel(), seed=100 * number + step).view_as(parameter)
        optimizer.step()


@pytest.mark.parametrize("shape", [(40, 40), (32, 288), (96, 32)])
def test_a_matrix_steps_as_torchs_own_muon(shape):
    """Momentum, look-ahead, orthogonalisation, decay and scale agree to bfloat16 rounding over four steps."""
    mine, theirs = (nn.Parameter(normal(*shape)) for _ in range(2))
    after(Muon([mine], [{"params": []}], betas=(0.9, 0.99), **SETTINGS), mine)
    after(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", momentum=0.95, **SETTINGS), theirs)
    moved = (theirs - normal(*shape)).norm()
    assert (mine - theirs).norm() < 0.01 * moved


def test_a_convolution_steps_as_its_flattened_matrix():
    kernel, flat = nn.Parameter(normal(48, 32, 3, 3)), nn.Parameter(normal(48, 32, 3, 3).flatten(1))
    strided = nn.Parameter(normal(48, 32, 3, 3).to(memory_format=torch.channels_last))
    for parameter in (kernel, flat, strided):
        after(Muon([parameter], [{"params": []}], betas=(0.9, 0.99), **SETTINGS), parameter)
    assert torch.equal(kernel.flatten(1), flat)
    torch.testing.assert_close(strided, kernel, rtol=0.0, atol=2e-3)
    assert strided.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(64, 64), (32, 200), (200, 32)])
def test_orthogonal_keeps_the_singular_vectors(shape):
    """U^T orthogonal(U S V^T) V is nearly diagonal with entries near 1, though S spans a factor of thirty."""
    u, _, v = torch.linalg.svd(normal(*shape), full_matrices=False)
    values = torch.logspace(0.0, -1.5, min(shape))
    stacked = torch.stack([normal(*shape, seed=1), 1e3 * (u * values) @ v])
    found = u.T @ orthogonalise(stacked)[1].float() @ v.T
    diagonal = found.diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.25
    assert (found - diagonal.diag()).abs().max() < 0.05


def test_matrices_that_step_together_step_as_each_alone(monkeypatch):
    """Matrices of equal and of different shapes take the same steps in one call, in calls of two, and one by one."""
    shapes, ends = [(32, 4, 3, 3), (40, 40), (32, 36), (32, 36), (36, 32), (32, 36)], []
    for together in (1 << 24, 2 * 32 * 36, 1):
        monkeypatch.setattr(muon, "TOGETHER", together)
        parameters = [nn.Parameter(normal(*shape, seed=place)) for place, shape in enumerate(shapes)]
        calls = [len(alike) for alike in muon.batch_parameters(parameters)]
        assert calls == {1 << 24: [4, 1, 1], 2 * 32 * 36: [2, 1, 2, 1], 1: [1] * 6}[together]
        after(Muon(parameters, [{"params": []}], betas=(0.9, 0.99), **SETTINGS), *parameters)
        ends.append([parameter.detach().clone() for parameter in parameters])
    for others in ends[1:]:
        for place, (found, expected) in enumerate(zip(others, ends[0], strict=True)):
            assert (found - expected).norm() < 0.01 * (expected - normal(*shapes[place], seed=place)).norm()


def test_a_matrix_follows_the_learning_rate_of_its_group():
    """A quarter of the learning rate moves and shrinks a matrix a quarter as far, as warm-up and decay set it."""
    moved = []
    for share in (1.0, 0.25):
        weight = nn.Parameter(normal(40, 40))
        weight.grad = normal(40, 40, seed=1)
        optimizer = Muon([weight], [{"params": []}], betas=(0.9, 0.99), **SETTINGS)
        for group in optimizer.param_groups:
            group["lr"] = share * SETTINGS["lr"]
        optimizer.step()
        moved.append(weight.detach() - normal(40, 40))
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-3, atol=1e-6)
    assert moved[0].norm() > 0.1


def test_a_gradient_of_zeros_leaves_a_matrix_alone():
    weight = nn.Parameter(normal(40, 40))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], [{"params": []}], lr=0.02, betas=(0.9, 0.99), weight_decay=0.0).step()
    assert torch.equal(weight, normal(40, 40))


def test_everything_else_steps_as_adamw():
    """Other parameters, in groups of their own rates, step bit-equal to AdamW beside moving matrices."""
    mine, theirs = ([nn.Parameter(normal(7, seed=1)), nn.Parameter(normal(3, 40, seed=2))] for _ in range(2))
    matrix = nn.Parameter(normal(40, 40))
    grouped = [[{"params": pair[:1]}, {"params": pair[1:], "lr": 0.3}] for pair in (mine, theirs)]
    after(Muon([matrix], grouped[0], betas=(0.9, 0.99), **SETTINGS), *mine, matrix)
    after(torch.optim.AdamW(grouped[1], betas=(0.9, 0.99), fused=True, **SETTINGS), *theirs)
    assert all(torch.equal(own, its) for own, its in zip(mine, theirs, strict=True))
    assert not torch.equal(matrix, normal(40, 40))


def test_which_weights_are_matrices():
    taken = [nn.Linear(32, 32), nn.Conv2d(32, 40, 3), nn.Conv2d(8, 32, 3)]
    frozen = nn.Linear(64, 64).requires_grad_(False)
    network = nn.Sequential(
        *taken, nn.Embedding(64, 64), nn.Conv2d(64, 64, 3, groups=2), nn.Conv2d(64, 3, 3), nn.Conv2d(3, 64, 3),
        nn.Linear(64, 31), nn.GroupNorm(8, 64), frozen, taken[0],
    )  # fmt: skip
    assert [id(found) for found in find_matrices(network)] == [id(module.weight) for module in taken]


def muon_recipe(recipe, **changes):
    return recipe(train__optimizer="muon", network__channels=32, network__head_channels=32, text__width=32, **changes)


def test_a_recipe_trains_the_networks_matrices_so(recipe):
    """All but the network's matrices has AdamW's moments, and the text encoder its own rate."""
    run = open_run(loading.parse_recipe(muon_recipe(recipe, train__text_lr=1e-4)))
    state = new_state(run, CPU)
    (batches,) = read_batches(run.feed, Reader(run.manifest), 0, 1)
    train_step(state, state.model, batches, make_objective(run), make_schedule(run), World())
    moments = state.optimizer_tensors()
    chosen = {id(p) for p in find_matrices(state.model.network)}
    for name, parameter in state.trained.items():
        kinds = {"momentum_buffer"} if id(parameter) in chosen else {"exp_avg", "exp_avg_sq", "step"}
        assert {moment.split("/")[0] for moment in moments if moment.split("/", 1)[1] == name} == kinds, name
    assert len(chosen) > 10
    assert state.optimizer.param_groups[2]["ratio"] == pytest.approx(0.1)
    text = {id(p) for p in state.model.conditioner.text_parameters}
    assert {id(p) for p in state.optimizer.param_groups[2]["params"]} == text


def test_overflown_gradients_skip_matrices_too(recipe):
    """A step that the fp16 scaler skips changes neither weights nor momentum."""
    run = open_run(loading.parse_recipe(muon_recipe(recipe, train__precision="fp16")))
    state = new_state(run, CPU)
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**126})
    before = {name: value.detach().clone() for name, value in state.trained.items()}
    (batches,) = read_batches(run.feed, Reader(run.manifest), 0, 1)
    train_step(state, state.model, batches, make_objective(run), make_schedule(run), World())
    assert (state.step, state.updates) == (1, 0)
    assert all(torch.equal(value, before[name]) for name, value in state.trained.items())
    assert not state.optimizer_tensors()


def test_a_network_without_matrices_is_refused(recipe):
    with pytest.raises(ValueError, match=r"train\.optimizer=muon has no effect: .* 32 x 32"):
        new_state(
            open_run(
                loading.parse_recipe(recipe(train__optimizer="muon", network__channels=4, network__head_channels=4))
            ),
            CPU,
        )
