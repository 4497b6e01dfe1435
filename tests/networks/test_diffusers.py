"""Networks of diffusers as score networks: their inputs, the meaning of their output, and refused configurations."""

import sys

import pytest
import torch

from raysde.checkpoints import checkpoint
from raysde.conditioning.conditioner import Condition
from raysde.config import loading
from raysde.models.spec import fresh_model
from raysde.networks import DiffusersConfig
from raysde.networks.diffusers import ADAPTERS
from raysde.networks.diffusers_contract import CONTRACTS, contract_of
from raysde.runs.local import train_here
from raysde.runs.run import check_run, open_run
from raysde.sde import EDM, VE, VP, Flow
from raysde.sde.parameterisation import Preconditioning
from tests.support.diffusers_models import DIT, FOURIER, RAW, TEXT, UNET, diffusers_spec
from tests.support.training import small_recipe

CAPTIONS = ["a handwritten zero", "the digit one", "two"]
CONDITIONED = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip


def model_with(*args, **changes):
    return fresh_model(diffusers_spec(*args, **changes), CAPTIONS, 0).eval()


def inputs(count=3, channels=1):
    g = torch.Generator().manual_seed(3)
    return torch.randn(count, channels, 8, 8, generator=g), torch.linspace(0.1, 0.9, count)


def encoded(model, prompts=None, labels=None, count=3):
    return model.conditioner(model.conditioner.condition(prompts, labels, count))


# inputs of a network, and the meaning of its output


@torch.no_grad()
def test_an_unconditional_transformer_takes_no_class():
    """An unconditional transformer reads the row after its classes, as where diffusers drops a label."""
    model = model_with("DiTTransformer2DModel", {**DIT, "num_embeds_ada_norm": 3})
    x, t = inputs()
    found = model.network(x, t)

    def with_label(label):
        return model.network.model(x, t, class_labels=torch.full((3,), label)).sample[:, :1]

    torch.testing.assert_close(found, with_label(3))
    assert all((found - with_label(label)).abs().max() > 1e-4 for label in range(3))


