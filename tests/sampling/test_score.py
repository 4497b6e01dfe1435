"""Scores and networks with a wrong output shape, which would silently broadcast."""

from functools import partial

import pytest
import torch
from torch import nn

import raysde
from raysde.conditioning.conditioner import Condition, Conditioner, Encoded
from raysde.models.score import ScoreModel
from raysde.sampling.inverse.operators import Mask
from raysde.sampling.score import check_score_values

VP, SHAPE = raysde.VP(), (2, 3, 4, 4)
X = torch.zeros(SHAPE)
MASK = Mask(torch.ones(4, 4, dtype=torch.bool))
WRONG = {
    "[2, 1, 4, 4]": lambda x: -x.mean(dim=1, keepdim=True),
    "[2]": lambda x: -x.flatten(1).mean(dim=1),
    "[]": lambda x: -x.mean(),
}
USES = {
    **{name: partial(raysde.sample, sde=VP, shape=SHAPE, steps=2, solver=name) for name in ("unipc", "heun", "rk45")},
    "langevin": partial(raysde.sample, sde=VP, shape=SHAPE, steps=2, solver="none", corrector="langevin"),
    "sample_path": partial(raysde.sample_path, sde=VP, shape=SHAPE, points=2, steps=2),
    "log_prob": partial(raysde.log_prob, x0=X, sde=VP),
    "bits_per_dim": partial(raysde.bits_per_dim, images=X.to(torch.uint8), sde=VP),
    "encode": partial(raysde.encode, x0=X, sde=VP),
    "decode": partial(raysde.decode, latent=X, sde=VP),
    "edit": partial(raysde.edit, sde=VP, known=X, projection=MASK, steps=2),
    "sdedit": partial(raysde.sdedit, sde=VP, x0=X, strength=0.5, steps=2),
}


class Model:
    def __init__(self, of) -> None:
        self.of = of

    def score(self, x, t):
        return self.of(x)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("use", USES)
def test_a_score_of_another_shape_is_named(use, wrong):
    def mine(x, t):
        return WRONG[wrong](x)

    for score, name in ((mine, "mine"), (Model(WRONG[wrong]), "test_score.Model")):
        with pytest.raises(ValueError, match=rf"^score tests\.\S*{name} gave values of shape ") as caught:
            USES[use](score)
        assert f"of shape {wrong}, expected [2, 3, 4, 4]" in str(caught.value)


def test_a_score_that_is_no_tensor_is_named():
    with pytest.raises(ValueError, match=r"\.<lambda> gave a tuple, expected a tensor of shape \[2, 3, 4, 4\]"):
        raysde.sample(lambda x, t: (-x,), VP, SHAPE, steps=2)


class Network(nn.Module):
    def __init__(self, of) -> None:
        super().__init__()
        self.of = of

    def forward(self, x, t):
        return self.of(x)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_network_of_another_shape_is_named_in_training_and_drawing(wrong):
    model = ScoreModel(Network(WRONG[wrong]), Conditioner(None, None, 0), VP, "v", 0.5)
    t = torch.full((2,), 0.5)
    for ask in (lambda: model(X, t, Condition()), lambda: model.score(X, t, Encoded())):
        with pytest.raises(ValueError, match=r"^network tests\.sampling\.test_score\.Network gave values") as caught:
            ask()
        assert f"of shape {wrong}, expected [2, 3, 4, 4]" in str(caught.value)


def test_the_look_at_a_shape_breaks_no_graph():
    score = torch.compile(check_score_values(lambda x, t: -x), backend="eager", fullgraph=True)
    assert torch.equal(score(X + 1.0, torch.ones(2)), -X - 1.0)
