"""The checkpoint folder: safetensors and JSON, self-describing and checked by hash. No pickle is read or written.

checkpoint.json        format, the model's description, counters, versions, sha256 and size of each file, own sha256
ema.safetensors        the averaged weights, complete, from which models sample
text/                  tokenizer and text encoder architecture, if the model takes captions
weights.safetensors    the trained weights after the last update             } absent from an exported model,
optimizer.safetensors  the optimizer's state                                 } which cannot be resumed; folders with
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
from safetensors.torch import load_file
from torch import Tensor

from raysde.checkpoints.description import (
    FILE,
    Description,
    Kept,
    choose_checkpoint,
    list_checkpoints,
    read_description,
    verify_checkpoint,
    write_description,
)
from raysde.checkpoints.description import (
    checkpoint_name as checkpoint_name,
)  # re-exported for callers that read and write checkpoints
from raysde.checkpoints.description import (
    is_complete_checkpoint as is_complete_checkpoint,
)
from raysde.checkpoints.loading import Files, LocalFiles
from raysde.checkpoints.sharded_tensors import Stored
from raysde.checkpoints.staging import (
    AVERAGE,
    OPTIMIZER,
    PROFILES,
    WEIGHTS,
    stage_checkpoint,
    tied_names,
)
from raysde.checkpoints.staging import (
    complete_weights as complete_weights,
)
from raysde.checkpoints.staging import (
    own_weights as own_weights,
)
from raysde.checkpoints.writing import write_staged
from raysde.distributed.world import World
from raysde.inference.model import Model
from raysde.io.atomic import write_folder_atomically
from raysde.models.external_sde import ExternalSDE
from raysde.models.origin import Origin
from raysde.models.sampling_defaults import check_settings
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec, empty_model
from raysde.training.state import TrainState

CARDS = ("MLmodel", "registered_model_meta")
"""Files that MLflow adds to a registered checkpoint; they describe that version, so copies leave them out."""


def write_checkpoint(
    folder: Path,
    state: TrainState,
    spec: ModelSpec,
    recipe: dict[str, Any],
    data: dict[str, Any],
    world: World | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Write a checkpoint atomically and at once; an existing ``folder`` is replaced.

    Args:
        world: the ranks of a sharded model, each of which must call this; None for a model that is not sharded.
        confirm: called on the first rank just before the checkpoint becomes visible; an error leaves none.

    Raises:
        ValueError: on every rank, if the ranks do not share the folder.
        OSError: naming ``folder``, if it cannot be written.
    """
    world = world or World()
    write_staged(str(folder), stage_checkpoint(state, world), (spec, recipe, data), world, confirm)


def export_checkpoint(source: Path, target: Path) -> None:
    """Copy the files needed for sampling, without the optimizer, atomically to ``target``, which must not exist.

    Raises:
        ValueError: if a file to copy is damaged.
        OSError: naming ``target``, if it cannot be written.
    """
    export_with_settings(source, target, read_description(source).spec.generation)


def export_with_settings(source: Path, target: Path, generation: dict[str, Any]) -> None:
    """Export a checkpoint as :func:`export_checkpoint`, with other default sampling settings.

    Args:
        generation: settings of the exported model, see :mod:`raysde.models.sampling_defaults`.

    Raises:
        ValueError: if a setting is invalid, or a file to copy is damaged.
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
    """Copy the files needed for sampling, without the description.

    Raises:
        ValueError: if one of them is damaged.
    """
    state = [name for kind in (WEIGHTS, OPTIMIZER, PROFILES) for name in (kind, f"{kind}.safetensors")]
    verify_checkpoint(source, [name for name in read_description(source).files if name.partition("/")[0] not in state])
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*state, FILE, *CARDS), dirs_exist_ok=True)


def find_newest_checkpoint(folder: Path, say: Callable[[str], None] | None = None) -> Path | None:
    """Return the newest checkpoint in a local run folder whose description, averaged weights and text files are intact.

    Args:
        say: callback that receives a message for each newer checkpoint passed over.

    Returns:
        The checkpoint's folder, None if there are no checkpoints.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """

    def check_drawable(each: Kept) -> Path:
        verify_model(Path(each.path))
        return Path(each.path)

    return choose_checkpoint(list_checkpoints(pafs.LocalFileSystem(), str(folder)), check_drawable, str(folder), say)


