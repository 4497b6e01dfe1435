"""The clock of the training loop: throughput, waiting for data, and the time of checkpoints."""

import contextlib
import time
from collections.abc import Iterator

from raysde.training.state import TrainState


class Clock:
    """A clock of images per second without validation, sampling and checkpoints, and of seconds waiting for data."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.saved = time.monotonic()
        self.reset()

    def is_time(self, seconds: float) -> bool:
        """Return True if the last checkpoint by time, or the start, is at least ``seconds`` ago; 0 for never."""
        return 0.0 < seconds <= time.monotonic() - self.saved

    def note_saved(self) -> None:
        """Begin the time to the next checkpoint by time."""
        self.saved = time.monotonic()

    def reset(self) -> None:
        """Start again: count images and seconds from now."""
        self.since, self.images = time.perf_counter(), self.state.num_images
        self.paused, self.waited = 0.0, 0.0

    def elapsed(self) -> float:
        """Return the seconds since the last reset without pauses, at least 1e-9."""
        return max(time.perf_counter() - self.since - self.paused, 1e-9)

    def rate(self) -> float:
        """Return the images per second since the last reset, without pauses."""
        return (self.state.num_images - self.images) / self.elapsed()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the seconds of this context in ``waited``, the time spent waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the seconds of this context out of :meth:`elapsed` and :meth:`rate`."""
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start
