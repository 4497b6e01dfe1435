"""Combinations of sampler settings, and the cost of each."""

import pytest

from raysde.inference.model import Model
from raysde.sde import EDM, VE, VP, Flow
from raysde.tuning.sampler.space import count_evaluations, default_space, list_candidates, parse_space
from tests.support.models import caption_spec, filled_model


def listed(pairs, own=None, sde=None, conditional=True):
    found = list_candidates(parse_space(pairs), own or {}, sde or VP(), conditional=conditional)
    return [str(each) for each in found]


def test_every_combination_is_tried_once():
    assert listed(["solver=unipc,heun", "steps=5,10"]) == [
        "solver=unipc steps=5", "solver=unipc steps=10", "solver=heun steps=5", "solver=heun steps=10",
    ]  # fmt: skip
    # churn needs the solver edm, and an interval needs guidance
    assert listed(["solver=heun,edm", "steps=5", "churn=0,40"]) == [
        "solver=heun steps=5", "solver=edm steps=5 churn=0", "solver=edm steps=5 churn=40",
    ]  # fmt: skip
    assert listed(["steps=5", "guidance=1,2", "guidance_interval=none,0.2:5"]) == [
        "solver=unipc steps=5 guidance=1", "solver=unipc steps=5 guidance=2",
        "solver=unipc steps=5 guidance=2 guidance_interval=0.2:5",
    ]  # fmt: skip
    assert listed(["ema_std=none,0.1", "steps=5"]) == ["solver=unipc steps=5", "ema_std=0.1 solver=unipc steps=5"]
    assert listed(["steps=5,5", "denoise=true"]) == ["solver=unipc steps=5 denoise=true"]
    assert listed(["solver=pc,heun", "steps=50", "target_snr=0.08,0.16"], sde=VE()) == [
        "solver=pc steps=50 target_snr=0.08", "solver=pc steps=50 target_snr=0.16", "solver=heun steps=50",
    ]  # fmt: skip
    assert listed(["corrector=none,langevin", "steps=9"]) == [
        "solver=unipc steps=9 corrector=none", "solver=heun steps=9 corrector=langevin",
    ]  # fmt: skip
    # a model that is older than the current default
    found = list_candidates(
        parse_space(["steps=5", "order=1,2"]), {"solver": "unipc"}, VP(), conditional=False, usual="heun"
    )
    assert [str(each) for each in found] == ["solver=unipc steps=5 order=1", "solver=unipc steps=5 order=2"]
    found = list_candidates(parse_space(["steps=5"]), {}, VP(), conditional=False, usual="heun")
    assert [str(each) for each in found] == ["solver=heun steps=5"]


def test_the_models_own_settings_count_where_nothing_is_said():
    own = {"solver": "edm", "steps": 18, "churn": 20.0, "guidance": 2.0}
    assert listed(["churn=0,20"], own) == [
        "solver=edm steps=18 churn=0 guidance=2", "solver=edm steps=18 churn=20 guidance=2",
    ]  # fmt: skip
    assert listed(["solver=unipc", "steps=5"], own) == ["solver=unipc steps=5 guidance=2"]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["steps"], "must read key=value"),
        (["step=5"], "step is not a setting; the settings are ema_std, solver"),
        (["steps=5", "steps=6"], "steps is given twice"),
        (["steps=ten"], "^steps must be a whole number"),
        (["steps=0"], "steps must be at least 1"),
        (["solver=magic"], "^solver must be one of"),
        (["ema_std=0.5"], "between 0 and 0.28"),
        (["ema_std=long"], "ema_std must be a number or none"),
        (["guidance_interval=5:0.2", "guidance=2"], "0 <= low < high"),
        (["guidance_interval=5", "guidance=2"], "guidance_interval: "),
        (["churn=0,40", "solver=heun"], "churn has no effect here: only solver=edm"),
        (["target_snr=0.1"], "target_snr has no effect here: only correctors"),
        (["guidance_interval=0.2:5"], "guidance_interval has no effect here: it needs a guidance other than 1"),
        (["rho=5,7", "solver=unipc"], "rho has no effect here: only grid=edm"),
        (["eta=0,1", "solver=unipc"], "eta has no effect here: only solver=ddim"),
        (["solver=unipc", "corrector=langevin"], "corrector langevin cannot follow unipc"),
        (["solver=rk45"], "solver rk45 chooses its own steps"),
    ],
)
def test_a_space_with_what_cannot_be_is_refused(pairs, said):
    with pytest.raises(ValueError, match=said):
        listed(pairs)


def test_a_space_that_the_model_cannot_take_is_refused():
    with pytest.raises(ValueError, match=r"guidance=2\.0 needs a model with captions or labels"):
        listed(["guidance=1,2"], conditional=False)
    with pytest.raises(ValueError, match="undefined on Flow"):
        listed(["corrector=langevin"], sde=Flow())
    assert "guidance" not in default_space(conditional=False)
    assert len(list_candidates(default_space(conditional=True), {}, VP(), conditional=True)) == 36


@pytest.mark.parametrize(
    ("drawing", "wanted"),
    [
        ({"solver": "unipc", "steps": 10}, 10),
        ({"solver": "heun", "steps": 10}, 20),
        ({"solver": "heun", "steps": 10, "guidance": 2.0}, 40),
        ({"solver": "pc", "steps": 10}, 19),
        ({"solver": "unipc", "steps": 10, "guidance": 1.0, "guidance_interval": (0.1, 1.0)}, 10),
        ({"solver": "unipc", "steps": 10, "denoise": True}, 11),
    ],
)
def test_evaluations_count_guidance_twice(drawing, wanted):
    assert count_evaluations(drawing, VP()) == wanted


@pytest.mark.parametrize("sde", [VP(), EDM()])
def test_guidance_costs_where_it_is_and_as_the_sampler_pays(sde):
    """The cost equals the number of rows that the network sees, up to Heun's second evaluation one step further."""
    drawing = {"solver": "unipc", "steps": 20, "guidance": 2.0, "guidance_interval": (0.2, 5.0)}
    model, rows = counted(sde)
    model.sample(labels=[3], seed=0, **drawing)
    assert 20 < sum(rows) < 40
    assert count_evaluations(drawing, sde) == sum(rows)


def counted(sde):
    spec = {"text": None, "classes": 10, "sde": sde}
    model, rows = filled_model(**spec), []
    model.network.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    return Model(model, caption_spec(**spec)), rows