def verify_model(folder: Path) -> Description:
    """Verify the files that sampling reads, as :func:`raysde.checkpoints.description.verify_checkpoint`.

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
    """Load the model with averaged weights from a checkpoint, verified and ready to sample.

    Raises:
        ValueError: if the checkpoint is damaged, does not fit its own description, or names code that is not allowed.
    """
    description = verify_model(folder)
    model = empty_model(description.spec, folder / "text", allow_code=allow_code)
    _load_weights(model, _read_tensors(folder / "ema.safetensors"), folder)
    origin, weights = Origin.of(description.data), description.files["ema.safetensors"]
    return Model(model.eval().requires_grad_(False).to(device), description.spec, origin, weights)


def restore_state(state: TrainState, folder: Path) -> Description:
    """Load a checkpoint into a state of the same architecture, whether either of them is sharded or not.

    Raises:
        ValueError: if the checkpoint is damaged, holds another model or SDE, or lacks optimizer or profiles.
    """
    description = read_description(folder)
    verify_checkpoint(folder, files_to_load(state, description, str(folder)))
    load_state(state, LocalFiles(description, str(folder)))
    return description


def files_to_load(state: TrainState, description: Description, where: str) -> list[str]:
    """Return the files of a checkpoint that a state loads.

    Args:
        where: the checkpoint, for the message.

    Raises:
        ValueError: if the checkpoint lacks optimizer or profiles.
    """
    return [name for each in _files_by_kind(state, description, where).values() for name in each]


def _files_by_kind(state: TrainState, description: Description, where: str) -> dict[str, list[str]]:
    kinds = (AVERAGE, WEIGHTS, OPTIMIZER, *((PROFILES,) if state.profiles else ()))
    return {kind: _list_tensor_files(where, description, kind) for kind in kinds}


def load_state(state: TrainState, files: Files) -> None:
    """Load verified files of a checkpoint into a state, whether either of them is sharded or not.

    Raises:
        ValueError: as :func:`restore_state`, but files are not compared with their hashes.
    """
    description, folder = files.description, files.where
    names = _files_by_kind(state, description, folder)
    stored = {kind: Stored(map(files.open, each), files.threads) for kind, each in names.items()}
    # user-written SDEs may not define equality; the caller has compared their recipes
    if not isinstance(description.spec.sde, ExternalSDE) and description.spec.sde != state.model.sde:
        raise ValueError(
            f"{folder} was trained with {description.spec.sde}, the recipe asks for {state.model.sde}; "
            "choose another name"
        )
    parameters = dict(state.model.named_parameters())
    average = stored[AVERAGE].all_like(parameters)
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


def _list_tensor_files(folder: str, description: Description, kind: str) -> list[str]:
    """Return the files that hold tensors of ``kind``, as one file or one per rank."""
    whole = f"{kind}.safetensors"
    names = [name for name in sorted(description.files) if name == whole or name.startswith(f"{kind}/")]
    if not names:
        raise ValueError(f"{folder} cannot be resumed: it was saved without {whole}")
    return names


def _load_weights(model: ScoreModel, tensors: dict[str, Tensor], folder: str | Path) -> None:
    try:
        missing, _ = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{folder} does not fit its model: {line[:200]}") from error
    lost = sorted((set(missing) - tied_names(model)) | (set(tensors) - set(model.state_dict())))
    if lost:
        raise ValueError(f"{folder} does not fit its model: {len(lost)} weights differ, such as {lost[0]}")
