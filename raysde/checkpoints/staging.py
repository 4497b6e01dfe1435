"""Copies of a training state in host memory, from which a checkpoint is written while training goes on.

A training step pays for the copy alone. On CUDA the copies go to pinned memory in the order of the device's stream, so
that the host does not wait for them: the next step changes the weights after they are copied.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raysde.checkpoints.tensor_files import TensorFile
from raysde.distributed.fsdp import gather_tensor, has_shards, is_sharded, local_rows
from raysde.distributed.world import World
from raysde.models.score import ScoreModel
from raysde.models.spec import save_text
from raysde.training.state import TrainState

AVERAGE, WEIGHTS, OPTIMIZER, PROFILES = "ema", "weights", "optimizer", "profiles"
STARTS = "DCP_SHARDING_INFO"
"""Key in the header of a file of pieces for each piece's first row."""


def complete_weights(model: ScoreModel) -> dict[str, Tensor]:
    """Return the tensors of :func:`own_weights`, of the same shapes, contiguous and on the CPU."""
    return {name: value.cpu().contiguous() for name, value in own_weights(model).items()}


def own_weights(model: ScoreModel) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer, of its own shape, by name; a tied weight only by its first name."""
    tied = tied_names(model)
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def tied_names(model: ScoreModel) -> set[str]:
    """Return the second and further names of tied parameters, such as T5's embedding."""
    seen: set[int] = set()
    tied: set[str] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:
            tied.add(name)
        seen.add(id(value))
    return tied


def whole_file(kind: str) -> str:
    """Return the name of the file with the whole tensors of ``kind``."""
    return f"{kind}.safetensors"


def rank_file(kind: str, rank: int, size: int) -> str:
    """Return the path, relative to the checkpoint, of the pieces of rank ``rank`` of ``size``."""
    return f"{kind}/{rank + 1:05d}-of-{size:05d}.safetensors"


class HostCopies:
    """Copies of tensors in host memory, in the same places again each time.

    New memory costs more than the copy itself: the system hands it out page by page, and pins it for GPUs. The caller
    makes new copies only after the earlier ones are written.
    """

    def __init__(self) -> None:
        self.places: list[Tensor] = []
        self.begin()

    def begin(self) -> None:
        """Begin a new set of copies, which takes the host memory of the previous set again."""
        self.used = 0
        self.device: torch.device | None = None
        self.event: torch.cuda.Event | None = None

    def copy(self, value: Tensor) -> Tensor:
        """Return a contiguous copy of a tensor, of the same shape, that later changes of the tensor do not reach.

        The copy of a CUDA tensor is complete after :meth:`wait`.
        """
        value, pinned = value.detach(), value.device.type == "cuda"
        if pinned:
            self.device = value.device
        place = self.places[self.used] if self.used < len(self.places) else None
        if place is None or (place.shape, place.dtype) != (value.shape, value.dtype):
            place = torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned)
            self.places[self.used : self.used + 1] = [place]
        self.used += 1
        return place.copy_(value.contiguous() if pinned else value, non_blocking=pinned)

    def close(self) -> None:
        """Mark the end of the copies in the device's stream."""
        if self.device is not None:
            self.event = torch.cuda.current_stream(self.device).record_event()

    def wait(self) -> None:
        """Wait until all copies are complete."""
        if self.event is not None:
            self.event.synchronize()


@dataclass(frozen=True)
class Staged:
    """One rank's part of a checkpoint in host memory.

    Attributes:
        step: step of the state.
        files: content of each safetensors file of this rank, by path relative to the checkpoint.
        pieces: kinds of tensors of which each rank writes a file of its rows; empty if the state is not sharded.
        values: the state's counters.
        text: content of the tokenizer's files, by relative path.
        copies: the copies, to be waited for before ``files`` are read.
    """

    step: int
    files: Mapping[str, TensorFile]
    pieces: tuple[str, ...]
    values: dict[str, Any]
    text: Mapping[str, bytes]
    copies: HostCopies = field(repr=False)


def stage_checkpoint(state: TrainState, world: World, copies: HostCopies | None = None) -> Staged:
    """Return a copy of the state in host memory. Every rank must call it if the model is sharded.

    Of a sharded model each rank copies its rows, and the first rank receives the averaged weights as a whole.

    Args:
        copies: places of an earlier checkpoint that is written; None for new ones.

    Raises:
        ValueError: as :meth:`raysde.training.state.TrainState.optimizer_tensors`.
    """
    sharded, copies = has_shards(state.model), copies or HostCopies()
    copies.begin()
    average = {**own_weights(state.model), **state.ema.average}
    kinds: dict[str, Mapping[str, Tensor]] = {WEIGHTS: state.trained, OPTIMIZER: state.optimizer_tensors()}
    if state.profiles:
        kinds[PROFILES] = state.profile_tensors()
    files: dict[str, TensorFile] = {}
    whole = stage_whole(average, world.is_first, copies)
    if world.is_first:
        files[whole_file(AVERAGE)] = TensorFile(whole)
    for kind, tensors in kinds.items():
        if sharded:
            files[rank_file(kind, world.rank, world.size)] = stage_pieces(tensors, world.rank, copies)
        else:
            files[whole_file(kind)] = TensorFile({name: copies.copy(value) for name, value in tensors.items()})
    values, text = state.values(), read_text_files(state.model) if world.is_first else {}
    copies.close()
    return Staged(state.step, files, tuple(kinds) if sharded else (), values, text, copies)


def stage_whole(tensors: Mapping[str, Tensor], first: bool, copies: HostCopies) -> dict[str, Tensor]:
    """Return copies of whole tensors, of the same shapes, on the first rank; on others an empty dict."""
    found = {}
    for name in sorted(tensors):
        value = gather_tensor(tensors[name].detach())
        if first:
            found[name] = copies.copy(value)
    return found


def stage_pieces(tensors: Mapping[str, Tensor], rank: int, copies: HostCopies) -> TensorFile:
    """Return copies of the rows [rows, ...] that this rank holds; rank 0 also copies the tensors that are not sharded.

    The header gives each piece's first row, as in safetensors files of torch.distributed.checkpoint, so its
    HuggingFaceStorageReader can read such a folder too. Its other formats keep their index as a pickle.
    """
    mine: dict[str, Tensor] = {}
    starts: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.items():
        start, stop = local_rows(tensor) if is_sharded(tensor) else (0, int(rank == 0))
        if start < stop:
            mine[name] = copies.copy(tensor.to_local() if is_sharded(tensor) else tensor)
            starts[name] = {"saved_offsets": [start, *(0 for _ in mine[name].shape[1:])][: mine[name].ndim]}
    return TensorFile(mine, {STARTS: json.dumps(starts)})


def read_text_files(model: ScoreModel) -> dict[str, bytes]:
    """Return the content of the files that :func:`raysde.models.spec.save_text` writes, by path below ``text/``."""
    with tempfile.TemporaryDirectory(prefix="raysde-") as folder:
        save_text(model, Path(folder))
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {f"text/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in found}
