"""Import and export of diffusers pipelines: the same scores, and the same images from the same noise."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import raysde
from raysde import interop
from raysde.checkpoints import checkpoint
from raysde.cli import build_parser, main
from raysde.inference.model import Model
from raysde.interop.discrete_steps import DISCRETE
from raysde.models.autoencoder import latent_spec
from raysde.models.spec import fresh_model
from raysde.networks import UNetConfig
from raysde.sampling.sampler import sample
from raysde.sampling.solvers.correctors import langevin, mean_norm
from raysde.sampling.solvers.predictors import ancestral, reverse_diffusion
from raysde.sampling.solvers.trajectory import Walk
from raysde.sde import EDM, VE, VP, SubVP
from raysde.sde.parameterisation import Preconditioning
from tests.support.diffusers_models import DDPM, DIT, FOURIER, RAW, TEXT, UNET, ddpm, diffusers_spec, unet_with
from tests.support.encoders import autoencoder

SHAPE = (2, 3, 8, 8)
NCSNPP = {
    "sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": None, "norm_eps": 1e-6,
    "time_embedding_type": "fourier", "center_input_sample": True, "mid_block_scale_factor": math.sqrt(2.0),
    "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D"), "up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D"),
}  # fmt: skip
"""NCSN++ as described by google/ncsnpp-*, but tiny."""


def ncsnpp(folder: Path, **scheduler) -> Path:
    parts = {"unet": unet_with(**NCSNPP), "scheduler": ScoreSdeVeScheduler(**{"sigma_max": 20.0, **scheduler})}
    ScoreSdeVePipeline(**parts).save_pretrained(folder)
    return folder


def opened(folder: Path):
    pipeline = DiffusionPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(folder: Path, **settings) -> torch.Tensor:
    """Return a pipeline's images, [B, C, H, W] in [0, 1]."""
    images = opened(folder)(output_type="np", generator=torch.Generator().manual_seed(3), **settings).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def noise(shape=SHAPE) -> tuple[torch.Tensor, torch.Generator]:
    """Return the pipeline's initial noise, and the generator after it."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator), generator


def score_of(model: Model, labels=None, guidance=1.0, count=2):
    return model.conditioned(None, labels, count, guidance).score


def shown(x: torch.Tensor) -> torch.Tensor:
    return (x / 2.0 + 0.5).clamp(0.0, 1.0)


def same_images(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Check equality to 1e-4; most pixels are neither black nor white, so clipping hides no difference."""
    assert (theirs.gt(0.0) & theirs.lt(1.0)).double().mean() > 0.3
    assert_close(ours, theirs, rtol=0.0, atol=1e-4)


# in: variance exploding


