"""Errors of Ray Data's tasks: errors that a user can correct reach the driver as one sentence, and so do lost
workers."""

from types import SimpleNamespace
from typing import NoReturn

import pytest
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError

from raysde.cluster.errors import attempt_work, describe_error, iterate_results, pack_error, unpack_result
from raysde.cluster.precompute import STATE, Encoding
from raysde.cluster.sample import SamplingActor
from raysde.data.dataset.precomputed import PrecomputedFile

FULL = OSError(28, "No space left on device", "/data/a.parquet")


class Stream:
    """A stream of results that may end with an error."""

    def __init__(self, *errors: str, lost: RayError | None = None) -> None:
        self.errors, self.lost = errors, lost

    def iter_rows(self):
        yield from ({"number": 7, "result": "[1]", "error": error} for error in self.errors)
        if self.lost is not None:
            raise self.lost


@pytest.mark.parametrize(
    ("error", "kind"), [(ValueError("a\n b"), ValueError), (OSError("a b"), OSError), (PermissionError("a b"), OSError)]
)
def test_an_error_is_raised_as_what_it_was(error, kind):
    """The error comes after the rows before it; wrong input and a full disk keep their types, and so their exit
    statuses."""
    rows = iterate_results(Stream("", pack_error(error), ""))
    assert next(rows) == (7, [1])
    with pytest.raises(kind, match=r"^a b$"):
        next(rows)


def test_a_lost_worker_is_one_sentence():
    with pytest.raises(RuntimeError, match=r"^a worker failed: The worker died unexpectedly[^\n]*$"):
        list(iterate_results(Stream("", lost=WorkerCrashedError())))


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("a\n b"), ValueError, "a b"),
        (FULL, OSError, "[Errno 28] No space left on device: '/data/a.parquet'"),
        (KeyError("a"), RuntimeError, "a worker failed: KeyError: 'a'"),
    ],
)
def test_an_error_of_an_actor_loses_its_traceback(error, kind, said):
    """A trial's error is carried like a row's, and is the same error at the driver."""
    found = describe_error(RayTaskError("part", "Traceback ...\nline 3", error))
    assert (type(found), str(found)) == (kind, said)
    if kind is not RuntimeError:
        with pytest.raises(kind) as caught:
            unpack_result(attempt_work(lambda: fail(error)))
        assert str(caught.value) == said
    assert unpack_result(attempt_work(lambda: {"a": 1})) == {"a": 1}


@pytest.mark.parametrize("work", [lambda unit: fail(), lambda unit: PrecomputedFile("a", 1, 1, "")])
def test_a_full_disk_under_an_encoder_is_carried(tmp_path, work):
    """The encoder's output or its record cannot be written: a file is in the place of the records' folder."""
    (tmp_path / STATE).write_text("")
    encoding = Encoding(SimpleNamespace(out=str(tmp_path)), "")
    encoding.work = work
    carried = encoding({"unit": [3]})["error"]
    with pytest.raises(OSError, match=r"No space left on device: '/data|a file cannot be written to .*\.precompute"):
        list(iterate_results(Stream(*carried)))


def test_a_full_disk_under_a_drawing_actor_is_carried():
    drawing = SamplingActor.__new__(SamplingActor)
    drawing.bulk = SimpleNamespace(draw=lambda part: fail())
    carried = drawing({"part": [3]})["error"]
    with pytest.raises(OSError, match="No space left on device"):
        list(iterate_results(Stream(*carried)))


def fail(error: Exception = FULL) -> NoReturn:
    raise error
