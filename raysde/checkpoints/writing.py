"""Writing a staged checkpoint: atomically into a folder, or straight from memory into an object store.

A local folder is renamed once it is complete. In an object store, checkpoint.json is written last. Of a sharded model
every rank writes its part.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch

from raysde.checkpoints import storage
from raysde.checkpoints.description import FILE, Listed, describe_files, is_complete_checkpoint
from raysde.checkpoints.staging import Staged, rank_file
from raysde.checkpoints.tensor_files import write_file
from raysde.distributed.world import World
from raysde.io import atomic
from raysde.io.errors import name_place_of_write
from raysde.models.spec import ModelSpec

About = tuple[ModelSpec, dict[str, Any], dict[str, Any]]
"""The model, the recipe and the data of a run, for the description of its checkpoints."""


def write_staged(
    target: str, staged: Staged, about: About, world: World, confirm: Callable[[], None] = lambda: None
) -> None:
    """Write a checkpoint to a folder or URI, replacing what is there. Every rank of a sharded model must call it.

    Args:
        target: folder or URI of the checkpoint; a folder must be the same on all ranks.
        world: the ranks that write parts of it, see :meth:`raysde.distributed.world.World.beside`; a world of one for a
            model that is not sharded.
        confirm: called on the first rank just before the checkpoint becomes visible; an error leaves none.

    Raises:
        ValueError: on every rank, if the ranks do not share the folder.
        OSError: naming ``target``, if a file cannot be written.
        RuntimeError: if another rank could not write its part.
    """
    staged.copies.wait()
    write = write_into_folder if storage.is_local(target) else write_to_remote
    with name_place_of_write(f"the checkpoint of step {staged.step}", target):
        write(target, staged, about, world, confirm)


def write_into_folder(folder: str, staged: Staged, about: About, world: World, confirm: Callable[[], None]) -> None:
    """Write a checkpoint under another name, and rename the folder once it is complete.

    Raises:
        ValueError, OSError, RuntimeError: as :func:`write_staged`.
    """
    system, place = pafs.LocalFileSystem(), Path(folder)
    partial = atomic.partial_name(place)
    try:
        with fail_together(world):
            if world.is_first:
                atomic.clear_partial(place).mkdir(parents=True)
        listed = write_part(system, str(partial), staged, world)
        with fail_together(world):
            if world.is_first:
                write_description_of(system, str(partial), staged, about, listed)
        if world.any(world.is_first and not is_complete_checkpoint(partial)):
            raise ValueError(
                f"{place.parent} is not shared by all workers, which resources.strategy=fsdp needs; set storage to a "
                "folder or URI that every node sees"
            )
        with fail_together(world):
            if world.is_first:
                confirm()
                atomic.move_into_place(partial, place)
    except Exception:
        if world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def write_to_remote(target: str, staged: Staged, about: About, world: World, confirm: Callable[[], None]) -> None:
    """Write a checkpoint to a URI: files that a killed process left are deleted, and checkpoint.json comes last.

    Raises:
        OSError, RuntimeError: as :func:`write_staged`.
    """
    system, root = storage.open_filesystem(target)
    with fail_together(world):
        if world.is_first:
            storage.clear_checkpoint(target)
    listed = write_part(system, root, staged, world)
    with fail_together(world):
        if world.is_first:
            confirm()
            write_description_of(system, root, staged, about, listed)


def write_part(system: pafs.FileSystem, root: str, staged: Staged, world: World) -> dict[str, Listed]:
    """Write this rank's files, and return the hash and size of the files of all ranks.

    Raises:
        OSError: if a file cannot be written.
        RuntimeError: if another rank failed.
    """
    listed: dict[str, Listed] = {}
    with fail_together(world):
        for name, content in staged.files.items():
            listed[name] = write_file(system, f"{root}/{name}", content.parts)
        for name, text in staged.text.items():
            listed[name] = write_file(system, f"{root}/{name}", lambda text=text: [text])  # type: ignore[misc]
    return listed | gather_listed(listed, staged.pieces, world)


def write_description_of(
    system: pafs.FileSystem, root: str, staged: Staged, about: About, listed: dict[str, Listed]
) -> None:
    """Write checkpoint.json, which makes a remote checkpoint whole.

    Raises:
        OSError: if the file cannot be written.
    """
    spec, recipe, data = about
    content = describe_files(spec, staged.values, recipe, data, dict(sorted(listed.items())))
    write_file(system, f"{root}/{FILE}", lambda: [content])


def gather_listed(listed: dict[str, Listed], kinds: tuple[str, ...], world: World) -> dict[str, Listed]:
    """Return sha256 and bytes of all ranks' files of pieces, by path."""
    if not kinds:
        return {}
    digests = torch.zeros(world.size, len(kinds), 32, dtype=torch.int32, device=world.device)
    sizes = torch.zeros(world.size, len(kinds), dtype=torch.int64, device=world.device)
    for number, kind in enumerate(kinds):
        mine = listed[rank_file(kind, world.rank, world.size)]
        digests[world.rank, number] = torch.tensor(list(bytes.fromhex(mine.sha256)), dtype=torch.int32)
        sizes[world.rank, number] = mine.bytes
    hashes, counts = world.sum(digests).cpu().tolist(), world.sum(sizes).cpu().tolist()
    return {
        rank_file(kind, rank, world.size): Listed(bytes(hashes[rank][number]).hex(), counts[rank][number])
        for rank in range(world.size)
        for number, kind in enumerate(kinds)
    }


@contextmanager
def fail_together(world: World) -> Iterator[None]:
    """Return a context that ends on all ranks at once, with an error on all of them if one of them fails.

    Raises:
        RuntimeError: if another rank failed.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = world.any(error is not None)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another worker could not write its part of the checkpoint")
