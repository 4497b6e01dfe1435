"""Recipes: one object from YAML and overrides, whose mistakes are one sentence."""

import re
from pathlib import Path

import pytest
import yaml

from raysde import config, explain, nodes
from raysde.sde import VE
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
DIGITS = ROOT / "jobs" / "configs" / "digits.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_survives_a_round_trip(path):
    recipe = config.load(path)
    assert config.parse(recipe.model_dump(mode="json")) == recipe


def test_the_node_is_the_object():
    recipe = config.load(DIGITS, ["sde.kind=ve", "sde.sigma_max=20"])
    assert recipe.sde == VE(sigma_max=20.0)


def test_a_new_kind_replaces_its_node():
    tree = {"sde": {"kind": "vp", "beta_max": 10.0}}
    config.place(tree, ["sde", "kind"], "sub_vp")
    assert tree == {"sde": {"kind": "sub_vp"}}


def test_the_order_of_overrides_does_not_matter():
    """A kind given after the keys of its node does not wipe them out."""
    for order in (["sde.kind=ve", "sde.sigma_max=20"], ["sde.sigma_max=20", "sde.kind=ve"]):
        assert config.load(DIGITS, order).sde == VE(sigma_max=20.0)


def test_a_new_length_replaces_the_old():
    assert config.load(DIGITS, ["train.length.epochs=3"]).train.length.images is None


@pytest.mark.parametrize(("length", "steps"), [({"steps": 7}, 7), ({"epochs": 3}, 30), ({"images": 1000}, 100)])
def test_length_in_steps(length, steps):
    assert nodes.Length(**length).in_steps(batch=10, rows=100) == steps


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (["train.learning_rate=1"], "unknown key 'train.learning_rate'"),
        (["sde.beta_mx=1"], "unknown key 'sde.beta_mx'"),
        (["train.lr=fast"], "train.lr: .*number.*fast"),
        (["train.batch=0"], "train.batch"),
        (["train.microbatch=7"], "train.batch=128 is not divisible by train.microbatch=7"),
        (["resources.workers=3", "train.microbatch=64"], "resources.workers=3"),
        (["sde.kind=ve", "sde.sigma_min=60"], "sde: sigma_min"),
        (["sde.kind=levy"], "sde.*levy"),
        (["network.kind=external"], "network.factory"),
        (["text=null"], "sampling.prompts"),
        (["validation.patience=2", "validation.rows=0"], "validation.patience"),
        (["train.text_lr=1e-4", "text=null", "sampling.prompts=[]", "sampling.guidance=1"], "train.text_lr"),
        (["train.text_lr=1e-4", "text.kind=pretrained", "text.path=x"], "train.text_lr"),
        (["sampling.labels=[3]"], "sampling.labels needs classes"),
        (["class_conditional=true", "sampling.labels=[-1]"], "sampling.labels"),
        (["sampling.guidance=2", "train.condition_dropout=0"], "condition_dropout between 0 and 1"),
        (["sampling.guidance=2", "train.condition_dropout=1"], "condition_dropout between 0 and 1"),
        (["sampling.solver=heun", "sampling.eta=1"], "eta=1.0 changes nothing with heun"),
        (["name=../x"], "name"),
        (["train.lr"], "key=value"),
        (["data.range=[1,-1]"], "data: range"),
        (["train.length.steps=0"], "train.length.steps"),
    ],
)
def test_mistakes_are_named(overrides, culprit):
    with pytest.raises(ValueError, match=culprit) as caught:
        config.load(DIGITS, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "culprit"), [("a: [", "not valid YAML"), ("- a", "not a mapping"), (None, "cannot be read")]
)
def test_unreadable_recipes_are_named(tmp_path, text, culprit):
    path = Path(tmp_path / "r.yaml")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=culprit):
        config.load(path)


def test_yaml_runs_no_code(tmp_path):
    (tmp_path / "r.yaml").write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="not valid YAML"):
        config.load(tmp_path / "r.yaml")


def test_every_key_is_explained():
    """`raysde config` knows every dotted path that a recipe can have, for every kind."""
    explained = explain.keys()
    kinds = [
        [],
        ["sde.kind=ve"],
        ["sde.kind=sub_vp"],
        ["text.kind=pretrained", "text.path=x"],
        ["latent.vae=x"],
        ["network.kind=external", "network.factory=a:B"],
        ["network.kind=ncsnpp"],
        ["network.kind=dit"],
        ["network.kind=diffusers", "network.architecture=UNet2DModel"],
    ]
    for overrides in kinds:
        missing = set(config.load(DIGITS, overrides).flat()) - explained
        # nodes that may be null as a whole
        assert not missing - {"text", "latent", "train.times"}


def test_the_defaults_that_are_explained_are_those_of_a_recipe():
    """`raysde config` says of each key what a recipe that does not name it has."""
    said = dict(re.findall(r"^([a-z_.0-9]+) +.*?, default (.*)$", explain.reference(), flags=re.MULTILINE))
    required = re.findall(r"^([a-z_.0-9]+) +.*, required$", explain.reference(), flags=re.MULTILINE)
    assert {"name", "data.path"} <= set(required)
    told = {"name": "x", "data": {"path": "x"}, "sde": {"kind": "vp"}, "network": {"kind": "unet"}}
    found = config.parse(told).flat()
    told["train.length"] = "a recipe that names no length has one of its own, which any of these keys replaces"
    compared = [key for key in found if key in said and not key.startswith(tuple(told))]
    assert len(compared) > 40
    for key in compared:
        value = yaml.safe_load(said[key].replace("(", "[").replace(")", "]").replace("'", "").replace(",]", "]"))
        assert value == found[key] or str(value) == str(found[key]), key
    assert (said["sde.kind"], said["network.preset"]) in {
        (kind, "null") for kind in ("vp", "ve", "sub_vp", "edm", "flow")
    }
