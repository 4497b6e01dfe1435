"""Networks, captions and conditioning: what depends on what."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from raysde.conditioning.conditioner import Condition
from raysde.conditioning.pretrained import pretrained_encoder
from raysde.conditioning.text import PretrainedText, ScratchText, Tokenizer, train_tokenizer
from raysde.inference.guidance import Conditioned, Guided
from raysde.models.spec import empty_model, fresh_model
from raysde.networks import DiTConfig, ExternalConfig, NCSNppConfig, UNetConfig
from raysde.networks.layers import Attention, ResidualBlock, spelled_out
from raysde.runs.run import check_model
from raysde.sde import VP
from tests import tiny

CAPTIONS = ["a handwritten zero", "the digit one", "two", "somebody wrote a three in pencil, twice"]
KINDS = {
    "unet": tiny.UNET,
    "ncsnpp": NCSNppConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0),
    "dit": DiTConfig(channels=16, blocks=2, heads=2),
}
every_kind = pytest.mark.parametrize("network", KINDS.values(), ids=KINDS)


def spec_with(**changes):
    return tiny.spec_with(**{"target": "v", "text": ScratchText(width=16, layers=1, heads=2), **changes})


def model_with(**changes):
    """A model whose zero-initialised layers are filled, so that every input matters."""
    model = fresh_model(spec_with(**changes), CAPTIONS, 0)
    g = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(0.0, 0.1, generator=g)
    return model.eval()


def inputs(count=4):
    g = torch.Generator().manual_seed(3)
    return torch.randn(count, 1, 8, 8, generator=g), torch.linspace(0.1, 0.9, count)


@every_kind
def test_an_untrained_network_says_nothing(network):
    """The last layer starts at zero, so that the first loss is that of the constant answer."""
    model = fresh_model(spec_with(network=network), CAPTIONS, 0)
    x, t = inputs()
    assert not model(x, t, model.conditioner.condition(CAPTIONS, None, 4))[0].any()


@every_kind
@pytest.mark.parametrize("text", [None, ScratchText(width=8, layers=1, heads=2)], ids=["", "captions"])
@pytest.mark.parametrize("classes", [0, 10])
def test_every_weight_is_trained_whatever_the_condition(network, text, classes):
    """A weight that no output depends on gets no gradient, for which distributed training would wait in vain."""
    model = model_with(network=network, text=text, classes=classes)
    x, t = inputs()
    given = model.conditioner.condition(CAPTIONS if text else None, [0, 3, 9, 1] if classes else None, 4)
    model(x, t, given)[0].square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None and value.requires_grad] == []


@every_kind
def test_weights_come_from_the_seed(network):
    spec = spec_with(network=network)
    first, again, other = (fresh_model(spec, CAPTIONS, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_kind
def test_images_do_not_mix_within_a_batch(network):
    model = model_with(network=network)
    x, t = inputs()
    condition = model.conditioner.condition(CAPTIONS, None, 4)
    whole = model(x, t, condition)[0]
    alone = model(x[2:3], t[2:3], condition.map(lambda value: value[2:3]))[0]
    torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-5)


@every_kind
def test_padding_is_never_read(network):
    """Other ids behind the mask, or more padding, change nothing; another real token changes the output."""
    model = model_with(network=network)
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


def test_the_mask_marks_the_tokens():
    tokenizer = Tokenizer(train_tokenizer(CAPTIONS, 1000), 77)
    ids, mask = tokenizer(CAPTIONS)
    lengths = [len(caption.replace(",", " ,").split()) + 2 for caption in CAPTIONS]
    assert mask.sum(dim=1).tolist() == lengths
    assert (ids[~mask] == tokenizer.tokenizer.pad_token_id).all()
    assert ids.shape[1] % 8 == 0


def test_captions_are_cut_at_max_tokens():
    tokenizer = Tokenizer(train_tokenizer(CAPTIONS, 1000), 5)
    ids, mask = tokenizer([CAPTIONS[3]])
    assert ids.shape == (1, 5)
    assert mask.all()
    assert ids[0, -1] == tokenizer.tokenizer.sep_token_id


def test_the_vocabulary_does_not_depend_on_order():
    first, second = train_tokenizer(CAPTIONS, 1000), train_tokenizer(CAPTIONS[::-1], 1000)
    assert first.get_vocab() == second.get_vocab()
    unseen = first("seventy-two zebras")["input_ids"]
    assert first.unk_token_id not in first("erwt")["input_ids"]  # spelled from characters
    assert unseen[0] == first.cls_token_id


def test_a_small_vocabulary_keeps_the_words_seen_most():
    captions = ["a red heart"] * 3 + ["a blue heart"] * 2 + ["one tree"]
    everything = train_tokenizer(captions, 1000).get_vocab()
    fewer = train_tokenizer(captions, len(everything) - 3).get_vocab()
    assert everything.keys() - fewer.keys() == {"blue", "one", "tree"}


def test_class_and_caption_add_up():
    """In the pooled vector: from one class to another it is the same way under every caption, and the reverse."""
    conditioner = model_with(classes=3).conditioner
    asked = [(caption, label) for caption in CAPTIONS[:2] for label in (0, 2)]
    condition = conditioner.condition([caption for caption, _ in asked], [label for _, label in asked], 4)
    one_first, one_last, two_first, two_last = conditioner(condition).pooled
    torch.testing.assert_close(one_last - one_first, two_last - two_first)
    for other in (one_last, two_first):
        assert not torch.allclose(one_first, other, atol=1e-3)


@every_kind
def test_dropped_conditions_are_the_null_condition(network):
    model = model_with(classes=3, network=network)
    conditioner = model.conditioner
    condition = conditioner.condition(CAPTIONS, [0, 1, 2, 1], 4)
    dropped = condition.dropped(torch.tensor([False, True, False, True]), conditioner.null())
    x, t = inputs()
    expected = model(x, t, condition)[0]
    null = model(x, t, conditioner.condition(None, None, 4))[0]
    got = model(x, t, dropped)[0]
    torch.testing.assert_close(got[[0, 2]], expected[[0, 2]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[[1, 3]], null[[1, 3]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got[1], expected[1], atol=1e-4)


@every_kind
def test_labels_reach_the_output(network):
    model = model_with(text=None, classes=4, network=network)
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
    """null + scale (conditional - null); scale 1 is the conditional score and 0 the unconditional one."""
    model = model_with()
    x, t = inputs()
    conditioner = model.conditioner
    condition = conditioner.condition(CAPTIONS, None, 4)
    null = condition.dropped(torch.ones(4, dtype=torch.bool), conditioner.null())
    with torch.no_grad():
        with_caption = Conditioned(model, conditioner(condition)).score(x, t)
        without = Conditioned(model, conditioner(conditioner.condition(None, None, 4))).score(x, t)
        guided = Guided(model, conditioner(condition), conditioner(null), scale).score(x, t)
    torch.testing.assert_close(guided, without + scale * (with_caption - without), rtol=1e-3, atol=1e-3)


def test_cross_attention_follows_the_formula():
    """softmax(q k / sqrt d) v over real tokens, written out."""
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


def text_encoder(folder, kind="bert"):
    return tiny.text_encoder(folder, kind, captions=CAPTIONS)


@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_any_text_encoder_loads_frozen_or_trained(tmp_path, kind):
    folder = text_encoder(tmp_path / kind, kind)
    frozen = fresh_model(spec_with(text=PretrainedText(path=folder, max_tokens=32)), [], 0).train()
    assert not any(p.requires_grad for p in frozen.conditioner.encoder.parameters())
    assert not frozen.conditioner.encoder.encoder.training
    trained = fresh_model(spec_with(text=PretrainedText(path=folder, max_tokens=32, trainable=True)), [], 0).train()
    x, t = inputs()
    loss = trained(x, t, trained.conditioner.condition(CAPTIONS, None, 4))[0].square().mean()
    loss.backward()
    assert all(p.grad is not None for p in trained.conditioner.encoder.parameters())


def test_the_encoder_is_transformers_own(tmp_path):
    """Our tokens and mask give what transformers gives for the same captions."""
    folder = text_encoder(tmp_path / "bert")
    encoder = pretrained_encoder(PretrainedText(path=folder, max_tokens=32)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, mask = Tokenizer(tokenizer, 32)(CAPTIONS)
    reference = BertModel.from_pretrained(folder).eval()
    expected = reference(**tokenizer(CAPTIONS, padding=True, return_tensors="pt")).last_hidden_state
    length = expected.shape[1]
    real = mask[:, :length]
    torch.testing.assert_close(encoder(ids, mask)[:, :length][real], expected[real])


@pytest.mark.parametrize(
    ("text", "culprit"),
    [({"path": "no/such/folder"}, "no/such/folder"), ({"path": "BERT", "max_tokens": 64}, "max_tokens")],
)
def test_encoders_that_do_not_fit_are_named(tmp_path, text, culprit):
    text = {**text, "path": text["path"].replace("BERT", text_encoder(tmp_path / "bert"))}
    with pytest.raises(ValueError, match=culprit):
        pretrained_encoder(PretrainedText(**text))


class Own(torch.nn.Module):
    """A user's network."""

    def __init__(self, image, condition, gain=1.0) -> None:
        super().__init__()
        self.image, self.condition = image, condition
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x, t, pooled=None, context=None, mask=None):
        return self.gain * x