@pytest.mark.parametrize("target", ["noise", "x0", "v"])
@torch.no_grad()
def test_a_network_of_the_step_gives_the_score_of_its_prediction(target):
    """On a table of 50 steps, the score follows by hand from the diffusers model at the integer step."""
    table = tuple((1.0 - torch.linspace(1e-3, 0.1, 50, dtype=torch.float64)).cumprod(0).tolist())
    sde = VP(schedule="table", alphas_cumprod=table, sample_floor=0.02)
    raw = Preconditioning(time="step", input="none", output="none")
    model = model_with(sde=sde, target=target, preconditioning=raw)
    x, steps = inputs()[0], torch.tensor([0, 17, 49])
    output = model.network.model(x, steps).sample
    alpha, sigma = (torch.tensor(table)[steps].reshape(3, 1, 1, 1) ** 0.5, (1.0 - torch.tensor(table)[steps]) ** 0.5)
    sigma = sigma.reshape(3, 1, 1, 1)
    eps = {"noise": output, "x0": (x - alpha * output) / sigma, "v": alpha * output + sigma * x}[target]
    found = model.score(x, (steps + 1) / 50, encoded(model))
    torch.testing.assert_close(found, -eps / sigma, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sde", "centres"), [(VE(sigma_max=20.0), True), (EDM(), False)])
@torch.no_grad()
def test_fourier_times_are_sigma_and_the_output_is_the_score(sde, centres):
    """Fourier networks take sigma, also below 1, which an integer would round to 0, and return the score."""
    network = {**FOURIER, "center_input_sample": centres}
    model = model_with(network=network, sde=sde, target="score", preconditioning=RAW, data_range=(0.0, 1.0))
    x, t = inputs()[0], torch.tensor([0.02, 0.05, 1.0])
    sigma = sde.sigma(t)
    assert sigma[0] < sigma[1] < sigma[2]
    expected = model.network.model(x, sigma).sample
    torch.testing.assert_close(model.score(x, t, encoded(model)), expected, rtol=2e-3, atol=2e-3)
    # its output before the division is of order 1 at every sigma
    assert 0.01 < (sigma[:, None, None, None] * expected).flatten(1).norm(dim=1).div(8.0).min() < 10.0
    level = sigma[:, None, None, None]
    torch.testing.assert_close(model.eps_hat(x, t, encoded(model)), -level * expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("architecture", "network", "sde", "expected"),
    [
        ("UNet2DModel", UNET, VP(), "999t"),
        ("UNet2DModel", UNET, EDM(), "log_sigma/4"),
        ("UNet2DModel", FOURIER, VE(), "sigma"),
        ("DiTTransformer2DModel", DIT, Flow(), "999t"),
    ],
)
def test_a_recipe_that_names_no_time_gets_what_suits_network_and_sde(architecture, network, sde, expected):
    divides = network is FOURIER
    model = model_with(
        architecture, network, sde=sde, target="score" if divides else "v",
        preconditioning=RAW if divides else Preconditioning(),
    )  # fmt: skip
    assert model.preconditioning.time == expected


def test_steps_are_counted_by_the_table():
    t = torch.tensor([0.5, 1.0])
    step = Preconditioning(time="step")
    assert step.network_time(VP(), t).tolist() == [499.0, 999.0]
    assert step.network_time(VP(schedule="table", alphas_cumprod=(0.9, 0.5, 0.3, 0.1)), t).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("architecture", ADAPTERS)
@torch.no_grad()
def test_a_learned_variance_is_left_out(architecture):
    network = {"UNet2DModel": UNET, "UNet2DConditionModel": CONDITIONED, "DiTTransformer2DModel": DIT}[architecture]
    model = model_with(architecture, {**network, "out_channels": 6}, image=(3, 8, 8), classes=4, preconditioning=RAW)
    whole = {}
    model.network.model.register_forward_hook(lambda module, args, output: whole.update(output=output[0]))
    x, t = inputs(channels=3)
    output = model.predict(x, t, encoded(model, labels=[0, 1, 2]))
    assert whole["output"].shape == (3, 6, 8, 8)
    assert torch.equal(output, whole["output"][:, :3])


# conditions


def changes(model, first, second) -> torch.Tensor:
    """Return the largest difference of each image of a batch between two conditions."""
    x, t = inputs()
    with torch.no_grad():
        return (model.predict(x, t, first) - model.predict(x, t, second)).abs().flatten(1).amax(dim=1)


CASES = {
    "UNet2DModel": UNET,
    "UNet2DConditionModel": CONDITIONED,
    "DiTTransformer2DModel": DIT,
}


@pytest.mark.parametrize("architecture", CASES)
def test_labels_reach_the_output(architecture):
    model = model_with(architecture, CASES[architecture], classes=4)
    found = changes(model, encoded(model, labels=[0, 1, 2]), encoded(model, labels=[3, 1, 2]))
    assert found[0] > 1e-4
    assert found[1:].max() < 1e-6
    assert changes(model, encoded(model, labels=[0, 1, 2]), encoded(model))[0] > 1e-4


@pytest.mark.parametrize("architecture", ["UNet2DModel", "UNet2DConditionModel"])
def test_captions_reach_the_output(architecture):
    model = model_with(architecture, CASES[architecture], text=TEXT)
    found = changes(model, encoded(model, CAPTIONS), encoded(model, [CAPTIONS[1], *CAPTIONS[1:]]))
    assert found[0] > 1e-5
    assert found[1:].max() < 1e-6


def test_padding_is_never_read():
    model = model_with("UNet2DConditionModel", CONDITIONED, text=TEXT)
    condition = model.conditioner.condition(CAPTIONS, None, 3)
    longer = Condition(*(torch.nn.functional.pad(value, (0, 8)) for value in (condition.ids, condition.mask)))
    assert changes(model, model.conditioner(condition), model.conditioner(longer)).max() < 1e-5
    clean = model.conditioner(condition)
    garbage = torch.where(clean.mask[:, :, None], clean.context, torch.full_like(clean.context, 9.0))
    x, t = inputs()
    with torch.no_grad():
        expected = model.network(x, t, clean.pooled, clean.context, clean.mask)
        torch.testing.assert_close(model.network(x, t, clean.pooled, garbage, clean.mask), expected)
        assert not torch.allclose(model.network(x, t, clean.pooled, garbage, torch.ones_like(clean.mask)), expected)


def test_captions_and_labels_both_reach_a_projection():
    network = {**CONDITIONED, "class_embed_type": "simple_projection"}
    model = model_with("UNet2DConditionModel", network, text=TEXT, classes=4)
    first = encoded(model, CAPTIONS, [0, 1, 2])
    assert changes(model, first, encoded(model, CAPTIONS, [3, 1, 2]))[0] > 1e-4
    assert changes(model, first, encoded(model, ["two", *CAPTIONS[1:]], [0, 1, 2]))[0] > 1e-4


def test_a_transformer_without_classes_has_one_class_in_training_and_sampling():
    """The null class stays the same although diffusers drops a tenth of the labels at random in training: 6 of 64 here."""
    model = model_with("DiTTransformer2DModel", {**DIT, "dropout": 0.0})
    (x, t), none = inputs(64), encoded(model, count=64)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(model.train().predict(x, t, none), model.eval().predict(x, t, none))


@pytest.mark.parametrize("architecture", CASES)
def test_images_do_not_mix_within_a_batch(architecture):
    model = model_with(architecture, CASES[architecture], classes=4)
    x, t = inputs()
    with torch.no_grad():
        whole = model.predict(x, t, encoded(model, labels=[0, 1, 2]))
        alone = model.predict(x[2:], t[2:], encoded(model, labels=[2], count=1))
    torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-5)


