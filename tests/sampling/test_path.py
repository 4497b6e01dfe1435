"""Sampling paths: states at even log-SNRs against the closed form, beside an unchanged sample."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.inference.model import Model
from raysde.models.spec import fresh_model
from raysde.sampling.path import sample_path
from raysde.sampling.sampler import sample
from raysde.sde import expand
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.grids import enlarge, locate_rows
from tests.support.models import spec_with
from tests.support.oracles import SDES, exact_flow, gaussian_score
from tests.support.pictures import open_image

MEAN, STD = 0.3, 0.5
PROCESSES = ("vp", "sub_vp", "ve", "edm", "flow")


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("grid", ["log_snr", "time", "edm"])
def test_states_are_those_of_the_exact_flow(name, grid):
    """States lie at even log-SNRs whatever the grid, and match a Gaussian's flow and posterior mean in closed form."""
    sde = SDES[name]
    z = sde.prior((6, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    score = gaussian_score(MEAN, STD, sde)
    found = sample_path(score, sde, z.shape, 7, start=z, dtype=torch.float64, solver="rk4", steps=200, grid=grid)
    log_snr = sde.log_snr(found.times)
    torch.testing.assert_close(log_snr.diff(), log_snr.diff().mean().expand(6), rtol=1e-6, atol=1e-6)
    assert found.times[[0, -1]].tolist() == [sde.ceiling, sde.sample_floor]
    alpha, sigma = (expand(value, found.x) for value in sde.marginal(found.times))
    spread = torch.sqrt((alpha * STD) ** 2 + sigma**2)
    first = exact_flow(sde, z, MEAN, STD)  # determines the trajectory of each state
    a, s = sde.marginal(found.times[-1])
    lines = (first - a * MEAN) / torch.sqrt((a * STD) ** 2 + s**2)
    torch.testing.assert_close((found.x - alpha * MEAN) / spread, lines.expand(7, -1, -1), rtol=0.0, atol=0.02)
    posterior = MEAN + alpha * STD**2 / spread**2 * (found.x - alpha * MEAN)
    torch.testing.assert_close(found.x0_hat, posterior, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [{"solver": "unipc"}, {"solver": "euler_maruyama"}, {"solver": "pc"}, {"solver": "edm", "churn": 4.0},
     {"solver": "dpmpp_3m_sde"}, {"solver": "ddim", "eta": 1.0, "denoise": True}, {"corrector": "langevin"},
     {"solver": "rk45"}],
)  # fmt: skip
def test_the_sample_is_the_one_without_a_path(settings):
    """The sample is bit-equal to one without a path, the solver's own states are among the kept ones, and every
    evaluation is counted."""
    sde, calls = SDES["vp"], []
    plain = gaussian_score(MEAN, STD, sde)

    def score(x, t):
        calls.append(t[0].item())
        return plain(x, t)

    def generators():
        return [torch.Generator().manual_seed(number) for number in range(4)]

    seen = []
    wanted = sample(
        plain, sde, (4, 3), generator=generators(), steps=12, callback=lambda *each: seen.append(each), **settings
    )
    found = sample_path(score, sde, (4, 3), 5, generator=generators(), steps=12, **settings)
    assert found.end.nfe == len(calls)
    assert found.end.nfe > wanted.nfe
    if settings.get("solver") == "rk45":
        torch.testing.assert_close(found.end.x, wanted.x, rtol=1e-3, atol=1e-3)
        return
    assert torch.equal(found.end.x, wanted.x)
    assert torch.equal(found.x[-1], seen[-1][1])
    noise = torch.stack([torch.randn(3, generator=g) for g in generators()])
    assert torch.equal(found.x[0], noise)


def test_states_of_a_stochastic_walk_have_the_marginal():
    """Under VP every x_t of standard normal data is standard normal: 4000 rows, four standard errors and 2% solver
    bias."""
    sde = SDES["vp"]
    found = sample_path(
        gaussian_score(0.0, 1.0, sde), sde, (4000, 1), 6, generator=torch.Generator().manual_seed(0), steps=300,
        solver="euler_maruyama", dtype=torch.float64,
    )  # fmt: skip
    for x in found.x:
        assert abs(x.var().item() - 1.0) < 4.0 * math.sqrt(2.0 / 4000) + 0.02


@pytest.mark.parametrize("points", [1, 0, -2])
def test_a_path_has_two_ends(points):
    with pytest.raises(ValueError, match="at least 2 points"):
        sample_path(gaussian_score(0.0, 1.0, SDES["vp"]), SDES["vp"], (1, 1), points)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "model", default_solver="unipc")


def test_a_models_path_ends_in_its_image(folder, tmp_path):
    model = checkpoint.load_model(Path(folder))
    asked = {"prompts": ["a", "b", "c"], "seed": 2, "steps": 6, "guidance": 2.0}
    plain, found = model.sample(**asked), model.sample_path(4, **asked, batch_size=2)
    assert (found.images.int() - plain.images.int()).abs().max() <= 1
    assert found.x.shape == found.x0_hat.shape == (3, 4, 1, 8, 8)
    assert torch.equal(found.frames[:, 1], model.pixels(found.x0_hat.flatten(0, 1)).unflatten(0, (3, 4)))
    torch.testing.assert_close(found.log_snr.diff(), found.log_snr.diff().mean().expand(3))
    strip = np.asarray(found.strip())
    above = locate_rows(found.strip(), enlarge(found.frames.flatten(0, 2), 12), 4)
    assert [len(each) > 1 for each in above] == [True, False] * 3  # the prompt, above both rows of an image
    assert [path.name for path in found.save(tmp_path)][-1] == "grid.png"
    with Image.open(tmp_path / "path.png") as opened:
        assert np.array_equal(np.asarray(opened), strip)
        assert json.loads(opened.info["log_snr"]) == pytest.approx(found.log_snr.tolist())
        assert (opened.info["seed"], json.loads(opened.info["prompts"])) == ("2", ["a", "b", "c"])


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_frames_show_noise_and_data_on_one_scale(folder, data_range):
    """Black and white at the end of a path are those of the data; noise covers the grey levels at its beginning."""
    model = checkpoint.load_model(Path(folder))
    model = replace(model, spec=replace(model.spec, data_range=data_range))
    low, high = data_range
    levels = torch.linspace(low, high, 256).reshape(1, 1, 1, 16, 16)
    end = torch.tensor([1e-5], dtype=torch.float64)
    assert (model.frames(levels, end).flatten().int() - torch.arange(256)).abs().max() <= 1
    noise = torch.randn(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    grey = model.frames(noise, torch.tensor([1.0], dtype=torch.float64)).double()
    assert abs(grey.mean().item() - 127.5) < 3.0
    assert 40.0 < grey.std().item() < 80.0


def test_the_command_draws_the_strip_beside_the_same_images(folder, tmp_path, capsys):
    given = ["sample", folder, "--prompt", "a", "-n", "2", "--steps", "5"]
    assert main([*given, "--out", str(tmp_path / "plain")]) == 0
    assert main([*given, "--path", "3", "--out", str(tmp_path / "paths")]) == 0
    assert "path.png" in capsys.readouterr().out
    for name in ("image-000.png", "image-001.png", "grid.png"):
        assert torch.equal(open_image(tmp_path / "plain" / name), open_image(tmp_path / "paths" / name))
    model = checkpoint.load_model(Path(folder))
    wanted = model.sample_path(3, prompts=["a", "a"], steps=5, guidance=2.0).strip()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "paths" / "path.png")), np.asarray(wanted))


