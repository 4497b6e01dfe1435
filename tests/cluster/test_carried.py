"""Errors of Ray Data's tasks: what a user can mend comes to the driver as one sentence, and so does a lost worker."""

from types import SimpleNamespace
from typing import NoReturn

import pytest
from ray.exceptions import RayError, WorkerCrashedError

from raysde.cluster.errors import packed, rows_of
from raysde.cluster.precompute import STATE, Encoding
from raysde.cluster.sample import Drawing
from raysde.data.dataset.precomputed import File

FULL = OSError(28, "No space left on device", "/data/a.parquet")


class Stream:
    """A stream of results that ends with an error, if there is one."""

    def __init__(self, *errors: str, lost: RayError | None = None) -> None:
        self.errors, self.lost = errors, lost

    def iter_rows(self):
        yield from ({"error": error} for error in self.errors)
        if self.lost is not None:
            raise self.lost


@pytest.mark.parametrize(
    ("error", "kind"), [(ValueError("a\n b"), ValueError), (OSError("a b"), OSError), (PermissionError("a b"), OSError)]
)
def test_an_error_is_raised_as_what_it_was(error, kind):
    """After the rows that came before it; a wrong input and a full disk end a command with statuses of their own."""
    rows = rows_of(Stream("", packed(error), ""))
    assert next(rows) == {"error": ""}
    with pytest.raises(kind, match=r"^a b$"):
        next(rows)


def test_a_lost_worker_is_one_sentence():
    with pytest.raises(RuntimeError, match=r"^a worker failed: The worker died unexpectedly[^\n]*$"):
        list(rows_of(Stream("", lost=WorkerCrashedError())))


@pytest.mark.parametrize("work", [lambda unit: fail(), lambda unit: File("a", 1, 1, "")])
def test_a_full_disk_under_an_encoder_is_carried(tmp_path, work):
    """Of what it makes, or of the record of that: here a file is in the place of the records' folder."""
    (tmp_path / STATE).write_text("")
    encoding = Encoding(SimpleNamespace(out=str(tmp_path)), "")
    encoding.work = work
    carried = encoding({"unit": [3]})["error"]
    with pytest.raises(OSError, match=r"No space left on device: '/data|a file cannot be written to .*\.precompute"):
        list(rows_of(Stream(*carried)))


def test_a_full_disk_under_a_drawing_actor_is_carried():
    drawing = Drawing.__new__(Drawing)
    drawing.bulk = SimpleNamespace(draw=lambda part: fail())
    carried = drawing({"part": [3]})["error"]
    with pytest.raises(OSError, match="No space left on device"):
        list(rows_of(Stream(*carried)))


def fail() -> NoReturn:
    raise FULL
