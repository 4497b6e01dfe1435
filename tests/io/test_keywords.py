"""Misspelt keyword arguments of sampling functions: the message names the function that was called."""

import pytest
import torch

import raysde
from raysde.inference.model import Model
from raysde.models.spec import fresh_model
from raysde.sampling.inverse.operators import Mask
from tests.support.models import spec_with

VP, X = raysde.VP(), torch.zeros(1, 1, 8, 8)
FUNCTIONS = {
    "sample": lambda **given: raysde.sample(lambda x, t: -x, VP, (1, 2), **given),
    "sample_path": lambda **given: raysde.sample_path(lambda x, t: -x, VP, (1, 2), 2, **given),
    "edit": lambda **given: raysde.edit(lambda x, t: -x, VP, X, Mask(X[0, 0] == 0.0), **given),
    "sdedit": lambda **given: raysde.sdedit(lambda x, t: -x, VP, X, 0.5, **given),
}
METHODS = {
    "sample": (),
    "sample_path": (2,),
    "inpaint": (X, X[0, 0] == 0.0),
    "colorise": (X,),
    "upscale": (X, 2),
    "edit": (X, 0.5),
    "interpolate_prompts": ("a", "b", [0.5]),
    "encode": (X,),
    "decode_counted": (X,),
    "interpolate": (X, X, [0.5]),
}


@pytest.fixture(scope="module")
def model() -> Model:
    spec = spec_with()
    return Model(fresh_model(spec, [], 0), spec)


def expected(name: str, given: str, near: str) -> str:
    return rf"^{name}\(\) got an unexpected keyword argument '{given}'; did you mean {near}\?$"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("given", "near"), [("stpes", "steps"), ("slover", "solver"), ("generater", "generator")])
def test_a_function_of_the_mathematics_names_itself(name, given, near):
    with pytest.raises(TypeError, match=expected(name, given, near)):
        FUNCTIONS[name](**{given: None})


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_a_model_names_itself(model, name):
    given, near = ("rtoll", "rtol") if name in ("encode", "decode_counted", "interpolate") else ("guidence", "guidance")
    with pytest.raises(TypeError, match=expected(name, given, near)):
        getattr(model, name)(*METHODS[name], **{given: 2.0})


def test_a_name_like_none_is_refused_without_a_guess():
    with pytest.raises(TypeError, match=r"^sample\(\) got an unexpected keyword argument 'colour'$"):
        FUNCTIONS["sample"](colour=1)
