"""The random streams of a microbatch: determined by its key, independent of all else, and all different."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from raysde import rng
from raysde.conditioning.conditioner import Conditioner
from raysde.data.batches.microbatch import Microbatch
from raysde.models.score import ScoreModel
from raysde.sde import EDM, VP
from raysde.sde.parameterisation import Preconditioning
from raysde.training.losses import Criterion
from raysde.training.objective import Objective, microbatch_loss
from raysde.training.time_sampling import Importance, LogNormal, UniformLogSnr

CPU = torch.device("cpu")
ROWS, BATCH = 256, 512
SEEDS, STEPS, INDICES = (0, 1), (0, 1, 2), (0, 1)
SDE = VP(ceiling=0.1)
"""An SDE with so little noise that an image shows if it was mirrored."""


class Recorder(nn.Module):
    """A model and network that returns ``output``, records its inputs, and draws random numbers as dropout does."""

    def __init__(self, model: ScoreModel, output: float = 0.0) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x, t, condition):
        self.x, self.t, self.condition = x, t, condition
        self.layer = torch.rand(len(x)) < 0.5  # from the generator of dropout layers
        return torch.full_like(x, self.output), None


def recorder(classes: int = 3, sde=SDE, target="noise", **settings) -> Recorder:
    return Recorder(ScoreModel(nn.Linear(1, 1), Conditioner(None, None, classes), sde, target, 0.5), **settings)


def pictures(count: int = ROWS) -> torch.Tensor:
    """Return images that all differ from each other's mirror images."""
    return torch.randint(0, 256, (count, 2, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def microbatch(step: int, index: int, count: int = ROWS) -> Microbatch:
    labels = torch.arange(count) % 3
    return Microbatch(step, index, np.arange(count), pictures(count), [""] * count, labels)


def objective(**changes) -> Objective:
    values = {"batch": BATCH, "microbatch": ROWS, "seed": 0, "condition_dropout": 0.5, "flip": True}
    own = {name: changes.pop(name) for name in ("weighting", "reduction", "min_snr_gamma") if name in changes}
    return Objective(**{**values, **changes}, criterion=Criterion(**own))


def drawn(step: int, index: int, task: Objective) -> dict[str, torch.Tensor]:
    """Return the random draws of a microbatch, recovered from the network's inputs."""
    forward = recorder()
    microbatch_loss(forward, forward.model, microbatch(step, index), task, CPU)
    x0 = pictures().double() / 127.5 - 1.0
    alpha, sigma = (value[:, None, None, None] for value in SDE.marginal(forward.t.double()))
    straight, mirrored = ((forward.x.double() - alpha * each) / sigma for each in (x0, x0.flip(-1)))
    flip = mirrored.square().mean(dim=(1, 2, 3)) < straight.square().mean(dim=(1, 2, 3))
    eps = torch.where(flip[:, None, None, None], mirrored, straight)
    kept = torch.arange(ROWS) % 3
    drop = forward.condition.labels == -1
    assert torch.equal(forward.condition.labels[~drop], kept[~drop])
    u = (forward.t.double() - SDE.train_floor) / (SDE.ceiling - SDE.train_floor)
    return {"flip": flip, "drop": drop, "eps": eps, "layer": forward.layer, "u": u}


KEYS = list(product(SEEDS, STEPS, INDICES))


@pytest.fixture(scope="module")
def streams() -> dict[tuple[int, int, int], dict[str, torch.Tensor]]:
    return {(seed, step, index): drawn(step, index, objective(seed=seed)) for seed, step, index in KEYS}


def test_a_key_gives_the_same_whatever_was_drawn_before(streams):
    """A key's draws are the same in any order, for any state of torch's generators, alone or after others."""
    for seed, step, index in reversed(KEYS):
        torch.manual_seed(7 * step + index)
        torch.randn(step + 1)
        again = drawn(step, index, objective(seed=seed))
        for name, value in streams[seed, step, index].items():
            assert torch.equal(again[name], value), name


def test_noise_is_standard_normal_and_coins_are_fair(streams):
    """Noise has mean 0 and variance 1 and coins are fair, within four standard errors.

    Normal noise also shows that images are mirrored left to right and not changed otherwise.
    """
    eps = torch.stack([found["eps"] for found in streams.values()]).flatten()
    assert abs(eps.mean()) < 4.0 / len(eps) ** 0.5
    assert abs(eps.square().mean() - 1.0) < 4.0 * (2.0 / len(eps)) ** 0.5
    for found in streams.values():
        # the variance of one image's noise; the largest of 256 stays below six standard errors
        each = found["eps"].square().mean(dim=(1, 2, 3))
        assert abs(each - 1.0).max() < 6.0 * (2.0 / found["eps"][0].numel()) ** 0.5
        for name in ("flip", "drop", "layer"):
            assert abs(found[name].double().mean() - 0.5) < 4.0 * 0.5 / ROWS**0.5, name


def test_no_two_streams_have_to_do_with_each_other(streams):
    """Flips, dropped conditions, dropout layers and noise of every key are uncorrelated with all others.

    Correlations over rows have a standard error of 1 / sqrt(rows); the largest of 1100 stays below five by chance.
    """
    columns = []
    for found in streams.values():
        coins = [found[name].double() for name in ("flip", "drop", "layer")]
        columns += [*coins, found["eps"][:, 0, 0, 0], found["eps"].mean(dim=(1, 2, 3))]
    table = torch.stack(columns)
    table = table - table.mean(dim=1, keepdim=True)
    table = table / table.norm(dim=1, keepdim=True)
    found = (table @ table.T).fill_diagonal_(0.0)
    for key in range(len(KEYS)):  # a pixel correlates with the mean of all
        found[5 * key + 3, 5 * key + 4] = found[5 * key + 4, 5 * key + 3] = 0.0
    assert found.abs().max() < 5.0 / ROWS**0.5


def test_noise_of_two_microbatches_is_unlike(streams):
    eps = torch.stack([found["eps"].flatten() for found in streams.values()])
    off = (eps @ eps.T / eps.shape[1]).fill_diagonal_(0.0)
    assert off.abs().max() < 5.0 / eps.shape[1] ** 0.5


def test_the_offset_of_the_strata_is_the_steps(streams):
    """All microbatches of a step share an offset, other steps and seeds have others; row r of the batch is in stratum
    r."""
    offsets = {}
    for (seed, step, index), found in streams.items():
        places = index * ROWS + torch.arange(ROWS, dtype=torch.float64)
        offset = found["u"] * BATCH - places
        # times are float32: their rounding is 2^-24 relative, times 512 strata
        assert offset.max() - offset.min() < 1e-3
        assert -1e-3 < offset.mean() < 1.0 + 1e-3
        offsets[seed, step, index] = offset.mean().item()
    for seed, step in product(SEEDS, STEPS):
        assert offsets[seed, step, 0] == pytest.approx(offsets[seed, step, 1], abs=1e-3)
    different = sorted(offsets[seed, step, 0] for seed, step in product(SEEDS, STEPS))
    assert min(np.diff(different)) > 2e-3


def test_a_short_last_microbatch_has_the_strata_that_are_left():
    """A global batch of 600 fills all strata in microbatches of 256, 256 and 88."""
    task, batch = objective(batch=600), 600
    times = []
    for index, count in enumerate((ROWS, ROWS, 88)):
        forward = recorder()
        microbatch_loss(forward, forward.model, microbatch(0, index, count), task, CPU)
        times.append((forward.t.double() - SDE.train_floor) / (SDE.ceiling - SDE.train_floor))
    offsets = torch.cat(times) * batch - torch.arange(batch, dtype=torch.float64)
    assert torch.remainder(offsets - offsets[0] + 0.5, batch).sub(0.5).abs().max() < 1e-3


def test_offsets_are_uniform():
    """Over 400 steps offsets have mean 1/2 and variance 1/12, within four standard errors."""
    forward, task, found = recorder(), objective(batch=4, microbatch=4), []
    for step in range(400):
        microbatch_loss(forward, forward.model, microbatch(step, 0, 4), task, CPU)
        found.append((forward.t[0].item() - SDE.train_floor) / (SDE.ceiling - SDE.train_floor) * 4.0)
    assert abs(np.mean(found) - 0.5) < 4.0 * (1.0 / 12.0 / 400) ** 0.5
    assert abs(np.var(found) - 1.0 / 12.0) < 4.0 * (1.0 / 180.0 / 400) ** 0.5
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 4.0 / 400**0.5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_condition_or_every_condition_is_dropped(share):
    assert drawn(3, 0, objective(condition_dropout=share))["drop"].double().mean() == share


def test_pictures_are_mirrored_only_if_asked():
    assert not drawn(3, 0, objective(flip=False))["flip"].any()


def test_a_seed_above_31_bits_counts():
    first, second = (drawn(0, 0, objective(seed=seed)) for seed in (5, 5 + 2**40))
    assert not torch.equal(first["eps"], second["eps"])


def test_every_kind_of_stream_has_its_own_number():
    """Every kind of stream has its own number; two with the same number would draw the same at each step."""
    kinds = {name: value for name, value in vars(rng).items() if name.isupper() and type(value) is int}
    assert len(kinds) >= 13
    assert len(set(kinds.values())) == len(kinds)


def test_keys_tell_every_part_and_its_place_apart():
    paths = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)] + [(1,), (1, 2), (2, 1), (-1, 0)]
    found = {rng.key(seed, *path) for seed in (0, 1, 2**61) for path in paths}
    assert len(found) == 3 * len(paths)
    assert all(0 <= each < 2**63 for each in found)


