"""Entries on their way to a server that may be away: sent in order from a thread, tried until they are taken."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

LONGEST_PAUSE = 15.0
"""Seconds between two tries, in the end."""
Queued = TypeVar("Queued")


class Outbox(Generic[Queued]):
    """Takes entries without waiting, and sends those that wait together.

    Args:
        name: of the thread, and for messages.
        send: sends entries, all or none of which count as sent; may raise anything.
        refused: whether an error of ``send`` will come again whenever the same is sent.
        most: how many are sent together.
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
        """Queues an entry."""
        with self.changed:
            self.waiting.append(entry)
            self.taken += 1
            self.changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Waits until what was queued so far is sent, at most ``timeout`` seconds; whether it was."""
        with self.changed:
            wanted = self.taken
            return self.changed.wait_for(lambda: self.gone >= wanted, timeout)

    def unsent(self) -> list[Queued]:
        """Return what is under way or waits, in its order."""
        with self.changed:
            return [*self.sending, *self.waiting]

    def close(self, timeout: float) -> bool:
        """Ends the thread once everything is sent, and waits for that as :meth:`drain` does."""
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
        """What is sent next; nothing at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            self.sending = [self.waiting.popleft() for _ in range(min(self.most, len(self.waiting)))]
            return list(self.sending)

    def _deliver(self, batch: list[Queued]) -> None:
        pause = 1.0
        for attempt in itertools.count(1):
            try:
                return self.send(batch)
            # whatever it is, it must not end this thread: others wait behind it
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
        """Sends what is not refused; an entry that is refused alone is dropped."""
        if len(batch) == 1:
            return print(f"{self.name}: the server refused an entry: {shown}", flush=True)
        for entry in batch:
            self._deliver([entry])
