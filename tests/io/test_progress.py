"""The progress line of a run."""

import io

import pytest

from raysde.commands.train import PrintedMetrics
from raysde.io import progress
from raysde.io.progress import ProgressLine, format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
        (360_000, "100h00m"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_the_line_of_a_step():
    """A quarter of 40 steps of 8 images is done: 240 images are left, at 60 images/s for 4 s."""
    line = ProgressLine(40, 8).text(10, {"train/loss": 0.5, "train/images_per_second": 60.0, "train/data_wait": 0.034})
    assert line == f"training {'█' * 5}{'░' * 15} step 10/40  loss 0.5000  60 images/s  4s left  3.4% waiting for data"
    measured = {
        "val/kid": 0.0123,
        "val/accuracy": 0.5,
        "val/loss": 0.25,
        "val/loss_snr_-1_to_1": 0.7,
        "val/kid/low": 0.01,
    }
    assert ProgressLine(40, 8).text(10, measured).endswith("  val 0.2500  accuracy 0.5000  kid 0.0123")
    assert ProgressLine(40, 8).text(0, {}) == f"training {'░' * 20} step 0/40  0 images/s  ? left"


def test_a_run_without_ray_keeps_what_it_said_before(capsys):
    """Loss and validation metrics arrive at different steps; the line shows the latest value of each."""
    shown = PrintedMetrics(40, 8)
    shown.metrics(4, {"train/loss": 0.5, "train/images_per_second": 60.0})
    shown.metrics(5, {"val/loss": 0.25})
    shown.metrics(6, {"train/loss": 0.125, "train/images_per_second": 60.0})
    lines = [line.split("  ")[1:] for line in capsys.readouterr().err.splitlines()]
    # (40 - step) * 8 images at 60 a second: 4.8 s, 4.67 s and 4.53 s
    assert lines == [
        ["loss 0.5000", "60 images/s", "5s left"],
        ["loss 0.5000", "60 images/s", "5s left", "val 0.2500"],
        ["loss 0.1250", "60 images/s", "5s left", "val 0.2500"],
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_in_a_file_come_at_most_every_few_seconds(monkeypatch):
    """The last step is always shown; no step is shown twice."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    line = ProgressLine(9, 1, out=out, every=5.0)
    for seconds, step in ((0.0, 1), (4.9, 2), (5.0, 3), (9.0, 4), (10.0, 3), (10.5, 5), (11.0, 9), (12.0, 9)):
        now[0] = 100.0 + seconds
        line.show(step, {})
    line.close()
    assert [text.split("step ")[1].split("/")[0] for text in out.getvalue().splitlines()] == ["1", "3", "5", "9"]


def test_a_terminal_has_one_line(monkeypatch):
    out = Terminal()
    line = ProgressLine(9, 1, out=out)
    line.close()
    assert out.getvalue() == ""
    for step in (1, 1, 2):
        line.show(step, {})
    line.close()
    assert out.getvalue().count("\r\x1b[K") == 2
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\n")
