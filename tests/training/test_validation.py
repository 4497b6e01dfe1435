"""Validation on held-out rows: common noise for every model, and errors with a closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from raysde.conditioning.conditioner import Conditioner
from raysde.config import loading
from raysde.data.batches.microbatch import Microbatch, held_out_batches
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.view import View
from raysde.distributed.world import World
from raysde.io.progress import ProgressLine
from raysde.models.autoencoder import LatentSpec
from raysde.models.score import ScoreModel
from raysde.runs.build import make_validator, new_state
from raysde.runs.run import open_run
from raysde.sde import EDM, VE, VP, Flow, SubVP
from raysde.sde.parameterisation import Preconditioning, convert_target, marginal_for
from raysde.training.validation import BINS, Seen, measure_bins, validation_loss

CPU = torch.device("cpu")
SHAPE, ROWS = (1, 4, 4), 1500
SPEC = LatentSpec(vae="", sha256="", scaling_factor=1.0, shift_factor=0.0, shape=SHAPE, pixels=SHAPE)
SDES = {
    "vp": VP(),
    "cosine": VP(schedule="cosine"),
    "sub_vp": SubVP(),
    "ve": VE(sigma_max=80.0),
    "edm": EDM(),
    "flow": Flow(),
}
VARIANCES = torch.logspace(-3, 0, 16).reshape(SHAPE)


class Gaussian(nn.Module):
    """A network with the exact output of ``target`` for data N(mean, diag(variances)), which counts its evaluations."""

    def __init__(self, sde, target, mean, variances) -> None:
        super().__init__()
        self.sde, self.target, self.mean, self.variances, self.asked = sde, target, mean, variances, 0

    def forward(self, x, t):
        self.asked += 1
        alpha, sigma = marginal_for(self.sde, t, x)
        gain = alpha * self.variances / ((alpha * self.variances.sqrt()).square() + sigma.square())
        x0_hat = self.mean + gain * (x - alpha * self.mean)
        return convert_target(x0_hat, x, alpha, sigma, "x0", self.target, 0.5)


def exact(sde, target="noise", mean=0.0, variances=VARIANCES):
    plain = Preconditioning(time="t", input="none", output="none")
    return ScoreModel(Gaussian(sde, target, mean, variances), Conditioner(None, None, 0), sde, target, 0.5, plain)


def gaussian_rows(variances=VARIANCES, mean=0.0, count=ROWS, size=500):
    """Return held-out rows whose x0 is drawn from the Gaussian, as latents are drawn from their posteriors."""
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        moments = torch.cat([torch.full(SHAPE, mean), variances.log()]).expand(size, -1, -1, -1)
        yield Microbatch(0, start, rows, torch.empty(size, 0), [""] * size, torch.full((size,), -1), moments=moments)


@torch.no_grad()
def measured(model, variances=VARIANCES, mean=0.0, seed=0):
    return validation_loss(model, gaussian_rows(variances, mean), seed, (-1.0, 1.0), World(), SPEC)


def expected(low, high, variances=VARIANCES, linear=False):
    """Return the posterior's mean variance over a bin and its standard error; ``linear`` treats all pixels alike."""
    v = variances.double().flatten()
    noise2 = torch.exp(-torch.linspace(low, high, 4001, dtype=torch.float64))[:, None]
    v = v.mean().expand(16) if linear else v
    each = v * noise2 / (v + noise2)
    mean, square = each.mean(dim=1), each.mean(dim=1).square() + 2.0 * each.square().mean(dim=1) / each.shape[1]
    return mean.mean().item(), math.sqrt((square.mean() - mean.mean().square()).item() / ROWS)


def bin_of(metrics, low, high, name="val/denoising"):
    return metrics[f"{name}_snr_{low:.0f}_to_{high:.0f}"]


@pytest.fixture(scope="module")
def reference():
    return measured(exact(VP()))


