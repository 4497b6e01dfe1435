"""The end of Ray in a command that goes on without it."""

import subprocess
import sys

PROGRAM = """
import os, signal, sys, time
import ray
from raysde.cluster.demo import end_ray
from raysde.commands.signals import run_command

def command():
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
    end_ray()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    return 0

sys.exit(run_command(command))
"""


def test_sigterm_after_ray_is_a_sentence_and_a_status():
    """A process that the signal itself ends has a negative return code here."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 143
    assert ended.stderr.splitlines()[-1].startswith("raysde: interrupted")
