"""Progress lines that are rewritten on a terminal: the line of a training run, and its base class."""

import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TextIO

from raysde.io.passwords import hide_passwords

Progress = Callable[[float, float], None]
"""``progress(done, total)``: a callback for long work."""
StageProgress = Callable[[str, float, float], None]
"""``progress(stage, done, total)``: a callback for long work in several stages."""


def name_stage(progress: StageProgress | None, what: str) -> Progress | None:
    """Return the callback of one stage, None without a callback."""
    return None if progress is None else partial(progress, what)


def is_verbose() -> bool:
    """Return True if RAYSDE_LOG=debug requests the logs of Ray and MLflow too."""
    return os.environ.get("RAYSDE_LOG", "").lower() == "debug"


def say(sentence: str) -> None:
    """Print a message for the user on stderr, where progress is shown too."""
    cleared = "\r\x1b[K" if sys.stderr.isatty() else ""  # clears a progress line, which is shown again at its next step
    print(f"{cleared}{hide_passwords(sentence)}", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Return seconds as 45s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


# Not tqdm: it counts by itself, and writes its bar with \r into files too. These lines show counts from elsewhere, such
# as a run on a cluster, with its own rate and remaining time. In a file, each is a line of its own.
class LiveLine:
    """A line that is rewritten on a terminal; elsewhere a new line is printed at most every ``every`` seconds."""

    def __init__(self, out: TextIO | None, every: float) -> None:
        self.out, self.every = out or sys.stderr, every
        self.live = self.out.isatty()
        self.printed = -every
        self.last: object = None

    def put(self, what: object, text: str, *, final: bool) -> None:
        """Show a text if ``what`` is new and the previous line is old enough.

        Args:
            what: identity of the text, such as a step; the same value is never shown twice in a row.
            final: show the text regardless of the previous line's age.
        """
        now = time.monotonic()
        if what == self.last or (not self.live and now - self.printed < self.every and not final):
            return
        self.last, self.printed = what, now
        self.out.write(f"\r\x1b[K{text}" if self.live else text + "\n")
        self.out.flush()

    def close(self) -> None:
        """End the line on a terminal."""
        if self.live and self.last is not None:
            self.out.write("\n")
            self.out.flush()


DRAWN = re.compile(r"val/(?!loss|denoising)[a-z0-9_]+")
"""Names of metrics of drawn images, without the ends of their confidence intervals."""


class ProgressLine(LiveLine):
    """A progress line of a training run: step, loss, images per second, time left.

    Args:
        total: steps of the whole run.
        batch: images per step.
    """

    def __init__(self, total: int, batch: int, *, out: TextIO | None = None, every: float = 5.0) -> None:
        super().__init__(out, every)
        self.total, self.batch = total, batch

    def text(self, step: int, metrics: dict[str, float]) -> str:
        """Return the line for a step."""
        step = min(step, self.total)  # a resumed run may be shorter than the steps already logged
        share = step / self.total
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        rate = metrics.get("train/images_per_second", 0.0)
        left = format_duration((self.total - step) * self.batch / rate) if rate > 0.0 else "?"
        # a validation may come before the first report of the loss
        loss = f"  loss {metrics['train/loss']:.4f}" if "train/loss" in metrics else ""
        line = f"training {bar} step {step}/{self.total}{loss}  {rate:.0f} images/s  {left} left"
        if "train/data_wait" in metrics:
            line += f"  {100.0 * metrics['train/data_wait']:.1f}% waiting for data"
        if "val/denoising" in metrics:
            line += f"  denoising {metrics['val/denoising']:.4f}"
        if "val/loss" in metrics:
            line += f"  val {metrics['val/loss']:.4f}"
        drawn = [name for name in sorted(metrics) if DRAWN.fullmatch(name)]
        return line + "".join(f"  {name[4:]} {metrics[name]:.4f}" for name in drawn)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show a step if it is new and the previous line is old enough; always show the last step."""
        self.put(step, self.text(step, metrics), final=step >= self.total)
