"""Beta schedules of VP and sub-VP against published closed forms and numbers."""

import math

import pytest
import torch
from torch.func import grad, vmap

from raysde.sde import (
    VE,
    VP,
    SubVP,
)
from tests.support.oracles import DDPM_TABLE, SDES, TIMES


@pytest.mark.parametrize(("t", "integral"), [(0.0, 0.0), (0.5, 0.1 * 0.5 + 0.5 * 19.9 * 0.25), (1.0, 10.05)])
def test_linear_schedule_in_numbers(t, integral):
    """Check B(t) = beta_0 t + (beta_1 - beta_0) t^2 / 2 and the published means and standard deviations."""
    time = torch.tensor(t, dtype=torch.float64)
    assert VP().beta_integral(time).item() == pytest.approx(integral)
    assert VP().alpha(time).item() == pytest.approx(math.exp(-0.5 * integral))
    assert VP().sigma(time).item() == pytest.approx(math.sqrt(1.0 - math.exp(-integral)))
    assert SubVP().sigma(time).item() == pytest.approx(1.0 - math.exp(-integral))
    assert VE(sigma_min=0.01, sigma_max=50.0).sigma(time).item() == pytest.approx(0.01 * 5000.0**t)


def test_cosine_schedule_is_nichol_and_dhariwals():
    s, t = 0.008, TIMES
    place = t * 0.9946
    expected = torch.cos((place + s) / (1 + s) * math.pi / 2) / math.cos(s / (1 + s) * math.pi / 2)
    torch.testing.assert_close(VP(schedule="cosine").alpha(t), expected)


def test_beta_is_the_derivative_of_its_integral():
    for sde in (VP(), VP(schedule="cosine"), SubVP(beta_min=2.0, beta_max=2.0)):
        torch.testing.assert_close(vmap(grad(sde.beta_integral))(TIMES), sde.beta(TIMES))


def test_a_rough_table_has_a_rate_that_is_nowhere_negative():
    """Harmonic slopes keep each cubic monotone (Fritsch and Butland 1984); arithmetic ones overshoot beside a jump."""
    generator = torch.Generator().manual_seed(0)
    betas = torch.where(torch.rand(40, generator=generator) < 0.3, 0.6, 1e-3).double()
    table = VP(schedule="table", alphas_cumprod=tuple((1.0 - betas).cumprod(0).tolist()))
    t = torch.linspace(1e-6, 1.0, 20_001, dtype=torch.float64)
    # a rate is a sum of three terms of up to three rises of -log(1 - 0.6) in each of 40 steps
    assert (table.beta(t) >= -1e-12 * 40 * 9).all()
    assert (table.marginal(t)[0].diff() <= 1e-15).all()


OWN_KEYS = {
    "linear": {"beta_min": 0.2, "beta_max": 10.0},
    "cosine": {"cosine_s": 0.01, "cosine_end": 0.99},
    "table": {"alphas_cumprod": (0.9, 0.5)},
}


@pytest.mark.parametrize("kind", [VP, SubVP])
@pytest.mark.parametrize("schedule", OWN_KEYS)
def test_a_key_of_another_schedule_is_refused(kind, schedule):
    """A key of another schedule would have no effect: beta(t) of each schedule is a function of its own keys."""
    needed = OWN_KEYS["table"] if schedule == "table" else {}
    for of, keys in OWN_KEYS.items():
        for name, value in keys.items():
            if of == schedule:
                changed = kind(schedule=schedule, **{**needed, name: value})
                assert schedule == "table" or changed.beta(TIMES[8:9]) != kind(schedule=schedule).beta(TIMES[8:9])
            else:
                with pytest.raises(ValueError, match=f"{name} has no effect on the {schedule} schedule"):
                    kind(schedule=schedule, **{**needed, name: value})


def test_a_table_is_met_at_its_entries():
    """alpha^2 at t = i / N is DDPM's alpha-bar, and beta integrates to it: beta = -d log alpha-bar / dt."""
    sde = SDES["vp_table"]
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(sde.alpha2(t), torch.tensor(DDPM_TABLE, dtype=torch.float64))
    middles, inside = sde.beta(t - 0.5 / 1000), 1e-9
    # beta is a parabola on each step, which Simpson's rule integrates exactly
    steps = (sde.beta(t - 1 / 1000 + inside) + 4.0 * middles + sde.beta(t - inside)) / 6000
    torch.testing.assert_close(
        torch.exp(-steps.cumsum(0)), torch.tensor(DDPM_TABLE, dtype=torch.float64), rtol=1e-6, atol=0
    )
    # adaptive solvers need a continuous beta
    jumps = sde.beta(t[:-1] + inside) - sde.beta(t[:-1] - inside)
    assert jumps.abs().max() < 1e-4
    # DDPM's beta_i N tends to Song's linear schedule from 0.1 to 20 (Song et al. appendix B)
    torch.testing.assert_close(middles, VP().beta(t - 0.5 / 1000), rtol=0.02, atol=0.02)
