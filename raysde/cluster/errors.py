"""Errors of Ray's tasks, trials and actors, carried to the driver as sentences; Ray would wrap them in tracebacks.

A task that gives rows, or a trial that gives metrics, returns :func:`attempted` of its work, and the driver takes the
result out with :func:`result_of`. An actor that answers with objects raises, and :func:`sentence_of` unwraps that.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray.data
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayError, RayTaskError

CARRIED = (ValueError, OSError)
"""Errors that a user can mend: wrong data, and storage that is full, read-only or unreachable."""


def attempted(work: Callable[[], Any]) -> dict[str, str]:
    """Return what ``work`` gives as JSON in ``result``, or one of :data:`CARRIED` as ``error``; the other is empty."""
    try:
        return {"result": json.dumps(work()), "error": ""}
    except CARRIED as error:
        return {"result": "", "error": packed(error)}


def row_of(number: int, work: Callable[[], Any]) -> dict[str, list[Any]]:
    """Return :func:`attempted` of a task's work as the one row of a batch, with the number of its unit."""
    return {"number": [number], **{column: [value] for column, value in attempted(work).items()}}


def packed(error: Exception) -> str:
    """Return one of :data:`CARRIED` as text, which is not empty."""
    return json.dumps([isinstance(error, ValueError), " ".join(str(error).split())])


def unpacked(error: str) -> Exception:
    """Return the error that :func:`packed` made a text of."""
    is_input, said = json.loads(error)
    return ValueError(said) if is_input else OSError(said)


def result_of(told: Mapping[str, Any]) -> Any:
    """Return the result of work that was :func:`attempted`.

    Raises:
        ValueError: as the work did.
        OSError: as the work did.
    """
    if told["error"]:
        raise unpacked(told["error"])
    return json.loads(told["result"])


def results(stream: ray.data.Dataset) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result of each row of a stream of :func:`row_of`, as they are ready.

    Raises:
        ValueError: as a task whose row carries one.
        OSError: as a task whose row carries one.
        RuntimeError: if tasks fail otherwise, or are lost too often.
    """
    try:
        for row in stream.iter_rows():
            yield int(row["number"]), result_of(row)
    except RayError as error:
        raise sentence_of(error) from None


def sentence_of(error: RayError) -> Exception:
    """Return what a task or an actor raised without Ray's traceback around it: one of :data:`CARRIED`, or a
    RuntimeError for anything else, also for a worker that was lost."""
    if not isinstance(error, RayTaskError) or isinstance(error.cause, UserCodeException):
        return RuntimeError(f"a worker failed: {' '.join(str(error).split())[-300:]}")
    cause = error.cause
    if isinstance(cause, CARRIED):
        return unpacked(packed(cause))
    return RuntimeError(f"a worker failed: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}")
