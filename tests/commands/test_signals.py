"""Commands ended by a signal or a closed pipe: one sentence, the shell's exit status, no stack dump."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from raysde.checkpoints.checkpoint import verify_checkpoint
from raysde.commands import signals
from raysde.commands.signals import INTERRUPTED, SIGTERMED, UNREAD, run_command
from raysde.config import loading
from raysde.io.errors import Interrupted
from raysde.runs.history import read_metrics
from tests.support.paths import ROOT
from tests.support.training import small_recipe


def raising(error: BaseException, cause: BaseException | None = None):
    def command() -> int:
        raise error from cause

    return command


@pytest.mark.parametrize(
    ("error", "cause", "status", "said"),
    [
        (KeyboardInterrupt(), None, 130, "raysde: interrupted; the same command"),
        (Interrupted("run 'a' was interrupted"), KeyboardInterrupt(), 130, "raysde: run 'a' was interrupted"),
        (Interrupted("run 'a' was interrupted"), SystemExit(15), 143, "raysde: run 'a' was interrupted"),
        (SystemExit(15), None, 143, "raysde: interrupted; the same command"),
        (SystemExit(SIGTERMED), None, 143, "raysde: interrupted; the same command"),
    ],
)
def test_an_interrupt_is_a_sentence_and_a_status(capsys, error, cause, status, said):
    """SIGTERM during an ingest prints the same sentence as Ctrl-C."""
    assert run_command(raising(error, cause)) == status
    err = capsys.readouterr().err
    assert (err.startswith(said), len(err.splitlines())) == (True, 1)


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(2), BrokenPipeError(32, "a worker's pipe")])
def test_what_no_signal_ended_is_passed_on(error):
    """The cases are a help text, a wrong option, and a broken pipe that is not the terminal's."""
    with pytest.raises(type(error)):
        run_command(raising(error))


def test_sigterm_ends_a_command_and_is_put_back(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def command() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30.0)
        return 0

    begin = time.monotonic()
    assert run_command(command) == SIGTERMED
    assert capsys.readouterr().err.startswith("raysde: interrupted; the same command")
    assert time.monotonic() - begin < 20.0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("arguments", ["config", "--help", "models", "plan recipe.yaml --step 0"])
def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path, digits, empty_store, arguments):
    """`raysde config | head -0` closes the pipe before anything is read."""
    reader, writer = os.pipe()
    os.close(reader)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "recipe.yaml").write_text(loading.dump_yaml(small_recipe(digits, tmp_path / "runs")))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "raysde.cli", *arguments.split()]
    ended = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    os.close(writer)
    # argparse ignores a broken pipe when it prints help
    assert (ended.returncode, ended.stderr) == (0 if arguments == "--help" else UNREAD, "")


def test_a_reader_of_one_line_ends_a_command_quietly():
    """`raysde config | head -1` closes the pipe after one line, and the pipe's buffer is smaller than the text."""
    command = [sys.executable, "-m", "raysde.cli", "config"]
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        os.close(writer)
        with os.fdopen(reader) as stream:
            assert stream.readline().strip()
        _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (UNREAD, "")


def test_a_pipe_with_a_reader_is_read():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        assert not signals.lost_reader(stream)
        os.close(reader)
        assert signals.lost_reader(stream)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, SIGTERMED)])
def test_a_bare_run_that_is_ended_keeps_the_step_it_is_at(digits, tmp_path, number, status):
    """A checkpoint of the last logged step is written and named although none is due, and the run resumes from it."""
    changes = {"train__length__steps": 100_000, "checkpoint_every": 100_000, "text": None, "sampling__every": 0}
    (tmp_path / "recipe.yaml").write_text(loading.dump_yaml(small_recipe(digits, tmp_path / "runs", **changes)))
    command = [sys.executable, "-m", "raysde.cli", "train", str(tmp_path / "recipe.yaml"), "--no-ray"]
    metrics = tmp_path / "runs/small/metrics.jsonl"
    # tests in the background may have started with Ctrl-C ignored, which child processes inherit
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=heed) as process:
        end = time.monotonic() + 240.0
        while not (metrics.exists() and metrics.read_text().count("\n") > 2) and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=120.0)
    *progress, last = err.strip().splitlines()
    assert process.returncode == status
    assert not [line for line in progress if "Traceback" in line or line.startswith(" ")]
    assert [line for line in progress if line.startswith("ending after this step, with a checkpoint")]
    (kept,) = tmp_path.glob("runs/small/step_*")
    found = verify_checkpoint(kept)
    assert found.step == read_metrics(metrics)[-1]["step"]
    assert not found.state["stopped"]
    assert (
        last
        == f"raysde: run 'small' was interrupted; the same command goes on from its checkpoint at step {found.step}"
    )


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["heeded", "ignored"])
def handler(request):
    """Handler of Ctrl-C during the test, whatever the process that started the tests had set."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def interrupt(times: int, reached: list[int]) -> bool:
    with signals.hold_signal() as held:
        assert not held()
        for number in range(times):
            reached.append(number)
            signal.raise_signal(signal.SIGINT)
        reached.append(times)
        return held()


@pytest.mark.parametrize(("times", "steps"), [(1, [0, 1]), (2, [0, 1])])
def test_the_first_signal_acts_at_the_end_and_a_second_at_once(handler, times, steps):
    reached: list[int] = []
    if handler is signal.SIG_IGN:
        assert not interrupt(times, reached)
        assert reached == [*range(times + 1)]
    else:
        with pytest.raises(KeyboardInterrupt):
            interrupt(times, reached)
        assert reached == steps
    assert signal.getsignal(signal.SIGINT) is handler


def hold_nothing(reached: list[int]) -> None:
    with signals.hold_signal(lambda: False):
        reached.append(0)
        signal.raise_signal(signal.SIGINT)
        reached.append(1)


def test_a_signal_acts_at_once_while_there_is_nothing_to_end():
    """For example before workers train."""
    reached: list[int] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            hold_nothing(reached)
        assert reached == [0]
    finally:
        signal.signal(signal.SIGINT, before)
