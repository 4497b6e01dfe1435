"""User-written code in a recipe: the examples of docs/own-code.md, and messages for faulty code."""

import sys

import numpy as np
import pytest
import torch
import yaml

import raysde
from raysde.checkpoints import checkpoint
from raysde.config import loading, reference
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.runs.build import make_objective, make_schedule, new_state
from raysde.runs.local import train_here
from raysde.runs.run import check_run, open_run
from raysde.sde.parameterisation import TARGETS
from raysde.training.losses import Criterion, denoising_score_matching
from raysde.training.objective import microbatch_loss
from raysde.training.state import TrainState
from tests.support.paths import ROOT
from tests.support.training import same_tensors

CPU = torch.device("cpu")
PARTS = ("sde", "network", "text", "train.weighting", "train.optimizer", "train.decay")
IN_THE_MODEL = PARTS[:3]


def examples() -> dict[str, tuple[str, str, dict]]:
    """Return each example of the docs by key: module name, code and recipe keys."""
    found, name, code = {}, "", ""
    for block in (ROOT / "docs" / "own-code.md").read_text().split("```")[1::2]:
        language, _, text = block.partition("\n")
        if language == "python":
            name, code = text.split()[1].removesuffix(".py"), text
        else:
            tree = yaml.safe_load(text)
            keys = {f"train.{key}": value for key, value in tree.get("train", {}).items()} or tree
            found[next(iter(keys))] = (name, code, keys)
    return found


EXAMPLES = examples()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write modules into a folder on Python's path, and forget them afterwards."""
    monkeypatch.syspath_prepend(tmp_path / "code")
    (tmp_path / "code").mkdir()
    names = []

    def write(name, code):
        (tmp_path / "code" / f"{name}.py").write_text(code)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


class Stop:
    """A sink that interrupts a run after its third step, beyond the checkpoint of its second."""

    def metrics(self, step, values):
        if step == 3:
            raise KeyboardInterrupt

    def image(self, *_): ...


def tree_of(recipe, keys, **changes):
    tree = recipe(**{"train__length__steps": 5, "checkpoint_every": 2, **changes})
    for key, value in keys.items():
        loading.set_path(tree, key.split("."), value)
    return tree


def started(tree) -> TrainState:
    run = open_run(loading.parse_recipe(tree))
    check_run(run)
    return train_here(run, None)


def test_each_part_has_an_example():
    assert tuple(EXAMPLES) == PARTS
    explained = reference.list_meanings()
    for key in PARTS:
        assert "of your own" in explained[f"{key}.kind"]
        assert explained[f"{key}.factory"]
        assert explained[f"{key}.kwargs"]