@torch.no_grad()
def test_an_ncsnpp_folder_is_a_ve_model_with_its_networks_score(tmp_path):
    folder = ncsnpp(tmp_path / "ncsnpp", sigma_min=0.02, sigma_max=30.0, sampling_eps=1e-4)
    model = interop.load(folder).model
    assert model.sde == VE(sigma_min=0.02, sigma_max=30.0, sample_floor=1e-4)
    assert (model.spec.image, model.spec.data_range, model.spec.target) == ((3, 8, 8), (0.0, 1.0), "score")
    x, t = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, 0.8])
    sigma = 0.02 * 1500.0**t
    assert sigma[0] < 1.0 < sigma[1]
    expected = UNet2DModel.from_pretrained(folder / "unet")(x, sigma).sample
    assert_close(score_of(model)(x, t), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_predictor_and_corrector_draw_the_images_of_the_ve_pipeline(tmp_path):
    """Compare the reverse diffusion and Langevin steps of the solver with the pipeline's, in its order and with its
    noise.

    The pipeline takes |z| of the noise drawn where ours takes sqrt(d), and ends by a step to noise 0.
    """
    steps, snr = 9, 0.17
    settings = {"sigma_min": 0.02, "sigma_max": 0.4, "sampling_eps": 1e-5, "snr": snr, "correct_steps": 1}
    folder = ncsnpp(tmp_path / "ncsnpp", **settings)
    model = interop.load(folder).model
    start, generator = noise()
    draws = [torch.randn(SHAPE, generator=generator) for _ in range(2 * steps)]
    pending = iter(draws)
    times = torch.linspace(1.0, 1e-5, steps, dtype=torch.float64)
    walk = Walk(score_of(model), model.sde, times, lambda x: next(pending))
    x = model.sde.prior_std * start
    for index in range(steps):
        size = mean_norm(draws[2 * index])[0].item() / math.sqrt(x[0].numel())
        x, _ = langevin(walk, x, index, snr * size, mean_norm)
        x, mean = (walk.x0(x, index),) * 2 if index + 1 == steps else reverse_diffusion(walk, x, index)
        if index + 1 < steps:
            assert not torch.equal(x, mean)
    same_images(x.clamp(0.0, 1.0), drawn(folder, batch_size=2, num_inference_steps=steps))


# in: variance preserving

SCHEDULES = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
    "trained": {"trained_betas": [0.1, 0.2, 0.15, 0.4, 0.9], "num_train_timesteps": 5},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@torch.no_grad()
def test_a_ddpm_folder_is_a_vp_model_with_its_networks_score(tmp_path, schedule, prediction):
    folder = ddpm(
        tmp_path / "ddpm", DDPMPipeline, DDPMScheduler, prediction_type=prediction, network={**DDPM, "in_channels": 3},
        **SCHEDULES[schedule],
    )  # fmt: skip
    scheduler, unet = opened(folder).scheduler, UNet2DModel.from_pretrained(folder / "unet")
    model = interop.load(folder).model
    count = len(scheduler.alphas_cumprod)
    assert (model.sde.kind, model.sde.sample_floor) == ("vp", 1.0 / count)
    assert model.spec.data_range == (-1.0, 1.0)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for step in {1, count // 3, count - 1}:
        output, level = unet(x, step).sample, scheduler.alphas_cumprod[step].double()
        alpha, sigma = level.sqrt(), (1.0 - level).sqrt()
        eps = {
            "epsilon": output, "sample": (x - alpha * output) / sigma, "v_prediction": alpha * output + sigma * x,
        }[prediction]  # fmt: skip
        found = score_of(model)(x, torch.full((2,), (step + 1) / count, dtype=torch.float64))
        assert_close(found.double() * sigma, -eps.double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (DDIMPipeline, {"prediction_type": "v_prediction"}),
        (DDIMPipeline, {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}),
        (DDIMPipeline, {"num_train_timesteps": 40, "beta_start": 1e-3, "beta_end": 0.02}),
        (DDPMPipeline, {"num_train_timesteps": 40, "trained_betas": [0.002 + 0.0005 * i for i in range(40)]}),
    ],
)  # fmt: skip
def test_ddim_draws_the_images_of_the_ddim_pipeline(tmp_path, kind, config):
    """Use the pipeline's steps and noise with eta 0: step i of N is our t = (i + 1) / N."""
    folder = ddpm(tmp_path / "ddim", kind, **config)
    expected = drawn(folder, batch_size=2, num_inference_steps=10)
    scheduler = opened(folder).scheduler
    scheduler.set_timesteps(10)
    times = (scheduler.timesteps.double() + 1.0) / scheduler.config.num_train_timesteps
    model = interop.load(folder).model
    found = sample(score_of(model), model.sde, SHAPE, solver="ddim", times=times, start=noise()[0], denoise=True)
    assert found.nfe == 10
    same_images(shown(found.x), expected)


@torch.no_grad()
def test_a_learned_variance_is_left_out_of_an_imported_network(tmp_path):
    network = {**DDPM, "out_channels": 6}
    folder = ddpm(tmp_path / "d", DDPMPipeline, DDPMScheduler, network=network, variance_type="learned_range")
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    model, level = interop.load(folder).model, opened(folder).scheduler.alphas_cumprod[500]
    expected = -UNet2DModel.from_pretrained(folder / "unet")(x, 500).sample[:, :3] / (1.0 - level).sqrt()
    assert_close(score_of(model)(x, torch.full((2,), 0.501)), expected, rtol=1e-4, atol=1e-4)


# in: checkpoints


@pytest.mark.parametrize("make", [ncsnpp, ddpm])
def test_an_import_is_a_checkpoint_that_needs_its_folder_no_more(tmp_path, capsys, make):
    """The checkpoint of the command, the folder through raysde.load, and the pipeline's weights agree."""
    folder = make(tmp_path / "theirs")
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 0
    suggested = capsys.readouterr().out.strip().splitlines()[-1].removeprefix("draw from it:  raysde ").split()
    direct = raysde.load(folder, device="cpu")
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").unlink()
    model = checkpoint.load_model(tmp_path / "ours")
    assert model.spec == direct.spec
    x, t = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 0.9])
    assert torch.equal(score_of(model)(x, t), score_of(direct)(x, t))
    ours = load_file(tmp_path / "ours" / "ema.safetensors")
    assert {f"network.model.{name}" for name in weights} == set(ours)
    assert all(torch.equal(ours[f"network.model.{name}"], value) for name, value in weights.items())
    assert {path.suffix for path in (tmp_path / "ours").rglob("*") if path.is_file()} == {".safetensors", ".json"}
    suggested[suggested.index("--steps") + 1] = "3"
    assert main([*suggested, "-n", "1", "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "grid.png").exists()


def test_what_no_solver_here_does_is_said(tmp_path, capsys):
    pipeline = DDPMPipeline(unet=unet_with(**DDPM), scheduler=DDPMScheduler(clip_sample=True))
    pipeline.save_pretrained(tmp_path / "theirs")
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert "clip_sample: the scheduler clips" in capsys.readouterr().out


# out


def model_of(**changes) -> Model:
    """Return a model with random weights; by default with three channels and unscaled inputs."""
    values = {"image": (3, 8, 8), "preconditioning": RAW, **changes}
    spec = diffusers_spec(**values)
    return Model(fresh_model(spec, [], 0).eval().requires_grad_(False), spec)


PROCESSES = {
    "linear": VP(),
    "gentle": VP(beta_max=2.0),
    "cosine": VP(schedule="cosine"),
    "table": VP(schedule="table", alphas_cumprod=tuple(0.99**i for i in range(1, 61)), sample_floor=1 / 60),
}
VPS = [
    ("linear", "v", "999t"),
    ("gentle", "noise", "999t"),
    ("cosine", "v", "step"),
    ("table", "noise", "step"),
    ("table", "x0", "step"),
]


def times_of(pipeline, time: str, steps: int) -> torch.Tensor:
    """Return our times of a pipeline's steps, from the definition of each time input."""
    pipeline.scheduler.set_timesteps(steps)
    numbers = pipeline.scheduler.timesteps.double()
    return numbers / 999.0 if time == "999t" else (numbers + 1.0) / pipeline.scheduler.config.num_train_timesteps


@pytest.mark.parametrize(("process", "target", "time"), VPS)
def test_an_exported_vp_model_draws_our_ddim_images(tmp_path, process, target, time):
    raw = replace(RAW, time=time)
    model = model_of(sde=PROCESSES[process], target=target, preconditioning=raw)
    assert interop.export(model, tmp_path / "out") == "DDIMPipeline"
    expected = drawn(tmp_path / "out", batch_size=2, num_inference_steps=10)
    times = times_of(opened(tmp_path / "out"), time, 10)
    assert times[0] == 1.0
    found = sample(score_of(model), model.sde, SHAPE, solver="ddim", times=times, start=noise()[0], denoise=True)
    same_images(shown(found.x), expected)


def test_an_exported_vp_model_draws_our_dpm_solver_images(tmp_path):
    """Take 20 steps: below 16, the two programs lower their order at different places."""
    model = model_of(preconditioning=replace(RAW, time="999t"))
    assert interop.export(model, tmp_path / "out", solver="dpmpp_2m") == "DDPMPipeline"
    expected = drawn(tmp_path / "out", batch_size=2, num_inference_steps=20)
    times = times_of(opened(tmp_path / "out"), "999t", 20)
    found = sample(score_of(model), model.sde, SHAPE, solver="dpmpp_2m", times=times, start=noise()[0], denoise=True)
    same_images(shown(found.x), expected)


@torch.no_grad()
def test_an_exported_vp_model_draws_our_ancestral_images(tmp_path):
    """Use the noise of the pipeline's own generator; its last step ends at the predicted image."""
    model = model_of(preconditioning=replace(RAW, time="step"))
    assert interop.export(model, tmp_path / "out", solver="ancestral") == "DDPMPipeline"
    expected = drawn(tmp_path / "out", batch_size=2, num_inference_steps=10)
    x, generator = noise()
    times = times_of(opened(tmp_path / "out"), "step", 10)
    walk = Walk(score_of(model), model.sde, times, lambda x: torch.randn(x.shape, generator=generator))
    for index in range(9):
        x, _ = ancestral(walk, x, index)
    same_images(shown(walk.x0(x, 9)), expected)


@torch.no_grad()
def test_an_exported_ve_model_draws_the_images_of_its_own_score(tmp_path):
    """Apply reverse diffusion and Langevin steps (Song et al. 2021, eq. 46, algorithm 4) to our score, from the same
    noise."""
    model = model_of(
        network=FOURIER, sde=VE(sigma_min=0.02, sigma_max=0.4), target="score", data_range=(0.0, 1.0)
    )  # fmt: skip
    assert interop.export(model, tmp_path / "out", target_snr=0.2) == "ScoreSdeVePipeline"
    expected = drawn(tmp_path / "out", batch_size=2, num_inference_steps=8)
    x, generator = noise()
    x, score = 0.4 * x, score_of(model)
    levels = [0.0, *(0.02 * (0.4 / 0.02) ** (k / 7) for k in range(8))]
    for k, t in zip(range(8, 0, -1), torch.linspace(1.0, 1e-5, 8), strict=True):
        z, towards = torch.randn(x.shape, generator=generator), score(x, t.expand(2))
        step = 2.0 * (0.2 * z.flatten(1).norm(dim=1).mean() / towards.flatten(1).norm(dim=1).mean()) ** 2
        x = x + step * towards + (2.0 * step).sqrt() * z
        rise = levels[k] ** 2 - levels[k - 1] ** 2
        mean = x + rise * score(x, t.expand(2))
        x = mean + rise**0.5 * torch.randn(x.shape, generator=generator)
    same_images(mean.clamp(0.0, 1.0), expected)


def latent_model(folder: Path, architecture="UNet2DModel", network=UNET, shift=None, **changes) -> tuple[Model, str]:
    """Return a model of a tiny autoencoder's latents, 2 x 4 x 4."""
    vae = autoencoder(folder / "vae", shift_factor=shift)
    spec = latent_spec(vae, (1, 8, 8))
    raw = replace(RAW, time="step")
    model = model_of(
        architecture=architecture, network=network, latent=spec, image=spec.shape, preconditioning=raw, **changes
    )
    return model, vae


@torch.no_grad()
def pixels(vae: str, x0: torch.Tensor) -> torch.Tensor:
    return shown(AutoencoderKL.from_pretrained(vae).decode(x0 / 0.5).sample)


def test_an_exported_latent_model_draws_our_images_through_its_autoencoder(tmp_path):
    model, vae = latent_model(tmp_path)
    assert interop.export(model, tmp_path / "out") == "LDMPipeline"
    expected = drawn(tmp_path / "out", batch_size=2, num_inference_steps=10)
    times = times_of(opened(tmp_path / "out"), "step", 10)
    x = sample(
        score_of(model), model.sde, (2, 2, 4, 4), times=times, start=noise((2, 2, 4, 4))[0], solver="ddim", denoise=True
    ).x
    same_images(pixels(vae, x), expected)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("variance", [False, True])
def test_an_exported_transformer_draws_our_images_of_its_classes(tmp_path, guidance, variance):
    """Compare with guidance too: the pipeline's null class, 1000, is our dropped label."""
    network = {**DIT, "out_channels": 4} if variance else DIT
    model, vae = latent_model(tmp_path, "DiTTransformer2DModel", network, classes=3)
    torch.nn.init.normal_(
        model.score_model.conditioner.class_embedding.weight, generator=torch.Generator().manual_seed(2)
    )
    assert interop.export(model, tmp_path / "out") == "DiTPipeline"
    settings = {"class_labels": [2, 0], "guidance_scale": guidance, "num_inference_steps": 10}
    expected, other = (drawn(tmp_path / "out", **{**settings, "class_labels": labels}) for labels in ([2, 0], [1, 0]))
    assert (expected[0] - other[0]).abs().max() > 1e-3
    times = times_of(opened(tmp_path / "out"), "step", 10)
    score, start = score_of(model, [2, 0], guidance), noise((2, 2, 4, 4))[0]
    x = sample(score, model.sde, (2, 2, 4, 4), times=times, start=start, solver="ddim", denoise=True).x
    same_images(pixels(vae, x), expected)


def test_an_export_holds_weights_and_json_alone_and_comes_back(tmp_path):
    """The folder has no code and no pickle, and gives the same score when imported again."""
    model = model_of(sde=PROCESSES["table"], target="noise", preconditioning=replace(RAW, time="step"))
    interop.export(model, tmp_path / "out")
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".json", ".safetensors"}
    back = raysde.load(tmp_path / "out", device="cpu")
    assert_close(torch.tensor(back.sde.alphas_cumprod), torch.tensor(model.sde.alphas_cumprod), rtol=1e-5, atol=0.0)
    x, t = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 0.9])
    assert_close(score_of(back)(x, t), score_of(model)(x, t), rtol=1e-4, atol=1e-4)


