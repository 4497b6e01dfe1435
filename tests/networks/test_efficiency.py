"""Cost of networks: checkpointing, compilation and memory format change nothing else; and networks in recipes."""

from dataclasses import replace

import pytest
import torch

from raysde.checkpoints.checkpoint import find_newest_checkpoint, load_model
from raysde.config import loading, reference
from raysde.networks import PRESETS, DiTConfig, NCSNppConfig, UNetConfig
from raysde.networks.compile import compile_blocks
from raysde.runs.local import train_here
from raysde.runs.run import check_run, open_run
from tests.support.training import same_tensors

SIZES = {
    "unet": UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0.3),
    "ddpmpp": NCSNppConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.3),
    "ncsnpp": NCSNppConfig(
        channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.3, fir=True, embedding="fourier",
        progressive="output_skip", progressive_input="input_skip",
    ),
    "residual": NCSNppConfig(
        channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.3, fir=True, resblock="ddpm",
        progressive="residual", progressive_input="residual",
    ),
    "dit": DiTConfig(channels=16, blocks=3, heads=2),
}  # fmt: skip
CONVOLUTIONAL = [name for name in SIZES if name != "dit"]


def network_of(name, **changes):
    """Return a small conditional network with no weight left at zero."""
    torch.manual_seed(0)
    network = replace(SIZES[name], **changes).build((1, 8, 8), 6, 6)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def arguments():
    """Return images, times, pooled vectors, tokens, and a mask of the real tokens."""
    g = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    x, pooled, context = (torch.randn(shape, generator=g) for shape in ((2, 1, 8, 8), (2, 6), (2, 3, 6)))
    return x, torch.tensor([0.2, 0.9]), pooled, context, mask


class Kept:
    """A counter of the bytes of tensors that a forward pass keeps for its backward pass."""

    def __init__(self) -> None:
        self.bytes = 0

    def pack(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def gradients(network):
    """Return the gradients of a training step with dropout, and the bytes kept for them."""
    torch.manual_seed(5)
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss = network(*arguments()).square().sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}, kept.bytes


@pytest.mark.parametrize("name", SIZES)
def test_checkpointing_keeps_less_and_changes_no_bit(name):
    """Checkpointing repeats the same dropout and drops tensors that only the block needs."""
    plain, much = gradients(network_of(name))
    saving, little = gradients(network_of(name, checkpointing=True))
    assert all(gradient is not None and gradient.any() for gradient in plain.values())
    assert same_tensors(plain, saving)
    assert little < 0.5 * much


@pytest.mark.parametrize("name", SIZES)
def test_networks_are_one_graph(name):
    """With and without checkpointing there is no graph break: fullgraph makes each one an error."""
    torch._dynamo.reset()
    for checkpointing in (False, True):
        network = network_of(name, checkpointing=checkpointing).eval()
        expected = network(*arguments())
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(*arguments()), expected)


class Counting:
    """A compiler backend that runs graphs unchanged and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module, inputs):
        self.graphs += 1
        return module.forward


def test_blocks_of_one_shape_are_compiled_once():
    """A transformer's twelve blocks are one graph; names, values and gradients equal those of the plain network."""
    torch._dynamo.reset()
    counting, plain, network = Counting(), network_of("dit", blocks=12), network_of("dit", blocks=12)
    compile_blocks(network, counting)
    expected, found = gradients(plain)[0], gradients(network)[0]
    assert counting.graphs == 1
    assert found.keys() == expected.keys()
    assert network.state_dict().keys() == plain.state_dict().keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_give_the_same(name, checkpointing, recwarn):
    """All blocks of a U-Net are compiled, more than the eight that torch allows a function by default."""
    torch._dynamo.reset()
    deep = {"multipliers": (1, 2, 2), "blocks": 1, "attention": (2,), "checkpointing": checkpointing}
    counting, network = Counting(), network_of(name, **deep).eval()
    expected = network(*arguments())
    compile_blocks(network, counting)
    torch.testing.assert_close(network(*arguments()), expected)
    assert counting.graphs > 8
    assert not [warning for warning in recwarn if "recompile" in str(warning.message)]


