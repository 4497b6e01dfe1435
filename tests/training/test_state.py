"""The training state: each of its fields survives a checkpoint, also fields added later."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.runs.build import new_state
from raysde.runs.run import open_run
from raysde.training.bad_steps import BadSteps
from raysde.training.beside import Measurement, OpenMeasurements
from raysde.training.state import TrainState
from tests.support.training import same_tensors, stirred

CPU = torch.device("cpu")
TENSORS = {"model", "ema", "optimizer", "scaler", "profiles"}
"""Fields that hold tensors or a state of their own; all others are counters."""
VALUES = {
    "step": 7,
    "num_images": 112,
    "updates": 5,
    "rows_digest": "abc",
    "pending": [(0.25, 1.5, 1e-3), (0.125, float("inf"), 2e-3)],
    "best": 0.375,
    "stale": 3,
    "stopped": True,
    "measured": (7, {"val/loss": 0.5, "val/kid": None}),
    "bad": BadSteps(skipped=2, rollbacks=1, left_out=[(3, 5), (9, 10)], losses=[0.1, 0.7], base=4),
    "beside": OpenMeasurements(
        {5: Measurement(80), 7: Measurement(112, {"val/kid": None})}, {3: Measurement(48, {"val/kid": 0.5})}
    ),
}


def moved(state: TrainState) -> TrainState:
    """Change every field from its initial value, with all tensors different from each other."""
    g = torch.Generator().manual_seed(1)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=g)

    with torch.no_grad():
        for average in (state.ema, *state.profiles):
            for value in average.average.values():
                value.copy_(noise(value))
    for parameter in state.trained.values():
        parameter.grad = noise(parameter)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 8.0, "_growth_tracker": 17})
    for name, value in VALUES.items():
        setattr(state, name, value)
    return state


def contents(state: TrainState) -> dict:
    return {
        "model": {name: value.clone() for name, value in state.model.state_dict().items()},
        "ema": {name: value.clone() for name, value in state.ema.state().items()},
        "optimizer": {name: value.clone() for name, value in state.optimizer_tensors().items()},
        "profiles": {name: value.clone() for name, value in state.profile_tensors().items()},
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in VALUES},
    }


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_field_survives_a_checkpoint(recipe, tmp_path, optimizer):
    """Every field of the class survives, so that a new field which is not saved fails here."""
    network = {"network__channels": 32, "network__multipliers": [1, 1]} if optimizer == "muon" else {}
    settings = {"train__precision": "fp16", "train__ema__profiles": [0.05, 0.1], "train__text_lr": 1e-4}
    run = open_run(loading.parse_recipe(recipe(**settings, **network, train__optimizer=optimizer)))
    fields = {field.name for field in dataclasses.fields(TrainState)}
    assert fields == TENSORS | VALUES.keys()
    state, fresh = moved(stirred(run)), new_state(run, CPU)
    for name, value in VALUES.items():
        assert getattr(fresh, name) != value, name
    wanted = contents(state)
    checkpoint.write_checkpoint(tmp_path / "step_7", state, run.spec, {}, {})
    for name, value in contents(state).items():  # saving changes nothing
        assert same_tensors(value, wanted[name]) if name in TENSORS - {"scaler"} else value == wanted[name], name
    found = checkpoint.restore_state(fresh, tmp_path / "step_7")
    assert found.step == 7
    for name, value in contents(fresh).items():
        if name in TENSORS - {"scaler"}:
            assert value, name
            assert same_tensors(value, wanted[name]), name
        else:
            assert value == wanted[name], name
    assert all(parameter.requires_grad for parameter in fresh.trained.values())


def test_no_two_counters_are_kept_in_one_place(recipe):
    """Each counter alone changes the saved values."""
    state = new_state(open_run(loading.parse_recipe(recipe(train__precision="fp16"))), CPU)
    before = json.dumps(state.values())
    for name, value in VALUES.items():
        kept = getattr(state, name)
        # metrics are written at the step that they were measured at
        setattr(state, name, (state.step, value[1]) if name == "measured" else value)
        assert json.dumps(state.values()) != before, name
        setattr(state, name, kept)
    assert json.dumps(state.values()) == before


def test_a_state_without_a_validation_has_none(recipe):
    """JSON has no infinity: without a validation ``best`` is written as null and read as infinity."""
    state = new_state(open_run(loading.parse_recipe(recipe())), CPU)
    values = json.loads(json.dumps(state.values(), allow_nan=False))
    state.best = 0.0
    state.load_values(values)
    assert state.best == float("inf")


def test_the_digest_tells_rows_their_order_and_their_cuts(recipe):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])

    def digest(*parts: list[int]) -> str:
        state = TrainState(None, None, optimizer, None)
        for part in parts:
            state.note_rows(np.array(part))
        return state.rows_digest

    found = [
        digest([1, 2, 3]),
        digest([1, 3, 2]),
        digest([1, 2]),
        digest([1, 2], [3]),
        digest([4, 2], [3]),
        digest([3]),
        digest(),
    ]
    assert len(set(found)) == len(found)
    state = TrainState(None, None, optimizer, None)
    state.note_rows(np.array([1, 2, 3], dtype=np.int32))
    assert state.rows_digest == found[0]


def test_an_average_of_another_model_is_refused(recipe):
    state = new_state(open_run(loading.parse_recipe(recipe())), CPU)
    tensors = dict(state.ema.state())
    tensors["strange"] = tensors.pop(next(iter(tensors)))
    with pytest.raises(ValueError, match="do not fit"):
        state.ema.load(tensors)
