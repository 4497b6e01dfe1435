"""VeScheduler against diffusers' ScoreSdeVeScheduler, in its pipeline, and against closed forms."""

import math

import pytest
import torch
from diffusers import ScoreSdeVeScheduler, UNet2DModel
from diffusers.pipelines.deprecated.score_sde_ve import ScoreSdeVePipeline
from torch.testing import assert_close

from raysde.interop.ve_scheduler import VeConfig, VeScheduler
from raysde.sampling.solvers.correctors import langevin, mean_norm
from raysde.sampling.solvers.predictors import reverse_diffusion
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import VE
from tests.support.oracles import assert_moments, gaussian_score

SHAPES = ((1, 3, 8, 8), (5, 1, 7, 3), (4, 2))


def pair(steps: int | None = None, **config) -> tuple[VeScheduler, ScoreSdeVeScheduler]:
    both = VeScheduler(**config), ScoreSdeVeScheduler(**config)
    for scheduler in both if steps else ():
        scheduler.set_timesteps(steps)
        scheduler.set_sigmas(steps)
    return both


def state(shape: tuple[int, ...], sigma: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample of the size that x_t has at sigma, and a score of the size that it has there."""
    generator = torch.Generator().manual_seed(seed)
    return (
        sigma * torch.randn(shape, generator=generator),
        torch.randn(shape, generator=generator) / sigma,
    )


def relative(ours: torch.Tensor, theirs: torch.Tensor, sigma: float) -> None:
    """Equal to 1e-6 of the noise level."""
    assert_close(ours / sigma, theirs / sigma, rtol=1e-6, atol=1e-6)


# the contract


@pytest.mark.parametrize("steps", [None, 2, 10, 999])
@pytest.mark.parametrize("config", [{}, {"sigma_min": 0.02, "sigma_max": 50.0, "sampling_eps": 1e-3}])
def test_grids_are_those_of_diffusers(steps, config):
    ours, theirs = pair(steps, **config)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.discrete_sigmas, theirs.discrete_sigmas)
    assert_close(ours.sigmas, theirs.sigmas, rtol=1e-6, atol=0.0)
    assert ours.init_noise_sigma == theirs.init_noise_sigma
    assert len(ours) == len(theirs)
    assert ours.order == theirs.order


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [2, 17, 100])
def test_step_pred_is_that_of_diffusers_at_every_time(shape, steps):
    ours, theirs = pair(steps, sigma_max=50.0)
    for index, t in enumerate(ours.timesteps):
        sigma = ours.sigmas[index].item()
        sample, score = state(shape, sigma, seed=index)
        steps_ = [s.step_pred(score, t, sample, generator=torch.Generator().manual_seed(index)) for s in (ours, theirs)]
        relative(steps_[0].prev_sample, steps_[1].prev_sample, sigma)
        relative(steps_[0].prev_sample_mean, steps_[1].prev_sample_mean, sigma)


def test_step_pred_is_that_of_diffusers_on_the_longest_grid():
    ours, theirs = pair(2000)
    for index in range(0, 2000, 7):
        sigma, t = ours.sigmas[index].item(), ours.timesteps[index]
        sample, score = state((2, 3, 4, 4), sigma, seed=index)
        steps = [s.step_pred(score, t, sample, generator=torch.Generator().manual_seed(index)) for s in (ours, theirs)]
        relative(steps[0].prev_sample, steps[1].prev_sample, sigma)


@pytest.mark.parametrize("shape", SHAPES)
def test_step_correct_is_that_of_diffusers_at_every_time(shape):
    ours, theirs = pair(50, snr=0.17)
    for index, level in enumerate(ours.sigmas.tolist()):
        sample, score = state(shape, level, seed=index)
        steps = [s.step_correct(score, sample, generator=torch.Generator().manual_seed(index)) for s in (ours, theirs)]
        relative(steps[0].prev_sample, steps[1].prev_sample, level)


@pytest.mark.parametrize("method", ["step_pred", "step_correct"])
def test_a_generator_for_each_row_is_that_of_diffusers(method):
    sample, score = state((3, 1, 4, 4), 1.0)
    results = []
    for scheduler in pair(10):
        generators = [torch.Generator().manual_seed(k) for k in range(3)]
        time = (scheduler.timesteps[4],) if method == "step_pred" else ()
        results.append(getattr(scheduler, method)(score, *time, sample, generator=generators).prev_sample)
    assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_one_generator_in_a_list_and_none_at_all_are_those_of_diffusers():
    sample, score = state((3, 4), 1.0)
    listed = [
        s.step_pred(score, 0.5, sample, generator=[torch.Generator().manual_seed(1)]).prev_sample for s in pair(10)
    ]
    assert_close(listed[0], listed[1], rtol=1e-6, atol=1e-6)
    drawn = []
    for scheduler in pair(10):
        torch.manual_seed(5)
        drawn.append(scheduler.step_correct(score, sample).prev_sample)
    assert_close(drawn[0], drawn[1], rtol=1e-6, atol=1e-6)


def test_a_time_for_each_row_is_that_of_diffusers():
    ours, theirs = pair(20)
    sample, score = state((4, 3, 2, 2), 1.0)
    times = ours.timesteps[[0, 7, 12, 19]]
    means = [s.step_pred(score, times, sample, generator=torch.Generator().manual_seed(0))[1] for s in (ours, theirs)]
    assert_close(means[0], means[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("t", [0, 1, 0.37])
def test_times_between_those_of_the_grid_and_its_integer_ends_are_those_of_diffusers(t):
    ours, theirs = pair(20, sigma_max=50.0)
    sample, score = state((2, 3), 1.0)
    steps = [s.step_pred(score, t, sample, generator=torch.Generator().manual_seed(0)) for s in (ours, theirs)]
    assert_close(steps[0].prev_sample, steps[1].prev_sample, rtol=1e-6, atol=1e-5)


def test_double_precision_is_kept_and_draws_as_diffusers_does():
    # below 16 values torch draws the same numbers in either precision
    sample, score = (value.double() for value in state((4, 32), 1.0))
    for method, time in (("step_pred", (0.5,)), ("step_correct", ())):
        results = [
            getattr(s, method)(score, *time, sample, generator=torch.Generator().manual_seed(0)).prev_sample
            for s in pair(20)
        ]
        assert results[0].dtype == torch.float64
        assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_half_precision_stays_half_precision():
    ours, _ = pair(20, sigma_max=50.0)
    sample, score = (value.to(torch.bfloat16) for value in state((2, 3), 1.0))
    assert ours.step_pred(score, 0.5, sample).prev_sample.dtype == torch.bfloat16
    assert ours.step_correct(score, sample).prev_sample.dtype == torch.bfloat16


@pytest.mark.parametrize("steps", [None, 30])
def test_add_noise_by_index_is_that_of_diffusers(steps):
    ours, theirs = pair(steps)
    x0, noise = state((3, 1, 4, 4), 1.0)
    indices = torch.tensor([0, 13, 29])
    expected = theirs.add_noise(x0, noise, indices)
    assert_close(ours.add_noise(x0, noise, indices), expected, rtol=1e-6, atol=1e-6)
    assert_close(ours.add_noise(x0, noise, indices.int()), expected, rtol=1e-6, atol=1e-6)


def test_add_noise_takes_the_times_of_the_grid():
    ours, theirs = pair(30, sigma_max=50.0)
    x0, noise = state((30, 2, 4), 1.0)
    with pytest.raises(IndexError):
        theirs.add_noise(x0[:, :, :, None], noise[:, :, :, None], theirs.timesteps)
    expected = x0 + ours.sigmas[:, None, None] * noise
    assert_close(ours.add_noise(x0, noise, ours.timesteps), expected, rtol=1e-6, atol=1e-6)
    assert_close(ours.add_noise(x0, noise, ours.timesteps[3]), x0 + ours.sigmas[3] * noise, rtol=1e-6, atol=1e-6)
    assert_close(ours.add_noise(x0, noise, ours.timesteps[3:4]), x0 + ours.sigmas[3] * noise, rtol=1e-6, atol=1e-6)


def test_add_noise_draws_what_it_is_not_given():
    ours, _ = pair(30, sigma_max=50.0)
    torch.manual_seed(0)
    x = ours.add_noise(torch.zeros(4000, 2), None, ours.timesteps[5])
    assert x.std().item() == pytest.approx(ours.sigmas[5].item(), rel=0.04)


def test_outputs_are_named_or_plain_tuples():
    ours, theirs = pair(10)
    sample, score = state((2, 3), 1.0)
    named = ours.step_pred(score, 0.5, sample)
    assert named[0] is named.prev_sample
    assert named[1] is named.prev_sample_mean
    for method, time in (("step_pred", (0.5,)), ("step_correct", ())):
        plain = [getattr(s, method)(score, *time, sample, return_dict=False) for s in (ours, theirs)]
        assert [type(value) for value in plain] == [tuple, tuple]
        assert len(plain[0]) == len(plain[1])
    corrected = ours.step_correct(score, sample, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    eta = (2.0 * (0.15 * mean_norm(noise) / mean_norm(score)) ** 2)[:, None]
    assert_close(corrected.prev_sample_mean, sample + eta * score)
    assert_close(corrected.prev_sample - corrected.prev_sample_mean, (2.0 * eta).sqrt() * noise)
    assert_close(ours.scale_model_input(sample, 0.3), sample)


def test_config_is_read_as_attributes_and_as_a_mapping():
    theirs = ScoreSdeVeScheduler(snr=0.2, sigma_max=90.0)
    ours = VeScheduler.from_config(theirs.config, correct_steps=3)
    assert {name: theirs.config[name] for name in VeConfig()} | {"correct_steps": 3} == dict(ours.config)
    assert (ours.config.snr, ours.config["sigma_max"], ours.config.get("beta")) == (0.2, 90.0, None)
    assert dict(ScoreSdeVeScheduler.from_config(dict(ours.config)).config).items() >= dict(ours.config).items()


@pytest.mark.parametrize("first", ["set_timesteps", "set_sigmas"])
def test_either_order_of_the_setters_gives_one_grid(first):
    """In diffusers, set_sigmas before set_timesteps leaves the training grid's sigmas in place."""
    whole, _ = pair(12, sigma_max=50.0)
    ours = VeScheduler(sigma_max=50.0)
    for name in (first, *({"set_timesteps", "set_sigmas"} - {first})):
        getattr(ours, name)(12)
        assert len(ours.timesteps) == len(ours.sigmas) == len(ours.discrete_sigmas) == 12
    assert torch.equal(ours.timesteps, whole.timesteps)
    assert torch.equal(ours.sigmas, whole.sigmas)
    assert torch.equal(ours.discrete_sigmas, whole.discrete_sigmas)


def test_overrides_hold_for_the_grid_alone():
    ours, theirs = VeScheduler(), ScoreSdeVeScheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(15, sampling_eps=1e-2)
        scheduler.set_sigmas(15, sigma_min=0.1, sigma_max=20.0)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert_close(ours.sigmas, theirs.sigmas, rtol=1e-6, atol=0.0)
    assert torch.equal(ours.discrete_sigmas, theirs.discrete_sigmas)
    assert ours.config.sigma_max == 1348.0
    assert ours.init_noise_sigma == 20.0


@pytest.mark.parametrize("eps", [None, 1e-2])
def test_either_order_of_the_setters_keeps_what_was_set(eps):
    """A grid laid after the noise levels were set is the one laid before: sigma(t) = low (high / low)^t at both."""
    one, other = VeScheduler(), VeScheduler()
    one.set_timesteps(15, sampling_eps=eps)
    one.set_sigmas(15, sigma_min=0.1, sigma_max=20.0)
    other.set_sigmas(15, sigma_min=0.1, sigma_max=20.0)
    other.set_timesteps(15, sampling_eps=eps)
    assert torch.equal(other.timesteps, one.timesteps)
    for scheduler in (one, other):
        assert_close(scheduler.sigmas.double(), 0.1 * 200.0 ** scheduler.timesteps.double(), rtol=1e-6, atol=0.0)
        assert scheduler.discrete_sigmas[[0, -1]].tolist() == pytest.approx([0.1, 20.0])
        assert scheduler.init_noise_sigma == 20.0


# the pipeline


def tiny_unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        time_embedding_type="fourier",
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    ).eval()


