"""Leaving on purpose: the first worker is asked to end the run after its step, and answers once all is written.

The command, Ray Train's controller and the first worker run on different nodes. They meet in the key-value store of the
cluster's head, where a look costs less than an actor that waits:

WORD/ask/WHO   somebody asks the workers to leave
WORD/worker    the first worker: a number that grows while it works on the request, then LEFT
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ray.experimental import internal_kv as store
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.state import ResizingState, TrainControllerState
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup

SPACE = b"raysde-leaving"
POLL = 0.25
"""Seconds between two looks of the first worker."""
SILENCE, LONGEST = 15.0, 600.0
"""Seconds without a sign of the first worker, and in all, after which nobody waits for its checkpoint."""
COMMAND, RESIZE = "command", "resize"
LEFT = b"left"


def ask(word: str, who: str) -> None:
    """Ask the workers of a run to leave.

    Args:
        word: prefix of the run's keys, the same for all functions of this module.
        who: :data:`COMMAND` or :data:`RESIZE`, so that each can withdraw its own request.
    """
    store._internal_kv_put(f"{word}/ask/{who}", b"1", namespace=SPACE)


def withdraw(word: str, who: str) -> None:
    """Withdraw a request, and forget the answer to it."""
    store._internal_kv_del(f"{word}/ask/{who}", namespace=SPACE)
    store._internal_kv_del(f"{word}/worker", namespace=SPACE)


def is_asked(word: str) -> bool:
    """Return True if somebody asks the workers to leave."""
    return bool(store._internal_kv_list(f"{word}/ask/", namespace=SPACE))


def read_sign(word: str) -> bytes | None:
    """Return the first worker's last sign; None if it is not training yet."""
    return store._internal_kv_get(f"{word}/worker", namespace=SPACE)


def give_sign(word: str, sign: bytes) -> None:
    """Write the first worker's sign."""
    store._internal_kv_put(f"{word}/worker", sign, namespace=SPACE)


def await_departure(word: str, poll: Callable[[], bool]) -> bool:
    """Wait until the first worker has left, or is silent; return True if it left.

    Args:
        poll: called meanwhile; returns False if a worker died.
    """
    begin = heard = time.monotonic()
    last = read_sign(word)
    while last != LEFT:
        time.sleep(0.2)
        if not poll():
            return False
        sign, now = read_sign(word), time.monotonic()
        if sign != last:
            last, heard = sign, now
        elif now - heard > SILENCE or now - begin > LONGEST:
            return False
    return True


class Notices:
    """Requests to leave, as one worker sees them: of the command, of the controller, or of a node that goes away.

    Args:
        word: identifies the worker group's trainer.
        first: True for the worker that looks for requests and answers them.
    """

    def __init__(self, word: str, first: bool) -> None:
        self.word, self.first = word, first
        self.asked = False

    def should_leave(self) -> bool:
        """Return True if this worker knows of a request."""
        return self.asked or is_preempted()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look for requests while the context is open."""
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stop,), name="raysde-leaving", daemon=True)
        if self.first:
            self._sign(b"0")
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self.first:
                thread.join()

    def answer(self) -> None:
        """Tell whoever asked that everything is written."""
        if self.first:
            self._sign(LEFT)

    def _watch(self, stop: threading.Event) -> None:
        number = 0
        while not stop.wait(POLL):
            with contextlib.suppress(Exception):  # the head may be away for a while
                self.asked = self.asked or is_asked(self.word)
            if self.asked:
                number += 1
                self._sign(str(number).encode())

    def _sign(self, sign: bytes) -> None:
        with contextlib.suppress(Exception):  # see above: training goes on, and nobody waits long
            give_sign(self.word, sign)


def is_preempted() -> bool:
    """Return True if Ray Train has notified this worker that a node of the group goes away.

    ``ray.train.get_preemption_info`` says the same, but is a barrier of all workers through an actor.
    """
    try:
        return get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:  # not in a worker of Ray Train
        return False


class SaveBeforeResize(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Ray Train's controller waits for a checkpoint of the last step before it replaces a running group."""

    def __init__(self, word: str) -> None:
        self.word, self.running = word, False
        self.group: WorkerGroup | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Note the group."""
        self.group = worker_group

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Note that the next group replaces one that runs, and not one that failed."""
        if isinstance(current_state, ResizingState):
            self.running = True

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Ask the running group to leave, and wait for it."""
        if self.running:
            self.running = False
            with contextlib.suppress(Exception):  # the group resumes from an earlier checkpoint
                ask(self.word, RESIZE)
                await_departure(self.word, self._poll)
                withdraw(self.word, RESIZE)

    def _poll(self) -> bool:
        """Take the workers' reports, as the controller does: a worker whose last report nobody took cannot report."""
        assert self.group is not None
        return not self.group.poll_status(timeout=1.0).errors


class Departure:
    """The wish of a command to end its run early.

    Attributes:
        should_stop: returns True once the command was asked to end.
    """

    def __init__(self) -> None:
        self.should_stop: Callable[[], bool] = lambda: False
        self.begun = False

    def is_possible(self) -> bool:
        """Return True if workers train, and can therefore write a checkpoint before they leave."""
        return self.begun

    @contextlib.contextmanager
    def passed_on(self, word: str) -> Iterator[None]:
        """Pass the wish on to the workers while the context is open.

        Args:
            word: identifies the worker group's trainer.
        """
        self.begun, done = False, threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                with contextlib.suppress(Exception):  # the head may be away for a while
                    self.begun = self.begun or read_sign(word) is not None
                    if self.should_stop():
                        return ask(word, COMMAND)

        thread = threading.Thread(target=watch, name="raysde-leaving", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.begun = False
