"""Networks and their conditions: the inputs that each output depends on."""

import dataclasses
from collections import Counter

import pytest
import torch

from raysde.conditioning.conditioner import Condition
from raysde.conditioning.text import ScratchText
from raysde.inference.guidance import Conditioned, Guided
from raysde.models.spec import fresh_model
from raysde.networks import DiTConfig, NCSNppConfig, UNetConfig
from raysde.networks.layers import ResidualBlock
from tests.support.models import CAPTIONS, UNET, caption_spec, filled_model, inputs

KINDS = {
    "unet": UNET,
    "ncsnpp": NCSNppConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0),
    "dit": DiTConfig(channels=16, blocks=2, heads=2),
}
every_kind = pytest.mark.parametrize("network", KINDS.values(), ids=KINDS)


@every_kind
def test_an_untrained_network_says_nothing(network):
    """The last layer starts at zero, so that the first loss is that of the constant answer."""
    model = fresh_model(caption_spec(network=network), CAPTIONS, 0)
    x, t = inputs()
    assert not model(x, t, model.conditioner.condition(CAPTIONS, None, 4))[0].any()


@every_kind
@pytest.mark.parametrize("text", [None, ScratchText(width=8, layers=1, heads=2)], ids=["", "captions"])
@pytest.mark.parametrize("classes", [0, 10])
def test_every_weight_is_trained_whatever_the_condition(network, text, classes):
    """Every weight gets a gradient; distributed training would wait forever for one without."""
    model = filled_model(network=network, text=text, classes=classes)
    x, t = inputs()
    given = model.conditioner.condition(CAPTIONS if text else None, [0, 3, 9, 1] if classes else None, 4)
    model(x, t, given)[0].square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None and value.requires_grad] == []