class Plain(torch.nn.Module):
    """A user-written network."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return torch.nn.functional.silu(self.layer(x))


def test_a_network_without_blocks_is_compiled_whole():
    torch._dynamo.reset()
    counting, network = Counting(), Plain()
    compile_blocks(network, counting)
    network(torch.ones(1, 2))
    assert counting.graphs == 1


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutions_keep_channels_last(name):
    """With channels-last weights alone, every block after the first convolution outputs channels-last images."""
    network = network_of(name).to(memory_format=torch.channels_last)
    seen = []

    def look(module, args, out):
        images = [tensor for tensor in (*args, out) if isinstance(tensor, torch.Tensor) and tensor.dim() == 4]
        seen.extend(image.is_contiguous(memory_format=torch.channels_last) for image in images if image.shape[1] > 1)

    for block in network.blocks():
        block.register_forward_hook(look)
    network(*arguments())
    assert len(seen) > 8
    assert all(seen)


# recipes


def loaded(*overrides):
    return loading.load_recipe("digits", overrides).network


def test_a_recipe_names_a_preset_and_changes_it():
    """A preset works on the command line in any order, in a file, and beside its kind; the result is written out."""
    expected = replace(PRESETS["ncsnpp_cifar10"], dropout=0.2, attention=(4,))
    changes = ["network.dropout=0.2", "network.attention=[4]"]
    assert loaded("network.preset=ncsnpp_cifar10", *changes) == expected
    assert loaded(*changes, "network.preset=ncsnpp_cifar10", "network.kind=ncsnpp") == expected
    tree = {"name": "a", "data": {"path": "b"}, "network": {"preset": "ncsnpp_cifar10", "dropout": 0.2}}
    assert loading.parse_recipe(tree).network == replace(expected, attention=(16,))
    assert loading.parse_recipe(loading.parse_recipe(tree).model_dump(mode="json")) == loading.parse_recipe(tree)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_named(name):
    assert loaded(f"network.preset={name}") == PRESETS[name]
    assert name in reference.format_reference()


def test_a_kind_replaces_a_preset(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("{name: a, data: {path: b}, network: {preset: dit_s_2, patch: 4}}")
    assert loading.load_recipe(path).network == DiTConfig(patch=4)
    assert loading.load_recipe(path, ["network.kind=unet"]).network == UNetConfig()
    assert loading.load_recipe(path, ["network.preset=dit_b_2"]).network == PRESETS["dit_b_2"]
    assert loading.load_recipe(path, ["network.preset=null"]).network == UNetConfig()


def test_a_network_of_ones_own_may_have_a_preset(tmp_path):
    own = loaded("network.kind=external", "network.factory=a:B", "network.kwargs.preset=1", "network.kwargs.size=2")
    assert own.kwargs == {"preset": 1, "size": 2}


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (
            ["network.preset=dit_xxl_2"],
            r"^network: preset must be one of ddpmpp_cifar10, .*got 'dit_xxl_2'; did you mean dit_xl_2 or dit_l_2\?$",
        ),
        (["network.preset=[1]"], "network: preset must be one of"),
        (["network.preset=dit_s_2", "network.kind=ncsnpp"], "network: preset dit_s_2 is of kind dit, got kind ncsnpp"),
        (["network.preset=dit_s_2", "network.dropout=0.1"], "key 'network.dropout' is none of network.kind=dit"),
        (["network.kind=vit"], r"^network\.kind: must be one of 'unet', .*got \"vit\"; did you mean dit\?$"),
        (["network.kind=ncsnpp", "network.progressive=skip"], "network.progressive: .*'output_skip'.*skip"),
        (["network.kind=ncsnpp", "network.multipliers=[]"], "network: multipliers must be positive"),
        (["network.kind=ncsnpp", "network.head_channels=0"], "network: head_channels must be at least 1, got 0"),
        (["network.kind=ncsnpp", "network.fourier_scale=0"], "network: fourier_scale must be positive"),
        (["network.kind=dit", "network.heads=7"], "network: heads must divide channels=384, got 7"),
        (["network.kind=dit", "network.channels=6"], "network: channels must be a multiple of 4"),
        (["network.kind=dit", "network.patch=0"], "network: patch must be at least 1"),
    ],
)
def test_mistakes_in_a_network_are_named(overrides, culprit):
    with pytest.raises(ValueError, match=culprit) as caught:
        loaded(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "culprit"),
    [
        ({"preset": "ddpmpp_cifar10"}, r"network\.attention names resolutions \[16\], the levels have \[8, 4, 2, 1\]"),
        (
            {"preset": "ncsnpp_ffhq256"},
            r"network\.multipliers has 7 levels: the image size \[8, 8\] must be divisible by 64",
        ),
        (
            {"kind": "ncsnpp", "channels": 12, "multipliers": [1], "attention": [8], "head_channels": 8},
            r"network\.head_channels=8, got 12",
        ),
        ({"preset": "dit_s_2", "patch": 3}, r"network\.patch=3 does not divide the image size \(8, 8\)"),
        ({"kind": "unet", "attention": [16]}, r"network\.attention names resolutions \[16\]"),
    ],
)
def test_networks_that_do_not_fit_are_found_before_a_worker_starts(recipe, network, culprit):
    run = open_run(loading.parse_recipe(recipe(network=network)))
    with pytest.raises(ValueError, match=culprit):
        check_run(run)


@pytest.mark.parametrize("name", [*SIZES, "patched"])
def test_each_side_of_an_image_must_fit_the_network(name):
    """A height or width that two levels cannot halve, or patches cannot fill, is refused when the network is built."""
    size = replace(SIZES["unet"], patch=2, attention=()) if name == "patched" else SIZES[name]
    factor = 4 if name == "patched" else 2
    for height, width in ((8, 8 + factor // 2), (8 + factor // 2, 8), (8, 7), (7, 8)):
        with pytest.raises(ValueError, match=r"must be divisible by 2|network\.patch=2 does not divide"):
            size.build((1, height, width), None)
    fitting = replace(size, attention=()) if name != "dit" else size
    x = torch.zeros(1, 1, factor, 2 * factor)
    assert fitting.build(x.shape[1:], None)(x, torch.zeros(1)).shape == x.shape


def test_dit_refuses_images_of_other_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"network\.patch=2 does not divide the image size \(8, 7\)"):
        network_of("dit")(torch.zeros(1, 1, 8, 7), torch.zeros(1))


@pytest.mark.parametrize("name", ["ncsnpp", "dit"])
def test_families_train_resume_and_load(recipe, tmp_path, name):
    """Four steps at once are bit-equal to two and two more, random frequencies included; the checkpoint suffices to
    load."""
    tree = {"kind": SIZES[name].kind, "channels": 16, "blocks": 1}
    if name == "ncsnpp":
        tree |= {"multipliers": [1, 2], "attention": [4], "embedding": "fourier", "fir": True}
    else:
        tree |= {"heads": 2}
    states, sde = [], {"kind": "ve", "sigma_max": 20.0}
    for folder, lengths in (("whole", [4]), ("parts", [2, 4])):
        for length in lengths:
            # a resumed run may turn checkpointing on
            network = {**tree, "checkpointing": length == 4}
            settings = {"network": network, "sde": sde, "train__length": {"steps": length}, "train__decay": "constant"}
            run = open_run(loading.parse_recipe(recipe(**settings, storage=str(tmp_path / folder))))
            check_run(run)
            state = train_here(run, None)
        states.append(state)
    assert same_tensors(*(state.model.state_dict() for state in states))
    model = load_model(find_newest_checkpoint(tmp_path / "whole" / "small")).score_model
    with states[0].ema.swap_weights():
        assert same_tensors(model.state_dict(), states[0].model.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.6])
    condition = model.conditioner.condition(["a zero", "two"], None, 2)
    with states[0].ema.swap_weights(), torch.no_grad():
        assert torch.equal(model(x, t, condition)[0], states[0].model.eval()(x, t, condition)[0])


def test_training_compiles_the_blocks(recipe, monkeypatch):
    """train.compile trains to the same weights, up to rounding, and keeps their names."""
    import raysde.training.loop

    counting = Counting()
    monkeypatch.setattr(raysde.training.loop, "compile_blocks", lambda network: compile_blocks(network, counting))
    states = [
        train_here(
            open_run(
                loading.parse_recipe(recipe(name=f"c{compiled}", train__compile=compiled, train__length__steps=2))
            ),
            None,
        )
        for compiled in (False, True)
    ]
    assert counting.graphs > 0
    expected, found = (state.model.state_dict() for state in states)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
