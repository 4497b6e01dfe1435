"""The loss of a recipe in the loop: every SDE, target, weighting and time distribution, and invalid combinations."""

import numpy as np
import pytest
import torch

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.runs.build import make_objective, new_state
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.sde.parameterisation import TARGETS
from raysde.training.losses import Criterion
from raysde.training.objective import microbatch_loss
from raysde.training.time_sampling import Importance, LogNormal, Uniform
from tests.support.training import same_tensors

CPU = torch.device("cpu")
SIGMA = {"sde__kind": "ve", "data__sigma_max_rows": 200}


@pytest.mark.parametrize("kind", ["vp", "sub_vp", "ve", "edm", "flow"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_network_of_zeros_costs_what_its_zeros_mean(recipe, kind, target):
    """The last layer starts at zero, so a fresh network's loss is that of the output 0 at the drawn times.

    Under the target weighting it is the mean square of the scaled target, computed here from the SDE alone.
    """
    tree = recipe(sde__kind=kind, target=target, train__weighting="target", train__times__kind="uniform")
    run = open_run(loading.parse_recipe(tree))
    state, task = new_state(run, CPU), make_objective(run)
    batch = next(read_batches(run.feed, Reader(run.manifest), 0, 1))[0]
    seen = {}

    def forward(x_t, t, condition):
        seen.update(x=x_t, t=t)
        return state.model(x_t, t, condition)

    loss = microbatch_loss(forward, state.model, batch, task, CPU)
    x0 = batch.images.double() / 127.5 - 1.0
    alpha, sigma = (value[:, None, None, None] for value in run.spec.sde.marginal(seen["t"].double()))
    eps = (seen["x"].double() - alpha * x0) / sigma
    size = torch.sqrt((alpha * 0.5) ** 2 + sigma**2)
    wanted = {
        "noise": eps,
        "score": eps,
        "x0": x0,
        "v": (alpha * eps - sigma * x0) / (alpha**2 + sigma**2).sqrt(),
        "flow": eps - x0,
        "edm": (sigma * x0 - alpha * 0.25 * eps) / (0.5 * size),
    }[target]
    assert loss.item() == pytest.approx(wanted.square().mean().item(), rel=2e-3)


def test_times_and_weights_reach_the_loop(recipe):
    """The recipe's nodes are the objects themselves, and EDM defaults to its authors' noise levels."""
    run = open_run(
        loading.parse_recipe(
            recipe(train__times__kind="importance", train__weighting="min_snr", train__min_snr_gamma=3.0)
        )
    )
    task = make_objective(run)
    assert (task.times, task.criterion) == (Importance(), Criterion(weighting="min_snr", min_snr_gamma=3.0))
    assert make_objective(open_run(loading.parse_recipe(recipe(sde__kind="edm")))).times == LogNormal()
    assert make_objective(open_run(loading.parse_recipe(recipe()))).times == Uniform()


def test_learned_uncertainty_trains_resumes_and_samples(recipe, tmp_path):
    """The uncertainty's weights change and are saved, and a resumed run is bit-equal."""
    settings = {"train__uncertainty": "learned", "sde__kind": "edm", "target": "edm", "train__weighting": "edm"}
    whole = train_here(open_run(loading.parse_recipe(recipe(**settings, storage=str(tmp_path / "a")))), None)
    assert whole.model.uncertainty.out.weight.abs().max() > 0.0

    class Stop:
        def metrics(self, step, values):
            if step == 7:
                raise KeyboardInterrupt

        def image(self, *_): ...

    tree = recipe(**settings, storage=str(tmp_path / "b"))
    with pytest.raises(KeyboardInterrupt):
        train_here(open_run(loading.parse_recipe(tree)), Stop())
    resumed = train_here(open_run(loading.parse_recipe(tree)), None)
    assert same_tensors(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    model = checkpoint.load_model(checkpoint.find_newest_checkpoint(tmp_path / "b" / "small"))
    assert model.score_model.uncertainty is not None
    assert model.sample(n=2, steps=2).images.shape == (2, 1, 8, 8)


def test_sigma_max_is_taken_from_the_images(recipe, digits):
    """sigma_max is the largest distance between the selected images; all of them here."""
    tree = recipe(**SIGMA)
    x = Reader(digits).read(np.arange(200)).images.astype(np.float64).reshape(200, -1) / 127.5 - 1.0
    largest = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)).max()
    assert open_run(loading.parse_recipe(tree)).spec.sde.sigma_max == pytest.approx(largest, rel=1e-6)
    # half the data range halves the distances
    found = open_run(loading.parse_recipe(recipe(**{**SIGMA, "data__range": [0.0, 1.0]}))).spec.sde.sigma_max
    assert found == pytest.approx(0.5 * largest, rel=1e-6)
    # another seed selects other images
    few = [
        open_run(loading.parse_recipe(recipe(**{**SIGMA, "data__sigma_max_rows": 10}, seed=seed))) for seed in (0, 0, 1)
    ]
    first, again, other = (run.spec.sde.sigma_max for run in few)
    assert first == again != other
    assert max(first, other) < largest
    with pytest.raises(ValueError, match=r"sde\.kind=ve"):
        open_run(loading.parse_recipe(recipe(data__sigma_max_rows=10)))


def test_sigma_max_is_not_taken_from_rows_that_are_held_out(recipe, digits):
    """sigma_max is computed from the 150 training rows, not from the 50 held-out ones."""
    run = open_run(
        loading.parse_recipe(recipe(**{**SIGMA, "data__sigma_max_rows": 150}, validation__rows=50, validation__every=2))
    )
    held = set(run.held_out.tolist())
    kept = np.array([row for row in range(200) if row not in held])
    x = Reader(digits).read(kept).images.astype(np.float64).reshape(150, -1) / 127.5 - 1.0
    largest = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)).max()
    assert run.spec.sde.sigma_max == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"sampling__solver": "pc", "sde__kind": "flow"}, "langevin is undefined on Flow"),
        ({"sampling__solver": "unipc", "sampling__corrector": "langevin"}, "cannot follow unipc"),
        ({"train__weighting": "magic"}, "train.weighting"),
        ({"train__times__kind": "magic"}, "train.times"),
        ({"target": "magic"}, "target"),
        ({"sde__kind": "flow", "sde__ceiling": 2.0}, "ceiling"),
        ({"sde__kind": "vp", "sde__schedule": "table"}, "alphas_cumprod"),
    ],
)
def test_impossible_recipes_are_named(recipe, changes, culprit):
    with pytest.raises(ValueError, match=culprit):
        loading.parse_recipe(recipe(**changes))
