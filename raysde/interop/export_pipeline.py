"""Export of a model as a pipeline folder, which ``DiffusionPipeline.from_pretrained`` runs without raysde.

Models are exported only if a pipeline of diffusers computes the same images from the same noise; others are refused.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raysde.inference.model import Model
from raysde.interop.discrete_steps import DISCRETE, PREDICTIONS, discrete_betas, process_of_scheduler, step_times
from raysde.io.atomic import write_folder_atomically
from raysde.models import autoencoder
from raysde.networks import DiffusersConfig
from raysde.networks.diffusers import PlainUNet, Transformer, import_diffusers, make_network
from raysde.sde import VE, VP

SOLVERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddim": ("DDIMPipeline", "DDIMScheduler", {"clip_sample": False}),
    "ancestral": ("DDPMPipeline", "DDPMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DDPMPipeline", "DPMSolverMultistepScheduler", {}),
}
"""Solvers that diffusers has for a discrete process: its pipeline for pixels, its scheduler and its settings."""
SAMPLING = ("snr", "correct_steps", "num_train_timesteps")
"""Settings of ScoreSdeVeScheduler that belong to its sampler, not to the process."""
TARGET_SNR = 0.16
"""Default for VE (Song et al. 2021, table 5)."""
NULL_CLASS = 1000
"""DiTPipeline's class number for no class."""


def export(model: Model, folder: Path, *, solver: str | None = None, target_snr: float | None = None) -> str:
    """Write the averaged model as a pipeline folder.

    Args:
        folder: output folder, which must not exist; it is written atomically.
        solver: ddim, ancestral or dpmpp_2m for VP, pc for VE; None for the scheduler that the model was imported with,
            including its settings, or ddim and pc for other models.
        target_snr: signal-to-noise ratio of pc's corrector; None for the imported scheduler's, and 0.16 for other
            models.

    Returns:
        The name of the pipeline's class.

    Raises:
        ValueError: if ``folder`` exists, or no pipeline of diffusers draws the same images as the model.
        OSError: naming ``folder``, if it cannot be written.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; name another folder")
    pipeline = build_pipeline(model, solver, target_snr)
    with write_folder_atomically(folder, "the pipeline") as partial:
        pipeline.save_pretrained(str(partial), safe_serialization=True)
    return type(pipeline).__name__


def build_pipeline(model: Model, solver: str | None, target_snr: float | None) -> Any:
    """Return the pipeline that draws the same images as the model; raise ValueError if diffusers has none.

    ``solver`` and ``target_snr`` are as for :func:`export_pipeline`.
    """
    spec = model.spec
    if not isinstance(spec.network, DiffusersConfig):
        raise ValueError(
            f"network.kind={spec.network.kind} is no class of diffusers; only models of network.kind=diffusers "
            "are exported"
        )
    if spec.attributes:
        names = ", ".join(each.name for each in spec.attributes)
        raise ValueError(
            f"no pipeline of diffusers takes numbers, the model has {names}; such a model cannot be exported"
        )
    if spec.image_condition is not None:
        raise ValueError(
            f"the pipelines of diffusers take no images for {spec.image_condition.kind} by a model of raysde"
            "; such a model cannot be exported"
        )
    if spec.text is not None:
        raise ValueError(
            "the pipelines of diffusers attend to the padding of captions, which this model never saw"
            "; models of captions cannot be exported"
        )
    _require_all("a pipeline of diffusers", ("sde.ceiling", model.sde.ceiling, 1.0))
    if isinstance(spec.sde, VE):
        return _build_score_sde_ve(model, solver, target_snr)
    if isinstance(spec.sde, VP):
        kept = _rebuild_imported(model) if solver is None else None
        return _build_discrete(model, solver or "ddim") if kept is None else kept
    raise ValueError(
        f"sde.kind={spec.sde.kind}: diffusers has pipelines for vp and ve with such a network"
        "; other models cannot be exported"
    )


def _build_score_sde_ve(model: Model, solver: str | None, target_snr: float | None) -> Any:
    """Build a ScoreSdeVePipeline: three channels in [0, 1], a network with time input sigma and the score as output."""
    spec, outside = model.spec, model.score_model.preconditioning
    unet = _require_unconditional(model, "ScoreSdeVePipeline")
    assert isinstance(spec.sde, VE)
    if solver not in (None, "pc"):
        raise ValueError(f"solver must be pc for sde.kind=ve, got {solver!r}")
    _require_all(
        "ScoreSdeVePipeline of diffusers",
        ("latent", spec.latent and spec.latent.vae, None),
        ("channels", spec.image[0], 3),
        ("data.range", tuple(spec.data_range), (0.0, 1.0)),
        ("target", spec.target, "score"),
        ("preconditioning.time", outside.time, "sigma"),
        ("preconditioning.input", outside.input, "none"),
        ("preconditioning.output", outside.output, "none"),
    )
    came_with = {} if model.origin is None else model.origin.scheduler
    settings = {"snr": TARGET_SNR, **{name: came_with[name] for name in SAMPLING if name in came_with}}
    scheduler = import_diffusers("export").ScoreSdeVeScheduler(
        **settings if target_snr is None else {**settings, "snr": target_snr},
        sigma_min=spec.sde.sigma_min,
        sigma_max=spec.sde.sigma_max,
        sampling_eps=spec.sde.sample_floor,
    )
    return import_diffusers("export").ScoreSdeVePipeline(unet=unet, scheduler=scheduler)


def _rebuild_imported(model: Model) -> Any:
    """Rebuild the pipeline that a model of a discrete process was imported from; None if there is none."""
    origin, spec = model.origin, model.spec
    if origin is None or origin.scheduler_class not in DISCRETE:
        return None
    scheduler = getattr(import_diffusers("export"), origin.scheduler_class).from_config(origin.scheduler)
    if process_of_scheduler(scheduler) != (spec.sde, spec.target):
        return None
    return getattr(import_diffusers("export"), origin.pipeline)(
        unet=_require_unconditional(model, origin.pipeline), scheduler=scheduler
    )


def _build_discrete(model: Model, solver: str) -> Any:
    """Build a pipeline with a scheduler whose table is the model's process."""
    spec, network = model.spec, model.score_model.network
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)} for sde.kind=vp, got {solver!r}")
    pipeline, name, settings = SOLVERS[solver]
    scheduler = getattr(import_diffusers("export"), name)(**_scheduler_arguments(model), **settings)
    if spec.latent is None:
        _require_all(f"{pipeline} of diffusers", ("data.range", tuple(spec.data_range), (-1.0, 1.0)))
        return getattr(import_diffusers("export"), pipeline)(
            unet=_require_unconditional(model, pipeline), scheduler=scheduler
        )
    _require_all(
        "a pipeline of diffusers for latents", ("the autoencoder's shift_factor", spec.latent.shift_factor, 0.0)
    )
    vae = autoencoder.open_autoencoder(spec.latent.vae, spec.latent.sha256, model.device)
    if isinstance(network, Transformer):
        return import_diffusers("export").DiTPipeline(
            transformer=_build_labelled(model, network), vae=vae, scheduler=scheduler
        )
    return import_diffusers("export").LDMPipeline(
        vqvae=vae, unet=_require_unconditional(model, "LDMPipeline"), scheduler=scheduler
    )


