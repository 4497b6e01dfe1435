"""Each sampling setting is defined once: every caller's value reaches the same field."""

import subprocess
import sys
from dataclasses import fields

import pandas as pd
import pytest
import torch

from raysde.cli import build_parser
from raysde.commands.model_options import check_drawing_options, parse_method
from raysde.config import loading, reference
from raysde.config.recipe import RunConfig
from raysde.inference.model import Model
from raysde.models.sampling_defaults import check_settings
from raysde.models.spec import ModelSpec, fresh_model
from raysde.registry.mlflow_model import make_signature
from raysde.registry.serving import Served
from raysde.sampling import sampler
from raysde.sampling.method import SETTINGS, Method
from raysde.sampling.solvers import SOLVERS, Kind
from raysde.sde import EDM, VP
from raysde.tuning.sampler.space import parse_space
from tests.support.models import spec_with

GIVEN = {
    "solver": {"solver": "dpmpp_2m"},
    "steps": {"steps": 7},
    "grid": {"grid": "quadratic"},
    "rho": {"rho": 5.0, "grid": "edm"},
    "corrector": {"corrector": "langevin", "solver": "heun"},
    "corrector_steps": {"corrector_steps": 2, "solver": "pc"},
    "target_snr": {"target_snr": 0.25, "solver": "pc"},
    "eta": {"eta": 0.5, "solver": "ddim"},
    "order": {"order": 2, "solver": "deis"},
    "churn": {"churn": 4.0, "solver": "edm"},
    "churn_low": {"churn_low": 0.5, "solver": "edm"},
    "churn_high": {"churn_high": 30.0, "solver": "edm"},
    "churn_noise": {"churn_noise": 1.5, "solver": "edm"},
    "rtol": {"rtol": 0.01, "solver": "rk45"},
    "atol": {"atol": 0.02, "solver": "rk45"},
    "denoise": {"denoise": True},
}
"""A value other than the default for each field, with the settings that it requires."""
OUTSIDE = {
    "steps": 0, "rho": 0.0, "corrector_steps": -1, "target_snr": 0.0, "eta": 1.5, "order": 4, "churn": -1.0,
    "churn_low": -0.5, "churn_high": -0.5, "churn_noise": 0.0, "rtol": 0.0, "atol": 0.0, "solver": "magic",
    "grid": "magic", "corrector": "magic",
}  # fmt: skip
NAMES = [field.name for field in fields(Method)]


class Stop(Exception):
    """An exception that ends sampling once its method is known."""


@pytest.fixture
def made(monkeypatch) -> list[Method]:
    """Return the list of methods that the sampler builds, without drawing."""
    found: list[Method] = []

    def watched(**settings):
        found.append(Method(**settings))
        raise Stop

    monkeypatch.setattr(sampler, "Method", watched)
    return found


@pytest.fixture(scope="module")
def model() -> Model:
    spec = spec_with(default_solver="unipc")
    return Model(fresh_model(spec, [], seed=0), spec)


def test_the_table_has_every_field():
    assert list(GIVEN) == NAMES == list(SETTINGS)
    for name, given in GIVEN.items():
        assert given[name] != SETTINGS[name].default
        assert SETTINGS[name].meaning
    # only denoise has no bounds
    assert set(OUTSIDE) == set(NAMES) - {"denoise"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_reaches_the_method(tmp_path, name):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: here, data: {path: shards}}")
    overrides = [f"sampling.{key}={str(value).lower()}" for key, value in GIVEN[name].items()]
    sampling = loading.load_recipe(recipe, overrides).sampling
    assert getattr(Method(**sampling.settings), name) == GIVEN[name][name]
    known = reference.list_keys()
    assert f"sampling.{name}" in known
    # a recipe that is written reads back the same
    assert type(sampling).model_validate(sampling.model_dump(mode="json")) == sampling


def words(given: dict) -> list[str]:
    flags = {True: ["--denoise"]}
    return [
        word
        for key, value in given.items()
        for word in (flags[value] if value is True else [f"--{key.replace('_', '-')}", str(value)])
    ]


