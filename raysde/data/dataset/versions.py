"""Versions of a data set that grows: each append adds shards and a manifest beside the earlier ones.

SHARDS/manifest.json      version 1, as `raysde ingest` wrote it
SHARDS/manifest-v2.json   version 2: all shards of version 1, and those that were appended; shards-v2.arrow likewise
SHARDS/versions.json      the versions with their fingerprints, each of which depends on the one before

No file of an earlier version changes, so that runs on it go on as before. A version exists once versions.json lists it.
"""

import json
from dataclasses import asdict, dataclass

from raysde.io.filesystems import absolute_location, child_path, read_bytes, write_json

FILE = "versions.json"


@dataclass(frozen=True)
class Version:
    """An entry of versions.json.

    Attributes:
        version: number of the version, from 1.
        fingerprint: fingerprint of its data.
        rows: number of its rows.
        source: origin of the rows that it added.
    """

    version: int
    fingerprint: str
    rows: int
    source: str = ""


def versioned_name(name: str, version: int) -> str:
    """Return the name of a version's file: ``manifest.json`` for version 1, then ``manifest-v2.json``."""
    stem, dot, suffix = name.partition(".")
    return name if version == 1 else f"{stem}-v{version}{dot}{suffix}"


def read_versions(path: str) -> tuple[Version, ...]:
    """Return the versions of a data set, from the first on; empty if nothing was ever appended.

    Args:
        path: path or URI of the data set.

    Raises:
        ValueError: if the file is damaged.
    """
    where = child_path(absolute_location(path), FILE)
    try:
        content = json.loads(read_bytes(where))
        found = tuple(Version(**entry) for entry in content["versions"])
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is damaged: {error}; restore it") from error
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"{where} is damaged: its versions are not numbered from 1; restore it")
    return found


def write_versions(path: str, versions: tuple[Version, ...]) -> None:
    """Write versions.json atomically, which makes the last version visible.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    write_json(child_path(path, FILE), {"versions": [asdict(each) for each in versions]})


def choose_version(path: str, wanted: int | None, key: str = "data.version") -> int:
    """Return the number of a version: the wanted one, or the newest.

    Args:
        key: key or option that gave ``wanted``, for messages.

    Raises:
        ValueError: if there is no such version, or versions.json is damaged.
    """
    newest = max(1, len(read_versions(path)))
    if wanted is not None and not 1 <= wanted <= newest:
        there = "has one version, 1" if newest == 1 else f"has the versions 1 to {newest}"
        raise ValueError(f"{key}={wanted}: the data set at {path} {there}; choose one of them, or leave it out")
    return newest if wanted is None else wanted


def find_version(path: str, fingerprint: str) -> int | None:
    """Return the number of the version with a fingerprint; None if no listed version has it.

    Raises:
        ValueError: if versions.json is damaged.
    """
    return next((each.version for each in read_versions(path) if each.fingerprint == fingerprint), None)
