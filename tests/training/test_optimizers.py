"""One guarded update: unscaled, clipped, at its own rate; AdamW's formulas; and the learning rate over a run."""

import math

import pytest
import torch
from torch import nn

from raysde.conditioning.conditioner import Conditioner
from raysde.models.score import ScoreModel
from raysde.sde import VP
from raysde.training import optimizers

OFF = torch.amp.GradScaler("cpu", enabled=False)


def scaler(scale: float = 2.0**10, **settings) -> torch.amp.GradScaler:
    made = torch.amp.GradScaler("cpu", init_scale=scale, **settings)
    made.scale(torch.zeros(()))  # initialises the scale, as the first loss does
    return made


def pair(gradients, scale: float = 1.0) -> list[nn.Parameter]:
    """Return parameters of zeros with gradients as after a backward pass of a scaled loss."""
    made = [nn.Parameter(torch.zeros(len(each))) for each in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = scale * torch.tensor(gradient)
    return made


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize(("clip", "factor"), [(1.0, 1.0 / 13.0), (6.5, 0.5), (20.0, 1.0), (0.0, 1.0)])
def test_gradients_are_unscaled_then_clipped_together(enabled, clip, factor):
    """Gradients (3, 4) and (12,) of norm 13 shrink by one factor to norm ``clip``, whatever the loss scale."""
    parameters = pair([[3.0, 4.0], [12.0]], 2.0**10 if enabled else 1.0)
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "ratio": 0.25}]
    optimizer = torch.optim.SGD(groups, lr=7.0)
    norm, stepped = optimizers.update_parameters(optimizer, scaler() if enabled else OFF, parameters, clip, 0.5)
    assert stepped
    assert norm.item() == pytest.approx(13.0)
    torch.testing.assert_close(parameters[0].data, -0.5 * factor * torch.tensor([3.0, 4.0]), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(parameters[1].data, -0.5 * 0.25 * factor * torch.tensor([12.0]), rtol=1e-5, atol=0.0)
    assert all(parameter.grad is None for parameter in parameters)


def test_an_overflow_leaves_the_weights_and_halves_the_scale():
    parameters = pair([[3.0, math.inf], [12.0]])
    loss_scale = scaler()
    norm, stepped = optimizers.update_parameters(torch.optim.SGD(parameters, lr=1.0), loss_scale, parameters, 1.0, 0.5)
    assert not stepped
    assert not math.isfinite(norm)
    assert loss_scale.get_scale() == 2.0**9
    assert not any(parameter.detach().any() for parameter in parameters)
    assert all(parameter.grad is None for parameter in parameters)


def test_a_step_after_which_the_scale_grows_was_made():
    parameters, loss_scale = pair([[1.0]], 2.0**10), scaler(growth_interval=1)
    _, stepped = optimizers.update_parameters(torch.optim.SGD(parameters, lr=1.0), loss_scale, parameters, 0.0, 0.5)
    assert stepped
    assert loss_scale.get_scale() == 2.0**11
    assert parameters[0].item() == -0.5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)


def test_adamw_follows_loshchilov_and_hutter():
    """Four steps at changing rates follow the paper's formulas (2019, arXiv 1711.05101, algorithm 2) in float64; eps
    1e-8."""
    model = ScoreModel(Net(), Conditioner(None, None, 0), VP(), "noise", 0.5)
    optimizer = optimizers.adamw(model, lr=9.0, betas=(0.7, 0.8), weight_decay=0.3)
    parameter = model.network.weight
    w, m, v = parameter.detach().clone(), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for step in range(1, 5):
        gradient = torch.tensor([1e-8 * step, -float(step)], dtype=torch.float64)
        parameter.grad, rate = gradient.clone(), 0.01 * step
        optimizers.update_parameters(optimizer, OFF, [parameter], 0.0, rate)
        m, v = 0.7 * m + 0.3 * gradient, 0.8 * v + 0.2 * gradient**2
        w = w - rate * 0.3 * w - rate * (m / (1.0 - 0.7**step)) / ((v / (1.0 - 0.8**step)).sqrt() + 1e-8)
        torch.testing.assert_close(parameter.detach(), w, rtol=1e-12, atol=0.0)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(parameter)]


@pytest.mark.parametrize("text_lr", [None, 5e-4])
def test_every_trained_parameter_is_in_one_group(text_lr):
    """Every parameter is in exactly one group: the text encoder's, if it has its own rate, or the main one."""
    first, text, frozen = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    frozen.requires_grad_(False)
    groups = optimizers.parameter_groups([first, frozen, text], [text], 1e-3, text_lr)
    held = [[id(p) for p in group["params"]] for group in groups]
    assert held == ([[id(first), id(text)]] if text_lr is None else [[id(first)], [id(text)]])
    assert [group.get("ratio") for group in groups] == ([None] if text_lr is None else [None, 0.5])


@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_the_learning_rate_over_a_run(decay, warmup):
    """Update n of the warm-up has (n + 1) / warmup of the rate, and the cosine multiplies it."""
    for step in range(20):
        rate = optimizers.learning_rate(3.0, step, warmup, decay, step / 20)
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        fall = math.cos(math.pi * step / 40) ** 2 if decay == "cosine" else 1.0
        assert rate == pytest.approx(3.0 * rise * fall, rel=1e-12)
