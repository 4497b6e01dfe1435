"""Guidance compared with closed forms for two Gaussians with labels and two guide models, and tests with captions."""

import dataclasses
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import norm

from raysde.conditioning.conditioner import Conditioner, Encoded
from raysde.inference.guidance import (
    Autoguided,
    Conditioned,
    Guidance,
    Guided,
    TwiceGuided,
    guided_rows,
)
from raysde.inference.model import Model
from raysde.models.score import ScoreModel
from raysde.sampling.likelihood import log_prob
from raysde.sampling.sampler import sample
from raysde.sde import VE, VP
from raysde.sde.parameterisation import Preconditioning
from tests.support.models import CAPTIONS, caption_spec, filled_model
from tests.support.oracles import SDES, exact_flow, gaussian_score

APART, WIDTH = 0.8, 0.4


class TwoGaussians(torch.nn.Module):
    """A network with the exact noise of N(-0.8, 0.4^2) for class 0, N(0.8, 0.4^2) for class 1 and their even mixture."""

    def __init__(self, sde) -> None:
        super().__init__()
        self.sde, self.asked, self.weight = sde, [], torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t, pooled, context, mask):
        self.asked.append(len(x))
        alpha, sigma = (value[:, None] for value in self.sde.marginal(t))
        spread = (alpha * WIDTH) ** 2 + sigma**2
        left, right, either = pooled[:, :, None].unbind(1)
        place = APART * (right - left + either * torch.tanh(alpha * APART * x / spread))
        return self.weight * sigma * (x - alpha * place) / spread


def labelled(sde) -> ScoreModel:
    """Return a score model of labels 0, 1 and none, whose vectors are one-hot."""
    conditioner = Conditioner(None, None, classes=2, class_width=3)
    conditioner.class_embedding.weight.data = torch.eye(3)
    return ScoreModel(
        TwoGaussians(sde), conditioner, sde, "noise", 0.5, Preconditioning(time="t", input="none")
    ).double()


def guided(sde, labels, scale, interval=None) -> Guided | Conditioned:
    encode = lambda conditioner: conditioner.encode(None, labels, len(labels))  # noqa: E731
    return Guidance(scale=scale, interval=interval).score(labelled(sde), encode, len(labels))


def guided_form(sde, x, t, sign, scale):
    """Return scale score(x | c) + (1 - scale) score(x) for two Gaussians of equal width in closed form."""
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    spread = (alpha * WIDTH) ** 2 + sigma**2
    place = scale * sign * APART + (1.0 - scale) * APART * torch.tanh(alpha * APART * x / spread)
    return -(x - alpha * place) / spread


def points(count=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, dtype=torch.float64, generator=g)
    return x, 0.02 + 0.95 * torch.rand(count, dtype=torch.float64, generator=g)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_the_guided_score_is_that_of_the_tilted_density(name, scale):
    """The guided score at each t is grad log of p(x | c)^scale p(x)^(1 - scale)."""
    x, t = points()
    labels = [0, 1] * 4
    sign = 2.0 * torch.tensor(labels, dtype=torch.float64)[:, None] - 1.0
    found = guided(SDES[name], labels, scale).score(x, t)
    torch.testing.assert_close(found, guided_form(SDES[name], x, t, sign, scale))


