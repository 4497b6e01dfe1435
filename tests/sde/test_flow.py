"""The straight path of flow matching."""

import torch

from raysde.sde import (
    Flow,
)


def test_flow_is_the_straight_path():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    alpha, sigma = Flow().marginal(t)
    assert torch.equal(alpha, 1.0 - t)
    assert torch.equal(sigma, t)
    # if all data equal c, the probability flow has velocity eps - x0 = (x - c) / t
    x, c = torch.tensor([[2.0]], dtype=torch.float64), 0.5
    score = -(x - 0.75 * c) / 0.25**2
    velocity = Flow().probability_flow(x, t[1:2], score)
    torch.testing.assert_close(velocity, (x - c) / 0.25)