@pytest.mark.parametrize("correct_steps", [0, 2])
def test_the_pipeline_draws_the_same_images(correct_steps):
    unet, images = tiny_unet(), []
    for scheduler in pair(sigma_max=20.0, correct_steps=correct_steps):
        pipeline = ScoreSdeVePipeline(unet=unet, scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            batch_size=2, num_inference_steps=6, generator=torch.Generator().manual_seed(3), output_type="np"
        )
        images.append(torch.from_numpy(drawn.images))
    assert images[0].shape == (2, 8, 8, 3)
    assert 0.0 < images[1].mean() < 1.0
    assert_close(images[0], images[1], rtol=0.0, atol=1e-4)


def test_a_pipeline_takes_it_in_exchange():
    pipeline = ScoreSdeVePipeline(unet=tiny_unet(), scheduler=ScoreSdeVeScheduler(sigma_max=20.0))
    pipeline.scheduler = VeScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline(num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images
    assert image.size == (8, 8)


# the mathematics


def walked(scheduler: VeScheduler, score, sde: VE, shape: tuple[int, ...], correct: bool, seed: int = 0):
    """The contract's loop: the last sample and its mean."""
    generator = torch.Generator().manual_seed(seed)
    x = scheduler.init_noise_sigma * torch.randn(shape, generator=generator, dtype=torch.float64)
    mean = x
    for t in scheduler.timesteps:
        times = t.double().expand(len(x))
        for _ in range(scheduler.config.correct_steps if correct else 0):
            x = scheduler.step_correct(score(x, times), x, generator=generator).prev_sample
        x, mean = scheduler.step_pred(score(x, times), t, x, generator=generator)
    return x, mean


@pytest.mark.parametrize("correct", [False, True])
def test_steps_with_the_exact_score_recover_a_gaussian(correct):
    config = {"sigma_max": 20.0, "snr": 0.1}
    scheduler, sde = VeScheduler(**config), VE(sigma_max=20.0)
    scheduler.set_timesteps(600)
    x, _ = walked(scheduler, gaussian_score(0.7, 0.5, sde), sde, (10_000, 2), correct)
    covariance = 0.25 * torch.eye(2, dtype=torch.float64)
    # 600 steps of .0127 in log sigma; the closed form below gives the bias
    assert_moments(x, torch.full((2,), 0.7, dtype=torch.float64), covariance, bias=0.004)


def chain(scheduler: VeScheduler, mean: float, variance: float, correct: bool) -> tuple[float, float]:
    """Mean and variance of a coordinate at the end of the loop, for data N(mean, variance) and a very large batch."""
    m, v = 0.0, scheduler.init_noise_sigma**2
    levels = [0.0, *scheduler.discrete_sigmas.double().tolist()]
    for k, sigma in enumerate(scheduler.sigmas.double().tolist()):
        total = variance + sigma**2
        if correct:
            # |score| is |x - mean| / total, |z| that of as many unit normals: the ratio of their means is a number
            eta = 2.0 * scheduler.config.snr**2 * total**2 / v
            m, v = m - eta / total * (m - mean), (1.0 - eta / total) ** 2 * v + 2.0 * eta
        b2 = levels[-1 - k] ** 2 - levels[-2 - k] ** 2
        m, v = m - b2 / total * (m - mean), (1.0 - b2 / total) ** 2 * v + b2
    return m, v


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("steps", [40, 150])
def test_steps_have_the_moments_of_the_closed_form(correct, steps):
    """No tolerance but the four standard errors: a wrong b, eta or index shows even where many steps forgive it."""
    scheduler, sde = VeScheduler(sigma_max=20.0, snr=0.1), VE(sigma_max=20.0)
    scheduler.set_timesteps(steps)
    x, _ = walked(scheduler, gaussian_score(0.0, 0.5, sde), sde, (20_000, 2), correct, seed=1)
    m, v = chain(scheduler, 0.0, 0.25, correct)
    assert_moments(x, torch.full((2,), m, dtype=torch.float64), v * torch.eye(2, dtype=torch.float64))


def test_step_pred_is_the_reverse_diffusion_of_the_solvers():
    """The same step as ``solvers.predictors``, whose exact differences are 1e-5 sigma away from float32's."""
    scheduler = VeScheduler(sigma_max=50.0)
    scheduler.set_timesteps(40)
    sde, score = scheduler.sde, gaussian_score(0.3, 0.5, scheduler.sde)
    times = torch.linspace(1.0, 0.0, 40, dtype=torch.float64)
    noise = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    walk = Walk(score, sde, times[:-1], lambda x: noise)
    for index, t in enumerate(scheduler.timesteps[:-2]):
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(index)) * walk.sigma[index]
        expected, expected_mean = reverse_diffusion(walk, x, index)
        model_output = score(x, times[index].expand(4))
        step = scheduler.step_pred(model_output, t, x, generator=torch.Generator().manual_seed(2))
        assert_close(step.prev_sample / walk.sigma[index], expected / walk.sigma[index], rtol=0.0, atol=2e-5)
        assert_close(step.prev_sample_mean / walk.sigma[index], expected_mean / walk.sigma[index], rtol=0.0, atol=2e-5)


