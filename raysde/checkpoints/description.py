"""The description of a checkpoint, checkpoint.json, and the check for completeness.

checkpoint.json is written last and holds the hash of its own content. A checkpoint is whole if that file is valid and
every file that it lists exists with the listed size. Hashes of other files are compared when the files are loaded.
"""

import hashlib
import json
import platform
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import pyarrow.fs as pafs

from raysde.io.documents import read_json
from raysde.io.errors import UNFIT, error_line
from raysde.io.hashing import file_hash, remembered_hash
from raysde.models.spec import ModelSpec
from raysde.training.bad_steps import BadSteps

FORMAT = 2
FILE = "checkpoint.json"
OWN = "sha256"
"""Key of the hash over all other keys, introduced with ``bytes``; older checkpoints lack both."""
PARTS = ("state", "recipe", "data", "files", "versions")
T = TypeVar("T")
STEP = re.compile(r"step_([0-9]+)")


class Listed(NamedTuple):
    """A file's entry in checkpoint.json: sha256, and size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Description:
    """The content of ``checkpoint.json``.

    Attributes:
        spec: the model's description.
        state: counters of the training state.
        recipe: flat configuration of the run, for display and comparison.
        data: path and fingerprint of the data set.
        files: sha256 of each other file, by relative path.
        versions: versions of raysde and its libraries at the time of writing.
        sizes: size of each of ``files`` in bytes; empty in checkpoints that predate this field.
    """

    spec: ModelSpec
    state: dict[str, Any]
    recipe: dict[str, Any]
    data: dict[str, Any]
    files: dict[str, str]
    versions: dict[str, str]
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def bad(self) -> BadSteps:
        """The record of the run's bad steps."""
        return BadSteps.from_values(self.state.get("bad_steps"))

    @property
    def position(self) -> int:
        """Plan position of the next global batch, which differs from the step if the run passed over batches."""
        return self.bad.position(self.step)


@dataclass(frozen=True)
class Kept:
    """A checkpoint folder of a run.

    Attributes:
        path: path in its file system.
        description: the checkpoint's description; None if it is not whole.
        fault: the reason why it is not whole.
        begun: True if it has a checkpoint.json, valid or not.
    """

    path: str
    description: Description | None
    fault: str = ""
    begun: bool = True

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def step(self) -> int:
        """Step of the checkpoint; if it is not whole, the step in the folder's name."""
        if self.description is not None:
            return self.description.step
        return int(self.name.removeprefix("step_"))


def checkpoint_name(step: int) -> str:
    """Return the folder name of a checkpoint; names sort by step."""
    return f"step_{step:09d}"


def write_description(
    folder: Path, spec: ModelSpec, state: dict[str, Any], recipe: dict[str, Any], data: dict[str, Any]
) -> None:
    """Write ``checkpoint.json`` for the files in a local ``folder``."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = {
        name: Listed(file_hash(path), path.stat().st_size) for name, path in sorted(found.items()) if name != FILE
    }
    (folder / FILE).write_bytes(describe_files(spec, state, recipe, data, listed))


def describe_files(
    spec: ModelSpec,
    state: dict[str, Any],
    recipe: dict[str, Any],
    data: dict[str, Any],
    listed: Mapping[str, Listed],
) -> bytes:
    """Return the content of ``checkpoint.json``.

    Args:
        listed: hash and size of every other file, by path relative to the checkpoint.
    """
    content = {
        "format": FORMAT,
        "model": spec.dump(),
        "state": state,
        "recipe": recipe,
        "data": data,
        "files": {name: each.sha256 for name, each in listed.items()},
        "bytes": {name: each.bytes for name, each in listed.items()},
        "versions": _library_versions(),
    }
    content[OWN] = content_hash(content)
    return (json.dumps(content, indent=1) + "\n").encode()


def _library_versions() -> dict[str, str]:
    names = ("raysde", "torch", "transformers", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the sha256 of a description's JSON values, independent of key order and layout."""
    values = json.loads(json.dumps({key: value for key, value in content.items() if key != OWN}))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_description(folder: Path) -> Description:
    """Read and validate ``checkpoint.json``.

    Raises:
        ValueError: if it is missing or invalid.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"{folder} is not a checkpoint: it holds no {FILE}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return parse_description(content, str(path))


def parse_description(content: bytes, path: str) -> Description:
    """Return the description in the bytes of a ``checkpoint.json``.

    Args:
        path: path of the file, for the message.

    Raises:
        ValueError: if the content is invalid, naming the fault.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    values = read_json(text, path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise ValueError(f"{path} has format {found!r}; this version of raysde reads only format {FORMAT}: train again")
    if missing := {"model", *PARTS} - set(values):
        raise ValueError(
            f"{path} lacks {', '.join(sorted(missing))}; it was damaged or edited, so use another checkpoint"
        )
    if "bytes" in values and OWN not in values:
        raise ValueError(f"{path} lacks its own sha256: it was damaged or edited; use another checkpoint")
    if OWN in values and values[OWN] != content_hash(values):
        raise ValueError(f"{path} does not match its own sha256: it was damaged or edited; use another checkpoint")
    parts = {name: values[name] for name in PARTS} | {"sizes": values.get("bytes", {})}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"{path}: {name} is not a mapping; it was damaged or edited, so use another checkpoint")
    if not _is_count(parts["state"].get("step")):
        raise ValueError(
            f"{path}: state.step is not a number of steps; it was damaged or edited, so use another checkpoint"
        )
    if not all(isinstance(each, str) for each in parts["files"].values()):
        raise ValueError(f"{path}: a value of files is not a hash; it was damaged or edited, so use another checkpoint")
    if not all(map(_is_count, parts["sizes"].values())):
        raise ValueError(f"{path}: a value of bytes is not a size; it was damaged or edited, so use another checkpoint")
    return Description(spec=_parse_spec(values["model"], path), **parts)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _parse_spec(content: Any, path: str) -> ModelSpec:
    try:
        return ModelSpec.parse(content)
    except ValueError:
        raise
    except UNFIT as error:
        raise ValueError(f"{path}: the model's description is invalid: {error_line(error)}") from error


