"""The memory that a piece of work needs."""

import tracemalloc
from collections.abc import Callable


def peak_bytes(work: Callable[[], object], times: int = 3) -> int:
    """Return the bytes that Python and NumPy allocate at most at one time for ``work()``, the least of ``times`` runs.

    Other threads of the process only add to what tracemalloc counts, and seldom in each of the runs.
    """
    peaks = []
    for _ in range(times):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)