def test_an_import_can_be_exported_again(tmp_path, capsys):
    folder = ncsnpp(tmp_path / "theirs", sigma_max=0.4)
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 0
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "again"), "--target-snr", "0.15"]) == 0
    assert "ScoreSdeVePipeline" in capsys.readouterr().out
    settings = {"batch_size": 2, "num_inference_steps": 4}
    assert torch.equal(drawn(tmp_path / "again", **settings), drawn(folder, **settings))


def config_of(folder: Path) -> dict:
    """Return a scheduler's settings on disk, without the program and version that wrote them."""
    content = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return {name: value for name, value in content.items() if not name.startswith("_")}


def test_every_setting_of_a_ve_scheduler_is_carried_in_and_out(tmp_path, capsys):
    """No setting has its default; settings of the pipeline's call become options of `raysde sample`."""
    settings = {"sigma_min": 0.03, "sigma_max": 41.0, "sampling_eps": 3e-4, "snr": 0.21, "correct_steps": 3,
                "num_train_timesteps": 77}  # fmt: skip
    imported = interop.load(ncsnpp(tmp_path / "theirs", **settings))
    assert imported.scheduler == settings
    assert imported.settings == "--solver pc --steps 77 --set target_snr=0.21 --set corrector_steps=3"
    interop.export(imported.model, tmp_path / "out")
    assert config_of(tmp_path / "out") == settings
    interop.export(imported.model, tmp_path / "other", target_snr=0.3)
    assert config_of(tmp_path / "other") == {**settings, "snr": 0.3}
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert f"raysde sample {tmp_path / 'ours'} {imported.settings}" in capsys.readouterr().out
    ours = checkpoint.read_description(tmp_path / "ours")
    assert (ours.data["pipeline"], ours.data["scheduler"]) == ("ScoreSdeVePipeline", settings)
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "again")]) == 0
    assert config_of(tmp_path / "again") == settings


