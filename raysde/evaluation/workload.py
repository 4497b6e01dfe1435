"""What an evaluation measures, as stretches of numbered images, and who measures them: this process, or many."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.generated import Drawer
from raysde.evaluation.held_out import HeldOut
from raysde.evaluation.real import Real
from raysde.io.progress import Progress

REAL, DRAWN = "real", "drawn"
"""Work beside that of :data:`raysde.evaluation.held_out.MEASURES`."""


@dataclass(frozen=True)
class Bench:
    """All that measuring takes; whoever holds a copy measures the same.

    Attributes:
        real: the images to compare with.
        drawer: what draws, and measures what it drew.
        held: held-out rows and what is done to them.
    """

    real: Real | None = None
    drawer: Drawer | None = None
    held: HeldOut | None = None

    def part(self, work: str, first: int, count: int, told: Callable[[int, int], None] | None = None) -> MeasuredRange:
        """What is measured of the images ``first`` and on.

        Args:
            work: REAL, DRAWN or a measure of held-out rows.
            told: called with the solver's steps done and to be done, while images are drawn.
        """
        if work == REAL:
            assert self.real is not None
            return self.real.part(first, count)
        if work == DRAWN:
            assert self.drawer is not None
            return self.drawer.part(first, count, told)
        assert self.held is not None
        return self.held.part(work, first, count)


Measure = Callable[[Bench, str, Sequence[tuple[int, int]], Progress | None], Iterator[MeasuredRange]]
"""``measure(bench, work, stretches, told)``: the parts of some work in the order of the stretches (first, count), while
``told`` gets the images done and to be done."""


def measure_here(
    bench: Bench, work: str, stretches: Sequence[tuple[int, int]], told: Progress | None = None
) -> Iterator[MeasuredRange]:
    """The parts of some work, one after another in this process: a :data:`Measure`."""
    total, before = sum(count for _, count in stretches), 0
    for first, count in stretches:

        def tell_part(done: int, steps: int, before: int = before, count: int = count) -> None:
            if told is not None:
                told(before + count * done / steps, total)

        yield bench.part(work, first, count, tell_part)
        before += count
        if told is not None:
            told(before, total)