@pytest.mark.parametrize("key", PARTS)
def test_an_example_trains_resumes_and_loads(recipe, written, tmp_path, key):
    """Five steps in one go and in two are bit-equal, and differ from those without the user's code."""
    name, code, keys = EXAMPLES[key]
    written(name, code)
    plain = train_here(open_run(loading.parse_recipe(tree_of(recipe, {}, storage=str(tmp_path / "plain")))), None)
    run = open_run(loading.parse_recipe(tree_of(recipe, keys, storage=str(tmp_path / "whole"))))
    check_run(run)
    whole = train_here(run, None)
    own = dict(whole.model.state_dict())
    assert not same_tensors(own, dict(plain.model.state_dict()))
    assert all(bool(value.isfinite().all()) for value in own.values())

    tree = tree_of(recipe, keys, storage=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        train_here(open_run(loading.parse_recipe(tree)), Stop())
    resumed = train_here(open_run(loading.parse_recipe(tree)), None)
    assert same_tensors(own, dict(resumed.model.state_dict()))
    assert same_tensors(whole.optimizer_tensors(), resumed.optimizer_tensors())
    assert same_tensors(whole.ema.state(), resumed.ema.state())

    folder = checkpoint.find_newest_checkpoint(tmp_path / "parts" / "small")
    sys.modules.pop(name)
    if key in IN_THE_MODEL:
        with pytest.raises(ValueError, match=rf"names code to import, '{name}:.*allow_code"):
            raysde.load(str(folder))
        assert name not in sys.modules
        model = raysde.load(str(folder), allow_code=True)
    else:
        model = raysde.load(str(folder))
        assert name not in sys.modules  # images need neither loss nor optimizer
    assert np.isfinite(model.sample(n=2, steps=3, prompts=["a 3", "a 4"], dtype=torch.float32).images.numpy()).all()


@pytest.mark.parametrize("key", PARTS)
def test_a_run_does_not_go_on_with_other_code(recipe, written, key):
    name, code, keys = EXAMPLES[key]
    written(name, code)
    train_here(open_run(loading.parse_recipe(tree_of(recipe, keys, train__length__steps=2))), None)
    other = {**keys, key: {**keys[key], "kwargs": {**keys[key]["kwargs"], "more": 1}}}
    written(name, code.replace("):\n", ", more=0):\n", 1) if "def __init__" in code else code)
    sys.modules.pop(name, None)
    from raysde.checkpoints.description import read_description
    from raysde.runs.run import check_resumable

    folder = checkpoint.find_newest_checkpoint(recipe()["storage"] + "/small")
    if key == "sde":  # the class takes no further field, so change the value of its own
        other = {**keys, key: {**keys[key], "kwargs": {"ceiling": 0.98}}}
    with pytest.raises(ValueError, match=rf"has {key}\.kwargs\."):
        check_resumable(open_run(loading.parse_recipe(tree_of(recipe, other))), read_description(folder))
    with pytest.raises(ValueError, match=key.removesuffix(".kind").replace(".", r"\.")):
        check_resumable(open_run(loading.parse_recipe(tree_of(recipe, {}))), read_description(folder))


def test_the_process_is_the_one_of_its_closed_form(written):
    """The process has alpha^2 + sigma^2 = 1 and g^2 = d sigma^2 / dt - 2 f sigma^2, and time_at inverts log_snr."""
    name, code, keys = EXAMPLES["sde"]
    written(name, code)
    from raysde.models.external_sde import ExternalSDE

    sde = ExternalSDE(**keys["sde"]).build()
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sde.alpha2(t) + sde.sigma2(t), torch.ones_like(t))
    rate = torch.autograd.grad(sde.log_alpha(t).sum(), t)[0]
    torch.testing.assert_close(sde.drift_rate(t), rate)
    growth = torch.autograd.grad(sde.sigma2(t).sum(), t)[0]
    torch.testing.assert_close(sde.diffusion2(t), growth - 2.0 * rate * sde.sigma2(t))
    torch.testing.assert_close(sde.time_at(sde.log_snr(t)), t)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", ["mean", "half_sum"])
