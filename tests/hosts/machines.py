"""Machines that share a kernel and little else: each has its own network, processes, name, /tmp and shared memory.

A machine is a set of Linux namespaces, held by its first process. When that process dies, the kernel kills every other
process of the machine and removes its network interface, as a power cut would. The machines are plugged into a switch,
a bridge in a namespace of its own; the test's process is plugged in too.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.paths import ROOT

TOOLS = ("ip", "unshare", "nsenter", "mount")
SEEN = (ROOT, Path(sys.prefix).resolve())
"""Folders of this machine that the others see even if they lie in /tmp: the project and its environment."""
BOOT = """
hostname "$1"
ip link set lo up
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
mount --rbind "$2/tmp" /tmp
mount -t tmpfs -o size=1g tmpfs /dev/shm
echo started
while sleep 1000; do :; done
"""


def missing_permission() -> str:
    """Return why this process cannot make machines; empty if it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"network namespaces need the programs {', '.join(missing)} (Debian packages iproute2, util-linux)"
    tried = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
    tried += [
        "sh",
        "-c",
        "ip link add name s type bridge && ip link add name p type veth peer name q && mount -t tmpfs t /tmp",
    ]
    done = subprocess.run(tried, capture_output=True, text=True, timeout=30)
    if done.returncode:
        return f"network namespaces are not permitted here: {' '.join(done.stderr.split())}"
    return ""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; Linux's PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until ``condition`` is true.

    Raises:
        TimeoutError: if it is false after ``seconds``.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {seconds} s")
        time.sleep(0.2)


def child_of(process: subprocess.Popen, seconds: float = 10.0) -> int:
    """Return the process that unshare or nsenter forked into a machine."""
    place = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: process.poll() is not None or place.read_text().split(), "process in the machine", seconds)
    return int(place.read_text().split()[0])


def hold_namespaces(command: Sequence[str], log: Path) -> tuple[subprocess.Popen, int]:
    """Start the first process of new namespaces; return the process that waits for it, and its own number here."""
    given = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    with log.open("wb") as out:
        holder = subprocess.Popen(given, stdout=out, stderr=out, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    return holder, child_of(holder)


class Machine:
    """A machine on a switch.

    Attributes:
        name, address: host name and IPv4 address.
        folder: folder here with the machine's /tmp, its home and its logs; it outlives the machine.
    """

    def __init__(self, switch: "Switch", name: str, number: int) -> None:
        self.switch, self.name, self.address = switch, name, switch.address(number)
        self.folder = switch.folder / name
        for inside in ("tmp", "tmp/home"):
            (self.folder / inside).mkdir(parents=True)
        # without these, looking up a name waits for a server that does not answer
        (self.folder / "resolv.conf").write_text("")
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {name}\n")
        for place in SEEN:
            if place.is_relative_to("/tmp"):
                (self.folder / "tmp" / place.relative_to("/tmp")).mkdir(parents=True, exist_ok=True)
        mounts = [
            f"mount --rbind '{place}' '{self.folder}/tmp/{place.relative_to('/tmp')}'"
            for place in SEEN
            if place.is_relative_to("/tmp")
        ]
        boot = "\n".join(["set -e", *mounts, BOOT])
        log = self.folder / "machine.log"
        self.holder, self.first = hold_namespaces(["sh", "-c", boot, "sh", name, str(self.folder)], log)
        wait_for(lambda: "started" in log.read_text() or self.holder.poll() is not None, f"machine {name}", 30)
        if self.holder.poll() is not None:
            raise RuntimeError(f"machine {name} did not start: {log.read_text()}")
        switch.plug(name, self.first)
        self.check("ip", "link", "set", "eth0", "up")
        self.check("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.check("ip", "route", "add", "default", "dev", "eth0")

    @property
    def runs(self) -> bool:
        """True until the machine is cut off from its power."""
        return self.holder.poll() is None

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs ``command`` in the machine, in the project's folder."""
        namespaces = ["--net", "--mount", "--uts", "--pid"]
        return ["nsenter", f"--target={self.first}", *namespaces, f"--wd={ROOT}", *command]

    def check(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command in the machine to its end, and return its output.

        Raises:
            RuntimeError: if it fails.
        """
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *command: str, environment: Mapping[str, str], log: str) -> subprocess.Popen:
        """Start a command in the machine; ``log`` names the file in the machine's folder with its output."""
        given = {**environment, "HOME": "/tmp/home", "PYTHONPATH": str(ROOT)}
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(self.inside(*command), env=given, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def cut(self) -> None:
        """Pull the network cable; packets are lost, and no connection is notified."""
        self.switch.set_port(self.name, "down")

    def heal(self) -> None:
        """Plug the network cable in again."""
        self.switch.set_port(self.name, "up")

    def power_off(self) -> None:
        """Kill every process of the machine at once; nothing says goodbye on the network."""
        if self.runs:
            self.cut()
            os.kill(self.first, signal.SIGKILL)
        self.holder.wait(30)


class Switch:
    """A switch with machines, and a port for this process.

    Args:
        folder: folder of the machines' files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.machines = folder, {}
        mark = os.getpid() % 12500  # two sessions on one machine have different networks
        self.net, self.desk = f"10.{200 + mark // 250}.{mark % 250}", f"rs{os.getpid()}"
        boot = "ip link set lo up; ip link add name switch type bridge; ip link set switch up; while sleep 1000; do :; done"
        self.holder, self.first = hold_namespaces(["sh", "-c", boot], folder / "switch.log")
        wait_for(lambda: "switch" in self._run("ip", "link").stdout, "switch", 30)
        self.plug("desk", os.getpid(), self.desk)
        for command in (
            ["link", "set", self.desk, "up"],
            ["address", "add", f"{self.address(254)}/24", "dev", self.desk],
        ):
            subprocess.run(["ip", *command], check=True, timeout=30)

    def __enter__(self) -> "Switch":
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines.values():
            machine.power_off()
        os.kill(self.first, signal.SIGKILL)  # the kernel removes the bridge and every port, also this process's
        self.holder.wait(30)

    def address(self, number: int) -> str:
        """Return the IPv4 address of machine ``number``."""
        return f"{self.net}.{number}"

    def add(self, name: str) -> Machine:
        """Add a machine with an address that no earlier machine had."""
        self.machines[name] = Machine(self, name, len(self.machines) + 1)
        return self.machines[name]

    def plug(self, port: str, process: int, interface: str = "eth0") -> None:
        """Give the namespace of a process an interface that is connected to a new port of the switch."""
        pair = ["type", "veth", "peer", "name", interface, "netns", str(process)]
        self._check("ip", "link", "add", "name", port, *pair)
        self._check("ip", "link", "set", port, "master", "switch", "up")

    def set_port(self, port: str, state: str) -> None:
        """Set a port ``up`` or ``down``."""
        self._check("ip", "link", "set", port, state)

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        given = ["nsenter", f"--target={self.first}", "--net", *command]
        return subprocess.run(given, capture_output=True, text=True, timeout=30)

    def _check(self, *command: str) -> None:
        done = self._run(*command)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
