"""The time input of a model's network, as its description determines it."""

import pytest
import torch

from raysde.conditioning.conditioner import Condition
from raysde.models.spec import fresh_model
from raysde.networks import DiTConfig
from raysde.sde import EDM, VE, VP
from raysde.sde.parameterisation import Preconditioning
from tests.support.models import UNET, spec_with

DIT = DiTConfig(channels=16, blocks=1, heads=2)


@pytest.mark.parametrize(
    ("sde", "network", "own", "expected"),
    [
        (EDM(), UNET, None, lambda sde, t: sde.sigma(t).log() / 4),
        (EDM(), DIT, None, lambda sde, t: sde.sigma(t).log() / 4),
        (EDM(), DIT, "t", lambda sde, t: t),
        (VP(), UNET, None, lambda sde, t: t),
        (VP(), DIT, None, lambda sde, t: 999 * t),
        (VE(), DIT, "sigma", lambda sde, t: sde.sigma(t)),
    ],
)
def test_a_network_takes_the_time_that_the_sde_asks_for(sde, network, own, expected):
    """The description's time input wins, then the SDE's, then the network's (Song et al.: sinusoids of 999 t)."""
    model = fresh_model(spec_with(sde=sde, network=network, preconditioning=Preconditioning(time=own)), [], 0)
    seen = []
    model.network.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    t = torch.tensor([0.25, 0.75])
    model(torch.zeros(2, 1, 8, 8), t, Condition())
    torch.testing.assert_close(seen[0].double(), expected(sde, t.double()), rtol=1e-5, atol=0.0)
