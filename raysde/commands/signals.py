"""The end of a command on Ctrl-C, SIGTERM or a broken pipe: one sentence and an exit status, no stack dump."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from raysde.io.errors import Interrupted

INTERRUPTED, SIGTERMED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGPIPE
"""Exit statuses, as shells report programs that a signal ended."""


def run_command(command: Callable[[], int]) -> int:
    """Run a command, and return its exit status.

    Raises:
        SystemExit: if the command raised it and no signal did.
    """
    with exit_on_sigterm():
        try:
            try:
                return command()
            finally:
                sys.stdout.flush()
        except Interrupted as error:
            print(f"raysde: {error}", file=sys.stderr)
            return SIGTERMED if isinstance(error.__cause__, SystemExit) else INTERRUPTED
        except (KeyboardInterrupt, SystemExit) as error:
            # Ray's own handler raises SystemExit with the bare signal number
            if isinstance(error, SystemExit) and error.code not in (signal.SIGTERM, SIGTERMED):
                raise
            said = "interrupted; the same command resumes if its work can be resumed, and otherwise starts again"
            print(f"raysde: {said}", file=sys.stderr)
            return SIGTERMED if isinstance(error, SystemExit) else INTERRUPTED
        except BrokenPipeError:
            if not (lost_reader(sys.stdout) or lost_reader(sys.stderr)):
                raise
            # Python would try to flush the rest at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return UNREAD


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into ``SystemExit`` in the main thread inside this context, so that runs can be marked as ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        sys.exit(SIGTERMED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def hold_signal(ready: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C or SIGTERM until the end of the block; a second one acts at once.

    Args:
        ready: returns False while the block has nothing to end in an orderly way: a signal then acts at once.

    Yields:
        A function that returns True once a signal is held back, so that the block can end what it does.
    """
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hold(number: int, _: object) -> None:
        restore()
        if not ready():
            signal.raise_signal(number)
            return
        held.append(number)
        # a handler may not print: it may have interrupted a print
        os.write(2, b"\nending after this step, with a checkpoint; interrupt again to end at once\n")

    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, hold)
    try:
        yield lambda: bool(held)
    finally:
        restore()
    if held:
        signal.raise_signal(held[0])


def lost_reader(stream: TextIO) -> bool:
    """Return True if a stream is a pipe whose reader has gone."""
    try:
        number = stream.fileno()
    except OSError:  # not a file, for example in a notebook
        return False
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
