"""Work measured in one process, and its progress."""

import pytest

from raysde.evaluation.workload import DRAWN, measure_here


class Four:
    """A bench whose parts take four solver steps and whose values are their positions."""

    def part(self, work, first, count, progress):
        for step in range(1, 5):
            progress(step, 4)
        return work, first, count


@pytest.mark.parametrize("steps", [[(0, 8), (8, 4)], [(3, 8), (20, 4)]])
def test_progress_counts_images_and_their_share_of_steps(steps):
    """After one of four steps, two of eight images are done; each range reports its own after it is measured."""
    calls = []
    parts = list(measure_here(Four(), DRAWN, steps, lambda done, total: calls.append((done, total))))
    assert parts == [(DRAWN, *each) for each in steps]
    assert calls == [(done, 12) for done in (2, 4, 6, 8, 8, 9, 10, 11, 12, 12)]
