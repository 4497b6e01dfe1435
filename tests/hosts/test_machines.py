"""The machines themselves: isolated, cut off and gone when they should be."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.hosts.machines import Switch, missing_permission, wait_for
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(bool(missing_permission()), reason=missing_permission())

SERVER = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, port=80, bind=sys.argv[1])"


@pytest.fixture
def switch(tmp_path):
    with Switch(tmp_path) as switch:
        yield switch


def answers(address: str) -> bool:
    with socket.socket() as trying:
        trying.settimeout(1.0)
        return trying.connect_ex((address, 80)) == 0


def test_a_machine_has_its_own_name_files_and_processes(switch, tmp_path):
    first, second = switch.add("one"), switch.add("two")
    assert first.check("hostname").strip() == "one"
    first.check("sh", "-c", "echo mine > /tmp/note; echo mine > /dev/shm/note")
    assert second.check("ls", "/tmp", "/dev/shm").split() == [
        "/dev/shm:",
        "/tmp:",
        *sorted(
            {"home", *ROOT.parts[2:3]} if ROOT.is_relative_to("/tmp") else {"home"}
        ),  # the project itself is shared
    ]
    assert (first.folder / "tmp" / "note").read_text() == "mine\n"
    assert not Path("/tmp/note").exists()
    first.start("sleep", "1234", environment={"PATH": os.environ["PATH"]}, log="sleep.log")
    wait_for(lambda: "1234" in first.check("ps", "ax"), "process", 10)
    assert "1234" not in second.check("ps", "ax")


def test_a_cut_link_loses_packets_and_a_machine_that_is_off_is_gone(switch):
    machine = switch.add("one")
    machine.start(
        sys.executable, "-c", SERVER, machine.address, environment={"PATH": os.environ["PATH"]}, log="server.log"
    )
    wait_for(lambda: answers(machine.address), "server", 20)
    machine.cut()
    assert not answers(machine.address)
    machine.heal()
    wait_for(lambda: answers(machine.address), "healed link", 20)
    machine.power_off()
    assert not machine.runs
    assert not answers(machine.address)
    assert switch.add("two").address != machine.address


def test_nothing_is_left_when_the_test_is_killed(tmp_path):
    """The kernel ends machines and switch with the process that made them, and removes the interface."""
    program = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from tests.hosts.machines import Switch
        switch = Switch(Path({str(tmp_path)!r}))
        print(switch.add("one").first, switch.first, switch.desk, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        *numbers, interface = process.stdout.readline().split()
        assert all(Path(f"/proc/{number}").exists() for number in numbers)
        assert Path(f"/sys/class/net/{interface}").exists()
        process.kill()
    places = [*(f"/proc/{number}" for number in numbers), f"/sys/class/net/{interface}"]
    wait_for(lambda: not any(Path(place).exists() for place in places), "end of the machines", 20)
