"""Messages at the driver's terminal while Ray starts and trains, and output that is hidden."""

import builtins
import logging
import os
import re
import subprocess
import sys

import pytest
from ray.train.v2._internal.logging.patch_print import redirected_print

from raysde.cluster import connection
from raysde.cluster.connection import MARK, show_marked_lines
from raysde.config import loading
from tests.support.jobs import job_recipe, killed_network
from tests.support.paths import ROOT


def test_lines_of_workers_are_shown_if_they_are_meant_for_a_person(capsys):
    """Marked lines appear without the mark and without Ray's prefix; output of Ray and libraries does not."""
    lines = ["Loading weights: 100%", f"{MARK}first batch", "Traceback (most recent call last):", f"  {MARK}quoted"]
    show_marked_lines({"pid": 7, "ip": "10.0.0.1", "is_err": True, "lines": lines})
    show_marked_lines({"pid": "raylet", "is_err": True})
    assert capsys.readouterr() == ("", "first batch\n")


@pytest.mark.slow
def test_a_run_tells_what_it_does_and_that_a_worker_was_lost(digits, tmp_path):
    """Every stage is reported in order; a worker killed in step 8 gives one sentence with the step to resume from."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tree = job_recipe(digits, tmp_path, uri, "lost", network=killed_network(tmp_path, "lost", dies=True))
    tree["sampling"] = {**tree["sampling"], "every": 0}
    (tmp_path / "recipe.yaml").write_text(loading.dump_yaml(tree))
    quiet = ("RAY_ADDRESS", "RAYSDE_LOG")
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    done = subprocess.run(
        [sys.executable, "-m", "raysde.cli", "train", str(tmp_path / "recipe.yaml")],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("training ")]
    lost = [line for line in lines if line.endswith("; starting again from step 5 (1 of 3 times)")]
    assert [line for line in lines if line not in lost] == [
        "starting Ray", "starting 1 worker", "first batch", "continuing from step 5 of 10", "first batch",
    ]  # fmt: skip
    assert len(lost) == 1
    assert lines.index(lost[0]) == 3
    assert not re.search(r"pid=|Traceback|\b[EW] \d+ \d+\]", done.stderr)
    assert "--prompt two -n 16" in done.stdout.splitlines()[-1]


SAID = {
    "pid": 7,
    "ip": "10.0.0.1",
    "is_err": True,
    "lines": ["Traceback (most recent call last):", f"{MARK}first batch"],
}


@pytest.mark.parametrize(("setting", "shown"), [(None, "first batch\n"), ("debug", str(SAID))])
def test_all_that_workers_print_is_shown_if_that_is_asked_for(monkeypatch, capsys, setting, shown):
    """Ray's own handler stays in place then."""
    listening = type(connection.printed_by_workers)()
    listening.add_handler("ray_print_logs", lambda batch: print(batch, end="", file=sys.stderr))
    monkeypatch.setattr(connection, "printed_by_workers", listening)
    asked(monkeypatch, setting)
    connection.show_worker_messages()
    listening.emit(SAID)
    assert capsys.readouterr() == ("", shown)


@pytest.mark.parametrize(("setting", "heard"), [(None, False), ("debug", True)])
def test_what_ray_says_of_itself_is_heard_if_that_is_asked_for(monkeypatch, setting, heard):
    names = ("ray.data", "ray.tune", "ray.train", "ray._private.authentication")
    for name in names:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
        logging.getLogger(name).manager._clear_cache()
    monkeypatch.delenv("RAY_DATA_LOG_LEVEL", raising=False)
    asked(monkeypatch, setting)
    connection.quiet_ray()
    found = {logging.getLogger(name).isEnabledFor(logging.INFO) for name in names}
    assert (found, "RAY_DATA_LOG_LEVEL" in os.environ) == ({heard}, not heard)


def asked(monkeypatch, setting: str | None) -> None:
    """Set RAYSDE_LOG, or unset it."""
    if setting is None:
        monkeypatch.delenv("RAYSDE_LOG", raising=False)
    else:
        monkeypatch.setenv("RAYSDE_LOG", setting)


def test_a_sentence_is_printed_once(monkeypatch, capsys, caplog):
    """Ray Train replaces print in its workers by a function that logs each line and also writes it."""
    monkeypatch.setattr(builtins, "print", redirected_print)
    with caplog.at_level(logging.INFO):
        connection.tell_driver("first batch")
    assert (capsys.readouterr(), caplog.messages) == ((f"{MARK}first batch\n", ""), [])
