"""What a worker of Ray Train says when it is told to end: nothing."""

import subprocess
import sys

from tests.conftest import ROOT

# as Ray trains: in a thread, while the main thread waits and leaves at SIGTERM
WORKER = """
import os, signal, sys, threading, time, torch
from raysde.cluster.worker import leaving_at_once
network = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(40)])
def train():
    with leaving_at_once():
        while True:
            network(torch.randn(4, 16)).sum().backward()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
threading.Thread(target=train, daemon=True).start()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
time.sleep(30)
"""


def test_a_worker_that_is_stopped_in_the_middle_of_a_step_says_nothing():
    """Without care Python ends under torch's backward, which aborts with a stack trace."""
    done = subprocess.run([sys.executable, "-c", WORKER], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