def test_a_network_of_the_users_own():
    named = ExternalConfig(factory="tests.test_networks:Own", kwargs={"gain": 2.0})
    model = fresh_model(spec_with(network=named, text=None), [], 0)
    assert model.network.image == (1, 8, 8)
    assert model.network.condition is None
    x, t = inputs()
    alpha, sigma = (value[:, None, None, None] for value in VP().marginal(t))
    expected = 2.0 * x / torch.sqrt(alpha**2 * 0.25 + sigma**2)
    torch.testing.assert_close(model(x, t, model.conditioner.condition(None, None, 4))[0], expected)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: ExternalConfig(factory="no.such:Thing").build((1, 8, 8), None), "no.such:Thing"),
        (lambda: ExternalConfig(factory="json:dumps").build((1, 8, 8), None), "json:dumps"),
        (
            lambda: empty_model(
                spec_with(network=ExternalConfig(factory="tests.test_networks:Own")), Path("text"), allow_code=False
            ),
            "allow_code",
        ),
        (lambda: ExternalConfig(factory="Own"), "package.module:Class"),
        (lambda: ExternalConfig(factory=":Own"), "package.module:Class"),
        (lambda: ExternalConfig(factory="tests:"), "package.module:Class"),
        (lambda: ExternalConfig(factory="..tests:Own"), "package.module:Class"),
        (lambda: UNetConfig(blocks=()), r"blocks must be a number or one for each of the 3 levels, got \(\)"),
        (lambda: UNetConfig(multipliers=()), r"multipliers must be positive, got \(\)"),
        (lambda: tiny.UNET.build((1, 9, 9), None), "divisible by 2"),
        (
            lambda: UNetConfig(channels=8, attention=(3,), head_channels=8).build((1, 8, 8), None),
            r"attention.*\[3\]",
        ),
        (
            lambda: UNetConfig(channels=12, multipliers=(1,), attention=(8,), head_channels=8).build((1, 8, 8), None),
            "head_channels",
        ),
        (lambda: UNetConfig(dropout=1.0), "dropout"),
        (lambda: UNetConfig(blocks=(1, 2)), r"blocks must be a number or one for each of the 3 levels, got \(1, 2\)"),
        (lambda: UNetConfig(patch=3).build((3, 16, 16), None), r"network.patch=3 .* \(16, 16\)"),
        (lambda: ScratchText(width=10, heads=4), "heads"),
    ],
)
def test_networks_that_cannot_be_built_are_named(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()


BROKEN = {
    "grammar": "class Own(:",
    "failing": "raise RuntimeError('no such\\nGPU')",
    "missing": "import no_such_module",
    "leaving": "raise SystemExit(3)",
}


@pytest.mark.parametrize(
    ("network", "culprit"),
    [
        ({"factory": "no.such:Thing"}, "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        ({"factory": "json:Thing"}, "cannot be imported: AttributeError: .*'Thing'"),
        ({"factory": "broken_grammar:Own"}, "cannot be imported: SyntaxError"),
        ({"factory": "broken_failing:Own"}, "cannot be imported: RuntimeError: no such GPU"),
        ({"factory": "broken_missing:Own"}, "cannot be imported: ModuleNotFoundError: .*'no_such_module'"),
        ({"factory": "broken_leaving:Own"}, "cannot be imported: SystemExit: 3"),
        ({"factory": "torch.nn:functional"}, "is a module, which cannot be called"),
        ({"factory": "math:pi"}, "is a float, which cannot be called"),
        ({"factory": "builtins:dict"}, "cannot be called: no signature found"),
        ({"factory": "tests.test_networks:Own", "kwargs": {"gian": 2.0}}, "these kwargs: .*'gian'"),
        ({"factory": "tests.test_networks:Own", "kwargs": {"image": 2.0}}, "these kwargs: .*'image'"),
    ],
)
def test_a_factory_is_refused_before_a_worker_starts(tmp_path, monkeypatch, network, culprit):
    """By one sentence with its name; what it would make is built there alone."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(code)
    config = ExternalConfig(**network)
    for refuse in (lambda: check_model(spec_with(network=config)), lambda: config.build((1, 8, 8), None)):
        with pytest.raises(ValueError, match=culprit) as caught:
            refuse()
        assert f"network.factory {config.factory!r}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_factory_is_not_called_before_a_worker_starts(monkeypatch):
    monkeypatch.setattr(Own, "__init__", lambda self, image, condition: pytest.fail("was called"))
    check_model(spec_with(network=ExternalConfig(factory="tests.test_networks:Own")))


def test_residual_sums_keep_their_size():
    """With zeroed last convolutions every block is x / sqrt(2) on the identity path (DDPM++'s skip rescaling)."""
    block = ResidualBlock(8, 8, 16, dropout=0.0)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x / 2**0.5)


def test_a_doubling_block_works_at_the_lower_resolution():
    """(skip(x) + h(x)) / sqrt(2), then each pixel four times: both convolutions see the small image."""
    torch.manual_seed(0)
    same, doubling = (ResidualBlock(8, 8, 16, dropout=0.0, scale=scale) for scale in (1.0, 2.0))
    torch.nn.init.normal_(same.conv2.weight)
    doubling.load_state_dict(same.state_dict())
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    expected = same(x, embedding).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(doubling(x, embedding), expected)


def test_a_halving_block_takes_means_of_squares():
    """Through a block that is zero at its end passes the mean of each square of pixels, divided by sqrt(2)."""
    block = ResidualBlock(8, 8, 16, dropout=0.0, scale=0.5)
    x = torch.randn(2, 8, 8, 8)
    means = x.reshape(2, 8, 4, 2, 4, 2).mean(dim=(3, 5))
    torch.testing.assert_close(block(x, torch.randn(2, 16)), means / 2**0.5)


def test_patches_are_channels_of_a_smaller_image():
    """network.patch=2 is the network of the image whose squares became channels, with the same weights."""
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
    """One number is that many in each level; otherwise level i has blocks[i] on its way down and one more up."""
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


@pytest.mark.parametrize("masked", [False, True])
def test_attention_spelled_out_is_torchs(masked):
    """Values and gradients in float64 are those of scaled_dot_product_attention, also where tokens are hidden."""
    g = torch.Generator().manual_seed(4)
    parts = [torch.randn(2, 3, n, 5, generator=g, dtype=torch.float64, requires_grad=True) for n in (7, 4, 4)]
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])[:, None, None] if masked else None
    results = []
    for attend in (spelled_out, torch.nn.functional.scaled_dot_product_attention):
        out = attend(*parts, attn_mask=mask)
        results.append([out, *torch.autograd.grad(out.square().sum(), parts)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_compiled_networks_give_the_same():
    model = model_with()
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


def looks(network) -> tuple:
    """What can be told from outside: shapes, layers with their settings, and the output with given weights."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=g))
        x, t = inputs(2)
        told = torch.randn(2, 16, generator=g), torch.randn(2, 3, 16, generator=g), torch.ones(2, 3, dtype=torch.bool)
        output = network.eval()(x, t, *told)
    return {name: value.shape for name, value in network.named_parameters()}, repr(network), output


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES])
def test_every_key_of_a_network_changes_it(kind, name):
    """A key that no layer reads would leave it as it is; one with a value of its own changes weights, layers or output."""
    base = next(network for network in KINDS.values() if isinstance(network, kind))
    value, beside = CHANGES[kind][name] if isinstance(CHANGES[kind][name], tuple) and isinstance(
        CHANGES[kind][name][-1], dict) else (CHANGES[kind][name], {})  # fmt: skip
    found = []
    for changes in (beside, {**beside, name: value}):
        torch.manual_seed(0)  # random frequencies
        found.append(looks(dataclasses.replace(base, **changes).build((1, 8, 8), 16, 16)))
    (shapes, layers, output), (other_shapes, other_layers, other_output) = found
    assert getattr(base, name) != value
    assert shapes != other_shapes or layers != other_layers or not torch.allclose(output, other_output, atol=1e-4)


def test_no_key_of_a_network_is_left_out():
    """All but the kind, and checkpointing, which changes memory alone (test_efficiency.py)."""
    for kind, changes in CHANGES.items():
        assert {field.name for field in dataclasses.fields(kind)} - {"kind", "checkpointing"} == set(changes)
