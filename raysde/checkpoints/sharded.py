"""Checkpoints of a sharded model: each rank writes its own rows, and any number of ranks can resume.

The folder is that of :mod:`raysde.checkpoints.checkpoint`, with one file per rank for weights, optimizer and profiles
(:mod:`raysde.checkpoints.sharded_tensors`). The averaged weights are one file of whole tensors.
"""

from collections.abc import Callable, Mapping
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
    folder: Path,
    state: TrainState,
    spec: ModelSpec,
    recipe: dict[str, Any],
    data: dict[str, Any],
    world: World,
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Write a checkpoint atomically into a folder that all ranks share.

    Args:
        confirm: called on the first rank just before the checkpoint becomes visible; an error leaves none.

    Raises:
        ValueError: on every rank, if the ranks do not share the folder.
        OSError: naming ``folder``, if it cannot be written.
    """
    with name_place_of_write(f"the checkpoint of step {state.step}", folder):
        partial = atomic.clear_partial(folder) if world.is_first else atomic.partial_name(folder)
        world.barrier()
        write_rank_part(partial, state, spec, recipe, data, world)
        world.barrier()
        if world.any(world.is_first and not checkpoint.is_complete_checkpoint(partial)):
            raise ValueError(f"{folder.parent} is not shared by all workers, which resources.strategy=fsdp needs")
        if world.is_first:
            confirm()
            atomic.move_into_place(partial, folder)
        world.barrier()


def write_rank_part(
    folder: Path, state: TrainState, spec: ModelSpec, recipe: dict[str, Any], data: dict[str, Any], world: World
) -> None:
    """Write this rank's part of a checkpoint. Every rank must call it.

    Args:
        folder: folder of all ranks, or of this one alone; the folders of all ranks together make up the checkpoint.
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
    """Return the path, relative to the checkpoint, of the pieces of rank ``rank`` of ``size``."""
    return f"{kind}/{rank + 1:05d}-of-{size:05d}.safetensors"


def gather_hashes(folder: Path, kinds: list[str], world: World) -> dict[str, Listed]:
    """Return sha256 and bytes of all ranks' files of pieces, by path; each rank computes those of its own files."""
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
