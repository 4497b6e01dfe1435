"""Every built-in recipe can be read, and its network can be built for its images."""

import math
import re
import shlex
from dataclasses import dataclass, replace

import pytest
import torch

from raysde.cli import build_parser, main
from raysde.conditioning.conditioner import Encoded
from raysde.conditioning.text import AutoText, PretrainedText, ScratchText
from raysde.config import loading, reference
from raysde.config.builtin import list_builtin
from raysde.models.spec import ModelSpec, fresh_model
from raysde.training.ema import ema_decay

RECIPES = list_builtin("recipe").values()


@dataclass(frozen=True)
class For:
    """Data of a recipe: images or latents as (channels, height, width), and number of classes."""

    image: tuple[int, int, int]
    classes: int = 0
    caption_width: int | None = None


DATA = {
    "cifar10-subvp": For((3, 32, 32)),
    "cifar10-ve": For((3, 32, 32)),
    "cifar10-vp": For((3, 32, 32)),
    "digits": For((1, 8, 8)),
    "emoji": For((3, 32, 32)),
    "fashion-mnist": For((1, 28, 28), classes=10),
    "ffhq256-ve": For((3, 256, 256)),
    "photos": For((3, 64, 64)),
    # the autoencoder of Stable Diffusion has 4 channels at an eighth of height and width; CLIP's large text encoder has
    # width 768
    "text-to-image-latent": For((4, 32, 32), caption_width=768),
}


def test_every_recipe_is_tried():
    assert {path.stem for path in RECIPES} == set(DATA)


def spec_of(recipe: loading.RunConfig, data: For) -> ModelSpec:
    text = recipe.text.scratch() if isinstance(recipe.text, AutoText) else recipe.text
    if isinstance(text, PretrainedText):
        assert data.caption_width is not None
        text = ScratchText(width=data.caption_width, layers=1, max_tokens=text.max_tokens)
    return ModelSpec(
        image=data.image,
        data_range=recipe.data.range,
        data_std=recipe.data.std,
        sde=recipe.sde,
        network=recipe.network,
        target=recipe.target,
        text=text,
        classes=data.classes if recipe.class_conditional else 0,
        preconditioning=recipe.preconditioning,
        uncertainty=recipe.train.uncertainty == "learned",
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_network_fits_its_images(path):
    """The network is built and run on the meta device: nothing is computed, but all shapes must agree."""
    recipe, data = loading.load_recipe(path), DATA[path.stem]
    with torch.device("meta"):
        model = fresh_model(spec_of(recipe, data), ["a red heart"], 0)
        x, t = torch.empty(2, *data.image), torch.empty(2)
        width = model.conditioner.width
        encoded = Encoded() if width is None else Encoded(torch.empty(2, width))
        if recipe.text is not None:
            encoded = replace(encoded, context=torch.empty(2, 8, width), mask=torch.ones(2, 8, dtype=torch.bool))
    assert model.predict(x, t, encoded).shape == x.shape
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "batch", "rate"),
    [
        ("cifar10-vp", 128, 0.9999),
        ("cifar10-subvp", 128, 0.9999),
        ("cifar10-ve", 128, 0.999),
        ("ffhq256-ve", 64, 0.999),
    ],
)
def test_published_averages_are_kept_as_half_lives(name, batch, rate):
    """rate^(n / batch) = 1 / 2 after n images; after n steps at most (1 + n) / (10 + n) is kept."""
    recipe = loading.load_recipe(name)
    average = recipe.train.ema
    assert recipe.train.batch == batch
    assert average.half_life == pytest.approx(batch * math.log(0.5) / math.log(rate), abs=1.0)
    for n in (10_000, 50_000, 1_000_000):
        kept = ema_decay(batch, batch * n, average.half_life, average.rampup)
        assert 1.0 - kept == pytest.approx(1.0 - min(rate, (1 + n) / (10 + n)), rel=1e-3)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_header_can_be_typed(path):
    """It is short, the command line accepts its commands, and every key=value in it changes the recipe."""
    header = "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    assert len(header.splitlines()) <= 8
    commands = re.findall(r"^ {5}raysde (.*)$", re.sub(r"\\\n\s*", " ", header), flags=re.MULTILINE)
    for command in commands:
        given = build_parser().parse_args(shlex.split(command, comments=True))
        if given.command == "train":
            assert given.recipe == path.stem
            loading.load_recipe(path, given.overrides)
    known = reference.list_keys()
    for word in " ".join(line for line in header.splitlines() if not line.startswith("     ")).split():
        key, equals, value = word.strip(",;.:'").partition("=")
        if equals and key in known and not value.startswith(("{", "[")):
            loading.load_recipe(path, [f"{key}={value}"])


ODD = """
name: odd
data: {path: p}
text: {kind: scratch, width: 16, layers: 1, heads: 2}
network: {kind: external, factory: "a:b", kwargs: {small: 1.0e-05, large: 1.0e+22, word: "yes", number: "007", none: null,
  empty: {}, deep: {a: [1, {b: 2.0e-07}]}}}
train: {length: {images: 5000}, decay: {kind: external, factory: "a:b"}}
sampling: {prompts: ["\u00e9 \U0001f600 it's", "a: b # c", "null"], solver: edm, churn_high: .inf}
"""


@pytest.mark.parametrize("base", ["itself", "nothing"])
@pytest.mark.parametrize("path", [*RECIPES, "odd"], ids=lambda path: getattr(path, "stem", path))
def test_what_config_prints_are_overrides_that_make_the_recipe(capsys, tmp_path, path, base):
    """All printed lines together are valid overrides, of the recipe itself and of an empty one."""
    if path == "odd":
        path = tmp_path / "odd.yaml"
        path.write_text(ODD)
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}")
    assert main(["config", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"[a-z_.]+=", line) for line in lines)
    assert main(["config", str(path if base == "itself" else empty), *lines]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert loading.load_recipe(empty, lines) == loading.load_recipe(path)
