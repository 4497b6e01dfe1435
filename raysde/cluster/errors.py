"""Errors of Ray's tasks, trials and actors, carried to the driver as sentences; Ray would wrap them in tracebacks.

A task that gives rows, or a trial that gives metrics, returns :func:`attempt_work` of its work, and the driver takes
the result out with :func:`unpack_result`. An actor that answers with objects raises, and :func:`describe_error` unwraps
that.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray.data
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayError, RayTaskError

CARRIED = (ValueError, OSError)
"""Errors that a user can mend: wrong data, and storage that is full, read-only or unreachable."""


def attempt_work(work: Callable[[], Any]) -> dict[str, str]:
    """Return what ``work`` gives as JSON in ``result``, or one of :data:`CARRIED` as ``error``; the other is empty."""
    try:
        return {"result": json.dumps(work()), "error": ""}
    except CARRIED as error:
        return {"result": "", "error": pack_error(error)}


def attempt_as_row(number: int, work: Callable[[], Any]) -> dict[str, list[Any]]:
    """Return the result of :func:`attempt_work` as the one row of a batch, with the number of its unit."""
    return {"number": [number], **{column: [value] for column, value in attempt_work(work).items()}}


def pack_error(error: Exception) -> str:
    """Return one of :data:`CARRIED` as text, which is not empty."""
    return json.dumps([isinstance(error, ValueError), " ".join(str(error).split())])


def unpack_error(error: str) -> Exception:
    """Return the error that :func:`pack_error` made a text of."""
    is_input, said = json.loads(error)
    return ValueError(said) if is_input else OSError(said)


def unpack_result(told: Mapping[str, Any]) -> Any:
    """Return the result of work done by :func:`attempt_work`.

    Raises:
        ValueError: as the work did.
        OSError: as the work did.
    """
    if told["error"]:
        raise unpack_error(told["error"])
    return json.loads(told["result"])


def iterate_results(stream: ray.data.Dataset) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result of each row of a stream of :func:`attempt_as_row`, as they are ready.

    Raises:
        ValueError: as a task whose row carries one.
        OSError: as a task whose row carries one.
        RuntimeError: if tasks fail otherwise, or are lost too often.
    """
    try:
        for row in stream.iter_rows():
            yield int(row["number"]), unpack_result(row)
    except RayError as error:
        raise describe_error(error) from None


def describe_error(error: RayError) -> Exception:
    """Return what a task or an actor raised without Ray's traceback around it: one of :data:`CARRIED`, or a
    RuntimeError for anything else, also for a worker that was lost."""
    if not isinstance(error, RayTaskError) or isinstance(error.cause, UserCodeException):
        return RuntimeError(f"a worker failed: {' '.join(str(error).split())[-300:]}")
    cause = error.cause
    if isinstance(cause, CARRIED):
        return unpack_error(pack_error(cause))
    return RuntimeError(f"a worker failed: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}")