def test_step_correct_takes_the_drawn_noise_where_the_solvers_take_the_square_root_of_d():
    scheduler = VeScheduler(sigma_max=50.0, snr=0.16)
    scheduler.set_timesteps(40)
    x, score = (value.double() for value in state((3, 5), 1.0))
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    walk = Walk(lambda x, t: score, scheduler.sde, torch.tensor([0.5, 0.4], dtype=torch.float64), lambda x: noise)
    ours = scheduler.step_correct(score, x, generator=torch.Generator().manual_seed(0)).prev_sample_mean - x
    solvers = langevin(walk, x, 1, 0.16, mean_norm)[1] - x
    assert_close(ours, solvers * (mean_norm(noise)[0] / math.sqrt(5.0)) ** 2)


def test_the_last_step_ends_without_noise_at_the_predicted_data():
    scheduler = VeScheduler(sigma_max=50.0)
    scheduler.set_timesteps(10)
    x, score = state((2, 3), 1.0)
    mean = scheduler.step_pred(score, scheduler.timesteps[-1], x).prev_sample_mean
    assert_close(mean, x + scheduler.config.sigma_min**2 * score)


# mistakes


@pytest.mark.parametrize(
    ("config", "culprit"),
    [
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
        ({"snr": 0.0}, "snr"),
        ({"snr": math.nan}, "snr"),
        ({"correct_steps": -1}, "correct_steps"),
        ({"sampling_eps": 0.0}, "sampling_eps"),
        ({"sigma_min": 60.0, "sigma_max": 50.0}, "sigma_min"),
    ],
)
def test_a_configuration_out_of_range_names_its_field(config, culprit):
    with pytest.raises(ValueError, match=culprit):
        VeScheduler(**config)


