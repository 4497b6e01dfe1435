"""A run's lease: at most one command at a time trains a run, and a command that lost the run writes nothing more.

A lease is a numbered claim (:mod:`raysde.runs.claims`) that its holders renew: each writes a new beat, a random word,
from a thread. A claim whose beat stays the same for its ``seconds`` has expired, and another command may make the
next claim. Clocks of different machines are never compared: a waiting command watches the beat. Numbers only grow,
so a holder that was paused or cut off finds a later claim than its own.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

from raysde.io.errors import TakenOver
from raysde.io.processes import Process, this_process
from raysde.runs.claims import Claim, Claims

BEATS = 6
"""Beats in the ``seconds`` of a lease."""
QUIET = 3.0
"""Seconds of waiting without a message: the worker of a command that was killed ends soon after it."""


class Lease:
    """A claim held by this process, renewed by a thread.

    Args:
        claim: the claim that this process made, or that its command made.
    """

    def __init__(self, claims: Claims, claim: Claim, me: Process) -> None:
        self.claims, self.word, self.seconds, self.me = claims, claim.word, claim.seconds, me
        self.renewed, self.lost = now(), ""
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Check that the run is still this process's; look only if that is not certain. Storage that does not answer
        leaves it open.

        Raises:
            TakenOver: if another command has the run.
        """
        if self.lost or now() - self.renewed >= self.seconds:
            with contextlib.suppress(OSError):
                self.confirm()

    def confirm(self) -> None:
        """Look at the storage, just before something becomes visible there or in MLflow.

        Raises:
            TakenOver: if another command has the run.
            OSError: if the storage cannot be read.
        """
        self._look()

    def stop(self) -> None:
        """Stop renewing."""
        self.done.set()
        self.thread.join(5.0)  # storage may not answer

    def release(self) -> None:
        """Let go of the run: of the whole run as the command, or of this process's part as its worker."""
        self.stop()
        with contextlib.suppress(OSError, TakenOver):  # the claim expires by itself
            claim = self._look()
            if claim.holders[0] == self.me:
                self.claims.write(replace(claim, released=True))
            else:
                self.claims.write(replace(claim, holders=claim.holders[:1]))

    def _look(self) -> Claim:
        if self.lost:
            raise TakenOver(self.lost)
        newest = self.claims.newest()
        if newest is None or newest.word != self.word or self.me not in newest.holders:
            self.lost = describe_loss(self.claims.name, newest, self.seconds)
            raise TakenOver(self.lost)
        return newest

    def _beat(self) -> None:
        while not self.done.wait(self.seconds / BEATS):
            begin = now()
            try:
                claim = self._look()
                self.claims.write(replace(claim, beat=uuid4().hex))
                self.renewed = begin
                self.claims.forget_before(claim.number)
            except TakenOver:
                return
            except OSError:
                continue  # storage that comes back in time keeps the claim


def now() -> float:
    """Return seconds of a clock that also counts while this process is stopped or its machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def describe_loss(name: str, newest: Claim | None, seconds: float) -> str:
    """Return the message of a process that lost its run."""
    if newest is None:
        return f"run {name!r} was taken away: its folder was removed; this process writes nothing more"
    return (
        f"run {name!r} was taken over by {newest.command}, since this process gave no sign of life for "
        f"{seconds:.0f} s; it writes nothing more"
    )


@contextlib.contextmanager
def hold_run(folder: str, seconds: float, speak: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease of a run inside this context; as :func:`claim_run`.

    Raises:
        ValueError, OSError: as :func:`claim_run`.
    """
    lease = claim_run(folder, seconds, speak)
    try:
        yield lease
    finally:
        lease.release()


def claim_run(folder: str, seconds: float, speak: Callable[[str], None]) -> Lease:
    """Claim a run for this command.

    A run whose holders ended on this machine is free at once. Otherwise the command waits until the claim has expired,
    at most twice the claim's seconds.

    Args:
        folder: folder of the run, local or a URI.
        seconds: how long the claim holds after its last beat.
        speak: receives a message if the command waits.

    Raises:
        ValueError: if another command trains the run.
        OSError: if the storage cannot be read or written.
    """
    claims, me = Claims(folder), this_process()
    while True:
        found = claims.newest()
        if found is not None and not found.is_free:
            found = await_expiry(claims, found, speak)
        number = 1 if found is None else found.number + 1
        claim = Claim(number, uuid4().hex, uuid4().hex, seconds, (me,))
        if claims.add(claim):
            return Lease(claims, claim, me)


def refuse_living(folder: str) -> None:
    """Refuse a run that another command trains on this machine, without claiming it.

    Raises:
        ValueError: naming the command.
        OSError: if the storage cannot be read.
    """
    claims = Claims(folder)
    found = claims.newest()
    if found is not None and found.is_alive:
        raise ValueError(describe_conflict(claims.name, found))


def await_expiry(claims: Claims, found: Claim, speak: Callable[[str], None]) -> Claim | None:
    """Wait until the newest claim of a run is free or has expired, and return it; None if no claim is left.

    Args:
        found: newest claim, which expires ``found.seconds`` seconds after its last sign of life.
        speak: called once with a sentence if the wait takes long.

    Raises:
        ValueError: if its command lives.
    """
    begin = seen = time.monotonic()
    spoken = False
    while True:
        if found.is_alive:
            raise ValueError(describe_conflict(claims.name, found))
        if not spoken and time.monotonic() - begin > min(QUIET, found.seconds / 4):
            spoken = True
            speak(
                f"run {claims.name!r} was left by {found.command}: waiting up to {found.seconds:.0f} s for a sign of "
                "life before it is taken over"
            )
        time.sleep(min(0.5, found.seconds / 10))
        newest = claims.newest()
        if newest is None or newest.is_free:
            return newest
        if (newest.number, newest.beat) != (found.number, found.beat):
            # beats of a worker whose command is gone end soon, since Ray ends the worker
            orphaned = newest.word == found.word and bool(found.holders) and found.holders[0].is_gone()
            if not orphaned or time.monotonic() - begin > 2 * found.seconds:
                raise ValueError(describe_conflict(claims.name, newest))
            found, seen = newest, time.monotonic()
        elif time.monotonic() - seen >= found.seconds:
            return found


def describe_conflict(name: str, found: Claim) -> str:
    """Return the message that a run is another command's."""
    stop = f" (kill {found.holders[0].pid} there, or ray job stop)" if found.holders else ""
    return (
        f"run {name!r} is being trained by {found.command}: stop that command first{stop}, or give this run "
        "another name"
    )


def join_lease(folder: str, word: str) -> Lease:
    """Claim a run for the worker that writes its checkpoints, on behalf of the command with this word.

    An earlier worker of the same command, which may be cut off and alive, thereby loses the run.

    Raises:
        TakenOver: if another command has the run.
    """
    claims, me = Claims(folder), this_process()
    while True:
        found = claims.newest()
        if found is None or found.word != word:
            raise TakenOver(describe_loss(claims.name, found, 0.0 if found is None else found.seconds))
        claim = replace(found, number=found.number + 1, beat=uuid4().hex, holders=(found.holders[0], me))
        if claims.add(claim):
            return Lease(claims, claim, me)
