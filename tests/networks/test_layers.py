"""Layers against their formulas."""

import pytest
import torch

from raysde.networks.layers import Attention, ResidualBlock, attend_step_by_step


def test_cross_attention_follows_the_formula():
    """Cross-attention is softmax(q k / sqrt d) v over real tokens, written out."""
    torch.manual_seed(0)
    attention = Attention(8, head=4, context=6).double()
    torch.nn.init.normal_(attention.out.weight)
    x, context = torch.randn(2, 8, 3, 3, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    pixels = attention.norm(x).flatten(2).transpose(1, 2)
    q = attention.query(pixels).view(2, 9, 2, 4).transpose(1, 2)
    k, v = (part.view(2, 5, 2, 4).transpose(1, 2) for part in attention.key_value(context).split(8, dim=-1))
    logits = (q @ k.transpose(-1, -2) / 2.0).masked_fill(~mask[:, None, None], float("-inf"))
    h = (logits.softmax(-1) @ v).transpose(1, 2).reshape(2, 9, 8)
    expected = (x + attention.out(h).transpose(1, 2).reshape(2, 8, 3, 3)) / 2**0.5
    torch.testing.assert_close(attention(x, context, mask), expected)


def test_residual_sums_keep_their_size():
    """With zeroed last convolutions every block is x / sqrt(2) on the identity path (DDPM++'s skip rescaling)."""
    block = ResidualBlock(8, 8, 16, dropout=0.0)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x / 2**0.5)


def test_a_doubling_block_works_at_the_lower_resolution():
    """A doubling block is (skip(x) + h(x)) / sqrt(2) with pixels repeated: both convolutions run on the small image."""
    torch.manual_seed(0)
    same, doubling = (ResidualBlock(8, 8, 16, dropout=0.0, scale=scale) for scale in (1.0, 2.0))
    torch.nn.init.normal_(same.conv2.weight)
    doubling.load_state_dict(same.state_dict())
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    expected = same(x, embedding).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(doubling(x, embedding), expected)


def test_a_halving_block_takes_means_of_squares():
    """A halving block with a zeroed last layer returns the mean of each square of pixels, divided by sqrt(2)."""
    block = ResidualBlock(8, 8, 16, dropout=0.0, scale=0.5)
    x = torch.randn(2, 8, 8, 8)
    means = x.reshape(2, 8, 4, 2, 4, 2).mean(dim=(3, 5))
    torch.testing.assert_close(block(x, torch.randn(2, 16)), means / 2**0.5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_spelled_out_is_torchs(masked):
    """Values and gradients in float64 equal those of scaled_dot_product_attention, also with masked tokens."""
    g = torch.Generator().manual_seed(4)
    parts = [torch.randn(2, 3, n, 5, generator=g, dtype=torch.float64, requires_grad=True) for n in (7, 4, 4)]
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])[:, None, None] if masked else None
    results = []
    for attend in (attend_step_by_step, torch.nn.functional.scaled_dot_product_attention):
        out = attend(*parts, attn_mask=mask)
        results.append([out, *torch.autograd.grad(out.square().sum(), parts)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
