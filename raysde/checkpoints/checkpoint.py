"""The checkpoint directory: safetensors and JSON, described by itself, checked by hash. No pickle is read or written.

checkpoint.json        format, the model's description, counters, versions, sha256 and size of each file, own sha256
ema.safetensors        the averaged weights, complete: what is sampled from
text/                  tokenizer and text encoder architecture, if the model takes captions
weights.safetensors    the trained weights as the optimiser left them        } absent from an exported model,
optimizer.safetensors  its moments                                           } which cannot be resumed; folders with
profiles.safetensors   the averages for post-hoc EMA, if the recipe has them } a file a rank for a sharded model
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raysde.checkpoints.description import (
    FILE,
    Description,
    Kept,
    choose_newest_checkpoint,
    list_checkpoints,
    read_complete_description,
    read_description,
    verify_checkpoint,
    write_description,
)
from raysde.checkpoints.description import (
    checkpoint_name as checkpoint_name,
)  # the name of a checkpoint's folder, beside what is in it
from raysde.checkpoints.sharded_tensors import Stored
from raysde.inference.model import Model
from raysde.io.atomic import write_folder_atomically
from raysde.models.external_sde import ExternalSDE
from raysde.models.origin import Origin
from raysde.models.sampling_defaults import check_settings
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec, empty_model, save_text
from raysde.training.state import TrainState

WEIGHTS, OPTIMIZER, PROFILES = "weights", "optimizer", "profiles"
CARDS = ("MLmodel", "registered_model_meta")
"""What MLflow puts beside a registered checkpoint; it says whose weights they are, so a copy has its own."""


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


def write_checkpoint(
    folder: Path, state: TrainState, spec: ModelSpec, recipe: dict[str, Any], data: dict[str, Any]
) -> None:
    """Write a checkpoint; ``folder`` appears whole or not at all, replacing what was there.

    Raises:
        OSError: naming ``folder``, if it cannot be written.
    """
    with write_folder_atomically(folder, f"the checkpoint of step {state.step}", replace=True) as partial:
        with state.ema.swap_weights():
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


def export_checkpoint(source: Path, target: Path) -> None:
    """Copy what sampling needs, without the optimiser; ``target`` must not exist, and appears whole or not at all.

    Raises:
        ValueError: if a file that is copied is damaged.
        OSError: naming ``target``, if it cannot be written.
    """
    export_with_settings(source, target, read_description(source).spec.generation)


def export_with_settings(source: Path, target: Path, generation: dict[str, Any]) -> None:
    """As :func:`export_checkpoint`, of a model that draws by ``generation`` when nobody says, see
    :mod:`raysde.models.sampling_defaults`.

    Raises:
        ValueError: if a setting is not one of a model, or a file that is copied is damaged.
        OSError: naming ``target``, if it cannot be written.
    """
    description, spec = (
        read_description(source),
        replace(read_description(source).spec, generation=check_settings(generation)),
    )
    with write_folder_atomically(target, "the model") as partial:
        copy_model(source, partial)
        write_description(partial, spec, description.state, description.recipe, description.data)


def copy_model(source: Path, target: Path) -> None:
    """Copy the files that sampling needs, without the description.

    Raises:
        ValueError: if one of them is damaged.
    """
    state = [name for kind in (WEIGHTS, OPTIMIZER, PROFILES) for name in (kind, f"{kind}.safetensors")]
    verify_checkpoint(source, [name for name in read_description(source).files if name.partition("/")[0] not in state])
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*state, FILE, *CARDS), dirs_exist_ok=True)


def is_complete_checkpoint(folder: Path) -> bool:
    """Return True if ``folder`` holds a sound description and every file that it lists, of the listed size."""
    try:
        read_complete_description(pafs.LocalFileSystem(), str(folder))
    except ValueError:
        return False
    return True


def find_newest_checkpoint(folder: Path, say: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint in a local run folder that can be sampled from: whole, its averaged weights as written.

    Args:
        say: is told of each newer checkpoint that is passed over.

    Returns:
        None if there are no checkpoints.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """

    def check_drawable(each: Kept) -> Path:
        verify_model(Path(each.path))
        return Path(each.path)

    return choose_newest_checkpoint(
        list_checkpoints(pafs.LocalFileSystem(), str(folder)), check_drawable, str(folder), say
    )


def verify_model(folder: Path) -> Description:
    """As :func:`raysde.checkpoints.description.verify_checkpoint`, of the files that sampling reads.

    Raises:
        ValueError: naming the first file that is missing or differs.
    """
    names = [name for name in read_description(folder).files if name == "ema.safetensors" or name.startswith("text/")]
    return verify_checkpoint(folder, names)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_model(folder: Path, *, allow_code: bool = False, device: torch.device | str = "cpu") -> Model:
    """The averaged model in a checkpoint, checked and ready to sample.

    Raises:
        ValueError: if the checkpoint is torn, does not fit its own description, or names code that is not allowed.
    """
    description = verify_model(folder)
    model = empty_model(description.spec, folder / "text", allow_code=allow_code)
    _load_weights(model, _read_tensors(folder / "ema.safetensors"), folder)
    origin, weights = Origin.of(description.data), description.files["ema.safetensors"]
    return Model(model.eval().requires_grad_(False).to(device), description.spec, origin, weights)


def restore_state(state: TrainState, folder: Path) -> Description:
    """Loads a checkpoint into a state of the same shape, sharded or not, whatever wrote it.

    Raises:
        ValueError: if it is torn, holds another model or SDE, or was saved without its optimiser or profiles.
    """
    description = read_description(folder)
    needed = (WEIGHTS, OPTIMIZER, PROFILES) if state.profiles else (WEIGHTS, OPTIMIZER)
    names = {kind: _list_tensor_files(folder, description, kind) for kind in needed}
    verify_checkpoint(folder, ["ema.safetensors", *(name for each in names.values() for name in each)])
    stored = {kind: Stored(folder / name for name in each) for kind, each in names.items()}
    # processes of the user's own need not compare: their recipes do, before this
    if not isinstance(description.spec.sde, ExternalSDE) and description.spec.sde != state.model.sde:
        raise ValueError(f"{folder} was trained with {description.spec.sde}, the recipe asks for {state.model.sde}")
    parameters = dict(state.model.named_parameters())
    average = Stored([folder / "ema.safetensors"]).all_like(parameters)
    device = next(state.model.parameters()).device
    _load_weights(state.model, average, folder)
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


def _list_tensor_files(folder: Path, description: Description, kind: str) -> list[str]:
    """The files that hold ``kind``, whole or in pieces."""
    whole = f"{kind}.safetensors"
    names = [name for name in sorted(description.files) if name == whole or name.startswith(f"{kind}/")]
    if not names:
        raise ValueError(f"{folder} cannot be resumed: it was saved without {whole}")
    return names


def _load_weights(model: ScoreModel, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        missing, _ = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{folder} does not fit its model: {line[:200]}") from error
    lost = sorted((set(missing) - tied_names(model)) | (set(tensors) - set(model.state_dict())))
    if lost:
        raise ValueError(f"{folder} does not fit its model: {len(lost)} weights differ, such as {lost[0]}")