COMMANDS = {
    "sample": ["sample", "M"],
    "edit": ["edit", "M", "--image", "a.png", "--strength", "0.5"],
    "evaluate": ["evaluate", "M", "--data", "SHARDS"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", NAMES)
def test_an_option_reaches_the_method(command, name):
    given = GIVEN[name]
    args = build_parser().parse_args([*COMMANDS[command], *words(given)])
    check_drawing_options(args)
    assert parse_method(args) == given
    if name not in ("solver", "steps", "grid"):
        beside = {key: value for key, value in given.items() if key != name}
        pair = f"{name}={str(given[name]).lower()}"
        args = build_parser().parse_args([*COMMANDS[command], *words(beside), "--set", pair])
        assert parse_method(args) == given


def test_a_setting_that_is_given_twice_is_refused():
    args = build_parser().parse_args(["sample", "M", "--eta", "1", "--set", "eta=0"])
    with pytest.raises(ValueError, match="--eta and --set eta are both given"):
        parse_method(args)


@pytest.mark.parametrize("name", NAMES)
def test_a_keyword_argument_reaches_the_method(model, made, name):
    with pytest.raises(Stop):
        sampler.sample(lambda x, t: x, VP(), (1, 2), **GIVEN[name])
    with pytest.raises(Stop):
        model.sample(n=1, **GIVEN[name])
    assert [getattr(method, name) for method in made] == [GIVEN[name][name]] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_request_reaches_the_method(model, made, name):
    with pytest.raises(Stop):
        Served(model).predict(pd.DataFrame({"number": [0]}), GIVEN[name])
    assert getattr(made[0], name) == GIVEN[name][name]
    (declared,) = (each for each in make_signature(model.spec).params if each.name == name)
    kinds = {bool: "boolean", int: "long", float: "double", str: "string"}
    assert declared.dtype.name == kinds[type(GIVEN[name][name])]


@pytest.mark.parametrize("name", NAMES)
def test_a_space_and_a_description_take_it(name):
    given = GIVEN[name]
    pairs = [f"{key}={str(value).lower()}" for key, value in given.items()]
    assert parse_space(pairs) == {key: [value] for key, value in given.items()}
    spec = spec_with(generation=given)
    assert ModelSpec.parse(spec.dump()).generation[name] == given[name]


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_out_of_bounds_is_refused_everywhere(tmp_path, name):
    given = {**GIVEN[name], name: OUTSIDE[name]}
    with pytest.raises(ValueError, match=name):
        Method(**given)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: here, data: {path: shards}}")
    with pytest.raises(ValueError, match=name):
        loading.load_recipe(recipe, [f"sampling.{key}={value}" for key, value in given.items()])
    with pytest.raises(ValueError, match=name):
        check_settings(given)


def moved(walk, x, index, eta):
    """Move a fraction ``eta`` of the way to the predicted clean data."""
    step = x + eta * (walk.x0(x, index) - x)
    return step, step


def test_a_solver_is_accepted_everywhere_by_its_registration(tmp_path, monkeypatch, model, made, capsys):
    monkeypatch.setitem(SOLVERS, "straight", Kind(f"{__name__}:moved", settings=("eta",)))
    given = {"solver": "straight", "eta": 0.5}
    assert Method(**given).nfe == 20
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: here, data: {path: shards}, sampling: {solver: straight, eta: 0.5}}")
    assert loading.load_recipe(recipe).sampling.settings.items() >= given.items()
    monkeypatch.setattr(reference, "list_entries", reference.list_entries.__wrapped__)  # cached before
    assert " | straight or null" in reference.format_reference()
    assert "straight" in RunConfig.model_json_schema()["$defs"]["Sampling"]["properties"]["solver"]["anyOf"][0]["enum"]
    spec = spec_with(generation=given, default_solver="straight")
    assert ModelSpec.parse(spec.dump()) == spec
    args = build_parser().parse_args(["sample", "M", "--solver", "straight", "--eta", "0.5"])
    assert parse_method(args) == given
    with pytest.raises(SystemExit):
        build_parser().parse_args(["sample", "--help"])
    assert "straight" in capsys.readouterr().out
    assert parse_space(["solver=straight", "eta=0.5"]) == {"solver": ["straight"], "eta": [0.5]}
    with pytest.raises(Stop):
        Served(model).predict(pd.DataFrame({"number": [0]}), given)
    assert made[0].solver == "straight"
    with pytest.raises(ValueError, match="only solver=ddim or straight"):
        Method(solver="heun", eta=0.5)
    with pytest.raises(ValueError, match="did you mean straight"):
        Method(solver="strait")


def test_a_registered_solver_draws(monkeypatch):
    """Two steps on N(0, 1), whose predicted clean data is alpha x, match a calculation by hand."""
    monkeypatch.setitem(SOLVERS, "straight", Kind(f"{__name__}:moved", settings=("eta",)))
    sde, start = VP(), torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    drawn = sampler.sample(lambda x, t: -x, sde, (1, 2), start=start, times=times, solver="straight", eta=0.25)
    alpha = sde.alpha(times)
    expected = start * (1.0 + 0.25 * (alpha[0] - 1.0)) * (1.0 + 0.25 * (alpha[1] - 1.0))
    torch.testing.assert_close(drawn.x, expected)
    assert drawn.nfe == 2


def test_every_registered_place_exists():
    """Every registered import path exists; a wrong one would show only when drawing."""
    import importlib

    for name, kind in SOLVERS.items():
        module, _, attribute = kind.place.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute)), name
        assert set(kind.settings) <= set(NAMES)


def test_methods_are_known_without_torch():
    script = (
        "import sys; from raysde.sampling.method import Method; Method(solver='edm', churn=3.0); "
        "assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion", "edm"])
def test_rho_shapes_the_grid_that_the_sde_chooses(solver):
    """With EDM's default grid sigma_i^(1 / rho) is uniform (Karras et al. 2022, equation 5), without naming the grid."""
    sde = EDM()
    method = Method(solver=solver, steps=6, rho=5.0)
    high, low = (sde.sigma_max * t for t in (sde.ceiling, sde.sample_floor))
    roots = torch.linspace(high ** (1 / 5), low ** (1 / 5), len(method.times(sde)), dtype=torch.float64)
    torch.testing.assert_close(sde.sigma_max * method.times(sde), roots**5, rtol=1e-6, atol=0.0)
