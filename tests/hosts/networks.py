"""A slow network whose worker writes down every microbatch that it trains on."""

import functools
import json
import os
import time

import numpy as np
from torch import Tensor

from raysde.training.state import TrainState
from tests.cluster.networks import SmallUNet


class Journalled(SmallUNet):
    """A network that sleeps in each training call; its worker appends each microbatch's rows to a file of its machine.

    Args:
        journal: the file.
        seconds: length of the sleep.
    """

    def __init__(self, image, condition, journal: str, seconds: float) -> None:
        super().__init__(image, condition)
        self.seconds = seconds
        if not hasattr(TrainState.note_rows, "journal"):
            TrainState.note_rows = keep_journal(TrainState.note_rows, journal)

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.seconds)
        return super().forward(*inputs)


def keep_journal(note_rows, journal: str):
    """Return ``note_rows`` extended to write a line: the worker group, the step and the rows."""

    @functools.wraps(note_rows)
    def note_and_write(state: TrainState, rows: np.ndarray) -> None:
        group = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        line = {"group": group, "time": time.time(), "step": state.step, "rows": [int(row) for row in rows]}
        with open(journal, "a") as out:
            out.write(json.dumps(line) + "\n")
        note_rows(state, rows)

    note_and_write.journal = journal
    return note_and_write
