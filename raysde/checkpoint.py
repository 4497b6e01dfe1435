"""The checkpoint directory: safetensors and JSON, described by itself, checked by hash. No pickle is read or written.

checkpoint.json        format, the model's description, counters, versions, and each file's sha256
ema.safetensors        the averaged weights, complete: what is sampled from
text/                  tokenizer and text encoder architecture, if the model takes captions
weights.safetensors    the trained weights as the optimiser left them        } absent from an exported model,
optimizer.safetensors  its moments                                           } which cannot be resumed; folders with
profiles.safetensors   the averages for post-hoc EMA, if the recipe has them } a file a rank for a sharded model
"""

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raysde.generation import checked
from raysde.hashing import file_hash
from raysde.inference import Model, Origin
from raysde.model import ModelSpec, empty_model, save_text
from raysde.pieces import Stored
from raysde.score import ScoreModel
from raysde.state import TrainState

FORMAT = 2
WEIGHTS, OPTIMIZER, PROFILES = "weights", "optimizer", "profiles"
CARDS = ("MLmodel", "registered_model_meta")
"""What MLflow puts beside a registered checkpoint; it says whose weights they are, so a copy has its own."""


@dataclass(frozen=True)
class Description:
    """What ``checkpoint.json`` says.

    Attributes:
        spec: the model.
        state: the training state's counters.
        recipe: flat configuration of the run, for people and for comparing runs.
        data: path and fingerprint of the data set.
        files: sha256 of each other file, by relative path.
        versions: of raysde and the libraries that wrote it.
    """

    spec: ModelSpec
    state: dict[str, Any]
    recipe: dict[str, Any]
    data: dict[str, Any]
    files: dict[str, str]
    versions: dict[str, str]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def _versions() -> dict[str, str]:
    names = ("raysde", "torch", "transformers", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def complete_weights(model: ScoreModel) -> dict[str, Tensor]:
    """:func:`own_weights`, contiguous and on the CPU."""
    return {name: value.cpu().contiguous() for name, value in own_weights(model).items()}


def own_weights(model: ScoreModel) -> dict[str, Tensor]:
    """Every parameter and persistent buffer; a tied weight under its first name alone."""
    tied = tied_names(model)
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def tied_names(model: ScoreModel) -> set[str]:
    """Further names of parameters that have one already, such as T5's embedding."""
    seen: set[int] = set()
    tied: set[str] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:
            tied.add(name)
        seen.add(id(value))
    return tied


def save(folder: Path, state: TrainState, spec: ModelSpec, recipe: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes a checkpoint; ``folder`` appears whole or not at all, replacing what was there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with state.ema.swapped():
        save_file(complete_weights(state.model), partial / "ema.safetensors")
    live = {name: value.detach().cpu().contiguous() for name, value in state.trained.items()}
    save_file(live, partial / f"{WEIGHTS}.safetensors")
    moments = {name: value.detach().cpu().contiguous() for name, value in state.optimizer_tensors().items()}
    save_file(moments, partial / f"{OPTIMIZER}.safetensors")
    if state.profiles:
        profiles = {name: value.cpu().contiguous() for name, value in state.profile_tensors().items()}
        save_file(profiles, partial / f"{PROFILES}.safetensors")
    save_text(state.model, partial / "text")
    write_description(partial, spec, state.values(), recipe, data)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def write_description(
    folder: Path,
    spec: ModelSpec,
    state: dict[str, Any],
    recipe: dict[str, Any],
    data: dict[str, Any],
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Writes ``checkpoint.json`` for the files that are in ``folder``, and those whose ``hashes`` are known."""
    known = dict(hashes or {})
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    names = sorted(found - set(known) - {"checkpoint.json"})
    content = {
        "format": FORMAT,
        "model": spec.dump(),
        "state": state,
        "recipe": recipe,
        "data": data,
        "files": {**{name: file_hash(folder / name) for name in names}, **known},
        "versions": _versions(),
    }
    (folder / "checkpoint.json").write_text(json.dumps(content, indent=1) + "\n")


def export(source: Path, target: Path) -> None:
    """Copies what sampling needs, without the optimiser; ``target`` must not exist."""
    settle(source, target, read(source).spec.generation)


def settle(source: Path, target: Path, generation: dict[str, Any]) -> None:
    """As :func:`export`, of a model that draws by ``generation`` when nobody says, see :mod:`raysde.generation`.

    Raises:
        ValueError: if a setting is not one of a model.
    """
    description, spec = read(source), replace(read(source).spec, generation=checked(generation))
    state = [name for kind in (WEIGHTS, OPTIMIZER, PROFILES) for name in (kind, f"{kind}.safetensors")]
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*state, "checkpoint.json", *CARDS))
    write_description(target, spec, description.state, description.recipe, description.data)


def read(folder: Path) -> Description:
    """Reads and checks ``checkpoint.json``.

    Raises:
        ValueError: if it is missing or not one.
    """
    path = folder / "checkpoint.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a checkpoint: it holds no checkpoint.json") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(
            f"{path} has format {found!r}; this version of raysde reads format {FORMAT} alone, train again"
        )
    missing = {"model", "state", "recipe", "data", "files", "versions"} - set(content)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    parts = {name: content[name] for name in ("state", "recipe", "data", "files", "versions")}
    return Description(spec=ModelSpec.parse(content["model"]), **parts)


def verify(folder: Path) -> Description:
    """Reads the description and compares every file with its hash.

    Raises:
        ValueError: naming the first file that is missing or differs.
    """
    description = read(folder)
    for name, expected in description.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"checkpoint {folder} names a file outside itself: {name}")
        if not path.is_file():
            raise ValueError(f"checkpoint {folder} lacks {name}")
        if file_hash(path) != expected:
            raise ValueError(f"{name} in checkpoint {folder} does not have the sha256 that checkpoint.json gives")
    return description


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint that can be loaded."""
    try:
        verify(folder)
    except ValueError:
        return False
    return True


def newest(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step among the folders in ``folder``, skipping torn ones."""
    found = [path for path in folder.glob("step_*") if path.is_dir()]
    return next((path for path in sorted(found, reverse=True) if is_whole(path)), None)


def name_of(step: int) -> str:
    """The folder name of a checkpoint; names sort by step."""
    return f"step_{step:09d}"


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_model(folder: Path, *, allow_code: bool = False, device: torch.device | str = "cpu") -> Model:
    """The averaged model in a checkpoint, checked and ready to sample.

    Raises:
        ValueError: if the checkpoint is torn, does not fit its own description, or names code that is not allowed.
    """
    description = verify(folder)
    model = empty_model(description.spec, folder / "text", allow_code=allow_code)
    _fill(model, _tensors(folder / "ema.safetensors"), folder)
    return Model(model.eval().requires_grad_(False).to(device), description.spec, Origin.of(description.data))


def restore(state: TrainState, folder: Path) -> Description:
    """Loads a checkpoint into a state of the same shape, sharded or not, whatever wrote it.

    Raises:
        ValueError: if it is torn, holds another model or SDE, or was saved without its optimiser or profiles.
    """
    description = verify(folder)
    needed = (WEIGHTS, OPTIMIZER, PROFILES) if state.profiles else (WEIGHTS, OPTIMIZER)
    stored = {kind: _stored(folder, description, kind) for kind in needed}
    if description.spec.sde != state.model.sde:
        raise ValueError(f"{folder} was trained with {description.spec.sde}, the recipe asks for {state.model.sde}")
    parameters = dict(state.model.named_parameters())
    average = Stored([folder / "ema.safetensors"]).all_like(parameters)
    device = next(state.model.parameters()).device
    _fill(state.model, average, folder)
    live = stored[WEIGHTS].all_like(parameters)
    with torch.no_grad():
        for name, parameter in state.trained.items():
            parameter.copy_(live[name])
    state.ema.load({name: average[name] for name in state.trained})
    state.load_optimizer(stored[OPTIMIZER].all_like(parameters))
    if state.profiles:
        state.load_profiles(stored[PROFILES].all_like(parameters))
    state.load_values(description.state)
    state.model.to(device)
    return description


def _stored(folder: Path, description: Description, kind: str) -> Stored:
    """What ``kind`` holds, whole or in pieces."""
    whole = f"{kind}.safetensors"
    names = [name for name in sorted(description.files) if name == whole or name.startswith(f"{kind}/")]
    if not names:
        raise ValueError(f"{folder} cannot be resumed: it was saved without {whole}")
    return Stored(folder / name for name in names)


def _fill(model: ScoreModel, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        missing, _ = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{folder} does not fit its model: {line[:200]}") from error
    lost = sorted((set(missing) - tied_names(model)) | (set(tensors) - set(model.state_dict())))
    if lost:
        raise ValueError(f"{folder} does not fit its model: {len(lost)} weights differ, such as {lost[0]}")
