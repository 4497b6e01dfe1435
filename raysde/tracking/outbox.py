"""A queue of entries for a server that may be away: a thread sends them in order and retries until it succeeds."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from raysde.io.errors import TakenOver

LONGEST_PAUSE = 15.0
"""Longest pause between two tries, in seconds."""
Queued = TypeVar("Queued")


class Outbox(Generic[Queued]):
    """A queue that never blocks its caller, and sends waiting entries in batches.

    Args:
        name: name of the thread, also used in messages.
        send: function that sends a batch, completely or not at all; may raise anything.
        refused: function that returns True if sending the same entries again would raise the same error.
        most: largest size of a batch.
    """

    def __init__(
        self, name: str, send: Callable[[list[Queued]], None], refused: Callable[[Exception], bool], most: int
    ) -> None:
        self.name, self.send, self.refused, self.most = name, send, refused, most
        self.waiting: deque[Queued] = deque()
        self.sending: list[Queued] = []
        self.changed = threading.Condition()
        self.taken = self.gone = 0
        self.closed = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def put(self, entry: Queued) -> None:
        """Queue an entry."""
        with self.changed:
            self.waiting.append(entry)
            self.taken += 1
            self.changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the entries queued so far, and return True if all were sent."""
        with self.changed:
            wanted = self.taken
            return self.changed.wait_for(lambda: self.gone >= wanted, timeout)

    def unsent(self) -> list[Queued]:
        """Return the entries that are being sent or wait, in order."""
        with self.changed:
            return [*self.sending, *self.waiting]

    def close(self, timeout: float) -> bool:
        """End the thread once everything is sent, waiting as :meth:`drain` does.

        Args:
            timeout: longest wait in seconds.
        """
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        return self.drain(timeout)

    def _work(self) -> None:
        while batch := self._next():
            self._deliver(batch)
            with self.changed:
                self.sending = []
                self.gone += len(batch)
                self.changed.notify_all()

    def _next(self) -> list[Queued]:
        """Return the next batch; an empty one at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            self.sending = [self.waiting.popleft() for _ in range(min(self.most, len(self.waiting)))]
            return list(self.sending)

    def _deliver(self, batch: list[Queued]) -> None:
        pause = 1.0
        for attempt in itertools.count(1):
            try:
                return self.send(batch)
            except TakenOver:
                return None  # these entries are another process's to send
            # no error may end this thread: other entries wait behind this one
            except Exception as error:
                shown = " ".join(str(error).split())[:160]
                if self.refused(error):
                    return self._one_by_one(batch, shown)
                if attempt & (attempt - 1) == 0:
                    left = len(batch) + len(self.waiting)
                    print(f"{self.name}: the server does not answer, {left} entries wait: {shown}", flush=True)
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2.0 * pause)

    def _one_by_one(self, batch: list[Queued], shown: str) -> None:
        """Send the entries of a refused batch one by one, and drop an entry that is refused alone."""
        if len(batch) == 1:
            return print(f"{self.name}: the server refused an entry: {shown}", flush=True)
        for entry in batch:
            self._deliver([entry])
