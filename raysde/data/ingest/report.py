"""Rows with equal content or equal keys, for the report of an ingest."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysde.data.ingest.convert import Converted
from raysde.data.ingest.identities import read_identities
from raysde.data.ingest.repetitions import Repetitions
from raysde.io.parallel import map_ahead

VALIDATION = np.int64(1 << 62)
"""Added to the numbers of validation rows, which come after all training rows."""


class Report:
    """Collects the identities of all rows, part by part, and finds repeated ones.

    Args:
        out: folder or URI of the data set.
        folder: temporary folder on this machine, for 32 bytes a row of a data set with millions of rows.
    """

    def __init__(self, out: str, folder: Path) -> None:
        self.out = out
        self.found: dict[str, Repetitions] = {}
        for column in ("hash", "key_hash"):
            (folder / column).mkdir()
            self.found[column] = Repetitions(folder / column)
        self.parts: list[int] = []
        self.starts: list[int] = [0]

    def add(self, part: Converted, identities: pa.Table) -> None:
        """Add the identities of a part's rows; parts come in the order of the source.

        Raises:
            ValueError: if the part and its identities have different numbers of rows.
        """
        shards = [(shard.split == "validation", shard.rows) for shard in part.shards]
        validation = np.repeat([split for split, _ in shards], [rows for _, rows in shards]).astype(np.int64)
        if len(validation) != len(identities):
            raise ValueError(f"part {part.number} of {self.out} has {len(validation)} rows and the identities of "
                             f"{len(identities)}; remove {self.out} and ingest again")  # fmt: skip
        numbers = np.arange(len(identities), dtype=np.int64) + self.starts[-1] + validation * VALIDATION
        for column, repetitions in self.found.items():
            repetitions.add(identities.column(column).to_numpy(), numbers)
        self.parts.append(part.number)
        self.starts.append(self.starts[-1] + len(identities))

    def repetitions(self) -> dict[str, Any]:
        """Return the part of report.json about rows with equal content or equal keys.

        At most 1,000 groups are named, and at most 1,000 rows of each, in the order of the data set.
        """
        copies, groups = self.found["hash"].find()
        same = self._name_rows(groups)
        repeated, groups = self.found["key_hash"].find()
        keys = [split for group in self._name_rows(groups) for split in _split_group(group)]
        # different keys may have the same hash
        repeated -= sum(len(group) - 1 for group in groups) - sum(len(group) - 1 for group in keys)
        return {
            "duplicates": {"rows": copies, "groups": same},
            "repeated_keys": {"rows": repeated, "groups": sorted(group for group in keys if len(group) > 1)},
        }

    def _name_rows(self, groups: list[np.ndarray]) -> list[list[str]]:
        """Return the keys of the rows of each group."""
        numbers = np.concatenate([*groups, np.empty(0, np.int64)]) % VALIDATION
        parts = np.searchsorted(self.starts, numbers, side="right") - 1
        wanted = defaultdict(list)
        for part, number in zip(parts.tolist(), numbers.tolist(), strict=True):
            wanted[part].append(number)
        keys: dict[int, str] = {}
        for named in map_ahead(lambda one: self._read_keys(*one), sorted(wanted.items())):
            keys.update(named)
        return [[keys[number] for number in (group % VALIDATION).tolist()] for group in groups]

    def _read_keys(self, part: int, numbers: list[int]) -> dict[int, str]:
        column = read_identities(self.out, self.parts[part]).column("key")
        return {number: column[number - self.starts[part]].as_py() for number in numbers}


def _split_group(keys: list[str]) -> list[list[str]]:
    """Return rows with equal hashes of their keys as groups of equal keys."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[key].append(key)
    return list(groups.values())