@pytest.mark.parametrize("name", DISCRETE)
def test_a_discrete_scheduler_goes_back_as_it_came(tmp_path, name):
    """Class, settings and images survive a checkpoint; another solver gets its own settings."""
    settings = {"num_train_timesteps": 40, "beta_start": 1e-3, "beta_end": 0.2, "prediction_type": "v_prediction",
                "timestep_spacing": "leading", "steps_offset": 1}  # fmt: skip
    scheduler = getattr(diffusers, name)(**settings)
    DDPMPipeline(unet=unet_with(**DDPM), scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    interop.convert(tmp_path / "theirs", tmp_path / "ours")
    model = checkpoint.load_model(tmp_path / "ours")
    assert interop.export(model, tmp_path / "again") == "DDPMPipeline"
    assert config_of(tmp_path / "again") == config_of(tmp_path / "theirs")
    assert type(opened(tmp_path / "again").scheduler).__name__ == name
    if name in ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"):  # DDPMPipeline supports no other
        drawing = {"batch_size": 2, "num_inference_steps": 5}
        assert torch.equal(drawn(tmp_path / "again", **drawing), drawn(tmp_path / "theirs", **drawing))
    interop.export(model, tmp_path / "named", solver="dpmpp_2m")
    assert config_of(tmp_path / "named")["timestep_spacing"] == "trailing"
    other = replace(model, spec=replace(model.spec, sde=VP(schedule="table", alphas_cumprod=(0.9, 0.5, 0.1))))
    assert interop.export(other, tmp_path / "other") == "DDIMPipeline"


def flattened(folder: Path) -> Path:
    """Move every file to the root, as in the published unconditional models."""
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    return folder


@pytest.mark.parametrize("make", [ncsnpp, ddpm])
def test_network_and_scheduler_may_lie_at_the_root(tmp_path, make):
    """Both layouts give the same images in diffusers and in raysde, also as checkpoints."""
    folders, settings = make(tmp_path / "parts"), {"batch_size": 2, "num_inference_steps": 3}
    root = flattened(make(tmp_path / "root"))
    assert torch.equal(drawn(root, **settings), drawn(folders, **settings))
    first, second = interop.load(folders), interop.load(root)
    assert (first.model.spec, first.scheduler, first.settings) == (second.model.spec, second.scheduler, second.settings)
    weights = first.model.score_model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in second.model.score_model.state_dict().items())
    assert main(["import", str(root), str(tmp_path / "ours")]) == 0
    assert checkpoint.load_model(tmp_path / "ours").spec == first.model.spec
    (root / "diffusion_pytorch_model.safetensors").rename(root / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin, a pickle"):
        interop.load(root)


@pytest.mark.parametrize("command", ["import", "sample", "export", "evaluate"])
@pytest.mark.parametrize("spelled", ["google/ddpm-cifar10-32", "https://huggingface.co/google/ddpm-cifar10-32"])
def test_a_name_on_the_hub_is_refused_with_its_download(tmp_path, monkeypatch, capsys, command, spelled):
    monkeypatch.chdir(tmp_path)
    rest = {"import": ["out"], "export": ["out"], "sample": [], "evaluate": ["--data", "shards"]}[command]
    assert main([command, spelled, *rest]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "`hf download google/ddpm-cifar10-32 --local-dir ddpm-cifar10-32`" in said
    assert interop.download_hint("/nowhere/at/all") == interop.download_hint("photos") == ""


def test_the_snr_of_an_exported_ve_model_is_the_command_s_default(tmp_path):
    """The default is 0.16 (Song et al. 2021), in Python and on the command line."""
    model = model_of(network=FOURIER, sde=VE(), target="score", data_range=(0.0, 1.0))
    interop.export(model, tmp_path / "out")
    assert config_of(tmp_path / "out")["snr"] == 0.16
    assert build_parser().parse_args(["export", "M", "OUT"]).target_snr is None


@pytest.mark.parametrize("solver", ["ddim", "ancestral", "dpmpp_2m"])
@pytest.mark.parametrize(("process", "target", "time"), VPS)
def test_the_table_of_an_exported_scheduler_is_our_process(tmp_path, process, target, time, solver):
    """alpha-bar at each step equals alpha(t)^2 at the network's time input there. diffusers multiplies it up from the
    betas in float32: each difference from 1 and each product is off by up to 2^-24, one more a step."""
    model = model_of(sde=PROCESSES[process], target=target, preconditioning=replace(RAW, time=time))
    interop.export(model, tmp_path / "out", solver=solver)
    scheduler = opened(tmp_path / "out").scheduler
    count = scheduler.config.num_train_timesteps
    numbers = torch.arange(count, dtype=torch.float64)
    times = numbers / 999.0 if time == "999t" else (numbers + 1.0) / count
    times[0] = max(times[0].item(), model.sde.train_floor) if time == "999t" else times[0]
    expected = model.sde.alpha(times) ** 2
    off = (scheduler.alphas_cumprod.double() / expected - 1.0).abs()
    assert (off <= 2.0 * (numbers + 2.0) * 2.0**-24).all()
    assert len(scheduler.alphas_cumprod) == count == (60 if process == "table" else 1000)
    names = {"v": "v_prediction", "noise": "epsilon", "x0": "sample"}
    assert (scheduler.config.prediction_type, scheduler.config.timestep_spacing) == (names[target], "trailing")
    assert not scheduler.config.get("clip_sample")
    assert not scheduler.config.get("thresholding")


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_scheduler_s_table_is_read_as_it_is(tmp_path, name, schedule):
    """For each class with a table and each form of it, alpha-bar is equal bit by bit, and an export gives the same
    table."""
    kind = getattr(diffusers, name)
    settings = {**SCHEDULES[schedule], "prediction_type": "v_prediction"}
    folder = tmp_path / "theirs"
    DDPMPipeline(unet=unet_with(**DDPM), scheduler=kind(**settings)).save_pretrained(folder)
    imported = interop.load(folder)
    table = kind(**settings).alphas_cumprod
    assert torch.equal(torch.tensor(imported.model.sde.alphas_cumprod, dtype=torch.float64), table.double())
    assert (imported.model.spec.target, imported.pipeline) == ("v", "DDPMPipeline")
    assert imported.settings == "--solver ddim --grid time --steps 50 --set denoise=true"
    assert {key: imported.scheduler[key] for key in settings} == settings


# mistakes


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_a_weight(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.bias"]
    save_file(weights, path)


def to_pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (lambda f: (f / "model_index.json").unlink(), "holds no model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "model_index.json").write_text("[]"), "no JSON object"),
        (lambda f: rewrite(f / "model_index.json", _class_name="StableDiffusionPipeline"), "StableDiffusionPipeline"),
        (lambda f: rewrite(f / "model_index.json", unet=["diffusers", "UVit2DModel"]), "UVit2DModel"),
        (lambda f: rewrite(f / "model_index.json", unet=["my_code", "UNet2DModel"]), "my_code"),
        (lambda f: rewrite(f / "model_index.json", unet=None), "unet of .* is null"),
        (lambda f: rewrite(f / "model_index.json", unet=["diffusers", "UNet2DModel", 3]), "unet of"),
        (
            lambda f: rewrite(f / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"]),
            "EulerDiscreteScheduler",
        ),
        (
            lambda f: rewrite(f / "scheduler" / "scheduler_config.json", beta_schedule="steps"),
            "steps is not implemented",
        ),
        (lambda f: rewrite(f / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True), "reaches 0"),
        (lambda f: rewrite(f / "scheduler" / "scheduler_config.json", prediction_type="flow"), "'flow'"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "scheduler_config.json"),
        (to_pickle, r"diffusion_pytorch_model\.bin, a pickle"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), r"holds no .*safetensors$"),
        (lambda f: (f / "unet" / "config.json").unlink(), "config.json"),
        (without_a_weight, "do not fit its config.json: 1 differ, such as conv_in.bias"),
        (lambda f: rewrite(f / "unet" / "config.json", layers_per_block=2), "UNet2DModel"),
        (lambda f: rewrite(f / "unet" / "config.json", block_out_channels=[16, 16]), "UNet2DModel"),
        (lambda f: rewrite(f / "unet" / "config.json", block_out_channels=[]), "UNet2DModel"),
        (lambda f: rewrite(f / "unet" / "config.json", time_embedding_type="wavelets"), "UNet2DModel"),
        (lambda f: rewrite(f / "unet" / "config.json", sample_size=None), "sample_size"),
        (lambda f: rewrite(f / "unet" / "config.json", sample_size="x"), r"unet/config\.json: sample_size='x' must be"),
        (
            lambda f: rewrite(f / "unet" / "config.json", sample_size=[8]),
            r"unet/config\.json: sample_size=\[8\] must be",
        ),
        (lambda f: rewrite(f / "unet" / "config.json", center_input_sample=True), "center_input_sample"),
    ],
)
def test_folders_that_cannot_be_imported_are_named(tmp_path, capsys, harm, culprit):
    folder = ddpm(tmp_path / "theirs")
    harm(folder)
    with pytest.raises(ValueError, match=culprit) as caught:
        interop.load(folder)
    assert "\n" not in str(caught.value)
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 2
    assert not (tmp_path / "ours").exists()
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("raysde: ")  # diffusers may warn before
    assert not any("Traceback" in line for line in said)


def test_a_ve_folder_with_other_channels_is_refused(tmp_path):
    network = unet_with(**{**DDPM, "in_channels": 1, "out_channels": 1, "time_embedding_type": "fourier"})
    ScoreSdeVePipeline(unet=network, scheduler=ScoreSdeVeScheduler()).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="takes 1 channels, but ScoreSdeVePipeline draws 3"):
        interop.load(tmp_path / "theirs")


def test_a_network_that_gives_other_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="out_channels=4"):
        interop.load(ddpm(tmp_path / "theirs", network={**DDPM, "out_channels": 4}))