def _scheduler_arguments(model: Model) -> dict[str, Any]:
    """Return a discrete scheduler's arguments for the model's process and target, with steps from t = 1."""
    spec, outside = model.spec, model.score_model.preconditioning
    if spec.target not in PREDICTIONS:
        raise ValueError(
            f"target={spec.target}: the discrete schedulers of diffusers know {', '.join(PREDICTIONS)}"
            "; other models cannot be exported"
        )
    if outside.input != "none" and (outside.input, spec.data_std) != ("unit", 1.0):
        raise ValueError(
            f"preconditioning.input={outside.input}: the pipelines of diffusers for vp do not scale x_t, "
            "which needs preconditioning.input=none"
        )
    times = step_times(model.sde, outside.time)
    return {
        "num_train_timesteps": len(times),
        "trained_betas": discrete_betas(model.sde, times).tolist(),
        "prediction_type": PREDICTIONS[spec.target],
        "timestep_spacing": "trailing",
    }


def _require_unconditional(model: Model, pipeline: str) -> nn.Module:
    """Return the model's UNet2DModel; raise ValueError if it has conditions or a learned variance."""
    network = model.score_model.network
    if not isinstance(network, PlainUNet):
        raise ValueError(
            f"{pipeline} of diffusers takes a UNet2DModel, the model has {type(network).__name__}"
            "; such a model cannot be exported"
        )
    if model.spec.classes:
        raise ValueError(
            f"{pipeline} of diffusers passes no class to UNet2DModel, the model has {model.spec.classes}"
            " classes; such a model cannot be exported"
        )
    config = network.model.config
    if config.out_channels != config.in_channels:
        raise ValueError(
            f"{pipeline} of diffusers takes no learned variance: out_channels={config.out_channels}"
            "; train with as many output as input channels"
        )
    if pipeline != "DDIMPipeline" and pipeline != "DDPMPipeline" and not isinstance(config.sample_size, int):
        raise ValueError(
            f"{pipeline} of diffusers draws square images, the model's are {config.sample_size}"
            "; such a model cannot be exported"
        )
    return network.model


def _build_labelled(model: Model, network: Transformer) -> nn.Module:
    """Build a DiTTransformer2DModel with the class embeddings in its own tables; the last row is for no class."""
    spec, table = model.spec, model.score_model.conditioner.class_embedding
    if table is None:
        raise ValueError(
            "DiTPipeline of diffusers asks for classes, and the model has none; train with class_conditional=true"
        )
    if spec.classes > NULL_CLASS:
        raise ValueError(
            f"DiTPipeline of diffusers takes class {NULL_CLASS} for none, the model has {spec.classes} classes"
            "; models with more cannot be exported"
        )
    assert isinstance(spec.network, DiffusersConfig)
    weights = network.model.state_dict()
    for number, block in enumerate(network.model.transformer_blocks):
        embedder, stem = block.norm1.emb.class_embedder, f"transformer_blocks.{number}.norm1.emb.class_embedder."
        rows = embedder(table.weight)
        padding = rows[-1:].expand(NULL_CLASS + 1 - spec.classes, -1)
        for name in embedder.state_dict():
            del weights[stem + name]
        weights[stem + "embedding_table.weight"] = torch.cat([rows[:-1], padding])
    config = {**spec.network.complete_config(spec.image), "num_embeds_ada_norm": NULL_CLASS}
    whole = make_network("DiTTransformer2DModel", config)
    whole.load_state_dict(weights)
    return whole.eval()


def _require_all(who: str, *wanted: tuple[str, Any, Any]) -> None:
    """Raise ValueError for the first (name, present, needed) that differs."""
    for name, present, needed in wanted:
        if present != needed:
            raise ValueError(f"{who} needs {name}={needed}, the model has {present}")
