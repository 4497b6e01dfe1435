"""Recipes from YAML and overrides, and their errors of one sentence."""

import re
from pathlib import Path

import pytest
import yaml

from raysde.config import loading, reference, sections
from raysde.config.builtin import list_builtin
from raysde.evaluation.report import read_report
from raysde.io.documents import read_yaml
from raysde.sde import VE
from raysde.tuning.training.settings import read_settings

RECIPES = list_builtin("recipe").values()
DIGITS = "digits"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_survives_a_round_trip(path):
    recipe = loading.load_recipe(path)
    assert loading.parse_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("word", ["off", "Off", "false", "auto", "require"])
def test_off_is_a_word_of_a_recipe(tmp_path, word):
    """YAML reads it as False, in a recipe and in an override."""
    meant = "off" if word in ("Off", "false") else word
    assert loading.load_recipe(DIGITS, [f"data.precomputed={word}"]).data.precomputed == meant
    (tmp_path / "recipe.yaml").write_text(f"name: a\ndata:\n  path: shards\n  precomputed: {word}\n")
    recipe = loading.load_recipe(tmp_path / "recipe.yaml")
    assert recipe.data.precomputed == meant
    assert (
        loading.load_recipe(DIGITS, ["network.progressive=none", "network.kind=ncsnpp"]).network.progressive == "none"
    )
    (tmp_path / "again.yaml").write_text(loading.dump_yaml(recipe.model_dump(mode="json")))
    assert loading.load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize("word", ["on", "yes", "1", "null"])
def test_other_words_for_precomputed_data_are_refused(word):
    with pytest.raises(ValueError, match=r"data\.precomputed: .*'auto', 'off' or 'require'"):
        loading.load_recipe(DIGITS, [f"data.precomputed={word}"])


def test_the_node_is_the_object():
    recipe = loading.load_recipe(DIGITS, ["sde.kind=ve", "sde.sigma_max=20"])
    assert recipe.sde == VE(sigma_max=20.0)


def test_a_new_kind_replaces_its_node():
    tree = {"sde": {"kind": "vp", "beta_max": 10.0}}
    loading.set_path(tree, ["sde", "kind"], "sub_vp")
    assert tree == {"sde": {"kind": "sub_vp"}}


def test_the_order_of_overrides_does_not_matter():
    """A kind given after the keys of its node does not clear them."""
    for order in (["sde.kind=ve", "sde.sigma_max=20"], ["sde.sigma_max=20", "sde.kind=ve"]):
        assert loading.load_recipe(DIGITS, order).sde == VE(sigma_max=20.0)


def test_a_new_length_replaces_the_old():
    assert loading.load_recipe(DIGITS, ["train.length.epochs=3"]).train.length.images is None