def test_a_scheduler_is_asked_for_by_its_pipeline(tmp_path):
    folder = ncsnpp(tmp_path / "theirs")
    EulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    rewrite(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler.*known are ScoreSdeVeScheduler"):
        interop.load(folder)


def test_existing_folders_are_kept(tmp_path):
    folder = ddpm(tmp_path / "theirs")
    with pytest.raises(ValueError, match="exists already"):
        interop.convert(folder, tmp_path)
    with pytest.raises(ValueError, match="exists already"):
        interop.export(interop.load(folder).model, tmp_path)


def test_diffusers_is_asked_for_when_it_is_missing(tmp_path, monkeypatch):
    folder = ddpm(tmp_path / "theirs")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'raysde\[diffusers\]'"):
        interop.load(folder)


STEP = replace(RAW, time="step")
VE_MODEL = {"network": FOURIER, "sde": VE(), "target": "score", "data_range": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("changes", "settings", "culprit"),
    [
        ({"preconditioning": replace(RAW, time="log_sigma")}, {}, "preconditioning.time=log_sigma"),
        ({"preconditioning": Preconditioning(time="step")}, {}, "preconditioning.input=unit"),
        ({"preconditioning": STEP, "target": "score"}, {}, "target=score"),
        ({"preconditioning": STEP, "target": "flow"}, {}, "target=flow"),
        ({"preconditioning": STEP, "data_range": (0.0, 1.0)}, {}, "data.range"),
        ({"preconditioning": STEP, "sde": SubVP()}, {}, "sde.kind=sub_vp"),
        ({"preconditioning": STEP, "sde": VP(ceiling=0.9)}, {}, "sde.ceiling"),
        ({"preconditioning": STEP, "classes": 3}, {}, "passes no class to UNet2DModel"),
        ({"preconditioning": STEP, "network": {**UNET, "out_channels": 6}}, {}, "learned variance"),
        ({"preconditioning": STEP, "architecture": "DiTTransformer2DModel", "network": DIT}, {}, "has Transformer"),
        ({"preconditioning": STEP}, {"solver": "unipc"}, "ddim, ancestral, dpmpp_2m.*'unipc'"),
        ({**VE_MODEL, "sde": EDM()}, {}, "sde.kind=edm"),
        (VE_MODEL, {"solver": "ddim"}, "pc for sde.kind=ve"),
        ({**VE_MODEL, "image": (1, 8, 8)}, {}, "channels=3, the model has 1"),
        ({**VE_MODEL, "image": (3, 8, 16)}, {}, "square"),
        ({**VE_MODEL, "data_range": (-1.0, 1.0)}, {}, "data.range"),
        ({**VE_MODEL, "network": UNET, "preconditioning": replace(RAW, time="log_sigma")}, {}, "preconditioning.time"),
        ({**VE_MODEL, "network": UNET, "preconditioning": replace(RAW, time="sigma"), "target": "noise"}, {}, "target"),
    ],
)  # fmt: skip
def test_models_without_a_pipeline_are_refused(tmp_path, changes, settings, culprit):
    model = model_of(**changes)
    with pytest.raises(ValueError, match=culprit) as caught:
        interop.export(model, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_networks_of_our_own_and_captions_are_refused(tmp_path):
    own = diffusers_spec(image=(1, 8, 8))
    own = replace(own, network=UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), head_channels=8))
    with pytest.raises(ValueError, match=r"network\.kind=unet"):
        interop.export(Model(fresh_model(own, [], 0), own), tmp_path / "out")
    captioned = diffusers_spec(text=TEXT)
    with pytest.raises(ValueError, match="padding of captions"):
        interop.export(Model(fresh_model(captioned, ["a"], 0), captioned), tmp_path / "out")


def test_latents_that_are_shifted_are_refused(tmp_path):
    model, _ = latent_model(tmp_path, shift=0.25)
    with pytest.raises(ValueError, match=r"shift_factor=0\.0, the model has 0\.25"):
        interop.export(model, tmp_path / "out")


def test_more_classes_than_the_null_class_are_refused(tmp_path):
    model, _ = latent_model(tmp_path, "DiTTransformer2DModel", DIT, classes=1001)
    with pytest.raises(ValueError, match="class 1000 for none"):
        interop.export(model, tmp_path / "out")


def test_a_transformer_without_classes_is_refused(tmp_path):
    model, _ = latent_model(tmp_path, "DiTTransformer2DModel", DIT)
    with pytest.raises(ValueError, match="asks for classes"):
        interop.export(model, tmp_path / "out")
