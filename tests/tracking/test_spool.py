"""Entries for a server that is away arrive in order and once, also after kills and refusals."""

import itertools
import json
import os
import random
import threading

import pytest
from PIL import Image

from raysde.tracking import outbox
from raysde.tracking.backlog import Backlog, backlog_folder
from raysde.tracking.outbox import LONGEST_PAUSE, Outbox
from raysde.tracking.spool import Spool, spool_folder

# on disk


def line(step: int) -> dict:
    return {"step": step, "time": 0, "values": {"loss": 1.0 / step}}


def test_each_run_has_a_spool_of_its_own():
    """Runs with one name in two stores, and resubmitted runs, have different spools; a resumed run finds its own."""
    places = {spool_folder(name, run_id) for name in ("a", "b") for run_id in ("0", "1")}
    assert len(places) == 4
    assert spool_folder("a", "0") == spool_folder("a", "0")
    assert len({Spool(place).pictures for place in places}) == 4


def test_a_torn_line_takes_no_later_one_with_it(tmp_path):
    """A process dies while it writes step 3, the next one continues and dies too, and the third finds all lines."""
    path = tmp_path / "spool.jsonl"
    path.write_text(json.dumps(line(1)) + "\n" + json.dumps(line(2)) + '\n{"step": 3, "ti')
    second = Spool(path)
    assert second.take_over() == ([line(1), line(2)], [])
    written = [second.add_metrics(step, {"loss": 1.0}) for step in (3, 4)]
    assert Spool(path).take_over()[0] == [line(1), line(2), *written]
    assert [each["step"] for each in written] == [3, 4]


def test_pictures_are_taken_over_in_the_order_of_their_making(tmp_path):
    """Pictures are sorted by time, not by name, because another grid of an earlier step may come later."""
    spool = Spool(tmp_path / "spool.jsonl")
    assert spool.is_empty
    spool.take_over()
    image = Image.new("L", (2, 2), 7)
    made = [spool.add_picture(step, name, image) for step, name in ((2, "z"), (1, "a"), (10, "a"), (9, "a"))]
    for seconds, path in enumerate(made):
        os.utime(path, ns=(0, 10**9 * (seconds + 1)))
    (spool.pictures / "torn-0000011.partial").write_bytes(b"PNG")
    assert Spool(tmp_path / "spool.jsonl").take_over() == ([], made)
    assert [path.name for path in made[:2]] == ["z-0000002.png", "a-0000001.png"]
    assert not spool.is_empty
    spool.forget_metrics()
    assert not spool.is_empty
    spool.forget_pictures()
    assert spool.is_empty


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_backlog_holds_what_waits_and_nothing_else(tmp_path, scheme):
    """Lines are replaced as a whole, pictures are added, and torn files are not read."""
    found = Backlog(backlog_folder(f"{scheme}{tmp_path}/run", "abc"))
    assert found.is_empty
    assert found.take() == ([], {})
    pictures = [tmp_path / f"grid-000000{number}.png" for number in (1, 2)]
    for number, path in enumerate(pictures):
        path.write_bytes(bytes([number]))
    found.keep([line(1), line(2)], pictures[:1])
    found.keep([line(2), line(3)], [*pictures, tmp_path / "arrived.png"])
    (tmp_path / "run/unsent-abc/.grid-0000003.png.abc.part").write_bytes(b"torn")
    assert not found.is_empty
    assert found.take() == ([line(2), line(3)], {path.name: path.read_bytes() for path in pictures})
    found.forget()
    found.forget()
    assert found.is_empty
    assert not (tmp_path / "run/unsent-abc").exists()


def test_what_comes_from_elsewhere_comes_first_and_once(tmp_path):
    """Lines and pictures of another machine are on this machine's disk before anything is sent."""
    path = tmp_path / "spool.jsonl"
    path.write_text("".join(json.dumps(line(step)) + "\n" for step in (2, 3)))
    lines, (picture,) = Spool(path).take_over([line(1), line(2)], {"grid-0000001.png": b"PNG"})
    assert lines == [line(1), line(2), line(3)]
    assert picture.read_bytes() == b"PNG"
    assert Spool(path).take_over() == (lines, [picture])


# to the server


class Clock:
    """A clock that replaces the outbox's pauses without waiting."""

    def __init__(self, monkeypatch) -> None:
        self.pauses: list[float] = []
        monkeypatch.setattr(outbox.time, "sleep", self.pauses.append)


def test_pauses_grow_to_a_limit(monkeypatch, capsys):
    """Pauses are 1, 2, 4, ... seconds and at most 15; messages come at tries 1, 2, 4 and 8."""
    clock, tries = Clock(monkeypatch), itertools.count(1)

    def send(batch):
        if next(tries) < 9:
            raise OSError("away")

    box = Outbox("test", send, lambda error: False, 1)
    box.put(1)
    assert box.close(20.0)
    assert clock.pauses == [1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert capsys.readouterr().out.count("the server does not answer, 1 entries wait: away") == 4


@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_server_in_a_mood_gets_everything_once_and_in_order(monkeypatch, most):
    """The server is away at random and refuses every batch with a bad entry: good entries arrive in order, bad ones
    never."""
    Clock(monkeypatch)
    rng, taken = random.Random(most), []

    def send(batch):
        if rng.random() < 0.4:
            raise OSError("away")
        if any(entry % 5 == 3 for entry in batch):
            raise ValueError("bad")
        taken.extend(batch)

    box = Outbox("test", send, lambda error: isinstance(error, ValueError), most)
    for entry in range(40):
        box.put(entry)
    assert box.close(20.0)
    assert taken == [entry for entry in range(40) if entry % 5 != 3]
    assert box.gone == box.taken == 40


def test_draining_waits_for_what_was_put_before_it_alone():
    """Later entries, which may never be sent, do not delay it."""
    gates, sent = {"a": threading.Event(), "b": threading.Event()}, []

    def send(batch):
        gates[batch[0]].wait(20.0)
        sent.extend(batch)

    box = Outbox("test", send, lambda error: False, 1)
    box.put("a")
    assert not box.drain(0.05)
    waiting = threading.Thread(target=lambda: sent.append(box.drain(20.0)))
    waiting.start()
    while not box.changed._waiters:  # the thread above waits
        pass
    box.put("b")
    gates["a"].set()
    waiting.join(20.0)
    assert sent == ["a", True]
    gates["b"].set()
    assert box.close(20.0)
    assert sent == ["a", True, "b"]