# the loss, from the network's inputs


def by_hand(forward: Recorder, step: int, task: Objective, output: float, target: str) -> torch.Tensor:
    """Return the mean of 1/2 or 1 / D times lambda / sigma^2 |eps_hat - eps|^2 over the rows, in float64, by
    definition."""
    x0 = pictures(8).double() / 255.0 * (task.data_range[1] - task.data_range[0]) + task.data_range[0]
    t, sde = forward.t.double(), forward.model.sde
    alpha, sigma = sde.marginal(t)
    wide = [value[:, None, None, None] for value in (alpha, sigma)]
    x = forward.x.double()
    eps = (x - wide[0] * x0) / wide[1]
    value = torch.full_like(x, output)
    # solve x = alpha x0 + sigma eps and the target's definition for eps
    size = 0.5 * torch.sqrt((wide[0] * 0.5) ** 2 + wide[1] ** 2)
    scale = {"v": torch.sqrt(wide[0] ** 2 + wide[1] ** 2), "score": 1.0 / wide[1]}.get(target, 1.0)
    a, b = {
        "noise": (0.0, 1.0),
        "score": (0.0, -1.0 / wide[1]),
        "x0": (1.0, 0.0),
        "v": (-wide[1], wide[0]),
        "flow": (-1.0, 1.0),
        "edm": (wide[1] / size, -wide[0] * 0.25 / size),
    }[target]
    implied = (value * scale * wide[0] - a * x) / (b * wide[0] - a * wide[1])
    error = (implied - eps).square().flatten(1)
    error = error.mean(dim=1) if task.criterion.reduction == "mean" else 0.5 * error.sum(dim=1)
    snr = (alpha / sigma) ** 2
    weight = {
        "sigma2": torch.ones_like(t),
        "likelihood": sde.diffusion2(t) / sigma**2,
        "x0": 1.0 / snr,
        "min_snr": torch.minimum(snr, torch.tensor(task.criterion.min_snr_gamma)) / snr,
        "edm": (1.0 / snr + 0.25) / 0.25,
    }[task.criterion.weighting]
    return (weight * error).mean()


