"""Work of saving that runs beside training, in one thread and in order."""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self


class BackgroundWriter:
    """A thread that does the work of one training step at a time, in the order in which it was added.

    The work of a step is dropped if earlier work failed: a checkpoint is not written without its averages. Used as a
    context, the writer waits for its work at the end, and raises its error unless the block has raised one.
    """

    def __init__(self) -> None:
        self.works: deque[Callable[[], None]] = deque()
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()
        self.error: BaseException | None = None
        self.step: int | None = None

    def add(self, step: int, work: Callable[[], None]) -> None:
        """Do ``work`` after all earlier work; :meth:`wait_for_others` must have been called for the step."""
        with self.lock:
            self.step = step
            if self.error is not None:
                return  # raised by the next wait
            self.works.append(work)
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="raysde-saving", daemon=True)
                self.thread.start()

    def wait_for_others(self, step: int) -> None:
        """Wait for the work of every step but ``step``, so that the copies of one step at most are in memory.

        Raises:
            Exception: the error of that work.
        """
        if self.step != step or self.error is not None:
            self.wait()

    def wait(self) -> None:
        """Wait for all work.

        Raises:
            Exception: the error of the work that failed, once.
        """
        thread = self.thread
        if thread is not None:
            thread.join()
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            with self.lock:
                if not self.works:
                    self.thread = None
                    return
                work = self.works.popleft()
            try:
                work()
            except BaseException as error:
                with self.lock:
                    self.error = error
                    self.works.clear()
            del work  # it holds a copy of the training state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except BaseException:
            if error is None:
                raise
