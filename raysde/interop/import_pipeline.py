"""Import of a pipeline folder of diffusers: its network, and the SDE that its scheduler discretises.

The import reads model_index.json, the configurations, and weights in safetensors format; no pickle, and no code. The
network and the scheduler lie in folders of their own, or both at the root, as diffusers also allows.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from raysde.checkpoints import checkpoint
from raysde.inference.model import Model
from raysde.interop.discrete_steps import DISCRETE, process_of_scheduler
from raysde.io.atomic import write_folder_atomically
from raysde.io.errors import UNFIT, check_weights_fit, error_line
from raysde.models.origin import Origin
from raysde.models.spec import ModelSpec, assemble_model
from raysde.networks import DiffusersConfig
from raysde.networks.diffusers import import_diffusers, parse_sides
from raysde.sampling.solvers.default import DEFAULT
from raysde.sde import VE
from raysde.sde.parameterisation import Preconditioning

INDEX = "model_index.json"
HUB = re.compile(r"(?:https?:/{1,2}(?:www\.)?huggingface\.co/|hf://)?(?P<name>\w[\w.-]*/[\w.-]+?)/?")
"""Model names on the Hugging Face Hub."""


@dataclass(frozen=True)
class Imported:
    """A model from a pipeline folder.

    Attributes:
        model: the model, ready to sample.
        pipeline: name of the pipeline's class.
        scheduler: configuration of its scheduler.
        settings: options of ``raysde sample`` that correspond to the folder's own sampler.
    """

    model: Model
    pipeline: str
    scheduler: dict[str, Any]
    settings: str


def is_pipeline(folder: Path) -> bool:
    """Return True if a folder is a diffusers pipeline."""
    return (folder / INDEX).is_file()


def load(folder: Path) -> Imported:
    """Load the model in a pipeline folder.

    Raises:
        ValueError: if it is no pipeline, or has an unsupported class, scheduler or weights format.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}{download_hint(str(folder))}")
    index = _read_json(folder / INDEX, f"{folder} is no diffusers pipeline: it holds no {INDEX}")
    pipeline = str(index.get("_class_name"))
    if pipeline not in READERS:
        raise ValueError(f"{folder} holds a {pipeline}; known pipelines are {', '.join(READERS)}")
    read, known = READERS[pipeline]
    kind = _find_class(index, "scheduler", folder, known)
    scheduler = _load_scheduler(part_folder(folder, "scheduler"), kind)
    _find_class(index, "unet", folder, ("UNet2DModel",))
    place = part_folder(folder, "unet")
    unet = _load_unet(place)
    spec, settings = read(scheduler, _describe_network(unet, place))
    score_model = assemble_model(spec, None, None)
    score_model.network.model.load_state_dict(unet.state_dict())  # type: ignore[union-attr]
    config = {name: value for name, value in json.loads(scheduler.to_json_string()).items() if name[0] != "_"}
    origin = Origin(pipeline, config, kind)
    return Imported(Model(score_model.eval().requires_grad_(False), spec, origin), pipeline, config, settings)


def convert(folder: Path, target: Path) -> Imported:
    """Write the model in a pipeline folder as a checkpoint, which can be sampled from but not resumed.

    Args:
        target: folder of the checkpoint, which must not exist; it is written atomically.

    Raises:
        ValueError: as :func:`load` does, or if ``target`` exists.
        OSError: naming ``target``, if it cannot be written.
    """
    if target.exists():
        raise ValueError(f"{target} exists already; name another folder")
    imported = load(folder)
    assert imported.model.origin is not None
    about = asdict(imported.model.origin)
    with write_folder_atomically(target, "the checkpoint") as partial:
        save_file(checkpoint.complete_weights(imported.model.score_model), partial / "ema.safetensors")
        checkpoint.write_description(partial, imported.model.spec, {"step": 0, "num_images": 0}, {}, about)
    return imported


def _read_ve(scheduler: Any, network: DiffusersConfig) -> tuple[ModelSpec, str]:
    """Describe a ScoreSdeVePipeline: data in [0, 1], time input sigma, output the score (Song et al. 2021)."""
    config = scheduler.config
    if network.config["in_channels"] != 3:
        raise ValueError(f"unet takes {network.config['in_channels']} channels, but ScoreSdeVePipeline draws 3")
    sde = VE(sigma_min=config.sigma_min, sigma_max=config.sigma_max, sample_floor=config.sampling_eps)
    preconditioning = Preconditioning(time="sigma", input="none", output="none")
    spec = ModelSpec(
        image=_image_shape(network), data_range=(0.0, 1.0), data_std=0.25, sde=sde, network=network, target="score",
        text=None, classes=0, preconditioning=preconditioning, default_solver=DEFAULT,
    )  # fmt: skip
    corrector = f"--set target_snr={config.snr} --set corrector_steps={config.correct_steps}"
    return spec, f"--solver pc --steps {config.num_train_timesteps} {corrector}"