def levels(sde, *ratios):
    """Return the times at which sigma / alpha has these values."""
    return sde.time_at(-2.0 * torch.tensor(ratios, dtype=torch.float64).log())


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "edm", "flow"])
def test_outside_its_interval_guidance_asks_once_for_the_plain_score(name):
    """Rows are guided one by one, also if the batch has rows inside and outside; the upper end is inside."""
    sde, (x, _) = SDES[name], points(6)
    t = levels(sde, 0.1, 0.3 - 1e-6, 0.3 + 1e-6, 1.0, 4.0 - 1e-6, 4.0 + 1e-6)
    labels = [1] * 6
    score = guided(sde, labels, 3.0, (0.3, 4.0))
    found = score.score(x, t)
    plain, full = guided_form(sde, x, t, 1.0, 1.0), guided_form(sde, x, t, 1.0, 3.0)
    inside = torch.tensor([False, False, True, True, True, False])[:, None]
    torch.testing.assert_close(found, torch.where(inside, full, plain))
    assert (full - plain).abs().min() > 1e-6
    assert score.model.network.asked == [9]
    score.model.network.asked.clear()
    outside = t[[0, 1, 5, 0, 1, 5]]
    assert torch.equal(score.score(x, outside), guided(sde, labels, 1.0).score(x, outside))
    assert torch.equal(score.score(x, t[[2, 3, 4] * 2]), guided(sde, labels, 3.0).score(x, t[[2, 3, 4] * 2]))
    assert score.model.network.asked == [6, 12]


@pytest.mark.parametrize(("interval", "led"), [((1.0, 4.0), []), ((0.25, 1.0), [0]), ((0.25, 4.0), [0])])
def test_an_interval_holds_its_upper_end_but_not_its_lower_one(interval, led):
    """Guidance applies at noise level 1, which the Flow SDE has at t = 0.5, only if 1 is the upper end."""
    sde, t = SDES["flow"], torch.full((1,), 0.5, dtype=torch.float64)
    assert torch.exp(-0.5 * sde.log_snr(t)).item() == 1.0
    assert guided_rows(sde, t, 2.0, interval).tolist() == led


def velocity(t, x, scale, interval):
    """Return VP's guided probability flow, written in numpy: dx/dt = -beta / 2 (x + score)."""
    integral = 0.1 * t + 0.5 * 19.9 * t * t
    alpha, sigma2 = math.exp(-0.5 * integral), -math.expm1(-integral)
    scale = scale if interval[0] < math.sqrt(sigma2) / alpha <= interval[1] else 1.0
    spread = (alpha * WIDTH) ** 2 + sigma2
    place = APART * (scale + (1.0 - scale) * np.tanh(alpha * APART * x / spread))
    return -0.5 * (0.1 + 19.9 * t) * (x - (x - alpha * place) / spread)


@pytest.mark.parametrize("interval", [None, (0.3, 3.0)])
def test_the_guided_mean_is_where_an_independent_integration_puts_it(interval):
    """The mean of 4,000 samples by rk45 equals that of 801 quantiles of the prior that scipy integrates.

    Guidance moves the mean to the right by many standard errors, and less within an interval."""
    sde, scale, count = VP(), 3.0, 4000
    quantiles = norm.ppf((np.arange(801) + 0.5) / 801)
    means = {}
    for where in ((0.0, 0.0), interval or (0.0, math.inf)):
        cuts = [level for level in where if 0.0 < level < math.inf]
        stops = [1.0, *sorted(levels(sde, *cuts).tolist(), reverse=True), sde.sample_floor]
        x = quantiles
        for start, end in pairwise(stops):
            # slightly inside, so that each piece lies on one side of a jump
            edge = (start - 1e-9, end + 1e-9)
            x = solve_ivp(velocity, edge, x, args=(scale, where), rtol=1e-8, atol=1e-8).y[:, -1]
        means[where] = x.mean()
    out = sample(
        guided(sde, [1] * count, scale, interval), sde, (count, 1), solver="rk45", dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    ).x  # fmt: skip
    plain, expected = means.values()
    error = out.std().item() / math.sqrt(count)
    assert abs(out.mean().item() - expected) < 4 * error
    assert plain == pytest.approx(APART, abs=5e-3)
    assert expected - plain > 10 * error
    if interval is not None:
        assert expected < means_everywhere() - 4 * error


