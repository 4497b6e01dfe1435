"""Snapshots of a run's averages for post-hoc EMA, which outlive its checkpoints, and models reconstructed from them.

RUN/profiles/step_000000500.safetensors   each average as STD/NAME; the header holds step, images seen and stds

RUN is a local folder, or a URI that pyarrow supports.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from raysde.checkpoints import checkpoint
from raysde.checkpoints.staging import HostCopies, stage_whole
from raysde.checkpoints.storage import absolute_location, fetch_newest_checkpoint
from raysde.checkpoints.tensor_files import TensorFile, write_into_place
from raysde.distributed.world import current_world
from raysde.io.atomic import write_folder_atomically
from raysde.io.errors import name_place_of_write
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.progress import say
from raysde.training.posthoc_ema import Snapshot, reconstruct_average
from raysde.training.state import TrainState

FOLDER = "profiles"
HEADER = "raysde"


@dataclass(frozen=True)
class StagedSnapshot:
    """The averages of one step in host memory, on the first rank; None on other ranks."""

    step: int
    content: TensorFile | None
    copies: HostCopies


def stage_snapshot(state: TrainState, copies: HostCopies | None = None) -> StagedSnapshot:
    """Return a copy of the averages in host memory. Every rank must call it if they are sharded.

    Args:
        copies: places of earlier averages that are written; None for new ones.
    """
    copies, first = copies or HostCopies(), current_world().is_first
    copies.begin()
    tensors = stage_whole(state.profile_tensors(), first, copies)
    copies.close()
    header = {"step": state.step, "images": state.num_images, "stds": [profile.std for profile in state.profiles]}
    content = TensorFile(tensors, {HEADER: json.dumps(header)}) if first else None
    return StagedSnapshot(state.step, content, copies)


def write_staged_snapshot(run: str, staged: StagedSnapshot) -> None:
    """Write averages into the run's folder atomically, replacing an older file; nothing on ranks other than the first.

    Args:
        run: folder or URI of the run.

    Raises:
        OSError: naming ``run``, if the file cannot be written.
    """
    staged.copies.wait()
    if staged.content is not None:
        with name_place_of_write(f"the averages of step {staged.step}", run):
            name = f"{checkpoint.checkpoint_name(staged.step)}.safetensors"
            write_into_place(child_path(absolute_location(run), FOLDER, name), staged.content.parts)


def write_snapshot(run: str, state: TrainState) -> None:
    """Write the averages of ``state`` at once, as :func:`stage_snapshot` and :func:`write_staged_snapshot`.

    Raises:
        OSError: naming ``run``, if the file cannot be written.
    """
    write_staged_snapshot(run, stage_snapshot(state))


@dataclass(frozen=True)
class StoredAverage(Mapping[str, Tensor]):
    """One average in a snapshot's open file, whose tensors are read on access.

    Attributes:
        source: the open safetensors file.
        std: relative standard deviation of the average's profile.
        names: names of the weights that it holds; a tensor has the shape of its weight.
    """

    source: Any
    std: float
    names: frozenset[str]

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.source.get_tensor(f"{self.std}/{name}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class SnapshotFile:
    """The content of a snapshot file.

    Attributes:
        step, images: training step and number of images seen when it was taken.
        averages: the stored averages.
    """

    step: int
    images: int
    averages: list[Snapshot]


def read_snapshots(folder: Path) -> list[SnapshotFile]:
    """Return the snapshots in a local folder, by step.

    Raises:
        ValueError: naming a file that is not a snapshot.
    """
    return [_read_snapshot(path) for path in sorted(folder.glob("step_*.safetensors"))]


def _read_snapshot(path: Path) -> SnapshotFile:
    try:
        source: Any = safe_open(path, "pt")  # memory-mapped: reopening it per tensor takes a millisecond
        header: dict[str, Any] = json.loads(source.metadata()[HEADER])
        names = [name.partition("/") for name in source.keys()]  # noqa: SIM118
        stds, images = [float(std) for std in header["stds"]], int(header["images"])
        owned = {std: frozenset(name for owner, _, name in names if owner == str(std)) for std in stds}
        averages = [Snapshot(images, std, StoredAverage(source, std, owned[std])) for std in stds]
        return SnapshotFile(int(header["step"]), images, averages)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a snapshot of averages: {error}") from error


def export_average(run: str, target: Path, std: float, step: int | None = None) -> int:
    """Write a checkpoint for sampling whose weights are the average of relative standard deviation ``std``.

    All else comes from the run's newest whole checkpoint. A message on stderr names each newer, damaged one.

    Args:
        run: folder or URI of the run.
        target: folder of the new checkpoint, which must not exist; it is written atomically.
        step: step of the snapshot at whose time the average ends; None for the last.

    Returns:
        The step of that snapshot.

    Raises:
        ValueError: if a snapshot or checkpoint is missing, ``target`` exists, or ``std`` is not reachable.
        OSError: naming ``target``, if it cannot be written.
    """
    run = absolute_location(run)
    if target.exists():
        raise ValueError(f"{target} exists already; name another folder")
    with tempfile.TemporaryDirectory(prefix="raysde-") as scratch:
        kept = read_snapshots(_fetch_snapshots(run, Path(scratch)))
        if not kept:
            raise ValueError(f"{run} holds no snapshots in {FOLDER}/: train with train.ema.profiles=[0.05,0.10]")
        last = next((each for each in reversed(kept) if step in (None, each.step)), None)
        if last is None:
            steps = ", ".join(str(each.step) for each in kept)
            raise ValueError(f"{run} holds no snapshot of step {step}; it has {steps}")
        stored = [average for each in kept if each.images <= last.images for average in each.averages]
        averaged = reconstruct_average(stored, last.images, std)
    _write_model(run, target, averaged, {"step": last.step, "num_images": last.images, "ema_std": std})
    return last.step


def _fetch_snapshots(run: str, scratch: Path) -> Path:
    """Return the run's folder of snapshots, copied to ``scratch`` if it is remote."""
    system, root = open_filesystem(child_path(absolute_location(run), FOLDER))
    if isinstance(system, pafs.LocalFileSystem):
        return Path(root)
    if system.get_file_info(root).type == pafs.FileType.Directory:
        pafs.copy_files(root, str(scratch), system, pafs.LocalFileSystem())
    return scratch


def _write_model(run: str, target: Path, averaged: dict[str, Tensor], state: dict[str, Any]) -> None:
    storage, _, name = run.rpartition("/")
    base = fetch_newest_checkpoint(storage, name, say)
    if base is None:
        raise ValueError(f"{run} holds no whole checkpoint, which is needed to build the model")
    weights = load_file(base / "ema.safetensors")
    strange = sorted(name for name in averaged if name not in weights or averaged[name].shape != weights[name].shape)
    if strange:
        raise ValueError(f"the snapshots of {run} do not fit its checkpoint {base.name}: {strange[0]} differs")
    description = checkpoint.read_description(base)
    with write_folder_atomically(target, "the averaged model") as partial:
        checkpoint.copy_model(base, partial)
        save_file({**weights, **averaged}, partial / "ema.safetensors")
        checkpoint.write_description(partial, description.spec, state, description.recipe, description.data)