@every_kind
def test_weights_come_from_the_seed(network):
    spec = caption_spec(network=network)
    first, again, other = (fresh_model(spec, CAPTIONS, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_kind
def test_images_do_not_mix_within_a_batch(network):
    model = filled_model(network=network)
    x, t = inputs()
    condition = model.conditioner.condition(CAPTIONS, None, 4)
    whole = model(x, t, condition)[0]
    alone = model(x[2:3], t[2:3], condition.map(lambda value: value[2:3]))[0]
    torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-5)


@every_kind
def test_padding_is_never_read(network):
    """Other ids behind the mask, or more padding, leave the output unchanged; another real token changes it."""
    model = filled_model(network=network)
    x, t = inputs()
    condition = model.conditioner.condition(CAPTIONS, None, 4)
    expected = model(x, t, condition)[0]
    garbage = torch.where(condition.mask, condition.ids, torch.full_like(condition.ids, 7))
    torch.testing.assert_close(model(x, t, Condition(garbage, condition.mask))[0], expected, rtol=1e-4, atol=1e-5)
    longer = Condition(*(torch.nn.functional.pad(value, (0, 8)) for value in (condition.ids, condition.mask)))
    torch.testing.assert_close(model(x, t, longer)[0], expected, rtol=1e-4, atol=1e-5)
    ids = condition.ids.clone()
    ids[:, 1] = (ids[:, 1] + 1) % len(model.conditioner.tokenizer.tokenizer)
    assert not torch.allclose(model(x, t, Condition(ids, condition.mask))[0], expected, atol=1e-4)


def test_class_and_caption_add_up():
    """Class and caption add up in the pooled vector: a class difference is the same under every caption, and vice
    versa."""
    conditioner = filled_model(classes=3).conditioner
    asked = [(caption, label) for caption in CAPTIONS[:2] for label in (0, 2)]
    condition = conditioner.condition([caption for caption, _ in asked], [label for _, label in asked], 4)
    one_first, one_last, two_first, two_last = conditioner(condition).pooled
    torch.testing.assert_close(one_last - one_first, two_last - two_first)
    for other in (one_last, two_first):
        assert not torch.allclose(one_first, other, atol=1e-3)


@every_kind
def test_dropped_conditions_are_the_null_condition(network):
    model = filled_model(classes=3, network=network)
    conditioner = model.conditioner
    condition = conditioner.condition(CAPTIONS, [0, 1, 2, 1], 4)
    dropped = condition.drop_rows(torch.tensor([False, True, False, True]), conditioner.null())
    x, t = inputs()
    expected = model(x, t, condition)[0]
    null = model(x, t, conditioner.condition(None, None, 4))[0]
    got = model(x, t, dropped)[0]
    torch.testing.assert_close(got[[0, 2]], expected[[0, 2]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[[1, 3]], null[[1, 3]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got[1], expected[1], atol=1e-4)


@every_kind
def test_labels_reach_the_output(network):
    model = filled_model(text=None, classes=4, network=network)
    x, t = inputs()
    first, second = (
        model(x, t, model.conditioner.condition(None, labels, 4))[0] for labels in ([0, 1, 2, 3], [1, 1, 2, 3])
    )
    assert not torch.allclose(first[0], second[0], atol=1e-4)
    torch.testing.assert_close(first[1:], second[1:])
    with pytest.raises(ValueError, match="labels"):
        model.conditioner.condition(None, [4], 1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_mixes_the_two_scores(scale):
    """The guided score is null + scale (conditional - null): conditional at scale 1, unconditional at scale 0."""
    model = filled_model()
    x, t = inputs()
    conditioner = model.conditioner
    condition = conditioner.condition(CAPTIONS, None, 4)
    null = condition.drop_rows(torch.ones(4, dtype=torch.bool), conditioner.null())
    with torch.no_grad():
        with_caption = Conditioned(model, conditioner(condition)).score(x, t)
        without = Conditioned(model, conditioner(conditioner.condition(None, None, 4))).score(x, t)
        guided = Guided(model, conditioner(condition), conditioner(null), scale).score(x, t)
    torch.testing.assert_close(guided, without + scale * (with_caption - without), rtol=1e-3, atol=1e-3)


def test_patches_are_channels_of_a_smaller_image():
    """network.patch=2 equals the network of the image whose squares became channels, with the same weights."""
    g = torch.Generator().manual_seed(2)
    size = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 8}
    whole = UNetConfig(**size, patch=2).build((3, 16, 16), None).eval()
    inner = UNetConfig(**size).build((12, 8, 8), None).eval()
    for parameter in whole.parameters():
        parameter.data.normal_(0.0, 0.1, generator=g)
    inner.load_state_dict(whole.state_dict())
    x, t = torch.randn(2, 3, 16, 16, generator=g), torch.tensor([0.2, 0.9])
    squares = x.reshape(2, 3, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 8, 8)
    out = inner(squares, t).reshape(2, 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 16, 16)
    torch.testing.assert_close(whole(x, t), out)


def test_blocks_may_be_counted_level_by_level():
    """One number of blocks applies to every level; a list gives level i blocks[i] going down and one more going up."""
    size = {"channels": 8, "multipliers": (1, 2), "attention": (), "head_channels": 8}
    shapes = [
        {name: value.shape for name, value in UNetConfig(**size, blocks=b).build((3, 8, 8), None).named_parameters()}
        for b in (2, (2, 2))
    ]
    assert shapes[0] == shapes[1]
    network = UNetConfig(**size, blocks=(1, 3)).build((3, 8, 8), None)
    seen = []
    for block in network.modules():
        if isinstance(block, ResidualBlock) and block.scale == 1.0:
            block.conv2.register_forward_hook(lambda layer, inputs, out: seen.append(out.shape[-1]))
    network(torch.randn(1, 3, 8, 8), torch.tensor([0.5]))
    assert Counter(seen) == {8: 1 + 2, 4: 3 + 4 + 2}


def test_compiled_networks_give_the_same():
    model = filled_model()
    x, t = inputs()
    condition = model.conditioner.condition(CAPTIONS, None, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(model, backend="aot_eager")(x, t, condition)[0],
            model(x, t, condition)[0],
            rtol=1e-4,
            atol=1e-5,
        )


SKIP, FOURIER = {"progressive_input": "input_skip"}, {"embedding": "fourier"}
CHANGES = {
    UNetConfig: {
        "channels": 16, "multipliers": (1, 3), "blocks": (1, 2), "attention": (8,), "head_channels": 4, "patch": 2,
        "dropout": 0.25,
    },
    NCSNppConfig: {
        "channels": 16, "multipliers": (1, 3), "blocks": 2, "attention": (8,), "head_channels": 4, "dropout": 0.25,
        "resblock": "ddpm", "fir": True, "progressive": "output_skip", "progressive_input": "residual",
        "progressive_combine": ("cat", SKIP), "skip_rescale": False, "embedding": "fourier",
        "fourier_scale": (4.0, FOURIER),
    },
    DiTConfig: {"channels": 32, "blocks": 3, "heads": 4, "patch": 4, "cross_attention": False},
}  # fmt: skip
CASES = [(kind, name) for kind, changes in CHANGES.items() for name in changes]


def behaviour_of(network) -> tuple:
    """Return shapes, layers with their settings, and the output with given weights."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=g))
        x, t = inputs(2)
        conditions = (
            torch.randn(2, 16, generator=g),
            torch.randn(2, 3, 16, generator=g),
            torch.ones(2, 3, dtype=torch.bool),
        )
        output = network.eval()(x, t, *conditions)
    return {name: value.shape for name, value in network.named_parameters()}, repr(network), output


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES])
def test_every_key_of_a_network_changes_it(kind, name):
    """Every key, set to another value, changes weights, layers or output."""
    base = next(network for network in KINDS.values() if isinstance(network, kind))
    value, beside = CHANGES[kind][name] if isinstance(CHANGES[kind][name], tuple) and isinstance(
        CHANGES[kind][name][-1], dict) else (CHANGES[kind][name], {})  # fmt: skip
    found = []
    for changes in (beside, {**beside, name: value}):
        torch.manual_seed(0)  # random frequencies
        found.append(behaviour_of(dataclasses.replace(base, **changes).build((1, 8, 8), 16, 16)))
    (shapes, layers, output), (other_shapes, other_layers, other_output) = found
    assert getattr(base, name) != value
    assert shapes != other_shapes or layers != other_layers or not torch.allclose(output, other_output, atol=1e-4)


def test_no_key_of_a_network_is_left_out():
    """The test covers all keys but the kind, and checkpointing, which changes only memory (test_efficiency.py)."""
    for kind, changes in CHANGES.items():
        assert {field.name for field in dataclasses.fields(kind)} - {"kind", "checkpointing"} == set(changes)
