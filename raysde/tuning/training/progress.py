"""The progress line of a sweep: trials done, running and stopped, the best so far, time left."""

import time
from typing import TextIO

from raysde.io.progress import LiveLine, format_duration
from raysde.tuning.training.ranking import best_trial
from raysde.tuning.training.space import describe_values
from raysde.tuning.training.sweep import Sweep


class SweepLine(LiveLine):
    """A live line of a sweep: trials by their states, the best of the ended ones, time left.

    Args:
        at_once: number of trials that run at the same time.
    """

    def __init__(self, sweep: Sweep, at_once: int, *, out: TextIO | None = None, every: float = 10.0) -> None:
        super().__init__(out, every)
        self.sweep, self.at_once = sweep, at_once
        self.begun = time.monotonic()
        self.before = self._ended()

    def _ended(self) -> int:
        return sum(trial.state != "running" for trial in self.sweep.trials)

    def text(self) -> str:
        """Return the current line."""
        states = [trial.state for trial in self.sweep.trials]
        counts = {state: states.count(state) for state in ("finished", "stopped", "failed", "running")}
        running = counts.pop("running") - len(self.sweep.waiting)
        said = [f"{count} {state}" for state, count in counts.items() if count]
        done = sum(counts.values())
        line = f"sweep {done}/{self.sweep.count} trials ({', '.join([*said, f'{running} running'])})"
        top = best_trial([trial for trial in self.sweep.trials if trial.state != "running"], self.sweep.metric)
        if top is not None:
            value = top.value(self.sweep.metric)
            line += f"  best {value:.4f} by trial {top.number:03d}: {describe_values(top.values)}"
        return f"{line}  {self._left(done, running)} left"

    def _left(self, done: int, running: int) -> str:
        """Estimate the time left from the trials that ended in this process; running trials count as half done."""
        ended = done - self.before
        if ended == 0:
            return "?"
        pace = (time.monotonic() - self.begun) / (ended + running / 2.0)
        return format_duration(pace * (self.sweep.count - done - running / 2.0))

    def show(self) -> None:
        """Show the line, if it has changed and the last one is old enough."""
        text = self.text()
        self.put(text, text, final=not self.sweep.left)

    def close(self) -> None:
        """Show the final line."""
        self.printed = -self.every
        self.show()
        super().close()
