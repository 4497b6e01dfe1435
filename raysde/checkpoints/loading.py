"""The files of a checkpoint as a run loads them, compared with their hashes once.

A run that is not sharded loads whole files: one process on each node downloads or verifies them for all. Each rank of a
sharded run reads only its rows, straight from the storage, and each file is verified by one rank.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raysde.checkpoints import storage
from raysde.checkpoints.description import FILE, Description, Kept, compare_hashes
from raysde.checkpoints.node_folders import shared_folder
from raysde.checkpoints.ranges import RangedTensors
from raysde.checkpoints.sharded_tensors import open_local
from raysde.checkpoints.staging import rank_file
from raysde.distributed.world import World
from raysde.io.filesystems import hash_stream


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint differs from its hash; the run can go on from an older checkpoint.

    Attributes:
        name: name of the checkpoint's folder.
        fault: the file and its fault.
    """

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"checkpoint {name} is damaged: {fault}")
        self.name, self.fault = name, fault


@dataclass(frozen=True)
class LocalFiles:
    """Tensor files of a checkpoint in a local folder.

    Attributes:
        description: the checkpoint's description.
        where: its folder, for messages.
        threads: number of tensors that may be read at once.
    """

    description: Description
    where: str
    threads: int = 1

    def open(self, name: str) -> Any:
        """Return the open file ``name``, see :class:`raysde.checkpoints.sharded_tensors.Stored`.

        Raises:
            ValueError: naming the file, if it cannot be read.
        """
        return open_local(Path(self.where) / name)

    def verify(self, name: str, keep: bool) -> None:
        """Compare a file with its hash; ``keep`` has no effect.

        Raises:
            ValueError: if it differs or cannot be read.
        """
        compare_hashes(Path(self.where), self.description, [name])


@dataclass
class RemoteFiles:
    """Tensor files of a checkpoint in an object store, of which only the requested rows are read.

    Attributes:
        description, where, threads: as in :class:`LocalFiles`.
        system, root: file system, and the checkpoint's path in it.
        held: content of the files that were kept when they were verified.
    """

    description: Description
    where: str
    system: pafs.FileSystem
    root: str
    threads: int = 8
    held: dict[str, pa.Buffer] = field(default_factory=dict)

    def open(self, name: str) -> Any:
        """Return the open file ``name``, as :meth:`LocalFiles.open`.

        Raises:
            ValueError: if its header is not valid.
            OSError: if it cannot be read.
        """
        if name in self.held:
            return RangedTensors(pa.BufferReader(self.held[name]), f"{name} in checkpoint {self.where}")
        return RangedTensors(self.system.open_input_file(f"{self.root}/{name}"), f"{name} in checkpoint {self.where}")

    def verify(self, name: str, keep: bool) -> None:
        """Compare a file with its hash, and keep its content in memory if this rank will load all of it.

        Raises:
            ValueError: if it differs.
        """
        if keep:
            with self.system.open_input_file(f"{self.root}/{name}") as source:
                content = source.read_buffer()
            found = hashlib.sha256(content).hexdigest()
            self.held[name] = content
        else:
            found = hash_stream(self.system, f"{self.root}/{name}")
        _compare(self.where, self.description, name, found)


Files = LocalFiles | RemoteFiles


@contextmanager
def open_verified(place: str, kept: Kept, names: Collection[str], world: World, sharded: bool) -> Iterator[Files]:
    """Yield the files of a checkpoint, verified. Every rank must call this.

    Args:
        place: the storage, a folder or a URI.
        names: files to verify.
        sharded: True if each rank loads only its rows.

    Raises:
        DamagedCheckpointError: on every rank, if one of the files differs from its hash.
        OSError: if the storage cannot be read.
    """
    description = kept.description
    assert description is not None, "a checkpoint without a description is not chosen"
    if sharded:
        files = _files_of(place, kept, description)
        _agree(kept, _find_fault(partial(_verify_share, files, names, world)), world)
        yield files
        return
    if storage.is_local(place) and world.size == 1:
        _agree(kept, _find_fault(partial(compare_hashes, Path(kept.path), description, names)), world)
        yield LocalFiles(description, kept.path)
        return
    faults: list[str] = []
    prepare = partial(_prepare, place=place, kept=kept, names=names)
    with shared_folder(_key(place, kept, description), prepare) as folder:
        if (folder / "fault").exists():
            faults.append((folder / "fault").read_text())
        # all ranks of the node are in when they agree, so none of them prepares the folder again
        _agree(kept, "".join(faults), world)
        yield LocalFiles(description, kept.path if storage.is_local(place) else str(folder / "copy"))


def _key(place: str, kept: Kept, description: Description) -> str:
    about = json.dumps([place, kept.path, description.files], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:24]


def _find_fault(verify: Callable[[], None]) -> str:
    try:
        verify()
    except ValueError as error:
        return str(error)
    return ""


def _agree(kept: Kept, fault: str, world: World) -> None:
    if world.any(bool(fault)):
        raise DamagedCheckpointError(kept.name, fault or "another worker found the fault")


def _prepare(folder: Path, place: str, kept: Kept, names: Collection[str]) -> None:
    """Verify the files of a local checkpoint, or download those of a remote one; write the fault, if there is one."""
    description = kept.description
    assert description is not None, "a checkpoint without a description is not chosen"
    if storage.is_local(place):
        verify = partial(compare_hashes, Path(kept.path), description, names)
    else:
        verify = partial(_download, folder / "copy", place, kept, description, names)
    if fault := _find_fault(verify):
        (folder / "fault").write_text(fault)


def _download(copy: Path, place: str, kept: Kept, description: Description, names: Collection[str]) -> None:
    system, _ = storage.open_filesystem(place)

    def fetch(name: str) -> str:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return hash_stream(system, f"{kept.path}/{name}", target)

    with ThreadPoolExecutor(4) as pool:
        for name, found in zip(names, pool.map(fetch, names), strict=True):
            _compare(kept.path, description, name, found)


def _files_of(place: str, kept: Kept, description: Description) -> Files:
    if storage.is_local(place):
        return LocalFiles(description, kept.path)
    system, _ = storage.open_filesystem(place)
    return RemoteFiles(description, kept.path, system, kept.path)


def _verify_share(files: Files, names: Collection[str], world: World) -> None:
    """Verify this rank's share: its own pieces, if as many ranks wrote the checkpoint, and every n-th other file."""
    owners = {
        rank_file(kind, rank, world.size): rank
        for kind in {name.partition("/")[0] for name in names}
        for rank in range(world.size)
    }
    for number, name in enumerate(sorted(names)):
        if owners.get(name, number % world.size) == world.rank:
            files.verify(name, keep=name in owners)


def _compare(where: str, description: Description, name: str, found: str) -> None:
    if found != description.files[name]:
        raise ValueError(f"{name} in checkpoint {where} does not match its sha256 in {FILE}")