def means_everywhere() -> float:
    """Return the mean under guidance at all noise levels, integrated by scipy."""
    quantiles = norm.ppf((np.arange(801) + 0.5) / 801)
    ends = solve_ivp(velocity, (1.0, 1e-3), quantiles, args=(3.0, (0.0, math.inf)), rtol=1e-8, atol=1e-8)
    return ends.y[:, -1].mean()


class OneGaussian(torch.nn.Module):
    """A network with the exact noise of N(mean, std^2)."""

    def __init__(self, sde, mean: float, std: float) -> None:
        super().__init__()
        self.sde, self.exact, self.asked = sde, gaussian_score(mean, std, sde), []

    def forward(self, x, t):
        self.asked.append(len(x))
        return -self.sde.marginal(t)[1][:, None] * self.exact(x, t)


def unlabelled(sde, mean, std) -> Conditioned:
    network = OneGaussian(sde, mean, std)
    model = ScoreModel(network, Conditioner(None, None, 0), sde, "noise", 0.5, Preconditioning(time="t", input="none"))
    return Conditioned(model, Encoded())


@pytest.mark.parametrize("name", SDES)
def test_autoguidance_of_gaussians(name):
    """Points flow to N(w m + (1 - w) m', s^2), which is N(m, s^2)^w N(m', s^2)^(1 - w) up to a factor.

    For two different widths the score has the precision w / v + (1 - w) / v'."""
    sde, scale = SDES[name], 2.5
    score = Autoguided(unlabelled(sde, 0.6, 0.5), unlabelled(sde, 0.4, 0.5), scale)
    z = sde.prior((16, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    out = sample(score, sde, z.shape, start=z, solver="unipc", steps=200, dtype=torch.float64).x
    torch.testing.assert_close(out, exact_flow(sde, z, 2.5 * 0.6 - 1.5 * 0.4, 0.5), rtol=0, atol=1e-5)
    x, t = points()
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    good, bad = (alpha * 0.5) ** 2 + sigma**2, (alpha * 0.9) ** 2 + sigma**2
    found = Autoguided(unlabelled(sde, 0.6, 0.5), unlabelled(sde, 0.1, 0.9), scale).score(x, t)
    expected = -scale * (x - 0.6 * alpha) / good + (scale - 1.0) * (x - 0.1 * alpha) / bad
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", SDES)
def test_guidance_by_a_class_and_by_a_guide_add_up(name):
    """The score is grad log of p(x | c)^(a + b - 1) p(x)^(1 - a) q(x)^(1 - b) for scales a and b and a guide q.

    Outside the interval it is grad log p(x | c)."""
    sde, (x, _), labels = SDES[name], points(), [0, 1] * 4
    t = levels(sde, 0.05, 0.099, 0.11, 0.5, 1.0, 4.0, 5.1, 8.0)
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    sign = 2.0 * torch.tensor(labels, dtype=torch.float64)[:, None] - 1.0
    encode = lambda conditioner: conditioner.encode(None, labels, 8)  # noqa: E731
    weak = unlabelled(sde, 0.1, 0.9).model
    guidance = Guidance(scale=3.0, guide=weak, autoguidance=2.5, interval=(0.1, 5.0))
    score = guidance.score(labelled(sde), encode, 8)
    plain = guided_form(sde, x, t, sign, 1.0)
    bad = -(x - 0.1 * alpha) / ((alpha * 0.9) ** 2 + sigma**2)
    expected = guided_form(sde, x, t, sign, 3.0) + 1.5 * (plain - bad)
    inside = ((sigma / alpha > 0.1) & (sigma / alpha <= 5.0)).float()
    assert inside[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    torch.testing.assert_close(score.score(x, t), torch.where(inside > 0, expected, plain))
    assert weak.network.asked == [inside.sum()]
    with pytest.raises(ValueError, match="guided"):
        log_prob(score, torch.zeros(8, 1, dtype=torch.float64), sde)


def test_the_weak_model_is_asked_inside_the_interval_alone():
    sde, (x, _) = SDES["vp"], points(4)
    t = levels(sde, 0.1, 1.0, 2.0, 9.0)
    strong, weak = unlabelled(sde, 0.6, 0.5), unlabelled(sde, 0.1, 0.9)
    found = Autoguided(strong, weak, 2.0, (0.5, 5.0)).score(x, t)
    apart = 2.0 * strong.score(x, t) - weak.score(x, t)
    torch.testing.assert_close(found[1:3], apart[1:3])
    assert torch.equal(found[[0, 3]], strong.score(x, t)[[0, 3]])
    assert weak.model.network.asked == [2, 4]
    Autoguided(strong, weak, 1.0).score(x, t)
    assert weak.model.network.asked == [2, 4]


def test_an_autoguided_score_has_no_likelihood():
    sde = SDES["vp"]
    with pytest.raises(ValueError, match="guided"):
        log_prob(Autoguided(unlabelled(sde, 0.0, 0.5), unlabelled(sde, 0.0, 0.9), 2.0), torch.zeros(1, 2), sde)


@pytest.fixture(scope="module")
def spoken() -> Model:
    """Return a model of captions and classes in which every input changes the output."""
    changes = {"classes": 3, "sde": VP()}
    return Model(filled_model(**changes), caption_spec(**changes))


QUICK = {"solver": "unipc", "steps": 4}


def test_scale_one_is_no_guidance_whatever_is_given(spoken):
    """Scale 1 is bit-equal to no guidance, through ``sample`` and through each class of guided score."""
    plain = spoken.sample(prompts=CAPTIONS, seed=1, **QUICK).images
    more = {"guidance_interval": (0.2, 5.0), "negative": "two"}
    assert torch.equal(spoken.sample(prompts=CAPTIONS, seed=1, guidance=1.0, **more, **QUICK).images, plain)
    assert torch.equal(spoken.sample(prompts=CAPTIONS, seed=1, guidance=1.0, autoguide=spoken, **QUICK).images, plain)
    model, x, t = spoken.score_model, torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.4, 0.6, 0.9])
    encoded = model.conditioner.encode(CAPTIONS, None, 4)
    expected = Conditioned(model, encoded).score(x, t)
    assert torch.equal(Guided(model, encoded, model.conditioner.encode(None, None, 4), 1.0).score(x, t), expected)
    assert torch.equal(Autoguided(Conditioned(model, encoded), Conditioned(model, encoded), 1.0).score(x, t), expected)
    once = Guided(model, encoded, model.conditioner.encode(None, None, 4), 3.0)
    assert torch.equal(TwiceGuided(once, Conditioned(model, encoded), 1.0).score(x, t), once.score(x, t))
    guided = spoken.sample(prompts=CAPTIONS, seed=1, guidance=3.0, **QUICK).images
    assert not torch.equal(guided, plain)


def test_a_negative_prompt_takes_the_place_of_the_empty_one(spoken):
    """An empty negative prompt equals none, and the prompt as its own negative prompt equals no guidance."""
    draw = lambda **more: spoken.sample(prompts=CAPTIONS[:2], seed=2, guidance=4.0, **more, **QUICK).images  # noqa: E731
    null = draw()
    assert torch.equal(draw(negative=""), null)
    assert torch.equal(draw(negative=["", ""]), null)
    other = draw(negative=CAPTIONS[3])
    assert not torch.equal(other, null)
    each = draw(negative=[CAPTIONS[3], ""])
    assert (each[0].int() - other[0].int()).abs().max() <= 1
    assert (each[1].int() - null[1].int()).abs().max() <= 1
    itself = draw(negative=CAPTIONS[:2])
    plain = spoken.sample(prompts=CAPTIONS[:2], seed=2, **QUICK).images
    assert (itself.int() - plain.int()).abs().max() <= 1


def test_a_longer_negative_prompt_masks_what_it_adds(spoken):
    """Padding of the shorter prompt changes nothing: the score combines the scores of both prompts alone."""
    model = spoken.score_model
    long = "somebody wrote a handwritten three, twice, and the digit one in pencil"
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    encoded = [model.conditioner.encode([caption] * 2, None, 2) for caption in ("two", long)]
    assert encoded[0].context.shape[1] < encoded[1].context.shape[1]
    for first, second in (encoded, encoded[::-1]):
        with torch.no_grad():
            found = Guided(model, first, second, 2.0).score(x, t)
            expected = 2.0 * Conditioned(model, first).score(x, t) - Conditioned(model, second).score(x, t)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("more", [{"guidance_interval": (0.3, 3.0)}, {"negative": ["two", "", "the digit one", ""]}])
def test_guided_images_do_not_depend_on_their_batch(spoken, more):
    whole = spoken.sample(prompts=CAPTIONS, seed=3, guidance=2.0, **more, **QUICK).images
    parts = spoken.sample(prompts=CAPTIONS, seed=3, guidance=2.0, batch_size=3, **more, **QUICK).images
    assert (whole.int() - parts.int()).abs().max() <= 1


def test_autoguidance_by_another_model(spoken):
    """The guide is evaluated under its own encoding of the prompt, or without conditions if it is unconditional."""
    younger = Model(filled_model(classes=3), spoken.spec)
    for parameter in younger.score_model.parameters():
        parameter.data.mul_(0.9)
    bare_spec = dataclasses.replace(spoken.spec, text=None, classes=0)
    bare = Model(filled_model(text=None), bare_spec)
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.linspace(0.2, 0.8, 4)
    with torch.no_grad():
        own = spoken.conditioned(CAPTIONS, None, 4, 1.0).score(x, t)
        for guide in (younger, bare):
            led = spoken.guidance(4, 3.0, None, None, guide)
            score = led.score(spoken.score_model, lambda c: c.encode(CAPTIONS, None, 4), 4)
            weak = guide.conditioned(CAPTIONS if guide is younger else None, None, 4, 1.0).score(x, t)
            torch.testing.assert_close(score.score(x, t), weak + 3.0 * (own - weak))
            assert (own - weak).abs().max() > 0.01
    # an unconditional model can only be guided by another model
    assert bare.sample(n=2, guidance=2.0, autoguide=Model(filled_model(text=None), bare_spec), **QUICK).images.any()


def test_each_of_two_guidances_at_scale_one_leaves_the_other(spoken):
    """Each guidance at scale 1 is bit-equal to the other alone; the model as its own guide changes only rounding."""
    younger = Model(filled_model(classes=3), spoken.spec)
    for parameter in younger.score_model.parameters():
        parameter.data.mul_(0.9)
    draw = lambda **more: spoken.sample(prompts=CAPTIONS, seed=1, **more, **QUICK).images  # noqa: E731
    by_prompt, by_guide = draw(guidance=3.0), draw(guidance=2.0, autoguide=younger)
    assert torch.equal(draw(guidance=3.0, autoguide=younger, autoguidance=1.0), by_prompt)
    assert torch.equal(draw(guidance=1.0, autoguide=younger, autoguidance=2.0), by_guide)
    assert torch.equal(draw(autoguide=younger, autoguidance=2.0), by_guide)
    both = draw(guidance=3.0, autoguide=younger, autoguidance=2.0)
    assert not torch.equal(both, by_prompt)
    assert not torch.equal(both, by_guide)
    assert (draw(guidance=3.0, autoguide=spoken, autoguidance=2.0).int() - by_prompt.int()).abs().max() <= 1
    negative = draw(guidance=3.0, negative="two", autoguide=younger, autoguidance=2.0)
    assert not torch.equal(negative, both)


def test_what_does_not_fit_is_named(spoken):
    draw = lambda **more: spoken.sample(prompts=CAPTIONS, guidance=2.0, **more, **QUICK)  # noqa: E731
    with pytest.raises(ValueError, match=r"guidance_interval.*\(5.0, 0.2\)"):
        draw(guidance_interval=(5.0, 0.2))
    with pytest.raises(ValueError, match="3 negative prompts were given for 4 images"):
        draw(negative=["two"] * 3)
    with pytest.raises(ValueError, match="negative and autoguide"):
        draw(negative="two", autoguide=spoken)
    with pytest.raises(ValueError, match=r"autoguidance=1.5 was given without a guide model"):
        draw(autoguidance=1.5)
    other = Model(spoken.score_model, dataclasses.replace(spoken.spec, sde=VE()))
    with pytest.raises(ValueError, match=r"autoguide: its sde is VE.*the model's is VP"):
        draw(autoguide=other)
    for name, value in (("image", (3, 8, 8)), ("data_range", (0.0, 1.0))):
        other = Model(spoken.score_model, dataclasses.replace(spoken.spec, **{name: value}))
        with pytest.raises(ValueError, match=f"autoguide: its {name} is {re.escape(str(value))}, the model's is"):
            draw(autoguide=other)
    with pytest.raises(ValueError, match="autoguide: it takes other conditions"):
        draw(autoguide=Model(filled_model(text=None, classes=3), spoken.spec))
    bare = Model(filled_model(text=None), dataclasses.replace(spoken.spec, text=None, classes=0))
    with pytest.raises(ValueError, match=r"guidance=2.0 .* beside autoguidance, but the model is unconditional"):
        bare.guidance(1, 2.0, None, None, bare, 2.0)
    with pytest.raises(ValueError, match="unconditional"):
        bare.sample(n=1, guidance=2.0, **QUICK)
    labels = Model(filled_model(text=None, classes=3), dataclasses.replace(spoken.spec, text=None))
    with pytest.raises(ValueError, match="no text encoder"):
        labels.sample(labels=[1], guidance=2.0, negative="two", **QUICK)


def test_neither_model_drops_anything_while_it_leads():
    """The model and its guide are set to evaluation mode, also if they were left in training mode."""
    model, guide = filled_model(classes=3), filled_model(classes=3)
    model.train()
    guide.train()
    Guidance(scale=2.0, guide=guide).score(model, lambda c: c.encode(CAPTIONS, None, 4), 4)
    assert not any(module.training for each in (model, guide) for module in each.modules())


def test_a_guide_gets_the_rows_that_it_is_asked_about(spoken):
    """Each image keeps its own condition if some noise levels lie inside the interval and others outside."""
    younger = filled_model(classes=3)
    for parameter in younger.parameters():
        parameter.data.mul_(0.9)
    encode = lambda c: c.encode(CAPTIONS, [2, 0, 1, 2], 4)  # noqa: E731
    model, guide = spoken.score_model.eval(), younger.eval()
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.3, 0.95, 0.4])
    noise = torch.exp(-0.5 * model.sde.log_snr(t))
    interval = (0.1, 3.0)
    inside = (noise > interval[0]) & (noise <= interval[1])
    assert inside.tolist() == [False, True, False, True]
    with torch.no_grad():
        strong, weak = (each.score(x, t, encode(each.conditioner)) for each in (model, guide))
        null = model.score(x, t, model.conditioner.encode(None, None, 4))
        led = {
            "auto": Guidance(scale=3.0, guide=guide, interval=interval),
            "twice": Guidance(scale=2.0, guide=guide, autoguidance=3.0, interval=interval),
        }
        found = {name: each.score(model, encode, 4).score(x, t) for name, each in led.items()}
    mask = inside[:, None, None, None]
    auto, twice = weak + 3.0 * (strong - weak), null + 2.0 * (strong - null) + 2.0 * (strong - weak)
    torch.testing.assert_close(found["auto"], torch.where(mask, auto, strong), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["twice"], torch.where(mask, twice, strong), rtol=1e-4, atol=1e-4)
    assert (weak[1] - weak[3]).abs().max() > 0.01
