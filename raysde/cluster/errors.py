"""Errors of Ray Data's tasks, carried to the driver as sentences; Ray would wrap them in tracebacks."""

import json
from collections.abc import Iterator
from typing import Any

import ray.data
from ray.exceptions import RayError

CARRIED = (ValueError, OSError)
"""Errors that a user can mend: wrong data, and storage that is full, read-only or unreachable."""


def packed(error: Exception) -> str:
    """Return one of :data:`CARRIED` as the text of a row's column ``error``, which is empty where all went well."""
    return json.dumps([isinstance(error, ValueError), " ".join(str(error).split())])


def rows_of(stream: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stream of results, as they are ready.

    Raises:
        ValueError: as a task whose row carries one.
        OSError: as a task whose row carries one.
        RuntimeError: if tasks fail otherwise, or are lost too often.
    """
    try:
        for row in stream.iter_rows():
            if row["error"]:
                is_input, said = json.loads(row["error"])
                raise ValueError(said) if is_input else OSError(said)
            yield row
    except RayError as error:
        raise RuntimeError(f"a worker failed: {' '.join(str(error).split())[-300:]}") from None
