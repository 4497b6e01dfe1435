"""Errors of Ray tasks, trials and actors, carried to the driver without Ray's traceback around them.

A task or trial returns the result of :func:`attempt_work`, and the driver reads it with :func:`unpack_result`. An actor
that returns objects raises instead, and :func:`describe_error` unwraps its error.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray.data
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayError, RayTaskError

CARRIED = (ValueError, OSError)
"""Errors that a user can correct: wrong data, or storage that is full, read-only or unreachable."""


def attempt_work(work: Callable[[], Any]) -> dict[str, str]:
    """Return ``work()`` as JSON in ``result``, or its :data:`CARRIED` error as ``error``; the other value is empty."""
    try:
        return {"result": json.dumps(work()), "error": ""}
    except CARRIED as error:
        return {"result": "", "error": pack_error(error)}


def attempt_as_row(number: int, work: Callable[[], Any]) -> dict[str, list[Any]]:
    """Return the result of :func:`attempt_work` as a batch of one row, with the number of the unit of work."""
    return {"number": [number], **{column: [value] for column, value in attempt_work(work).items()}}


def pack_error(error: Exception) -> str:
    """Return an error of a type in :data:`CARRIED` as JSON text."""
    return json.dumps([isinstance(error, ValueError), " ".join(str(error).split())])


def unpack_error(error: str) -> Exception:
    """Return the error that :func:`pack_error` turned into text."""
    is_input, said = json.loads(error)
    return ValueError(said) if is_input else OSError(said)


def unpack_result(output: Mapping[str, Any]) -> Any:
    """Return the result in the output of :func:`attempt_work`.

    Raises:
        ValueError: if the work raised it.
        OSError: if the work raised it.
    """
    if output["error"]:
        raise unpack_error(output["error"])
    return json.loads(output["result"])


def iterate_results(stream: ray.data.Dataset) -> Iterator[tuple[int, Any]]:
    """Yield number and result of each row made by :func:`attempt_as_row`, in the order in which the rows are ready.

    Raises:
        ValueError: if a row carries one.
        OSError: if a row carries one.
        RuntimeError: if a task fails in another way, or its worker is lost too often.
    """
    try:
        for row in stream.iter_rows():
            yield int(row["number"]), unpack_result(row)
    except RayError as error:
        raise describe_error(error) from None


def describe_error(error: RayError) -> Exception:
    """Return the error of a task or actor without Ray's traceback: an error of a type in :data:`CARRIED`, or a
    RuntimeError for any other error and for a lost worker."""
    if not isinstance(error, RayTaskError) or isinstance(error.cause, UserCodeException):
        return RuntimeError(f"a worker failed: {' '.join(str(error).split())[-300:]}")
    cause = error.cause
    if isinstance(cause, CARRIED):
        return unpack_error(pack_error(cause))
    return RuntimeError(f"a worker failed: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}")