def test_the_exact_score_has_the_posteriors_variance(reference):
    """Each bin is the integral over places of the mean of v n^2 / (v + n^2), within four standard errors."""
    for low, high in BINS:
        value, error = expected(low, high)
        assert abs(bin_of(reference, low, high) - value) < 4.0 * error
    ratios = [expected(*each)[0] / expected(*each, linear=True)[0] for each in BINS]
    # the rows' own variance differs from the true one by sqrt(2 sum v^2 / n) / sum v, and a ratio by at most as much
    spread = math.sqrt(2.0 * VARIANCES.square().sum().item() / ROWS) / VARIANCES.sum().item()
    errors = [expected(*each)[1] / expected(*each, linear=True)[0] for each in BINS]
    assert abs(reference["val/denoising"] - np.mean(ratios)) < 4.0 * (np.linalg.norm(errors) / len(BINS) + spread)
    assert max(ratios) / min(ratios) < 3.0
    assert reference["val/denoising_reach"] == 1.0


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("target", ["noise", "v", "x0"])
def test_every_process_and_target_gives_the_same_number(reference, kind, target):
    """The noise is common to all SDEs and targets, so exact scores differ only by rounding."""
    found = measured(exact(SDES[kind], target))
    assert found.keys() == reference.keys()
    for name, value in found.items():
        if "denoising" in name:
            assert value == pytest.approx(reference[name], rel=2e-4), name


def test_a_denoiser_that_knows_mean_and_variance_scores_one():
    """A denoiser that knows mean and variance scores 1 at every noise level, a constant guess only at high noise."""
    alike = torch.full(SHAPE, 0.3)
    assert measured(exact(EDM(), "x0", 0.7, alike), alike, 0.7)["val/denoising"] == pytest.approx(1.0, abs=0.03)
    constant = measured(exact(EDM(), "x0", 0.7, torch.zeros(SHAPE) + 1e-9), alike, 0.7)
    assert bin_of(constant, -8, -5) == pytest.approx(0.3, rel=0.05)
    assert constant["val/denoising"] > 20.0


def test_noise_that_the_process_does_not_reach_is_charged_as_the_linear_denoiser():
    """VE up to sigma 5 reaches log-SNR -3.2; below, its score is that of the linear denoiser, whatever its network
    says."""
    alike = torch.full(SHAPE, 0.3)
    short = VE(sigma_max=5.0)
    found = [measured(exact(short, variances=torch.full(SHAPE, v)), alike) for v in (0.3, 3.0)]
    value, _ = expected(-8, -5, alike)
    for metrics in found:
        # both sides use the bin's mean; the variation of n^2 over places hardly matters here
        assert bin_of(metrics, -8, -5) == pytest.approx(value, rel=0.1)
    assert bin_of(found[0], -8, -5) == bin_of(found[1], -8, -5)
    assert bin_of(found[0], -1, 1) < 0.9 * bin_of(found[1], -1, 1)
    assert found[0]["val/denoising"] == pytest.approx(1.0, abs=0.03)
    lost = (1.0 + (2.0 * math.log(5.0) - 3.0) * -0.5 + 1.0) / len(BINS)
    assert 1.0 - found[0]["val/denoising_reach"] == pytest.approx(lost, abs=4.0 * math.sqrt(0.25 / ROWS) / len(BINS))
    # val/loss is measured at the highest noise level, sigma 5, where v / (v + 25) of the noise is left
    assert bin_of(found[0], -8, -5, "val/loss") == pytest.approx(0.3 / 25.3, rel=4.0 * math.sqrt(2.0 / 16 / ROWS))


def test_the_data_range_does_not_matter(digits):
    """The same pixels in [0, 1] and in [-1, 1], each with its exact denoiser, have the same error."""
    rows = np.arange(60)
    images = torch.from_numpy(Reader(digits).read(rows).images).permute(0, 3, 1, 2)
    batch = Microbatch(0, 0, rows, images, [""] * 60, torch.full((60,), -1))
    found = []
    for data_range, mean, variance in (((-1.0, 1.0), -0.2, 0.4), ((0.0, 1.0), 0.4, 0.1)):
        model = exact(VE(sigma_max=80.0, sigma_min=1e-3), "noise", mean, torch.tensor(variance))
        with torch.no_grad():
            found.append(validation_loss(model, [batch], 3, data_range, World()))
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-4), name
    pixels = images.double() / 127.5 - 1.0
    power = ((pixels + 0.2).square().mean() / 0.4).item()
    # at high noise x0_hat is the mean of the denoiser's prior
    assert bin_of(found[0], -8, -5) == pytest.approx(0.4 * power, rel=0.05)


