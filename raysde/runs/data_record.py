"""The data of a run, recorded in its folder when it begins: the version of the data set, and the selected rows.

STORAGE/NAME/data.json                 the data set's path, version and fingerprint, and the selection's hash; of
                                       several or weighted data sets, a list "sources" of these
STORAGE/NAME/selection-ID.arrow        the rows that data.filter selects, found again when the run resumes

A run stays on the version on which it began, also if it is killed before its first checkpoint.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.fs as pafs

from raysde.checkpoints import storage
from raysde.config.loading import RunConfig
from raysde.data.dataset.manifest import Manifest, read_manifest
from raysde.data.dataset.selection import Selection, select_rows
from raysde.data.dataset.sources import Source
from raysde.data.dataset.versions import choose_version, find_version, read_versions
from raysde.io.filesystems import child_path, exists, open_filesystem, read_bytes, write_bytes, write_json
from raysde.io.shared_file import open_shared_file
from raysde.runs.identity import has_ended

FILE = "data.json"


def open_data(config: RunConfig, number: int) -> Manifest:
    """Return the manifest of a run's data set: of the recipe's version, else of the run's first one, else the newest.

    Args:
        number: number of the data set in the recipe, from 0.

    Raises:
        ValueError: if there is no such data set or version, or a record of the run is damaged.
    """
    entry = config.data.sources[number]
    wanted = choose_version(entry.path, entry.version, config.data.key(number, "version"))
    if entry.version is None and read_versions(entry.path):
        wanted = _version_of_run(config, number) or wanted
    return read_manifest(entry.path, config.data.key(number, "path"), wanted)


def _version_of_run(config: RunConfig, number: int) -> int | None:
    """Return the version of a data set on which a run began, by its checkpoint or its record; None for a new run."""
    found = storage.find_newest_checkpoint(config.storage, config.name)
    if found is not None and found.description is not None:
        record = found.description.data
    else:
        folder = folder_of(config)
        record = {} if has_ended(folder) else read_record(folder) or {}
    known = _list_sources(record)
    if number >= len(known):
        return None
    return find_version(config.data.sources[number].path, known[number]["fingerprint"])


def _list_sources(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of the data sets in a record, or in the data of a checkpoint; none of an empty one."""
    return record.get("sources", [record] if record else [])


def folder_of(config: RunConfig) -> str:
    """Return the absolute folder of a run, or its URI."""
    return child_path(storage.absolute_location(config.storage), config.name)


def pin_sweep(tree: Mapping[str, Any], config: RunConfig, began: str | None) -> dict[str, Any]:
    """Return the recipe that the trials of a sweep vary, with a version of each data set, the same for all trials.

    It is the recipe's version, else the one on which the sweep began, else the newest.

    Args:
        tree: the recipe as read from YAML.
        config: the parsed recipe, with the name of the sweep.
        began: fingerprint of the data on which the sweep began, for one data set; None for a new sweep. Sweeps of
            earlier versions of raysde recorded nothing else.

    Raises:
        ValueError: if there is no such data set or version, or the record of the sweep is damaged.
    """
    known = _list_sources(read_record(folder_of(config)) or ({} if began is None else {"fingerprint": began}))
    changed = copy.deepcopy(dict(tree))
    data, entries = changed["data"], config.data.sources
    for number, (entry, place) in enumerate(zip(entries, data.get("mix") or [data], strict=True)):
        version = choose_version(entry.path, entry.version, config.data.key(number, "version"))
        if entry.version is None and number < len(known):
            version = find_version(entry.path, known[number]["fingerprint"]) or version
        place["version"] = version
    return changed


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
    wanted = {"path", "version", "fingerprint", "selection"}
    entries = _list_sources(found) if isinstance(found, dict) else []
    if not entries or not all(isinstance(each, dict) and wanted <= each.keys() for each in entries):
        raise ValueError(f"{place} is damaged: it lacks path, version, fingerprint or selection; remove it")
    return found


def selection_path(config: RunConfig, manifest: Manifest, text: str) -> str:
    """Return the path or URI of a run's selection, named after the data, their kept columns and the filter ``text``."""
    assert manifest.kept is not None, "a filter needs kept columns"
    said = json.dumps([manifest.fingerprint, manifest.kept.identity(), text])
    return child_path(folder_of(config), f"selection-{hashlib.sha256(said.encode()).hexdigest()[:16]}.arrow")


def open_selection(config: RunConfig, number: int, manifest: Manifest) -> Selection | None:
    """Return the rows that a data set's filter selects, from the run's folder if they are there; None without a filter.

    Args:
        number: number of the data set in the recipe, from 0.

    Raises:
        ValueError: as :func:`raysde.data.dataset.selection.select_rows`, or if the stored selection is damaged.
    """
    text = config.data.sources[number].filter
    if text is None:
        return None
    record = None if manifest.kept is None else read_record(folder_of(config))
    for stored in [each["selection"] for each in _list_sources(record or {}) if each["selection"] is not None]:
        place = selection_path(config, manifest, text)
        if stored["file"] == _name_of(place) and exists(place):
            try:
                return Selection.from_buffer(open_shared_file(place, stored["sha256"]))
            except ValueError as error:
                raise ValueError(f"{place} is damaged: {error}; remove it, and it is computed again") from error
    return select_rows(manifest, text, config.data.key(number, "filter"))


def _name_of(place: str) -> str:
    """Return the name of the file at a path or URI."""
    return place.partition("?")[0].rpartition("/")[2]


def record_data(config: RunConfig, sources: Sequence[Source]) -> None:
    """Write the record and the selections into a run's folder, if they are not there yet.

    Args:
        sources: the data sets of the recipe, in its order.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    folder = folder_of(config)
    entries: list[dict[str, Any]] = []
    selections: dict[str, Selection] = {}
    for source, entry in zip(sources, config.data.sources, strict=True):
        manifest, selection, stored = source.manifest, source.selection, None
        if selection is not None:
            assert entry.filter is not None
            place = selection_path(config, manifest, entry.filter)
            selections[place] = selection
            stored = {"file": _name_of(place), "sha256": selection.sha256, "rows": selection.count}
        entries.append(
            {
                "path": manifest.path,
                "version": manifest.version,
                "fingerprint": manifest.fingerprint,
                "selection": stored,
            }
        )
    content = entries[0] if config.data.is_plain else {"sources": entries}
    if read_record(folder) == content:
        return
    system, inside = open_filesystem(folder)
    if isinstance(system, pafs.LocalFileSystem):
        system.create_dir(inside, recursive=True)
    for place, selection in selections.items():
        write_bytes(place, memoryview(selection.content))
    write_json(child_path(folder, FILE), content)
