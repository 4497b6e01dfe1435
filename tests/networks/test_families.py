"""DDPM++, NCSN++ and DiT against diffusers' and scipy's programs, and published sizes."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel, UNet2DModel
from scipy.signal import upfirdn

from raysde.conditioning.conditioner import Condition, Conditioner, Encoded
from raysde.models.score import ScoreModel
from raysde.models.spec import fresh_model
from raysde.networks import PRESETS, DiTConfig, NCSNppConfig, UNetConfig
from raysde.networks.dit import CrossAttention, position_embedding
from raysde.networks.pyramids import InputResidual, OutputResidual
from raysde.networks.resampling import FirConvDouble, FirConvHalf, FirDouble, FirHalf
from raysde.sde import EDM, VE, VP, Flow, SubVP
from raysde.sde.parameterisation import Preconditioning
from tests.support.models import spec_with
from tests.support.paths import ROOT

TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8.0
SMALL = NCSNppConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)


def filled(network, std=0.1):
    """Change every weight at random, also those that start at zero, so that every path counts."""
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.add_(std * torch.randn(parameter.shape, generator=g))
    return network.eval()


def randn(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# resampling


def filtered(x, gain, up=1, down=1, start=1, count=None):
    """Return scipy's resampling of both axes by [1, 3, 3, 1] / 8, from the ``start``-th output on."""
    result = x.numpy()
    for axis in (2, 3):
        length = count or x.shape[axis] * up // down
        result = np.take(upfirdn(gain * TAPS, result, up, down, axis=axis), range(start, start + length), axis=axis)
    return torch.from_numpy(result)


@pytest.mark.parametrize(
    ("layer", "rates"), [(FirHalf(), {"gain": 1.0, "down": 2}), (FirDouble(), {"gain": 2.0, "up": 2})]
)
def test_filters_are_scipys(layer, rates):
    x = randn(2, 3, 6, 10, dtype=torch.float64)
    torch.testing.assert_close(layer.double()(x), filtered(x, **rates))


@pytest.mark.parametrize(("learned", "plain"), [(FirConvHalf, FirHalf), (FirConvDouble, FirDouble)])
def test_a_convolution_that_does_nothing_leaves_the_filter(learned, plain):
    """An identity convolution leaves the filter as it is, without shift, and its bias does not fade at the border."""
    layer = learned(3, 3).double()
    torch.nn.init.zeros_(layer.conv.weight)
    layer.conv.weight.data[range(3), range(3), 1, 1] = 1.0
    (layer.bias if learned is FirConvDouble else layer.conv.bias).data.fill_(0.7)
    x = randn(2, 3, 6, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain().double()(x) + 0.7)


# NCSN++