@pytest.mark.parametrize(
    ("length", "steps"),
    [({"steps": 7}, 7), ({"epochs": 3}, 30), ({"images": 1000}, 100), ({"images": 1006}, 101), ({"epochs": 0.29}, 3)],
)
def test_length_in_steps(length, steps):
    assert sections.Length(**length).in_steps(batch=10, rows=100) == steps


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (["train.learning_rate=1"], r"unknown key 'train.learning_rate'; did you mean train\.lr\?"),
        (["sampling.solver=unipcc"], r"sampling\.solver.*did you mean unipc\?"),
        (["sde.kind=vpp"], r"sde.*did you mean vp"),
        (["network.preset=ddpm"], r"network: preset must be .*, got 'ddpm'; did you mean ddpmpp_cifar10 or "),
        (["network.preset=ncsnp_cifar10"], r"network: .*did you mean ncsnpp_cifar10"),
        (["network.preset=dit-s-2"], r"network: .*did you mean dit_s_2"),
        (["sampling.guidance=-1"], r"sampling\.guidance.*must be a number of at least 0, got -1"),
        (["sde.beta_mx=1"], "unknown key 'sde.beta_mx'"),
        (["train.lr=fast"], "train.lr: .*number.*fast"),
        (["train.batch=0"], "train.batch"),
        (["train.microbatch=7"], "train.batch=128 is not divisible by train.microbatch=7"),
        (["resources.workers=3", "train.microbatch=64"], "resources.workers=3"),
        (["sde.kind=ve", "sde.sigma_min=60"], "sde: sigma_min"),
        (["sde.kind=levy"], "sde.*levy"),
        (["network.kind=external"], "network.factory"),
        (["text=null"], "sampling.prompts"),
        (["text=off"], r"^text: it is a section of keys, got false; text=null switches it off$"),
        (["train=7"], r"^train: it is a section of keys, got 7; set its keys, such as train\.length\.steps=VALUE$"),
        (["train.length=20"], r"^train\.length: .* such as train\.length\.steps=VALUE$"),
        (["sde=vp"], r"^sde: .* such as sde\.kind=VALUE$"),
        (["train.ema=null"], r"^train\.ema: it is a section of keys, got null; set"),
        (["validation.patience=2", "validation.rows=0"], "validation.patience"),
        (["train.text_lr=1e-4", "text=null", "sampling.prompts=[]", "sampling.guidance=1"], "train.text_lr"),
        (["train.text_lr=1e-4", "text.kind=pretrained", "text.path=x"], "train.text_lr"),
        (["sampling.labels=[3]"], "sampling.labels needs classes"),
        (["class_conditional=true", "sampling.labels=[no]"], "sampling.labels.0: .* in quotes"),
        (["class_conditional=true", "sampling.labels=[1.10]"], "sampling.labels.0: .* in quotes"),
        (["sampling.guidance=2", "train.condition_dropout=0"], "condition_dropout between 0 and 1"),
        (["sampling.guidance=2", "train.condition_dropout=1"], "condition_dropout between 0 and 1"),
        (
            [
                "validation.metrics=[kid]",
                "validation.sampler={guidance: 2}",
                "sampling.guidance=1",
                "train.condition_dropout=0",
            ],
            "^validation.sampler.guidance needs training with and without conditions",
        ),
        (["sampling.solver=heun", "sampling.eta=1"], "eta=1.0 has no effect with heun"),
        (["sampling.eta=1"], "eta=1.0 has no effect with unipc"),
        (["name=../x"], "name: the name '../x' must be of letters"),
        (["name=a:b"], "name: the name 'a:b' must be of letters"),
        (["name=photos/2"], "name: the name 'photos/2' must be of letters"),
        (["name=100%"], "name: the name '100%' must be of letters"),
        ([f"name={'x' * 201}"], "name: .* has 201 characters"),
        (["tracking.register_as=a:b"], "tracking.register_as: the name 'a:b' must be of letters"),
        (["tracking.register_as=my/model"], "tracking.register_as: the name 'my/model'"),
        (["tracking.register_as=it's"], "tracking.register_as: the name"),
        (["train.lr"], "key=value"),
        (["data.range=[1,-1]"], "data: range"),
        (["train.length.steps=0"], "train.length.steps"),
    ],
)
def test_mistakes_are_named(overrides, culprit):
    with pytest.raises(ValueError, match=culprit) as caught:
        loading.load_recipe(DIGITS, overrides)
    assert "\n" not in str(caught.value)


def test_an_override_before_the_recipe_is_named():
    with pytest.raises(ValueError, match=r"^recipe sde\.kind=ve cannot be read: .*the recipe comes first"):
        loading.load_recipe("sde.kind=ve", [])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch=0", "train.batch: must be at least 1, got 0"),
        ("train.batch=2.5", "train.batch: must be an integer, got a number with a fractional part"),
        ("train.lr=0", "train.lr: must be above 0, got 0"),
        ("train.lr=fast", 'train.lr: must be a number, got "fast"'),
        ("data.flip=maybe", 'data.flip: must be true or false, got "maybe"'),
        ("data.range=[1]", "data.range: it has too few values, got [1]"),
        (
            "train.times=word",
            'train.times: it is a section of keys, got "word"; set its keys, such as train.times.kind=VALUE',
        ),
        ("train.times={mean: 1}", "key 'train.times.kind' is required"),
        (
            "data.mix=[{path: a, wieght: 1}]",
            "key 'data.mix.0.weight' is required, and 'wieght' is unknown; did you mean weight?",
        ),
        (
            "data.weights.colum=score",
            "key 'data.weights.column' is required, and 'colum' is unknown; did you mean column?",
        ),
        ("data.mix=[]", "data.mix: must have an entry, got []"),
        ("train.condition_dropout=2", "train.condition_dropout: must be at most 1, got 2"),
    ],
)
def test_a_wrong_value_is_named_with_the_bound_that_it_breaks(override, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        loading.load_recipe(DIGITS, [override])


def test_a_kind_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(
        ValueError, match=r"^sde\.kind: must be one of 'vp', .*, got \"vpp\"; did you mean vp"
    ) as caught:
        loading.load_recipe(DIGITS, ["sde.kind=vpp"])
    assert set(re.findall("'([^']*)'", str(caught.value))) == {"vp", "sub_vp", "ve", "edm", "flow", "external"}


@pytest.mark.parametrize("value", ["word", "-1.0e+30", "0.5", "[]", "[[1], 2]", "{a: 1}", "true", "null", ".nan"])
def test_no_refusal_of_any_key_is_in_the_words_of_a_library(value):
    """A reader of a recipe knows neither inputs nor tags nor parsers."""
    said = []
    for key in reference.list_keys():
        try:
            loading.load_recipe(DIGITS, [f"{key}={value}"])
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 50
    foreign = re.compile(r"Input|\btag\b|discriminator|pydantic|nable to|a valid |[.][0-9]+' is required")
    assert [each for each in said if foreign.search(each)] == []


@pytest.mark.parametrize("value", ["null", "off", "0"])
@pytest.mark.parametrize("section", ["validation", "sampling"])
def test_a_section_that_is_refused_says_how_it_is_switched_off(section, value):
    """And what it says does so."""
    with pytest.raises(ValueError, match=rf"^{section}: it is a section of keys") as caught:
        loading.load_recipe(DIGITS, [f"{section}={value}"])
    remedy = str(caught.value).rpartition("; ")[2].removesuffix(" switches it off")
    recipe = loading.load_recipe(DIGITS, [remedy])
    assert (recipe.validation.rows if section == "validation" else recipe.sampling.every) == 0


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("a: [", "not valid YAML: line 1, column 5: "),
        (
            "name: a\n  storage: x\n",
            r"r\.yaml is not valid YAML: line 2, column 10: mapping values are not allowed here$",
        ),
        ("- a", "not a mapping"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_recipes_are_named(tmp_path, text, culprit):
    path = Path(tmp_path / "r.yaml")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=culprit):
        loading.load_recipe(path)


def test_yaml_runs_no_code(tmp_path):
    (tmp_path / "r.yaml").write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="not valid YAML"):
        loading.load_recipe(tmp_path / "r.yaml")