def test_a_foreign_configuration_is_refused_by_name():
    with pytest.raises(ValueError, match="beta_start"):
        VeScheduler.from_config({"beta_start": 0.1, "_class_name": "DDPMScheduler"})


def test_steps_without_a_grid_ask_for_set_timesteps():
    x, score = state((2, 3), 1.0)
    with pytest.raises(ValueError, match="set_timesteps"):
        VeScheduler().step_pred(score, 1.0, x)
    with pytest.raises(ValueError, match="set_timesteps"):
        VeScheduler().step_correct(score, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.set_timesteps(1),
        lambda s: s.set_sigmas(0),
    ],
)
def test_a_grid_needs_two_steps(call):
    with pytest.raises(ValueError, match="num_inference_steps"):
        call(VeScheduler())


def test_a_grid_needs_its_end_and_levels_in_range():
    with pytest.raises(ValueError, match="sampling_eps"):
        VeScheduler().set_timesteps(10, sampling_eps=1.0)
    with pytest.raises(ValueError, match="sigma_max"):
        VeScheduler().set_sigmas(10, sigma_max=0.001)


@pytest.mark.parametrize("t", [1.5, -0.1, 7, math.nan])
def test_a_time_outside_the_grid_is_named(t):
    ours, _ = pair(10)
    x, score = state((2, 3), 1.0)
    with pytest.raises(ValueError, match="timestep must lie between 0 and 1"):
        ours.step_pred(score, t, x)
    if isinstance(t, float):
        with pytest.raises(ValueError, match="timesteps must lie between 0 and 1"):
            ours.add_noise(x, x, torch.tensor([t, 0.5]))


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_grid_is_named(index):
    ours, _ = pair(10)
    x, _ = state((2, 3), 1.0)
    with pytest.raises(ValueError, match="0 to 9"):
        ours.add_noise(x, x, torch.tensor([0, index]))


def test_shapes_that_do_not_fit_are_named():
    ours, _ = pair(10)
    x, score = state((3, 4), 1.0)
    with pytest.raises(ValueError, match="model_output"):
        ours.step_pred(score[:2], 0.5, x)
    with pytest.raises(ValueError, match="model_output"):
        ours.step_correct(score[:, :2], x)
    with pytest.raises(ValueError, match="timestep of shape"):
        ours.step_pred(score, torch.tensor([0.5, 0.4]), x)
    with pytest.raises(ValueError, match="timesteps of shape"):
        ours.add_noise(x, x, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="2 generators for 3 rows"):
        ours.step_pred(score, 0.5, x, generator=[torch.Generator(), torch.Generator()])