def appendix_h(network, x, t):
    """Run the forward pass of Song et al.'s appendix H for two levels of one block on the same weights."""
    w, size = network.state_dict(), network.size
    rescale = 2**-0.5 if size.skip_rescale else 1.0

    def conv(name, x, **options):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def normed(name, x):
        return F.group_norm(x, x.shape[1] // 4, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def half(x):
        return filtered(x, 1.0, down=2) if size.fir else x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))

    def double(x):
        return filtered(x, 2.0, up=2) if size.fir else x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def conv_half(name, x):
        padded = filtered(x, 1.0, count=x.shape[2] + 1) if size.fir else F.pad(x, (0, 1, 0, 1))
        return conv(f"{name}.conv", padded, stride=2)

    def conv_double(name, x):
        if not size.fir:
            return conv(f"{name}.conv", double(x), padding=1)
        wide = F.conv_transpose2d(x, w[f"{name}.conv.weight"], stride=2)
        return filtered(wide, 2.0, start=2, count=wide.shape[2] - 1) + w[f"{name}.bias"][:, None, None]

    def block(name, x, change=lambda x: x):
        h = conv(f"{name}.conv1", change(F.silu(normed(f"{name}.norm1", x))), padding=1)
        h = h + linear(f"{name}.embed", embedding)[:, :, None, None]
        h = conv(f"{name}.conv2", F.silu(normed(f"{name}.norm2", h)), padding=1)
        x = conv(f"{name}.skip", change(x)) if f"{name}.skip.weight" in w else change(x)
        return (x + h) * rescale

    def attention(name, x):
        pixels = normed(f"{name}.norm", x).flatten(2).mT
        key, value = linear(f"{name}.key_value", pixels).chunk(2, dim=2)
        weights = (linear(f"{name}.query", pixels) @ key.mT / math.sqrt(x.shape[1])).softmax(dim=2)
        return (x + linear(f"{name}.out", weights @ value).mT.unflatten(2, x.shape[2:])) * rescale

    def head(name, x):
        return conv(f"{name}.conv", F.silu(normed(f"{name}.norm", x)), padding=1)

    if size.embedding == "fourier":
        angles = 2.0 * math.pi * t[:, None] * w["features.frequencies"]
    else:
        angles = t[:, None] * 10_000.0 ** -torch.linspace(0.0, 1.0, size.channels // 2, dtype=t.dtype)
    features = torch.cat([angles.sin(), angles.cos()], dim=1)
    embedding = F.silu(linear("time.2", F.silu(linear("time.0", features))))

    first = conv("enter", x, padding=1)
    second = block("down.0.stages.0.residual", first)
    h = block("down.0.shrink", second, half) if size.resblock == "biggan" else conv_half("down.0.shrink", second)
    if size.progressive_input == "input_skip":
        shown = conv("down.0.shown.conv", half(x))
        h = shown + h if size.progressive_combine == "sum" else torch.cat([shown, h], dim=1)
    elif size.progressive_input == "residual":
        h = (conv_half("down.0.shown.shrink", x) + h) * rescale
    third = h
    fourth = attention("down.1.stages.0.attention", block("down.1.stages.0.residual", third))

    h = attention("middle.0.attention", block("middle.0.residual", fourth))
    h = block("middle.1.residual", h)

    h = block("up.0.stages.0.residual", torch.cat([h, fourth], dim=1))
    h = block("up.0.stages.1.residual", torch.cat([h, third], dim=1))
    h = attention("up.0.stages.1.attention", h)
    low = head("up.0.part.head", h) if size.progressive != "none" else None
    h = block("up.0.grow", h, double) if size.resblock == "biggan" else conv_double("up.0.grow", h)
    h = block("up.1.stages.0.residual", torch.cat([h, second], dim=1))
    h = block("up.1.stages.1.residual", torch.cat([h, first], dim=1))
    if size.progressive == "output_skip":
        return double(low) + head("up.1.part.head", h)
    if size.progressive == "residual":
        h = (conv_double("up.1.part.grow", low) + h) * rescale
    return head("leave", h)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fir": True, "progressive_input": "residual", "embedding": "fourier", "fourier_scale": 2.0},
        {
            "fir": True,
            "progressive_input": "input_skip",
            "progressive": "output_skip",
            "embedding": "fourier",
            "fourier_scale": 2.0,
        },
        {"progressive_input": "input_skip", "progressive_combine": "cat", "skip_rescale": False},
        {"fir": True, "resblock": "ddpm", "progressive": "residual"},
        {"resblock": "ddpm", "progressive_input": "residual", "progressive": "residual"},
        {"resblock": "ddpm", "progressive": "output_skip", "skip_rescale": False},
        {"progressive_input": "residual", "progressive": "residual", "skip_rescale": False},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_the_network_is_that_of_appendix_h(changes):
    network = filled(replace(SMALL, **changes).build((3, 8, 8), None).double())
    x, t = randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0.3, 1.7], dtype=torch.float64)
    with torch.no_grad():
        # time features are float32: at frequencies of 16 a full turn is rounded to 1e-5
        torch.testing.assert_close(network(x, t), appendix_h(network, x, t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rescale", [2**-0.5, 1.0])
def test_pyramids_rescale_the_sum_that_goes_on(rescale):
    """A branch of zeros leaves the features alone, times the scale, in both of their outputs."""
    h = randn(2, 6, 4, 4, dtype=torch.float64)
    for part, pyramid in (
        (OutputResidual(4, 6, False, rescale), randn(2, 4, 2, 2, dtype=torch.float64)),
        (InputResidual(4, 6, False, rescale), randn(2, 4, 8, 8, dtype=torch.float64)),
    ):
        for parameter in part.double().parameters():
            parameter.data.zero_()
        for found in part(h, pyramid):
            torch.testing.assert_close(found, h * rescale)


@pytest.mark.parametrize(("skip_rescale", "expected"), [(True, 2**-0.5), (False, 1.0)])
def test_every_sum_of_two_branches_is_rescaled_or_none(skip_rescale, expected):
    """skip_rescale applies to every sum, also in the pyramids, whose scale a following normalisation hides at two
    levels."""
    sums = []
    for changes in ({"progressive": "residual", "progressive_input": "residual"}, {"resblock": "ddpm"}):
        network = replace(SMALL, skip_rescale=skip_rescale, **changes).build((3, 8, 8), None)
        sums += [module for module in network.modules() if hasattr(module, "rescale")]
    assert {type(module).__name__ for module in sums} >= {"ResnetBlock", "Attention", "InputResidual", "OutputResidual"}
    assert [module.rescale for module in sums] == [pytest.approx(expected)] * len(sums)


def theirs_like(size, image):
    """Return diffusers' network for ``size``, configured as google/ncsnpp-ffhq-256."""
    attends = [image // 2**level in size.attention for level in range(len(size.multipliers))]
    return UNet2DModel(
        sample_size=image, in_channels=3, out_channels=3, center_input_sample=True, time_embedding_type="fourier",
        block_out_channels=tuple(size.channels * multiplier for multiplier in size.multipliers),
        down_block_types=tuple("AttnSkipDownBlock2D" if attend else "SkipDownBlock2D" for attend in attends),
        up_block_types=tuple("AttnSkipUpBlock2D" if attend else "SkipUpBlock2D" for attend in reversed(attends)),
        layers_per_block=size.blocks, mid_block_scale_factor=math.sqrt(2.0), attention_head_dim=None,
        norm_eps=1e-6, norm_num_groups=None,
    )  # fmt: skip


BLOCK = {
    "norm1": "norm1", "conv1": "conv1", "embed": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
    "skip": "conv_shortcut",
}  # fmt: skip


def in_diffusers(levels):
    """Return the prefixes of our names and diffusers' for NCSN++ with so many levels, without queries, keys and
    values."""
    names = {
        "enter": "conv_in", "time.0": "time_embedding.linear_1", "time.2": "time_embedding.linear_2",
        f"up.{levels - 1}.part.head.norm": "conv_norm_out", f"up.{levels - 1}.part.head.conv": "conv_out",
        "middle.0.residual": "mid_block.resnets.0", "middle.1.residual": "mid_block.resnets.1",
        "middle.0.attention": "mid_block.attentions.0",
    }  # fmt: skip
    for level in range(levels):
        names |= {f"down.{level}.shrink": f"down_blocks.{level}.resnet_down"}
        names |= {f"down.{level}.shown.conv": f"down_blocks.{level}.skip_conv"}
        names |= {f"up.{level}.grow": f"up_blocks.{level}.resnet_up"}
        for part in ("norm", "conv"):
            names.setdefault(f"up.{level}.part.head.{part}", f"up_blocks.{level}.skip_{part}")
        for number in range(9):
            names |= {f"down.{level}.stages.{number}.residual": f"down_blocks.{level}.resnets.{number}"}
            names |= {f"down.{level}.stages.{number}.attention": f"down_blocks.{level}.attentions.{number}"}
            names |= {f"up.{level}.stages.{number}.residual": f"up_blocks.{level}.resnets.{number}"}
            names |= {f"up.{level}.stages.{number}.attention": f"up_blocks.{level}.attentions.0"}
    return names


def with_their_weights(network, theirs):
    """Copy diffusers' weights into our NCSN++, each used exactly once."""
    source = dict(theirs.state_dict())
    names = in_diffusers(len(network.size.multipliers))
    values = {"features.frequencies": source.pop("time_proj.weight")}
    for own in network.state_dict():
        if own == "features.frequencies":
            continue
        prefix = max((prefix for prefix in names if own.startswith(f"{prefix}.")), key=len)
        inner, _, kind = own.removeprefix(f"{prefix}.").rpartition(".")
        place = names[prefix]
        if inner == "key_value":
            values[own] = torch.cat([source.pop(f"{place}.to_{part}.{kind}") for part in "kv"])
            continue
        attention = {"norm": "group_norm", "query": "to_q", "out": "to_out.0"}
        parts = attention if prefix.endswith("attention") else BLOCK
        values[own] = source.pop(".".join(filter(None, [place, parts.get(inner, inner), kind])))
    assert not source
    network.load_state_dict(values)
    return network


def test_ncsnpp_is_diffusers_with_the_same_weights():
    """With the same weights our score F(2 x - 1, log sigma) / sigma equals the output of diffusers' fourier model at
    sigma.

    Widths are at least 64, with attention at 128: below, diffusers' attention has other groups, and so have its blocks
    on the way up, whose number it computes as min(a + b // 4, 32). In float64 only rounding differs.
    """
    size = NCSNppConfig(
        channels=64, multipliers=(1, 2, 2), blocks=2, attention=(8,), dropout=0.0, fir=True, progressive="output_skip",
        progressive_input="input_skip", embedding="fourier",
    )  # fmt: skip
    theirs = filled(theirs_like(size, 16), std=0.02)
    network = with_their_weights(size.build((3, 16, 24), None), theirs).eval().double()
    theirs.double()
    outside = Preconditioning(time="log_sigma", input="centred")
    model = ScoreModel(network, Conditioner(None, None, 0), VE(), "score", 0.5, outside)
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    sigma = VE().sigma(t)
    with torch.no_grad():
        expected, found = theirs(x, sigma).sample, network(2.0 * x - 1.0, sigma.log())
        torch.testing.assert_close(found, sigma[:, None, None, None] * expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.score(x, t, Encoded()), expected, rtol=1e-10, atol=1e-10)


def test_initial_weights_have_the_published_variance():
    """Initial variance is scale / (mean of fan in and fan out), scale 1, 0.1 for queries, keys and values, 0 for last
    layers."""
    network = NCSNppConfig(channels=64, multipliers=(1,), blocks=1, attention=(8,)).build((3, 8, 8), None)
    block, attention = network.middle[0].residual, network.middle[0].attention
    key, value = attention.key_value.weight.chunk(2)
    cases = [
        (block.conv1.weight, 1.0, 9 * 64, 9 * 64), (block.embed.weight, 1.0, 256, 64), (key, 0.1, 64, 64),
        (value, 0.1, 64, 64), (attention.query.weight, 0.1, 64, 64), (network.time[0].weight, 1.0, 64, 256),
    ]  # fmt: skip
    for weight, scale, inside, outside in cases:
        variance = 2.0 * scale / (inside + outside)
        # the square of a uniform variable has standard deviation sqrt(4 / 5) times its mean
        tolerance = 4.0 * math.sqrt(0.8 / weight.numel())
        assert weight.square().mean().item() == pytest.approx(variance, rel=tolerance)
        assert weight.abs().max().item() <= math.sqrt(3.0 * variance)
    for zero in (block.conv2, attention.out, network.leave.conv, block.conv1.bias):
        assert not any(parameter.any() for parameter in getattr(zero, "parameters", lambda zero=zero: [zero])())


# DiT


def dit_like(size, image, labels):
    return DiTTransformer2DModel(
        num_attention_heads=size.heads, attention_head_dim=size.channels // size.heads, in_channels=3,
        num_layers=size.blocks, sample_size=image, patch_size=size.patch, num_embeds_ada_norm=labels, norm_eps=1e-6,
    )  # fmt: skip


def with_their_tokens(network, theirs):
    """Copy diffusers' weights into our DiT, which has one time embedding where diffusers has one per block and uses the
    first for the output."""
    source, values = theirs.state_dict(), {}
    names = {"enter": "pos_embed.proj", "modulation": "proj_out_1", "leave": "proj_out_2"}
    embedding = "transformer_blocks.0.norm1.emb."
    for number in (0, 2):
        names[f"time.{number}"] = f"{embedding}timestep_embedder.linear_{number // 2 + 1}"
    for number in range(network.size.blocks):
        inside = {"modulation": "norm1.linear", "attention.out": "attn1.to_out.0"}
        inside |= {"widen": "ff.net.0.proj", "narrow": "ff.net.2"}
        for own, place in inside.items():
            names[f"transformer.{number}.{own}"] = f"transformer_blocks.{number}.{place}"
        for kind in ("weight", "bias"):
            parts = [source[f"transformer_blocks.{number}.attn1.to_{part}.{kind}"] for part in "qkv"]
            values[f"transformer.{number}.attention.query_key_value.{kind}"] = torch.cat(parts)
    for own, place in names.items():
        values |= {f"{own}.{kind}": source[f"{place}.{kind}"] for kind in ("weight", "bias")}
    values["time.0.weight"] = values["time.0.weight"].roll(128, dims=1)  # diffusers puts cosines first
    values["pooled.weight"] = source[f"{embedding}class_embedder.embedding_table.weight"].mT
    values["pooled.bias"] = torch.zeros(network.size.channels)
    network.load_state_dict(values)
    return network


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_dit_is_diffusers_with_the_same_weights(patch):
    size, labels = DiTConfig(channels=48, blocks=3, heads=4, patch=patch), 5
    theirs = filled(dit_like(size, 8, labels), std=0.05)
    shared = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb = shared
    network = with_their_tokens(size.build((3, 8, 8), labels + 1), theirs).eval()
    x, t, label = randn(3, 3, 8, 8), torch.tensor([0, 400, 999]), torch.tensor([4, 0, 5])
    with torch.no_grad():
        expected = theirs(x, t, label).sample
        found = network(x, t.float(), F.one_hot(label, labels + 1).float())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_positions_are_those_of_an_image_that_is_not_square():
    """Positions run row by row; the first half of the channels encodes the column, the second the row."""
    found = position_embedding(2, 3, 8, torch.device("cpu"))
    for row in range(2):
        for column in range(3):
            angles = [place / 10_000**power for place in (column, row) for power in (0.0, 0.5)]
            expected = [f(angles[2 * axis + i]) for axis in (0, 1) for f in (math.sin, math.cos) for i in (0, 1)]
            torch.testing.assert_close(found[3 * row + column], torch.tensor(expected))


def test_pixels_return_to_their_patch():
    """Tokens that pass through unchanged reproduce the image, also one that is not square."""
    network = DiTConfig(channels=12, blocks=1, heads=1, patch=2).build((3, 4, 6), None)
    seen = []
    network.transformer[0].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    torch.nn.init.zeros_(network.enter.bias)
    network.enter.weight.data.copy_(torch.eye(12).view(12, 2, 2, 3).permute(0, 3, 1, 2))
    network.norm = torch.nn.Identity()
    network.leave.weight.data.copy_(torch.eye(12))
    x = randn(2, 3, 4, 6)
    with torch.no_grad():
        out = network(x, torch.zeros(2))
        network(torch.zeros_like(x), torch.zeros(2))
    # subtract the positions, which the identity passes on too
    shift = seen[1][0].view(2, 3, 2, 2, 3).permute(4, 0, 2, 1, 3).reshape(3, 4, 6)
    torch.testing.assert_close(out, x + shift)


def test_blocks_start_as_nothing():
    """By adaLN-Zero a new block is the identity on tokens, whatever the time and the condition."""
    network = DiTConfig(channels=16, blocks=2, heads=2).build((1, 8, 8), 6, 6)
    tokens = randn(2, 5, 16)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for block in network.transformer:
        assert torch.equal(block(tokens, randn(2, 16, seed=2), randn(2, 3, 6), mask), tokens)


def test_captions_are_attended_to_as_in_torch():
    """Cross-attention equals torch.nn.MultiheadAttention with other key and value widths and a mask of tokens to
    ignore."""
    ours = filled(CrossAttention(12, 3, 5))
    theirs = torch.nn.MultiheadAttention(12, 3, kdim=5, vdim=5, batch_first=True)
    key, value = ours.key_value.weight.chunk(2)
    biases = torch.cat([ours.query.bias, ours.key_value.bias])
    parts = {"q_proj_weight": ours.query.weight, "k_proj_weight": key, "v_proj_weight": value, "in_proj_bias": biases}
    theirs.load_state_dict({**parts, "out_proj.weight": ours.out.weight, "out_proj.bias": ours.out.bias})
    tokens, context, mask = randn(2, 7, 12), randn(2, 4, 5, seed=2), torch.tensor([[True] * 4, [True, False] * 2])
    expected = theirs(tokens, context, context, key_padding_mask=~mask)[0]
    torch.testing.assert_close(ours(tokens, context, mask), expected)


def test_dit_reads_captions_only_if_asked():
    arguments = (randn(2, 1, 8, 8), torch.rand(2), randn(2, 6))
    tokens, mask = randn(2, 3, 6, seed=5), torch.ones(2, 3, dtype=torch.bool)
    for wanted in (True, False):
        size = DiTConfig(channels=16, blocks=1, heads=2, cross_attention=wanted)
        network = filled(size.build((1, 8, 8), 6, 6))
        same = torch.equal(network(*arguments, tokens, mask), network(*arguments, tokens + 1.0, mask))
        assert same is not wanted


# published sizes


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_page_lists_every_preset_with_its_shape_and_its_number_of_weights():
    page = (ROOT / "docs" / "networks.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) x (\d+) x (\d+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(PRESETS)
    for name, *shape, weights in rows:
        channels, height, width = map(int, shape)
        with torch.device("meta"):
            network = PRESETS[name].build((channels, height, width), None)
        assert (name, f"{count(network):,}") == (name, weights)


@pytest.mark.parametrize(
    ("name", "published"), [("dit_s_2", 33), ("dit_b_2", 130), ("dit_l_2", 458), ("dit_xl_2", 675)]
)
def test_dits_have_the_published_number_of_weights(name, published):
    """Parameter counts are those of Peebles and Xie's table 1 in millions, and diffusers'.

    Theirs learn a variance too, which doubles the last layer, and have a table of 1001 labels; ours reads pooled
    vectors of any width, here none. diffusers has the time and label embedding once in each block.
    """
    size = PRESETS[name]
    labels = 1001 * size.channels
    with torch.device("meta"):
        ours, theirs = count(size.build((3, 32, 32), None)), count(dit_like(size, 32, 1000))
        latent = count(size.build((4, 32, 32), None))
    variance = size.patch**2 * 4 * (size.channels + 1)
    assert abs((latent + variance + labels) / 1e6 - published) < 0.6
    embedding = (256 + 1) * size.channels + (size.channels + 1) * size.channels + labels
    assert ours == theirs - size.blocks * embedding + embedding - labels


def test_ncsnpp_ffhq256_has_the_published_number_of_weights():
    """The parameter count is that of google/ncsnpp-ffhq-256 in diffusers without its fixed frequencies: 65 million.

    github.com/sp-uhh/sgmse/issues/11 says the same of Song et al.'s configuration for CelebA-HQ at 256.
    """
    size = PRESETS["ncsnpp_ffhq256"]
    with torch.device("meta"):
        ours, theirs = count(size.build((3, 256, 256), None)), count(theirs_like(size, 256))
    assert ours == theirs - 128
    assert ours // 10**6 == 65


def by_hand(blocks, fourier, residual_input):
    """Count the weights of appendix H's CIFAR-10 networks: 128 channels, then three levels of 256, attention at 16
    pixels.

    The counts list the residual blocks of each level by their width before and after.
    """

    def conv(inside, outside, kernel=9):
        return kernel * inside * outside + outside

    def block(inside, outside, resamples=False):
        total = 2 * inside + conv(inside, outside) + (512 * outside + outside) + 2 * outside + conv(outside, outside)
        return total + (conv(inside, outside, 1) if resamples or inside != outside else 0)

    attention = 2 * 256 + 4 * conv(256, 256, 1)
    total = (256 if fourier else 128) * 512 + 512 + 512 * 512 + 512 + conv(3, 128)
    # down: 32, 16, 8 and 4 pixels; the first three levels end in a block that halves
    total += blocks * block(128, 128) + block(128, 128, True)
    total += block(128, 256) + (blocks - 1) * block(256, 256) + blocks * attention + block(256, 256, True)
    total += blocks * block(256, 256) + block(256, 256, True)
    total += blocks * block(256, 256)
    if residual_input:
        total += conv(3, 128) + conv(128, 256) + conv(256, 256)
    total += 2 * block(256, 256) + attention
    # up: every block also reads skips, of the level's own blocks and of the halving before them
    total += (blocks + 1) * block(512, 256) + block(256, 256, True)
    total += (blocks + 1) * block(512, 256) + block(256, 256, True)
    total += blocks * block(512, 256) + block(256 + 128, 256) + attention + block(256, 256, True)
    total += block(256 + 128, 128) + blocks * block(128 + 128, 128)
    return total + 2 * 128 + conv(128, 3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ddpmpp_cifar10", (4, False, False)),
        ("ddpmpp_deep_cifar10", (8, False, False)),
        ("ncsnpp_cifar10", (4, True, True)),
        ("ncsnpp_deep_cifar10", (8, True, True)),
    ],
)
def test_cifar_networks_have_the_weights_counted_by_hand(name, arguments):
    with torch.device("meta"):
        assert count(PRESETS[name].build((3, 32, 32), None)) == by_hand(*arguments)


# time and condition inputs of a network


POSITIONAL, RANDOM, TRANSFORMER = SMALL, replace(SMALL, embedding="fourier"), DiTConfig(channels=16, blocks=1, heads=2)


@pytest.mark.parametrize(
    ("network", "sde", "asked", "expected"),
    [
        (POSITIONAL, VP(), None, lambda sde, t: 999.0 * t),
        (POSITIONAL, SubVP(), None, lambda sde, t: 999.0 * t),
        (POSITIONAL, VE(), "log_sigma", lambda sde, t: sde.sigma(t).log()),
        (POSITIONAL, EDM(), None, lambda sde, t: sde.sigma(t).log() / 4.0),
        (RANDOM, VE(), None, lambda sde, t: sde.sigma(t).log()),
        (RANDOM, Flow(), None, lambda sde, t: (sde.sigma(t) / sde.alpha(t)).log()),
        (RANDOM, VP(), "t", lambda sde, t: t),
        (TRANSFORMER, Flow(), None, lambda sde, t: 999.0 * t),
        (UNetConfig(channels=8, attention=(4,), head_channels=8), VP(), None, lambda sde, t: t),
    ],
)
def test_networks_take_the_times_of_their_papers(network, sde, asked, expected):
    model = fresh_model(spec_with(network=network, sde=sde, preconditioning=Preconditioning(time=asked)), [], 0)
    heard = []
    model.network.register_forward_pre_hook(lambda module, args: heard.append(args[1]))
    t = torch.tensor([0.2, 0.7])
    model(randn(2, 1, 8, 8), t, Condition())
    torch.testing.assert_close(heard[0], expected(sde, t))