def test_a_rows_noise_depends_on_the_seed_and_its_number_alone(recipe):
    """A row's noise is the same for any microbatches and ranks; errors differ only by the rounding of sums."""
    run = open_run(loading.parse_recipe(recipe(validation__rows=24)))
    model, reader = new_state(run, CPU).model.eval(), Reader(run.manifest)
    torch.nn.init.normal_(model.network.leave.weight)

    def by_row(size, order=1, seed=run.config.seed):
        batches = list(held_out_batches(reader, run.held_out, size, View(), 0, 1))[::order]
        with torch.no_grad():
            parts = [measure_bins(model, batch, seed, (-1.0, 1.0), CPU, None) for batch in batches]
        rows = np.concatenate([batch.rows for batch in batches])
        return Seen.of(parts), torch.from_numpy(rows.argsort())

    (whole, place), (other, _) = by_row(24), by_row(24, seed=7)
    for size, order in ((5, 1), (7, -1), (1, 1)):
        found, mine = by_row(size, order)
        assert torch.equal(found.noise2[mine], whole.noise2[place])
        torch.testing.assert_close(found.denoising[mine], whole.denoising[place], rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(found.loss[mine], whole.loss[place], rtol=1e-4, atol=1e-9)
    assert not torch.equal(other.noise2, whole.noise2)
    assert len(set(whole.noise2.flatten().tolist())) == whole.noise2.numel()
    # each bin has its own place, a fraction 1 / (high - low) of its width, compared up to float64 rounding
    low, high = torch.tensor(BINS, dtype=torch.float64).T
    places = ((-whole.noise2.log() - low) / (high - low)).round(decimals=9)
    assert len(places.unique()) == places.numel()
    assert 0.0 <= places.min() < places.max() < 1.0


def test_each_row_is_validated_under_its_own_condition(recipe, digits):
    """Each row keeps its caption and class, never dropped, and one encoding serves all bins."""
    run = open_run(
        loading.parse_recipe(recipe(validation__rows=24, class_conditional=True, train__condition_dropout=1.0))
    )
    model, seen = new_state(run, CPU).model.eval(), []
    model.conditioner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        make_validator(run, World())(model)
    rows = Reader(digits).read(run.held_out)
    ids, mask = model.conditioner.tokenizer(rows.captions)
    assert torch.equal(torch.cat([each.labels for each in seen]), torch.from_numpy(rows.labels))
    assert len(seen) == 2  # microbatches of 16 and 8
    lengths = mask.sum(dim=1)
    found = [row[part.bool()].tolist() for each in seen for row, part in zip(each.ids, each.mask, strict=True)]
    assert found == [row[:count].tolist() for row, count in zip(ids, lengths, strict=True)]


def test_the_recipes_microbatch_does_not_move_it(recipe):
    """A run's own validation is the same with microbatches of 4 and of 16."""
    found = []
    for size in (4, 16):
        run = open_run(loading.parse_recipe(recipe(validation__rows=24, train__microbatch=size)))
        with torch.no_grad():
            found.append(make_validator(run, World())(new_state(run, CPU).model.eval()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_one_answer_of_the_network_gives_both_figures():
    model = exact(VP())
    measured(model)
    assert model.network.asked == len(BINS) * len(list(gaussian_rows()))


def test_a_rank_without_rows_takes_part():
    found = validation_loss(exact(VP()), [*gaussian_rows(count=500)], 0, (-1.0, 1.0), World(), SPEC)
    none = Seen.of([])
    assert none.loss.shape == none.reached.shape == (0, len(BINS))
    assert len(none.mean) == 0
    assert math.isfinite(found["val/denoising"])


def test_the_progress_line_tells_both():
    text = ProgressLine(10, 4).text(5, {"train/loss": 0.5, "val/loss": 0.25, "val/denoising": 0.125})
    assert "denoising 0.1250" in text
    assert "val 0.2500" in text