def _read_discrete(scheduler: Any, network: DiffusersConfig) -> tuple[ModelSpec, str]:
    """Describe a DDPMPipeline or DDIMPipeline: data in [-1, 1], time input the step's number (Ho et al. 2020)."""
    sde, target = process_of_scheduler(scheduler)
    preconditioning = Preconditioning(time="step", input="none", output="none")
    spec = ModelSpec(
        image=_image_shape(network), data_range=(-1.0, 1.0), data_std=0.5, sde=sde, network=network, target=target,
        text=None, classes=0, preconditioning=preconditioning, default_solver=DEFAULT,
    )  # fmt: skip
    return spec, "--solver ddim --grid time --steps 50 --set denoise=true"


PipelineReader = Callable[[Any, DiffusersConfig], tuple[ModelSpec, str]]
READERS: dict[str, tuple[PipelineReader, tuple[str, ...]]] = {
    "ScoreSdeVePipeline": (_read_ve, ("ScoreSdeVeScheduler",)),
    "DDPMPipeline": (_read_discrete, DISCRETE),
    "DDIMPipeline": (_read_discrete, DISCRETE),
}
"""Supported pipelines, each with its schedulers."""


def _find_class(index: dict[str, Any], part: str, folder: Path, known: tuple[str, ...]) -> str:
    """Return the class of a pipeline's part, which must be one of diffusers' own."""
    found = index.get(part)
    if not isinstance(found, list) or len(found) != 2 or found[0] != "diffusers" or found[1] not in known:
        raise ValueError(f"{part} of {folder} is {json.dumps(found)}; known are {', '.join(known)} of diffusers")
    return str(found[1])


def part_folder(folder: Path, part: str) -> Path:
    """Return the folder of a pipeline's part: ``folder/part`` if it exists, otherwise ``folder``, as in diffusers."""
    own = folder / part
    return own if own.is_dir() else folder


def download_hint(name: str) -> str:
    """Return a hint to download a model, for a name that is no folder but could be one of the Hugging Face Hub."""
    match = HUB.fullmatch(name)
    if match is None:
        return ""
    hub, folder = match["name"], match["name"].partition("/")[2]
    return (
        f"; if {hub} is a model on the Hugging Face Hub, download it first, `hf download {hub} --local-dir {folder}`, "
        f"and give the folder {folder}"
    )


def _load_scheduler(folder: Path, name: str) -> Any:
    path = folder / "scheduler_config.json"
    config = _read_json(path, f"{folder} holds no scheduler_config.json")
    try:
        return getattr(import_diffusers("import"), name).from_config(config)
    except UNFIT as error:
        raise ValueError(f"{path} does not make a {name}: {error_line(error)}") from error


def _load_unet(folder: Path) -> Any:
    """Load the network with its weights, all of which must be present."""
    stem = "diffusion_pytorch_model"
    _read_json(folder / "config.json", f"{folder} holds no config.json")
    if not any((folder / f"{stem}.{end}").is_file() for end in ("safetensors", "safetensors.index.json")):
        pickles = sorted(path.name for path in folder.glob("*.bin*"))
        found = f" but {pickles[0]}, a pickle, which is never read: convert it with diffusers" if pickles else ""
        raise ValueError(f"{folder} holds no {stem}.safetensors{found}")
    unet: Any
    try:
        unet, info = import_diffusers("import").UNet2DModel.from_pretrained(
            str(folder),
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except UNFIT as error:
        raise ValueError(f"{folder}: no UNet2DModel can be loaded: {error_line(error)}") from error
    check_weights_fit(info, str(folder))
    return unet


def _describe_network(unet: Any, folder: Path) -> DiffusersConfig:
    """Return the network's configuration, completed with the defaults of diffusers."""
    config = json.loads(unet.to_json_string())
    if config["sample_size"] is None:
        raise ValueError(f"{folder}/config.json gives no sample_size, the size of the images; add it")
    parse_sides(config["sample_size"], f"{folder}/config.json: sample_size")
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    return DiffusersConfig(architecture="UNet2DModel", config=own)


def _image_shape(network: DiffusersConfig) -> tuple[int, int, int]:
    return network.config["in_channels"], *parse_sides(network.config["sample_size"], "sample_size")


def _read_json(path: Path, absent: str) -> dict[str, Any]:
    """Read a JSON object; ``absent`` is the error if there is no such file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(absent) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content