# training


TRAINED = {
    "UNet2DModel": ({"text": None, "class_conditional": True}, UNET),
    "UNet2DConditionModel": ({}, CONDITIONED),
    "DiTTransformer2DModel": ({"text": None, "class_conditional": True}, DIT),
    "fourier": (
        {"text": None, "sde__kind": "ve", "target": "score", "preconditioning__output": "none",
         "data__range": [0.0, 1.0]},
        FOURIER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_and_the_checkpoint_holds_the_model(name, digits, tmp_path, sink):
    changes_, network = TRAINED[name]
    node = {"kind": "diffusers", "architecture": "UNet2DModel" if name == "fourier" else name, "config": network}
    tree = small_recipe(
        digits, tmp_path, **{"network": node, **changes_}, train__length__steps=60, train__lr=3e-3, checkpoint_every=0
    )
    run = open_run(loading.parse_recipe(tree))
    check_run(run)
    state = train_here(run, sink)
    loss = list(sink.of("train/loss").values())
    assert sum(loss[-10:]) < 0.8 * sum(loss[:10])
    folder = tmp_path / "small" / checkpoint.checkpoint_name(60)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".txt"}
    loaded = checkpoint.load_model(folder)
    x, t = inputs()
    with torch.no_grad(), state.ema.swap_weights():
        live = state.model.eval()
        prompts, labels = (
            CAPTIONS if live.conditioner.tokenizer else None,
            [0, 1, 2] if live.conditioner.classes else None,
        )
        expected = live.score(x, t, encoded(live, prompts, labels))
        assert torch.equal(loaded.conditioned(prompts, labels, 3, 1.0).score(x, t), expected)
    assert loaded.sample(n=2, steps=2).images.shape == (2, 1, 8, 8)


def test_every_architecture_has_a_contract():
    assert CONTRACTS.keys() == ADAPTERS.keys()


# mistakes


def labels_for(spec):
    return fresh_model(spec, CAPTIONS, 0)


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        (lambda: diffusers_spec("UVit2DModel"), "UVit2DModel"),
        (lambda: diffusers_spec(network={**UNET, "time_embedding_type": "learned"}), "time_embedding_type=learned"),
        (lambda: diffusers_spec(preconditioning=Preconditioning(time="t")), "preconditioning.time=t.*999t or step"),
        (lambda: diffusers_spec(network=FOURIER, sde=VE(), target="score"), "preconditioning.output=none"),
        (lambda: diffusers_spec(network=FOURIER, sde=VE(), preconditioning=RAW), "target=score"),
        (lambda: diffusers_spec(network=FOURIER, target="score", preconditioning=RAW), "take positional for VP"),
        (
            lambda: diffusers_spec(
                network=FOURIER, sde=VE(), target="score", preconditioning=Preconditioning(time="log_sigma", output="none")
            ),
            "time=log_sigma.*accepts sigma",
        ),
        (lambda: diffusers_spec(network={**UNET, "center_input_sample": True}), "center_input_sample"),
        (
            lambda: diffusers_spec(network={**UNET, "center_input_sample": True}, data_range=(0.0, 1.0)),
            "preconditioning.input=none",
        ),
        (lambda: diffusers_spec("DiTTransformer2DModel", DIT, text=TEXT), "the model has captions"),
        (lambda: diffusers_spec("UNet2DConditionModel", CONDITIONED), "the model has nothing"),
        (lambda: diffusers_spec("UNet2DConditionModel", CONDITIONED, text=TEXT, classes=3), "simple_projection"),
        (lambda: diffusers_spec("UNet2DConditionModel", {**CONDITIONED, "addition_embed_type": "text"}, text=TEXT), "addition"),
        (
            lambda: diffusers_spec("UNet2DConditionModel", {**CONDITIONED, "class_embed_type": "timestep"}, text=TEXT),
            "class_embed_type=timestep",
        ),
        (
            lambda: diffusers_spec("UNet2DConditionModel", {**CONDITIONED, "cross_attention_dim": 9}, text=TEXT),
            "cross_attention_dim=9.*16",
        ),
        (lambda: diffusers_spec(network={**UNET, "num_class_embeds": 4}, classes=4), "num_class_embeds"),
        (lambda: diffusers_spec(network={**UNET, "in_channels": 3}), "in_channels=3"),
        (lambda: diffusers_spec(network={**UNET, "out_channels": 3}), "out_channels=3"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": 16}), "sample_size=16"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": [8, 16]}), r"sample_size=\[8, 16\], but the images are 8x8"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": [16, 8]}), r"sample_size=\[16, 8\], but the images are 8x8"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": 8}, image=(1, 8, 16)), "but the images are 8x16"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": 8.0}), r"network\.config\.sample_size=8\.0 must be"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": "8"}), r"network\.config\.sample_size='8' must be"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": True}), r"network\.config\.sample_size=True must be"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": [8]}), r"network\.config\.sample_size=\[8\] must be"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": [8, "8"]}), r"network\.config\.sample_size=\[8, '8'\] must"),
        (lambda: diffusers_spec(network={**UNET, "sample_size": []}), r"network\.config\.sample_size=\[\] must be"),
        (lambda: diffusers_spec(network={**UNET, "down_block_types": 5}), r"network\.config\.down_block_types=5 must be"),
        (lambda: diffusers_spec(network={**UNET, "up_block_types": None}), r"network\.config\.up_block_types=None must be"),
        (lambda: diffusers_spec(network={**UNET, "up_block_types": [5, 5]}), r"network\.config\.up_block_types=\[5, 5\] must"),
        (lambda: diffusers_spec(network={**UNET, "up_block_types": "UpBlock2D"}), r"network\.config\.up_block_types='Up.* must"),
        (lambda: diffusers_spec(network={**UNET, "colour": True}), "colour"),
        (lambda: diffusers_spec(network={**UNET, "norm_num_groups": 5}), "num_groups|num_channels"),
        (
            lambda: diffusers_spec(network={**UNET, "down_block_types": ["SkipDownBlock2D"] * 2}),
            "Skip blocks of diffusers take 3 channels",
        ),
        *[(lambda image=image: diffusers_spec(image=image), "divisible by 2") for image in ((1, 9, 9), (1, 9, 8), (1, 8, 9))],
        (lambda: diffusers_spec("DiTTransformer2DModel", DIT, image=(1, 8, 16)), "square"),
        (lambda: diffusers_spec("DiTTransformer2DModel", {**DIT, "patch_size": 3}), "patch_size=3"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_do_is_named(spec, culprit):
    with pytest.raises(ValueError, match=culprit) as caught:
        fresh_model(spec(), CAPTIONS, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        ({"network__config__in_channels": 3}, "in_channels=3"),
        ({"network__config__time_embedding_type": "fourier"}, "take positional for VP"),
        ({"network__architecture": "DiTTransformer2DModel", "network__config": DIT}, "the model has captions"),
        (
            {
                "network__architecture": "UNet2DConditionModel",
                "network__config": {**CONDITIONED, "cross_attention_dim": 9},
            },
            "cross_attention_dim=9.*16",
        ),
    ],
)
def test_a_recipe_is_refused_before_a_worker_starts(overrides, culprit, digits, tmp_path):
    network = {"kind": "diffusers", "architecture": "UNet2DModel", "config": dict(UNET)}
    run = open_run(loading.parse_recipe(small_recipe(digits, tmp_path, network=network, **overrides)))
    with pytest.raises(ValueError, match=culprit):
        check_run(run)


def test_an_unknown_class_in_a_recipe_is_named(digits, tmp_path):
    network = {"kind": "diffusers", "architecture": "UVit2DModel"}
    with pytest.raises(ValueError, match=r"network\.architecture: .*UVit2DModel"):
        loading.parse_recipe(small_recipe(digits, tmp_path, network=network))


def test_diffusers_is_asked_for_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"network\.kind=diffusers needs diffusers: pip install 'raysde\[diffusers\]'"):
        fresh_model(diffusers_spec(), [], 0)


def test_the_contract_of_fourier_features_differs_between_the_two_unets():
    plain = contract_of(DiffusersConfig(architecture="UNet2DModel", config=FOURIER))
    other = contract_of(DiffusersConfig(architecture="UNet2DConditionModel", config={"time_embedding_type": "fourier"}))
    assert plain.divides
    assert plain.times == ("sigma",)
    assert not other.divides
    assert "sigma" not in other.times
