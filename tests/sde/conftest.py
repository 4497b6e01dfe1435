"""Each process of the tests, and times at which to look at it."""

import pytest
import torch

from raysde.sde import SDE
from tests.support.oracles import SDES, TIMES


@pytest.fixture(params=SDES)
def sde(request) -> SDE:
    return SDES[request.param]


@pytest.fixture
def times(sde) -> torch.Tensor:
    """Times from the floor to the ceiling, away from the knots of a table."""
    return torch.cat([TIMES[sde.ceiling > TIMES] + 1e-6, torch.tensor([sde.ceiling], dtype=torch.float64)])
