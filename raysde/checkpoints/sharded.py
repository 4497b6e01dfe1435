"""Checkpoints of a sharded model: each rank writes what it holds, and any number of ranks goes on from it.

The folder is that of :mod:`raysde.checkpoints.checkpoint`, with each of weights, optimizer and profiles in one file a
rank (:mod:`raysde.checkpoints.sharded_tensors`). The averaged weights, from which models are loaded, are one file of
whole tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raysde.checkpoints import checkpoint
from raysde.checkpoints.description import Listed, write_description
from raysde.checkpoints.sharded_tensors import write_pieces, write_whole_tensors
from raysde.distributed.world import World
from raysde.io import atomic
from raysde.io.errors import name_place_of_write
from raysde.io.hashing import file_hash
from raysde.models.spec import ModelSpec, save_text
from raysde.training.state import TrainState


def write_sharded_checkpoint(
    folder: Path, state: TrainState, spec: ModelSpec, recipe: dict[str, Any], data: dict[str, Any], world: World
) -> None:
    """Writes a checkpoint into a folder that all ranks reach, where it appears whole or not at all.

    Raises:
        ValueError: on every rank, if it is not the same folder on all of them.
        OSError: naming ``folder``, if it cannot be written.
    """
    with name_place_of_write(f"the checkpoint of step {state.step}", folder):
        partial = atomic.clear_partial(folder) if world.is_first else atomic.partial_name(folder)
        world.barrier()
        write_rank_part(partial, state, spec, recipe, data, world)
        world.barrier()
        if world.any(world.is_first and not checkpoint.is_complete_checkpoint(partial)):
            raise ValueError(f"{folder.parent} is not one folder for all workers, which resources.strategy=fsdp needs")
        if world.is_first:
            atomic.move_into_place(partial, folder)
        world.barrier()


def write_rank_part(
    folder: Path, state: TrainState, spec: ModelSpec, recipe: dict[str, Any], data: dict[str, Any], world: World
) -> None:
    """Writes this rank's part of a checkpoint; called on every rank.

    Args:
        folder: of all ranks or of this one alone; what is in those of all ranks, laid together, is the checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with state.ema.swap_weights():
        weights = checkpoint.own_weights(state.model)
        write_whole_tensors(folder / "ema.safetensors" if world.is_first else None, weights)
    kinds: dict[str, Mapping[str, Tensor]] = {
        checkpoint.WEIGHTS: state.trained,
        checkpoint.OPTIMIZER: state.optimizer_tensors(),
    }
    if state.profiles:
        kinds[checkpoint.PROFILES] = state.profile_tensors()
    for kind, tensors in kinds.items():
        path = folder / rank_file(kind, world.rank, world.size)
        path.parent.mkdir(exist_ok=True)
        write_pieces(path, tensors, world.rank)
    others = gather_hashes(folder, list(kinds), world)
    if world.is_first:
        save_text(state.model, folder / "text")
        write_description(folder, spec, state.values(), recipe, data, others)


def rank_file(kind: str, rank: int, size: int) -> str:
    """The path, in the checkpoint, of the pieces that rank ``rank`` of ``size`` holds."""
    return f"{kind}/{rank + 1:05d}-of-{size:05d}.safetensors"


def gather_hashes(folder: Path, kinds: list[str], world: World) -> dict[str, Listed]:
    """sha256 and size of the files of pieces of every rank, each computed where the file was written."""
    digests = torch.zeros(world.size, len(kinds), 32, dtype=torch.int32, device=world.device)
    sizes = torch.zeros(world.size, len(kinds), dtype=torch.int64, device=world.device)
    for number, kind in enumerate(kinds):
        path = folder / rank_file(kind, world.rank, world.size)
        digests[world.rank, number] = torch.tensor(list(bytes.fromhex(file_hash(path))), dtype=torch.int32)
        sizes[world.rank, number] = path.stat().st_size
    hashes, counts = world.sum(digests).cpu().tolist(), world.sum(sizes).cpu().tolist()
    return {
        rank_file(kind, rank, world.size): Listed(bytes(hashes[rank][number]).hex(), counts[rank][number])
        for rank in range(world.size)
        for number, kind in enumerate(kinds)
    }
