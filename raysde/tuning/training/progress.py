"""A live line of a sweep: trials done, running and stopped, the best so far, time left."""

import sys
import time
from typing import TextIO

from raysde.io.progress import duration
from raysde.tuning.training.ranking import best
from raysde.tuning.training.space import described
from raysde.tuning.training.sweep import Sweep


class SweepLine:
    """Rewrites one line on a terminal; on anything else prints a line at most every ``every`` seconds.

    Args:
        at_once: trials that run at the same time.
    """

    def __init__(self, sweep: Sweep, at_once: int, *, out: TextIO | None = None, every: float = 10.0) -> None:
        self.sweep, self.at_once, self.out, self.every = sweep, at_once, out or sys.stderr, every
        self.live = self.out.isatty()
        self.begun = time.monotonic()
        self.printed, self.said = -every, ""
        self.before = self._ended()

    def _ended(self) -> int:
        return sum(trial.state != "running" for trial in self.sweep.trials)

    def text(self) -> str:
        """The line as things stand."""
        states = [trial.state for trial in self.sweep.trials]
        counts = {state: states.count(state) for state in ("finished", "stopped", "failed", "running")}
        running = counts.pop("running") - len(self.sweep.waiting)
        said = [f"{count} {state}" for state, count in counts.items() if count]
        done = sum(counts.values())
        line = f"sweep {done}/{self.sweep.count} trials ({', '.join([*said, f'{running} running'])})"
        top = best([trial for trial in self.sweep.trials if trial.state != "running"], self.sweep.metric)
        if top is not None:
            value = top.value(self.sweep.metric)
            line += f"  best {value:.4f} by trial {top.number:03d}: {described(top.values)}"
        return f"{line}  {self._left(done, running)} left"

    def _left(self, done: int, running: int) -> str:
        """At the pace of the trials that ended since this process began; those under way count as half done."""
        ended = done - self.before
        if ended == 0:
            return "?"
        pace = (time.monotonic() - self.begun) / (ended + running / 2.0)
        return duration(pace * (self.sweep.count - done - running / 2.0))

    def show(self) -> None:
        """Shows the line, if it has changed and the last one is old enough."""
        now, text = time.monotonic(), self.text()
        if text == self.said or (not self.live and now - self.printed < self.every and self.sweep.left):
            return
        self.printed, self.said = now, text
        self.out.write(f"\r\x1b[K{text}" if self.live else text + "\n")
        self.out.flush()

    def close(self) -> None:
        """Shows the end, and ends a live line."""
        self.printed = -self.every
        self.show()
        if self.live:
            self.out.write("\n")
            self.out.flush()
