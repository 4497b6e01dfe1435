"""A process as other processes and other machines can name it: is it alive, stopped or gone?"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

STOPPED, ENDED = "Tt", "ZX"
"""Letters of /proc/PID/stat: held by SIGSTOP or a debugger; ended, but not yet collected by its parent."""


@dataclass(frozen=True)
class Process:
    """A process of some machine.

    Attributes:
        host: name of the machine, for messages.
        pid: process id on that machine.
        machine: identifies the machine since it booted, and the container; process ids compare only inside it.
        started: when the process started, in clock ticks since boot, since ids are used again; empty without /proc.
    """

    host: str
    pid: int
    machine: str
    started: str

    def is_gone(self) -> bool:
        """Return True if the process is known to have ended; False if it lives, or ran on another machine."""
        return self.machine == name_machine() and not self._is_here()

    def is_running(self) -> bool:
        """Return True if the process is known to live and is not stopped; False if it ran on another machine."""
        return self.machine == name_machine() and self._is_here() and _read_stat(self.pid)[0] not in STOPPED

    def _is_here(self) -> bool:
        state, started = _read_stat(self.pid)
        return bool(state) and state not in ENDED and started == self.started


def this_process() -> Process:
    """Return the process that calls this function."""
    return Process(socket.gethostname(), os.getpid(), name_machine(), _read_stat(os.getpid())[1])


def name_machine() -> str:
    """Return a name that this machine has since its last boot, different in each container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _read_stat(pid: int) -> tuple[str, str]:
    """Return state and start time of a process of this machine; empty strings if there is none."""
    try:
        # the name of the program comes before, in parentheses, and may have spaces and parentheses itself
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return "", ""
        return ("R", "") if _answers(pid) else ("", "")
    return fields[0], fields[19]


def _answers(pid: int) -> bool:
    """Return True if a process exists; asked of the system where there is no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