def read_complete_description(system: pafs.FileSystem, root: str) -> Description:
    """Return the description of a whole checkpoint in any file system.

    Raises:
        ValueError: if it is not whole, naming the first fault.
    """
    sizes = list_file_sizes(system, root)
    if FILE not in sizes:
        raise ValueError(f"{root} is not a checkpoint: it holds no {FILE}")
    with system.open_input_stream(f"{root}/{FILE}") as source:
        description = parse_description(bytes(source.read()), f"{root}/{FILE}")
    for name in description.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"checkpoint {root} names a file outside itself: {name}")
        if name not in sizes:
            raise ValueError(f"checkpoint {root} lacks {name}; copy the whole folder")
        expected = description.sizes.get(name, sizes[name])
        if sizes[name] != expected:
            raise ValueError(f"{name} in checkpoint {root} has {sizes[name]} bytes instead of {expected}")
    if not description.sizes and isinstance(system, pafs.LocalFileSystem):
        compare_hashes(Path(root), description, description.files)
    return description


def is_complete_checkpoint(folder: Path) -> bool:
    """Return True if ``folder`` has a valid description and every listed file has the listed size."""
    try:
        read_complete_description(pafs.LocalFileSystem(), str(folder))
    except ValueError:
        return False
    return True


def list_file_sizes(system: pafs.FileSystem, root: str) -> dict[str, int]:
    """Return the size in bytes of each file below ``root``, by relative path; empty if there is no such folder."""
    entries = system.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    start = len(root.strip("/")) + 1
    return {entry.path.strip("/")[start:]: int(entry.size) for entry in entries if entry.is_file}


def verify_checkpoint(folder: Path, names: Collection[str] | None = None) -> Description:
    """Return the description of a whole checkpoint after comparing its files with their hashes.

    Args:
        names: files to compare; None for all.

    Raises:
        ValueError: naming the first file that is missing or differs.
    """
    description = read_complete_description(pafs.LocalFileSystem(), str(folder))
    compare_hashes(folder, description, description.files if names is None else names)
    return description


def compare_hashes(folder: Path, description: Description, names: Collection[str]) -> None:
    """Compare files of a local checkpoint with their hashes.

    Raises:
        ValueError: naming the first file that differs or cannot be read.
    """
    for name in names:
        try:
            found = remembered_hash(folder / name)
        except OSError as error:
            raise ValueError(f"{name} in checkpoint {folder} cannot be read: {error.strerror}") from error
        if found != description.files[name]:
            raise ValueError(
                f"{name} in checkpoint {folder} does not match its sha256 in {FILE}"
                "; it was damaged or edited, so use another checkpoint"
            )


def list_checkpoints(system: pafs.FileSystem, root: str) -> list[Kept]:
    """Return the checkpoint folders of a run by descending step, ignoring other content of the run's folder."""
    entries = system.get_file_info(pafs.FileSelector(root, allow_not_found=True))
    folders = [entry.path for entry in entries if not entry.is_file and STEP.fullmatch(entry.base_name)]
    found = [_judge_checkpoint(system, path) for path in folders]
    return sorted(found, key=lambda each: (each.step, each.name == checkpoint_name(each.step), each.name), reverse=True)


def _judge_checkpoint(system: pafs.FileSystem, path: str) -> Kept:
    try:
        return Kept(path, read_complete_description(system, path))
    except ValueError as error:
        return Kept(path, None, str(error), begun=FILE in list_file_sizes(system, path))
    except FileNotFoundError as error:  # deleted since the listing
        return Kept(path, None, str(error), begun=False)
    except OSError as error:
        if not isinstance(system, pafs.LocalFileSystem):
            raise  # a storage outage does not mean a damaged checkpoint
        return Kept(path, None, f"checkpoint {path} cannot be read: {error_line(error)}")


def choose_checkpoint(
    found: list[Kept],
    usable: Callable[[Kept], T],
    where: str,
    say: Callable[[str], None] | None,
    which: str = "newest",
) -> T | None:
    """Return what ``usable`` makes of the first whole checkpoint, None if there are no checkpoints.

    Args:
        found: checkpoints of a run in order, such as by descending step.
        usable: takes a whole checkpoint, and raises ValueError if it cannot be used.
        where: the run's folder, for the message.
        say: callback that receives a message for each earlier checkpoint passed over.
        which: name of the order in messages, newest or best.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    faults = []
    for each in found:
        try:
            if each.description is None:
                raise ValueError(each.fault)
            chosen = usable(each)
        except ValueError as error:
            faults.append(str(error))
            continue
        if say is not None:
            for fault in faults:
                say(f"passed over a damaged checkpoint: {fault}; the {which} whole one is {each.name}")
        return chosen
    if faults:
        raise ValueError(
            f"no checkpoint in {where} is whole: {faults[0]}; restore it from a copy. To train from the "
            "beginning, choose another name or remove the folder"
        )
    return None
