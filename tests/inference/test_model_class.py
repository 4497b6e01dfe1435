"""The methods of the model class are functions that take any score model with its description."""

import inspect
from dataclasses import dataclass
from typing import get_type_hints

import torch

from raysde.inference import edit, flow, sample
from raysde.inference.model import Model
from raysde.inference.sample import Drawing
from raysde.models.spec import fresh_model
from raysde.sampling.method import SETTINGS, Settings
from tests.support.models import spec_with


def test_there_is_one_class():
    assert Model.__mro__ == (Model, object)
    assert [name for name in vars(Model) if not name.startswith("_") and inspect.isfunction(vars(Model)[name])] == [
        "to", "pixels", "floats", "frames", "need_pixels", "sample", "sample_path", "drawn", "conditioned", "guidance",
        "inpaint", "colorise", "upscale", "edit", "interpolate_prompts", "log_prob", "bits_per_dim", "encode",
        "encode_counted", "decode", "decode_counted", "interpolate",
    ]  # fmt: skip
    for name, found in inspect.getmembers(Model, inspect.isfunction):
        assert name.startswith("_") or inspect.getdoc(found), name


def test_keyword_arguments_of_drawing_are_those_of_sample():
    """The typed keyword arguments are exactly the parameters of ``sample`` or of another method."""
    own = [name for name in get_type_hints(Drawing) if name not in SETTINGS]
    taken = [name for name in inspect.signature(Model.sample).parameters if name not in ("model", "settings")]
    assert set(own) == set(taken) - {"n", "size", "start", "times", "condition_images"}
    assert set(get_type_hints(Settings)) == set(SETTINGS)


def test_functions_take_any_score_model_with_its_description():
    """A user's own object with a score model and spec gives the same bits as the class."""

    @dataclass(frozen=True)
    class Own:
        score_model: object
        spec: object

    spec = spec_with(default_solver="unipc")
    model = Model(fresh_model(spec, [], seed=0), spec)
    own = Own(model.score_model, spec)
    drawn = model.sample(n=2, seed=3, steps=3)
    assert torch.equal(sample.sample(own, n=2, seed=3, steps=3).images, drawn.images)
    assert torch.equal(edit.edit(own, drawn.images, 0.5, steps=4).images, model.edit(drawn.images, 0.5, steps=4).images)
    loose = {"rtol": 1e-2, "atol": 1e-2}
    assert torch.equal(flow.encode(own, drawn.images, **loose), model.encode(drawn.images, **loose))