def test_the_command_begins_at_the_given_start(folder, tmp_path):
    start = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "start.npy", start.numpy())
    save_file({"x": start}, tmp_path / "start.safetensors")
    times = torch.tensor([0.6, 0.3, 0.05], dtype=torch.float64)
    wanted = (
        checkpoint.load_model(Path(folder)).sample(prompts=["a"] * 3, guidance=2.0, start=start, times=times).images
    )
    for kind in ("npy", "safetensors"):
        out = tmp_path / kind
        assert main(["sample", folder, "--prompt", "a", "--start", str(tmp_path / f"start.{kind}"), "--times",
                     "0.6,0.3,0.05", "--out", str(out)]) == 0  # fmt: skip
        assert torch.equal(torch.stack([open_image(out / f"image-{i:03d}.png") for i in range(3)]), wanted)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--path", "1"], "--path must be at least 2"),
        (["--times", "1,b"], "--times '1,b' must be numbers"),
        (["--times", "0.1,0.5"], "times must fall"),
        (["--times", "1,0.5", "--steps", "3"], "--times already fixes the steps: leave out --steps"),
        (["--times", "1,0.5", "--grid", "edm", "--set", "rho=3"], "leave out --grid and --rho"),
        (["--start", "nowhere.npy"], "nowhere.npy cannot be read"),
        (["--start", "flat.npy"], "one array of floats"),
        (["--start", "small.npy"], "start must be floats of shape"),
        (["--start", "two.npy", "-n", "3"], "-n 3, but --start"),
        (["--path", "3", "--prompts-file", "prompts.txt"], "--path cannot be given with --prompts-file"),
    ],
)
def test_walks_that_cannot_be_are_named(folder, tmp_path, capsys, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a")
    for name, shape in (("flat", (3, 8)), ("small", (2, 3, 8, 8)), ("two", (2, 1, 8, 8))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.float32))
    assert said in refused(capsys, "sample", folder, *given)


GRID = torch.tensor([0.9, 0.5, 0.1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 2}, "steps"),
        ({"grid": "edm"}, "grid"),
        ({"steps": 7, "grid": "edm", "rho": 3.0}, "steps and grid and rho"),
    ],
)
def test_times_leave_nothing_to_a_grid(settings, said):
    """Grid settings beside explicit times are refused in Python as at the command line; the model's own settings yield
    silently."""
    sde, spec = SDES["vp"], spec_with(generation={"solver": "heun", "steps": 9, "grid": "edm", "rho": 5.0})
    model = Model(fresh_model(spec, [], 0), spec)
    for draw in (
        lambda **given: sample(gaussian_score(0.2, 0.5, sde), sde, (2, 2), times=GRID, **given),
        lambda **given: sample_path(gaussian_score(0.2, 0.5, sde), sde, (2, 2), 2, times=GRID, **given),
        lambda **given: model.sample(n=1, times=GRID, **given),
        lambda **given: model.sample_path(2, n=1, times=GRID, **given),
    ):
        with pytest.raises(ValueError, match=f"^times already fixes the steps: leave out {said}$"):
            draw(**settings)
    assert model.sample(n=1, times=GRID).nfe == 2 * 2