def test_a_loss_is_of_the_noise_whatever_the_network_predicts(target, reduction):
    """A squared loss equals the weighting sigma2, and exp(-log_snr) times it the weighting x0, for every target."""
    sde, g = raysde.VP(), torch.Generator().manual_seed(0)
    x0, eps, output = (torch.randn(6, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    for weighting, own in (
        ("sigma2", lambda error, log_snr: error.square()),
        ("x0", lambda error, log_snr: torch.exp(-log_snr) * error.square()),
    ):
        expected, found = (
            denoising_score_matching(output, x0, eps, t, sde, target, Criterion(reduction=reduction, **changes))
            for changes in ({"weighting": weighting}, {"own": own})
        )
        torch.testing.assert_close(found, expected)


def test_a_loss_of_another_shape_is_named():
    x = torch.zeros(2, 1, 4, 4)
    loss = Criterion(own=lambda error, log_snr: error.mean())
    with pytest.raises(
        ValueError, match=r"train\.weighting: .*<lambda> gave values of shape \[\], expected \[2, 1, 4, 4\]"
    ):
        denoising_score_matching(x, x, x, torch.full((2,), 0.5), raysde.VP(), "noise", loss)


def test_a_huber_loss_reaches_the_loop(recipe, written):
    """A Huber loss follows its formula on the errors of the same batch."""
    name, code, keys = EXAMPLES["train.weighting"]
    written(name, code)
    tree = tree_of(recipe, {**keys, "target": "noise"})
    run = open_run(loading.parse_recipe(tree))
    state, task = new_state(run, CPU), make_objective(run)
    batch = next(read_batches(run.feed, Reader(run.manifest), 0, 1))[0]
    seen = {}

    def forward(x_t, t, condition):
        seen.update(x=x_t, t=t)
        return state.model(x_t, t, condition)

    loss = microbatch_loss(forward, state.model, batch, task, CPU)
    alpha, sigma = (value[:, None, None, None] for value in run.spec.process.marginal(seen["t"].double()))
    eps = (seen["x"].double() - alpha * (batch.images.double() / 127.5 - 1.0)) / sigma
    expected = 0.25 * (torch.sqrt(1.0 + (eps / 0.5) ** 2) - 1.0)  # a fresh network predicts no noise
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-3)


@pytest.mark.parametrize(("reduction", "share"), [("mean", 1.0), ("half_sum", 0.5 * 64)])
def test_a_loss_of_ones_own_is_reduced_as_the_recipe_says(recipe, written, reduction, share):
    """The reduction is half the sum over an image's 64 values, or their mean."""
    name, code, keys = EXAMPLES["train.weighting"]
    written(name, code)
    task = make_objective(open_run(loading.parse_recipe(tree_of(recipe, {**keys, "train.reduction": reduction}))))
    x = torch.linspace(-1.0, 1.0, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    given = (torch.zeros_like(x), x, x, torch.full((1,), 0.5, dtype=torch.float64), raysde.VP(), "noise")
    loss = denoising_score_matching(*given, task.criterion)
    assert loss.item() == pytest.approx(
        share * denoising_score_matching(*given, Criterion(own=task.criterion.own)).item()
    )


def test_a_schedule_follows_the_warm_up(recipe, written, sink):
    name, code, keys = EXAMPLES["train.decay"]
    written(name, code)
    train_here(open_run(loading.parse_recipe(tree_of(recipe, keys))), sink)
    rates = [1e-3 * min(1.0, (step + 1) / 3) * max(1.0, step / 2) ** -0.5 for step in range(5)]
    assert list(sink.of("train/lr").values()) == pytest.approx(rates, rel=1e-12)


COUNTING = """
import torch

class Counting(torch.optim.SGD):
    '''Keeps what optimizers of others keep: plain numbers for each parameter and in its groups.'''

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["weight_decay"] = 0.01 * group["k"]
            for p in group["params"]:
                state = self.state[p]
                state["count"], state["sum"] = state.get("count", 0) + 1, state.get("sum", 0.0) + 0.1
                state["nothing"] = None
                p.grad.mul_(1.0 + 0.1 * state["count"] + state["sum"])
        super().step()

class Listing(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        self.state[self.param_groups[0]["params"][0]]["seen"] = [1]
"""


@pytest.mark.parametrize(
    "optimizer",
    [
        {"factory": "counting:Counting", "kwargs": {"momentum": 0.5}},
        {"factory": "torch.optim:RAdam"},
        {"factory": "torch.optim:Adafactor"},
    ],
    ids=lambda each: each["factory"],
)
def test_what_an_optimizer_keeps_is_resumed(recipe, written, tmp_path, optimizer):
    written("counting", COUNTING)
    keys = {"train.optimizer": {"kind": "external", **optimizer}}
    whole = train_here(open_run(loading.parse_recipe(tree_of(recipe, keys, storage=str(tmp_path / "whole")))), None)
    tree = tree_of(recipe, keys, storage=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        train_here(open_run(loading.parse_recipe(tree)), Stop())
    resumed = train_here(open_run(loading.parse_recipe(tree)), None)
    assert same_tensors(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    assert whole.group_numbers() == resumed.group_numbers()
    for one, other in zip(whole.trained.values(), resumed.trained.values(), strict=True):
        mine, again = ({**state.optimizer.state[p]} for state, p in ((whole, one), (resumed, other)))
        mine.pop("nothing", None), again.pop("nothing", None)
        assert {name: type(value) for name, value in mine.items()} == {name: type(v) for name, v in again.items()}


def test_state_that_no_checkpoint_keeps_is_named(recipe, written):
    written("counting", COUNTING)
    keys = {"train.optimizer": {"kind": "external", "factory": "counting:Listing"}}
    with pytest.raises(ValueError, match=r"train\.optimizer: its state 'seen' is a list"):
        train_here(open_run(loading.parse_recipe(tree_of(recipe, keys))), None)


def test_an_optimizer_is_given_the_recipes_settings(recipe):
    keys = {"train.optimizer": {"kind": "external", "factory": "torch.optim:SGD"}, "train.weight_decay": 0.25}
    run = open_run(loading.parse_recipe(tree_of(recipe, {**keys, "train.text_lr": 5e-4})))
    state: TrainState = new_state(run, CPU)
    assert [(group["lr"], group["weight_decay"]) for group in state.optimizer.param_groups] == [(1e-3, 0.25)] * 2
    assert [group.get("ratio") for group in state.optimizer.param_groups] == [None, 0.5]


BAD_TEXT = """
from torch import nn
import torch

class Bare(nn.Module):
    width = 8
    def tokenize(self, captions): return torch.ones(len(captions), 2), torch.ones(len(captions), 2)
    def forward(self, ids, mask): ...

class Short(Bare):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(2, 8)

class Empty(Short):
    def tokenize(self, captions):
        mask = torch.tensor([[bool(caption)] * 2 for caption in captions])
        return mask.long(), mask
"""


@pytest.mark.parametrize(
    ("keys", "culprit"),
    [
        ({"sde": {"factory": "builtins:object"}}, "sde.factory 'builtins:object' (cannot be called|made a object)"),
        ({"sde": {"factory": "fractions:Fraction"}}, "sde.factory .* made a Fraction, not a raysde.sde.SDE"),
        ({"sde": {"factory": "raysde.sde:VP", "kwargs": {"beta": 1}}}, "sde.factory .*these kwargs: .*'beta'"),
        ({"sde": {"factory": "raysde.sde:Flow"}, "sampling.solver": "pc"}, "langevin is undefined on Flow"),
        ({"text": {"factory": "fractions:Fraction"}}, "text.factory .* made a Fraction, not an nn.Module"),
        ({"text": {"factory": "torch.nn:Identity"}}, "text.factory .* made a Identity without a whole number width"),
        ({"text": {"factory": "bad_text:Bare"}}, "text.factory .* made a Bare without parameters"),
        ({"text": {"factory": "bad_text:Short"}}, r"tokenize must return ids and a bool mask of shape \[16, tokens\]"),
        ({"text": {"factory": "bad_text:Empty"}}, "returns no token for a caption"),
        ({"train.weighting": {"factory": "fractions:Fraction"}}, "train.weighting.factory .* which cannot be called"),
        ({"train.decay": {"factory": "no.such:thing"}}, "train.decay.factory .* cannot be imported"),
        ({"train.optimizer": {"factory": "fractions:Fraction"}}, "made a Fraction, not a torch.optim.Optimizer"),
        ({"train.optimizer": {"factory": "torch.optim:SGD", "kwargs": {"lr": 1}}}, "these kwargs: .*'lr'"),
        ({"train.optimizer": {"factory": "torch.optim:SGD"}, "train.betas": [0.8, 0.9]}, "betas are AdamW's"),
        ({"train.optimizer": {"factory": "torch.optim"}}, r"^train\.optimizer: .*package\.module:Class"),
        (
            {"train.optimizer": {"factory": "a:b", "kind": "extern"}},
            r"^train\.optimizer\.kind: .*did you mean external",
        ),
        ({"train.optimizer": {}}, r"^key 'train\.optimizer\.factory' is required"),
        ({"train.decay": {"factory": "a:b", "kwarg": {}}}, r"^unknown key 'train\.decay\.kwarg'; did you mean"),
    ],
)
def test_mistakes_are_named(recipe, written, keys, culprit):
    written("bad_text", BAD_TEXT)
    given = {key: {"kind": "external", **value} if isinstance(value, dict) else value for key, value in keys.items()}
    with pytest.raises(ValueError, match=culprit) as caught:
        started(tree_of(recipe, given))
    assert "\n" not in str(caught.value)


FAULTY = """
import torch
from torch import nn

def broken():
    raise RuntimeError("of no\\nuse")

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x, *rest):
        return self.factor * x.mean(dim=(1, 2, 3))

class Listing(Flat):
    def forward(self, x, *rest):
        return [self.factor * x]

class Raising(Flat):
    def forward(self, x, *rest):
        return (self.factor * x) @ torch.zeros(7, 3)

def loss(of):
    return {"scalar": lambda error, log_snr: error.square().mean(), "number": lambda error, log_snr: 1.0,
            "raising": lambda error, log_snr: error.nothing}[of]

def decay(value):
    return lambda progress, updates: float(value) if value == "nan" else value

def raising():
    return lambda progress, updates: 1 / updates

class Stepping(torch.optim.SGD):
    def step(self):
        raise KeyError("momentum")

class Letters(nn.Embedding):
    width = 16
    def __init__(self, of):
        super().__init__(256, 16)
        self.of = of
    def tokenize(self, captions):
        assert self.of != "tokens", "no tokens"
        ids = torch.ones(len(captions), 2, dtype=torch.int64)
        return ids, ids > 0
    def forward(self, ids, mask):
        return {"raising": lambda: 1 / 0, "mean": lambda: super(Letters, self).forward(ids).mean(dim=1)}[self.of]()
"""


@pytest.mark.parametrize(
    ("key", "factory", "kwargs", "culprit"),
    [
        (key, "broken", {}, rf"^{key}\.factory 'faulty:broken' raised RuntimeError: of no use at .*faulty\.py:6$")
        for key in PARTS
    ]
    + [
        ("network", "Flat", {}, r"^network faulty\.Flat gave values of shape \[16\], expected \[16, 1, 8, 8\]$"),
        ("network", "Listing", {}, r"^network faulty\.Listing gave a list, expected a tensor of shape \[16, 1, 8, 8\]$"),
        ("network", "Raising", {}, r"^network\.factory 'faulty:Raising' raised RuntimeError: .* at .*faulty\.py:22$"),
        ("train.weighting", "loss", {"of": "scalar"}, r"faulty\.loss\S* gave values of shape \[\], expected \[16, 1, 8, 8"),
        ("train.weighting", "loss", {"of": "number"}, r"faulty\.loss\S* gave a float, expected a tensor of shape"),
        ("train.weighting", "loss", {"of": "raising"}, r"'faulty:loss' raised AttributeError: .* at .*faulty\.py:26$"),
        ("train.decay", "decay", {"value": "abc"}, r"'faulty:decay' gave 'abc' at progress 0 after 0 updates, expected a f"),
        ("train.decay", "decay", {"value": "0.5"}, r"'faulty:decay' gave '0\.5' .*expected a finite number"),
        ("train.decay", "decay", {"value": "nan"}, r"'faulty:decay' gave nan .*expected a finite number"),
        ("train.decay", "decay", {"value": None}, r"'faulty:decay' gave None .*expected a finite number"),
        ("train.decay", "raising", {}, r"^train\.decay\.factory 'faulty:raising' raised ZeroDivisionError: .*:32$"),
        ("train.optimizer", "Stepping", {}, r"'faulty:Stepping' raised KeyError: 'momentum' at .*faulty\.py:36$"),
        ("text", "Letters", {"of": "tokens"}, r"^text\.factory 'faulty:Letters' raised AssertionError: no tokens at .*:44$"),
        ("text", "Letters", {"of": "raising"}, r"^text\.factory 'faulty:Letters' raised ZeroDivisionError: .*:48$"),
        ("text", "Letters", {"of": "mean"}, r"^text\.factory .*faulty\.Letters gave values of shape \[16, 16\], expected \["),
    ],
)  # fmt: skip
def test_what_the_users_code_does_wrong_is_named_with_its_place(recipe, written, key, factory, kwargs, culprit):
    """A fault gives one line that names the code; in Python the original exception is the cause."""
    written("faulty", FAULTY)
    keys = {key: {"kind": "external", "factory": f"faulty:{factory}", "kwargs": kwargs}}
    tree = tree_of(recipe, {} if key == "text" else {"text": None, **keys}) | (keys if key == "text" else {})
    with pytest.raises(ValueError, match=culprit) as caught:
        started(tree)
    assert "\n" not in str(caught.value)
    assert (caught.value.__cause__ is None) == (" raised " not in culprit)


def test_an_optimizer_that_needs_a_closure_is_named(recipe):
    keys = {"train.optimizer": {"kind": "external", "factory": "torch.optim:LBFGS"}}
    with pytest.raises(
        ValueError, match=r"^train\.optimizer\.factory 'torch\.optim:LBFGS' made a LBFGS whose .*'closure'"
    ):
        started(tree_of(recipe, keys))


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ("return torch.log(torch.cos(0.5 * math.pi * t))", "return torch.log(torch.cos(0.5 * math.pi * t))[None]"),
        ("return torch.sin(0.5 * math.pi * t).square()", "return 1.0"),
        ("return -0.5 * math.pi * torch.tan(0.5 * math.pi * t)", "return t.nothing"),
    ],
)
def test_a_process_whose_quantities_are_wrong_is_named(recipe, written, changes, culprit):
    name, code, keys = EXAMPLES["sde"]
    assert changes in code
    written(name, code.replace(changes, culprit))
    said = "gave values of shape|gave a float|raised AttributeError: .*my_sde.py:"
    with pytest.raises(ValueError, match=rf"^sde\.factory 'my_sde:Trigonometric'.*({said})"):
        started(tree_of(recipe, keys))


def test_a_machine_that_fails_is_not_the_users_mistake(recipe, written):
    """Exhausted memory and a connection lost by another worker are no fault of the code and allow a retry."""
    code = (
        "import torch\n"
        + FAULTY.replace("1 / 0", "self.fails()")
        + ("    def fails(self):\n        raise torch.OutOfMemoryError('full')\n")
    )
    written("faulty", code)
    keys = {"text": {"kind": "external", "factory": "faulty:Letters", "kwargs": {"of": "raising"}}}
    with pytest.raises(torch.OutOfMemoryError, match=r"^full$"):
        started(tree_of(recipe, keys))


@pytest.mark.parametrize("name", ["weighting", "optimizer", "decay"])
def test_a_misspelt_name_leads_to_ours(recipe, name):
    said = {"weighting": "sigma", "optimizer": "adam", "decay": "cosin"}[name]
    with pytest.raises(ValueError, match=rf"^train\.{name}: .*did you mean {said}"):
        loading.parse_recipe(recipe(**{f"train__{name}": said}))


def test_a_recipe_is_read_without_its_code(recipe, written):
    """`raysde config RECIPE` and a checkpoint's description name code without running it."""
    written("fatal", "raise SystemExit")
    keys = {key: {"kind": "external", "factory": "fatal:x"} for key in PARTS}
    found = loading.parse_recipe(tree_of(recipe, keys))
    assert loading.parse_recipe(found.model_dump(mode="json")) == found
    assert "fatal" not in sys.modules


def test_the_schedule_of_a_recipe_is_the_loops(recipe, written):
    name, code, keys = EXAMPLES["train.decay"]
    written(name, code)
    assert make_schedule(open_run(loading.parse_recipe(tree_of(recipe, keys)))).decay(0.5, 8) == 0.5