@pytest.mark.parametrize("target", ["noise", "score", "x0", "v", "flow", "edm"])
@pytest.mark.parametrize(
    "changes",
    [
        {"weighting": "sigma2"},
        {"weighting": "likelihood", "reduction": "half_sum"},
        {"weighting": "x0", "data_range": (0.0, 1.0)},
        {"weighting": "min_snr", "min_snr_gamma": 2.0},
        {"weighting": "min_snr", "min_snr_gamma": 9.0},
        {"weighting": "edm", "times": LogNormal(mean=-0.5, std=0.7)},
        {"weighting": "sigma2", "times": UniformLogSnr()},
    ],
)
def test_the_loss_of_a_microbatch_is_its_definition(target, changes):
    """Every key of the objective affects the loss as defined, for every target.

    Conversions cost some ten roundings of the largest term, which at extreme times is a hundred times the result.
    """
    forward = recorder(sde=VP(train_floor=0.05), target=target, output=0.3)
    task = objective(batch=8, microbatch=8, flip=False, **changes)
    loss = microbatch_loss(forward, forward.model, microbatch(4, 0, 8), task, CPU)
    assert loss.item() == pytest.approx(by_hand(forward, 4, task, 0.3, target).item(), rel=2e-4)


def test_importance_sampling_divides_by_the_density():
    """A row's weight is its uniform density over the sampling density p(t) = du / dt, computed numerically."""
    forward = recorder(sde=VP(), output=0.3)
    task = objective(batch=8, microbatch=8, flip=False, times=Importance(), weighting="likelihood")
    loss = microbatch_loss(forward, forward.model, microbatch(4, 0, 8), task, CPU)
    t, sde = forward.t.double(), VP()
    step = 1e-6 * t
    high, low = (sde.log_snr(torch.tensor(end, dtype=torch.float64)) for end in (sde.train_floor, 1.0))
    density = (sde.log_snr(t - step) - sde.log_snr(t + step)) / (2.0 * step) / (high - low)
    alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))
    eps = (forward.x.double() - alpha * (pictures(8).double() / 127.5 - 1.0)) / sigma
    error = (0.3 - eps).square().mean(dim=(1, 2, 3)) * sde.diffusion2(t) / sde.sigma2(t)
    assert loss.item() == pytest.approx((error / density / (1.0 - sde.train_floor)).mean().item(), rel=1e-3)


@pytest.mark.parametrize("output", ["unit", "none"])
def test_the_preconditioning_of_the_model_is_that_of_the_loss(output):
    """The loss takes an output of 0.3 as it is, or times 1 / sigma, as the score."""
    forward = recorder(sde=EDM(sigma_max=5.0), target="score", output=0.3)
    forward.model.preconditioning = Preconditioning(output=output)
    task = objective(batch=8, microbatch=8, flip=False, weighting="sigma2")
    loss = microbatch_loss(forward, forward.model, microbatch(4, 0, 8), task, CPU)
    sigma = 5.0 * forward.t.double()[:, None, None, None]
    eps = (forward.x.double() - (pictures(8).double() / 127.5 - 1.0)) / sigma
    score = 0.3 / sigma if output == "unit" else torch.full_like(eps, 0.3)
    assert loss.item() == pytest.approx((-sigma * score - eps).square().mean().item(), rel=1e-4)
