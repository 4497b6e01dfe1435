"""Fixtures: every SDE, and times at which it is tested."""

import pytest
import torch

from raysde.sde import SDE
from tests.support.oracles import SDES, TIMES


@pytest.fixture(params=SDES)
def sde(request) -> SDE:
    return SDES[request.param]


@pytest.fixture
def times(sde) -> torch.Tensor:
    """Return times from the floor to the ceiling, away from the knots of a table."""
    return torch.cat([TIMES[sde.ceiling > TIMES] + 1e-6, torch.tensor([sde.ceiling], dtype=torch.float64)])
