"""Reverse-diffusion and Langevin steps of VE against diffusers' ScoreSdeVeScheduler."""

import math

import torch
from diffusers import ScoreSdeVeScheduler
from torch.testing import assert_close

from raysde.sampling.solvers.correctors import langevin, mean_norm
from raysde.sampling.solvers.predictors import reverse_diffusion
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import VE
from tests.support.oracles import gaussian_score

STEPS = 40


def scheduler_with(**config) -> ScoreSdeVeScheduler:
    scheduler = ScoreSdeVeScheduler(**config)
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)
    return scheduler


def test_a_step_of_reverse_diffusion_is_that_of_diffusers():
    """A reverse-diffusion step agrees with diffusers', whose float32 differences of squared levels err by 1e-5 sigma."""
    theirs, sde = scheduler_with(sigma_min=0.01, sigma_max=50.0), VE(sigma_min=0.01, sigma_max=50.0)
    score, times = gaussian_score(0.3, 0.5, sde), torch.linspace(1.0, 0.0, STEPS, dtype=torch.float64)
    noise = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    walk = Walk(score, sde, times, lambda x: noise)
    for index, t in enumerate(theirs.timesteps[:-2]):
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(index)) * walk.sigma[index]
        expected = theirs.step_pred(score(x, times[index].expand(4)), t, x, generator=torch.Generator().manual_seed(2))
        found, mean = reverse_diffusion(walk, x, index)
        assert_close(found / walk.sigma[index], expected.prev_sample / walk.sigma[index], rtol=0.0, atol=2e-5)
        assert_close(mean / walk.sigma[index], expected.prev_sample_mean / walk.sigma[index], rtol=0.0, atol=2e-5)


def test_a_langevin_step_takes_the_square_root_of_d_where_diffusers_takes_the_norm_of_the_noise_drawn():
    theirs, sde = scheduler_with(sigma_max=50.0, snr=0.16), VE(sigma_max=50.0)
    generator = torch.Generator().manual_seed(1)
    x, score = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    noise = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    walk = Walk(lambda x, t: score, sde, torch.tensor([0.5, 0.4], dtype=torch.float64), lambda x: noise)
    ours, _ = langevin(walk, x, 1, 0.16, mean_norm)
    step = 2.0 * (0.16 * math.sqrt(5.0) / mean_norm(score)[0]) ** 2
    assert_close(ours, x + step * score + (2.0 * step) ** 0.5 * noise)
    expected = theirs.step_correct(score, x, generator=torch.Generator().manual_seed(0)).prev_sample
    step = step * (mean_norm(noise)[0] / math.sqrt(5.0)) ** 2
    assert_close(x + step * score + (2.0 * step) ** 0.5 * noise, expected)
