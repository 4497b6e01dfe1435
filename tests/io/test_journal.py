"""The journal of a job with many units: it resumes after any kill, and refuses another job."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raysde.io.journal import Journal, has_whole_files

KILLED = """
import os, signal, sys
from pathlib import Path
from raysde.io.journal import Journal

journal = Journal(f"{sys.argv[1]}/plan.json", f"{sys.argv[1]}/units", "unit-{:06d}.json")
replace, left = Path.replace, int(sys.argv[2])

def last(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return replace(self, target)

Path.replace = last
journal.begin({"seed": 3}, lambda found, wanted: None if found == wanted else "another")
for unit in range(4):
    journal.keep(unit, {"rows": unit})
"""


def journal(folder: Path | str) -> Journal:
    return Journal(f"{folder}/plan.json", f"{folder}/units", "unit-{:06d}.json")


def other(found: dict, wanted: dict) -> str | None:
    """Return a message with the first key that differs."""
    return next((f"another {key}" for key in wanted if found.get(key) != wanted[key]), None)


@pytest.mark.parametrize("writes", range(5))
def test_a_killed_job_goes_on_with_what_is_recorded(tmp_path, writes):
    """SIGKILL comes between write and rename of each of the five files: earlier files are whole, this one is
    missing."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(writes)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    found = journal(tmp_path)
    assert found.begin({"seed": 3}, other) == (writes > 0)
    assert list(found.records()) == [(unit, {"rows": unit}) for unit in range(writes - 1)]
    for unit in range(max(0, writes - 1), 4):
        found.keep(unit, {"rows": unit})
    assert list(found.records()) == [(unit, {"rows": unit}) for unit in range(4)]
    found.forget()
    assert list(found.records()) == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_another_job_is_refused_and_changes_nothing(tmp_path, scheme):
    """The message names the difference. A tuple counts as its JSON list."""
    first = journal(f"{scheme}{tmp_path}/a")
    assert not first.begin({"seed": 3, "shape": (2, 2)}, other)
    first.keep(0, "done")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert len(before) == 2
    assert first.begin({"seed": 3, "shape": (2, 2)}, other)
    with pytest.raises(ValueError, match=r"^another seed$"):
        first.begin({"seed": 4, "shape": (2, 2)}, other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_records_come_in_the_order_of_their_numbers(tmp_path):
    """Records with more digits than the pattern are found too; other files in the folder are ignored."""
    found = Journal(str(tmp_path / "plan.json"), str(tmp_path), "unit-{:02d}.json")
    assert list(Journal(found.plan, str(tmp_path / "none"), found.form).records()) == []
    units = (100, 99, 7, 1000, 12, 3, 101, 40, 8, 56, 31, 200)
    for unit in units:
        found.keep(unit, unit)
    for name in (
        ".unit-08.json.0a.part",
        "unit-09.json.part",
        "unit-x.json",
        "aunit-10.json",
        "plan.json",
        "unit-11xjson",
    ):
        (tmp_path / name).write_text("torn")
    assert list(found.records()) == [(unit, unit) for unit in sorted(units)]


@pytest.mark.parametrize("name", ["plan.json", "unit-000003.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    found = Journal(str(tmp_path / "plan.json"), str(tmp_path), "unit-{:06d}.json")
    found.begin({}, other)
    (tmp_path / name).write_bytes(content)

    def opened() -> None:
        found.begin({}, other)
        list(found.records())

    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        opened()


def test_a_unit_is_finished_while_all_its_files_are_whole(tmp_path):
    sizes = {"a": 3, "b": 0}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert has_whole_files(str(tmp_path), sizes)
    assert has_whole_files(f"file://{tmp_path}", sizes)
    assert not has_whole_files(str(tmp_path), {**sizes, "c": 0})
    (tmp_path / "b").write_bytes(b"1")
    assert not has_whole_files(str(tmp_path), sizes)


def test_journals_of_earlier_versions_go_on(tmp_path):
    """Names and contents of the files of each kind of job are those that raysde 1d989cc wrote."""
    from raysde.cluster import ingest, precompute
    from raysde.tuning.sampler import study
    from raysde.tuning.training.ledger import Ledger

    (tmp_path / ".ingest").mkdir()
    (tmp_path / ".ingest" / "plan.json").write_text('{\n "identity": "abc"\n}\n')
    (tmp_path / ".ingest" / "part-000002.json").write_text("{}")
    assert ingest.ingest_journal(str(tmp_path)).begin({"identity": "abc"}, other)
    assert list(ingest.ingest_journal(str(tmp_path)).records()) == [(2, {})]
    (tmp_path / ".precompute").mkdir()
    (tmp_path / ".precompute" / "plan.json").write_text('{"kind": "text"}')
    (tmp_path / ".precompute" / "unit-000011.json").write_text("{}")
    assert precompute.precompute_journal(str(tmp_path)).begin({"kind": "text"}, other)
    assert list(precompute.precompute_journal(str(tmp_path)).records()) == [(11, {})]
    assert study.study_journal(tmp_path).plan == str(tmp_path / "study.json")
    assert study.study_journal(tmp_path).place("0a1b") == str(tmp_path / "trials" / "0a1b.json")
    (tmp_path / "sweep.json").write_text('{"space": [["train.lr", [1, 2]]]}')
    (tmp_path / "ledger").mkdir()
    trial = {"number": 1, "values": {}, "run_id": "", "state": "finished", "error": "", "seconds": 1.0, "reports": []}
    (tmp_path / "ledger" / "trial-00001.json").write_text(json.dumps(trial))
    assert list(Ledger(str(tmp_path), {"space": [("train.lr", [1, 2])]}).trials) == [1]
