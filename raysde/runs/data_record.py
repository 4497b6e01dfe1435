"""The data of a run, recorded in its folder when it begins: the version of the data set, and the selected rows.

STORAGE/NAME/data.json                 the data set's path, version and fingerprint, and the selection's hash
STORAGE/NAME/selection-ID.arrow        the rows that data.filter selects, found again when the run resumes

A run stays on the version on which it began, also if it is killed before its first checkpoint.
"""

import hashlib
import json
from typing import Any

import pyarrow.fs as pafs

from raysde.checkpoints import storage
from raysde.config.loading import RunConfig
from raysde.data.dataset.manifest import Manifest, read_manifest
from raysde.data.dataset.selection import Selection, select_rows
from raysde.data.dataset.versions import find_version, read_versions
from raysde.io.filesystems import child_path, exists, open_filesystem, read_bytes, write_bytes, write_json
from raysde.io.shared_file import open_shared_file
from raysde.runs.identity import has_ended

FILE = "data.json"


def open_data(config: RunConfig) -> Manifest:
    """Return the manifest of a run's data: of the recipe's version, else of the run's first one, else of the newest.

    Raises:
        ValueError: if there is no such data set or version, or a record of the run is damaged.
    """
    wanted, path = config.data.version, config.data.path
    if wanted is None and read_versions(path):
        wanted = _version_of_run(config)
    return read_manifest(path, "data.path", wanted)


def _version_of_run(config: RunConfig) -> int | None:
    """Return the version on which a run began, by its checkpoint or its record; None for a new run."""
    found = storage.find_newest_checkpoint(config.storage, config.name)
    if found is not None and found.description is not None:
        return find_version(config.data.path, found.description.data["fingerprint"])
    folder = folder_of(config)
    told = None if has_ended(folder) else read_record(folder)
    return None if told is None else find_version(config.data.path, told["fingerprint"])


def folder_of(config: RunConfig) -> str:
    """Return the absolute folder of a run, or its URI."""
    return child_path(storage.absolute_location(config.storage), config.name)


def read_record(folder: str) -> dict[str, Any] | None:
    """Return the record in a run's folder; None if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    place = child_path(folder, FILE)
    try:
        found = json.loads(read_bytes(place))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{place} is damaged: {error}; remove it") from None
    if not isinstance(found, dict) or not {"path", "version", "fingerprint", "selection"} <= found.keys():
        raise ValueError(f"{place} is damaged: it lacks path, version, fingerprint or selection; remove it")
    return found


def selection_path(config: RunConfig, manifest: Manifest) -> str:
    """Return the path or URI of a run's selection, named after the data, their kept columns and the filter."""
    assert manifest.kept is not None, "a filter needs kept columns"
    said = json.dumps([manifest.fingerprint, manifest.kept.identity(), config.data.filter])
    return child_path(folder_of(config), f"selection-{hashlib.sha256(said.encode()).hexdigest()[:16]}.arrow")


def open_selection(config: RunConfig, manifest: Manifest) -> Selection | None:
    """Return the rows that ``data.filter`` selects, from the run's folder if they are there; None without a filter.

    Raises:
        ValueError: as :func:`raysde.data.dataset.selection.select_rows`, or if the stored selection is damaged.
    """
    if config.data.filter is None:
        return None
    told = None if manifest.kept is None else read_record(folder_of(config))
    if told is not None and told["selection"] is not None:
        place = selection_path(config, manifest)
        if told["selection"]["file"] == place.partition("?")[0].rpartition("/")[2] and exists(place):
            try:
                return Selection.from_buffer(open_shared_file(place, told["selection"]["sha256"]))
            except ValueError as error:
                raise ValueError(f"{place} is damaged: {error}; remove it, and it is computed again") from error
    return select_rows(manifest, config.data.filter)


def record_data(config: RunConfig, manifest: Manifest, selection: Selection | None) -> None:
    """Write the record and the selection into a run's folder, if they are not there yet.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    folder = folder_of(config)
    content: dict[str, Any] = {
        "path": manifest.path,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "selection": None,
    }
    if selection is not None:
        place = selection_path(config, manifest)
        content["selection"] = {
            "file": place.partition("?")[0].rpartition("/")[2],
            "sha256": selection.sha256,
            "rows": selection.count,
        }
    if read_record(folder) == content:
        return
    system, inside = open_filesystem(folder)
    if isinstance(system, pafs.LocalFileSystem):
        system.create_dir(inside, recursive=True)
    if selection is not None:
        write_bytes(place, memoryview(selection.content))
    write_json(child_path(folder, FILE), content)
