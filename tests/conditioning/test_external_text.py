"""User-written text encoders: their trained and frozen parts."""

import pytest
import torch
from torch import nn

from raysde.conditioning.external import ExternalText, OwnEncoder


class Frozen(nn.Module):
    """A frozen table below a layer that may be trained."""

    width = 4

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4).requires_grad_(False)
        self.top = nn.Linear(4, 4).requires_grad_(trained)

    def forward(self, ids, mask):
        return self.top(self.table(ids))


@pytest.mark.parametrize("trained", [True, False])
def test_what_requires_a_gradient_learns_beside_what_is_frozen(trained):
    """Only parameters that require a gradient learn; without any, no graph is kept."""
    module = Frozen(trained)
    encoder = OwnEncoder(module, ExternalText(factory="mine:Frozen"))
    vectors = encoder(torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool))
    assert encoder.trainable is trained
    assert vectors.requires_grad is trained
    if trained:
        vectors.sum().backward()
        assert torch.equal(module.top.bias.grad, torch.full((4,), 2.0))
    assert module.table.weight.grad is None