def test_every_key_has_a_meaning():
    """Every key of every kind of a node is explained in a recipe's terms, not in the code's."""
    assert [entry.path for entry in reference.list_entries() if not entry.meaning.strip()] == []
    said = reference.format_reference()
    for markup in (":class:", ":func:", ":mod:", "``", "Class attributes", "Attributes:"):
        assert markup not in said
    text = re.sub(r"\s+", " ", said)
    for key, end in (("beta_min", "t = 0"), ("beta_max", "t = 1")):
        assert re.search(rf"sde\.{key} number, default \S+ beta at {end} of the linear schedule", text), key


def test_a_mistake_in_any_kind_of_a_node_is_named_by_its_key():
    """The error does not name the member of a union that pydantic tried, which is no key of a recipe."""
    for kind in ("vp", "sub_vp", "ve", "edm", "flow"):
        with pytest.raises(ValueError, match=r"^sde\.ceiling: .*number"):
            loading.load_recipe(DIGITS, [f"sde.kind={kind}", "sde.ceiling=high"])
    with pytest.raises(ValueError, match=r"^resources\.workers: "):
        loading.load_recipe(DIGITS, ["resources.workers=many"])


def test_every_key_is_explained():
    """`raysde config` explains every dotted path of a recipe, for every kind."""
    explained = reference.list_keys()
    kinds = [
        [],
        ["sde.kind=ve"],
        ["sde.kind=sub_vp"],
        ["text.kind=pretrained", "text.path=x"],
        ["latent.vae=x"],
        ["network.kind=external", "network.factory=a:B"],
        ["network.kind=ncsnpp"],
        ["image_condition.kind=upscale"],
        ["image_condition.kind=inpaint"],
        ["network.kind=dit"],
        ["network.kind=diffusers", "network.architecture=UNet2DModel"],
    ]
    for overrides in kinds:
        missing = set(loading.load_recipe(DIGITS, overrides).flat()) - explained
        # nodes that may be null
        assert not missing - {"text", "latent", "image_condition", "train.times"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\ntrain:\n  lr: 1\n  batch: 2\n  lr: 3\n", "key 'lr' is given twice, in lines 3 and 5"),
        ("name: a\nsde: {kind: vp, kind: ve}\n", "key 'kind' is given twice, in line 2"),
        ("1: a\n0x1: b\n", "key '1' is given twice, in lines 1 and 2, where it is spelled '0x1'"),
        ("on: 1\nname: a\ntrue: 2\n", "key 'on' is given twice, in lines 1 and 3, where it is spelled 'true'"),
        ("name: a\n'name': b\n", "key 'name' is given twice, in lines 1 and 2"),
        ("a: [{b: 1}, {b: 1, c: 2, b: 1}]\n", "key 'b' is given twice, in line 1"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}\n", "key 'd' is given twice, in line 2"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", "key '<<' is given twice, in lines 3 and 4"),
    ],
)
def test_a_key_given_twice_is_named_with_its_lines(tmp_path, text, said):
    """Nothing in a recipe, a sweep's file or the value of an override is lost to a later line."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    for reader, what in ((loading.load_recipe, "recipe"), (lambda file: read_settings(file, [], {}), "sweep")):
        with pytest.raises(ValueError, match=re.escape(f"{what} {path}: {said}; keep one of them")):
            reader(path)
    with pytest.raises(ValueError, match=re.escape(said)):
        loading.parse_assignment(f"train={text}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: &a {b: 1}\nc: &c {<<: *a, b: 3}\nd: {<<: [*c, *a], e: 4}",
         {"a": {"b": 1}, "c": {"b": 3}, "d": {"b": 3, "e": 4}}),
        ("a: &a {b: 1}\nc: [*a, *a]", {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}),
        ("a: {x: 1}\nb: {x: 1}\n1: c\n'1': d", {"a": {"x": 1}, "b": {"x": 1}, 1: "c", "1": "d"}),
        ("", None),
    ],
)  # fmt: skip
def test_keys_that_are_given_once_stay(text, value):
    """Merged keys may be replaced, aliases may repeat, and a number is another key than its text."""
    assert read_yaml(text, "it") == value == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text", ["a: 2024-13-45", "2024-13-45: a", "a: !!int x", "a: " + "[" * 5000, "a: \x00", "? [a]\n: 1"]
)
def test_what_is_no_yaml_is_one_sentence(text):
    with pytest.raises(ValueError, match=r"^recipe r is not valid YAML: ") as caught:
        read_yaml(text, "recipe r")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampling: {labels: [010]}", "line 1: YAML reads 010 as a number in base 8"),
        ("a: 1\nb: [7, -0_17]", "line 2: YAML reads -0_17 as a number in base 8"),
        ("a: 1:30", "line 1: YAML reads 1:30 as a number in base 60"),
        ("a: {b: 20:30.15}", "line 1: YAML reads 20:30.15 as a number in base 60"),
        ("007: a", "line 1: YAML reads 007 as a number in base 8"),
    ],
)
def test_numbers_in_other_bases_are_refused(text, said):
    """PyYAML reads 010 as 8 and 1:30 as 90, which would change a label or a count."""
    with pytest.raises(ValueError, match=re.escape(f"recipe r, {said}; write it in decimal, or as text in quotes")):
        read_yaml(text, "recipe r")


def test_decimal_numbers_and_quoted_text_stay():
    text = "{a: 0, b: 10, c: -7, d: '010', e: 009, f: 0.5, g: 1_000, h: '1:30', i: 0x1f}"
    assert read_yaml(text, "it") == yaml.safe_load(text)


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ValueError, match=r"recipe .*r\.yaml is not UTF-8"):
        loading.load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.lr=1", "seed=1", "train.lr=2"], "train.lr is given twice, as 'train.lr=1' and 'train.lr=2'"),
        (["seed=1", "seed=1"], "seed is given twice"),
        (["train.length.steps=3", "train.length.epochs=3"], "override 'train.length.steps=3' is undone by another"),
        (["sde.sigma_max=20", "sde={kind: ve}"], r"override 'sde\.sigma_max=20' is undone by another"),
        (["train={lr: 1, lr: 2}"], "key 'lr' is given twice, in line 1"),
    ],
)
def test_overrides_that_would_be_lost_are_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        loading.load_recipe(DIGITS, overrides)


def test_a_node_and_a_key_of_it_go_together():
    assert loading.load_recipe(DIGITS, ["sde={kind: ve}", "sde.sigma_max=20"]).sde == VE(sigma_max=20.0)


def test_an_axis_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"--over train\.lr is given twice"):
        read_settings(None, ["train.lr=[1,2]", "train.lr=[3]"], {})


@pytest.mark.parametrize("text", ['[{"a": 1, "b": 2, "a": 1}]', '{"figures": [], "figures": []}'])
def test_a_key_given_twice_in_a_report_is_named(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=r"report .*report\.json: key '(a|figures)' is given twice"):
        read_report(tmp_path / "report.json")


def test_the_defaults_that_are_explained_are_those_of_a_recipe():
    """The defaults of `raysde config` are those of a recipe that does not name the keys."""
    said = dict(re.findall(r"^([a-z_.0-9]+) +.*?, default (.*)$", reference.format_reference(), flags=re.MULTILINE))
    required = re.findall(r"^([a-z_.0-9]+) +.*, required$", reference.format_reference(), flags=re.MULTILINE)
    assert {"name", "latent.vae"} <= set(required)
    least = {"name": "x", "data": {"path": "x"}, "sde": {"kind": "vp"}, "network": {"kind": "unet"}}
    found = loading.parse_recipe(least).flat()
    compared = [key for key in found if key in said and not key.startswith(tuple(least))]
    assert len(compared) > 40
    for key in compared:
        value = yaml.safe_load(said[key].replace("(", "[").replace(")", "]").replace("'", "").replace(",]", "]"))
        assert value == found[key] or str(value) == str(found[key]), key
    kinds = {entry.path: entry.type for entry in reference.list_entries() if entry.default == "the default"}
    assert kinds == {"sde.kind": "vp", "network.kind": "unet"}
    assert said["network.preset"] == "null"
