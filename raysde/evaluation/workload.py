"""The work of an evaluation as ranges of numbered images, measured in this process or on many workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.features.networks import FeatureNetwork
from raysde.evaluation.generated import Drawer
from raysde.evaluation.held_out import HeldOut
from raysde.evaluation.real import Real
from raysde.io.progress import Progress

REAL, DRAWN, IMAGES = "real", "drawn", "images"
"""Names of work, in addition to the keys of :data:`raysde.evaluation.held_out.MEASURES` and the bench's others."""


class Source(Protocol):
    """Numbered real images, and the network that measures them."""

    @property
    def network(self) -> FeatureNetwork:
        """The network that measures the images."""

    def part(self, first: int, count: int) -> MeasuredRange:
        """Measure ``count`` images from number ``first`` on."""


@dataclass(frozen=True)
class Bench:
    """Everything needed to measure; every process that holds a copy measures the same.

    Attributes:
        real: real images to compare with.
        drawer: model and the networks that measure its images.
        held: held-out rows and their settings.
        others: further real images by the name of their work.
    """

    real: Real | None = None
    drawer: Drawer | None = None
    held: HeldOut | None = None
    others: Mapping[str, Source] = field(default_factory=dict)

    @property
    def networks(self) -> list[FeatureNetwork]:
        """Every feature network that measures images."""
        sources: list[Source] = [*([] if self.real is None else [self.real]), *self.others.values()]
        found = [source.network for source in sources]
        if self.drawer is not None:
            clip = [] if self.drawer.clip is None else [self.drawer.clip.images]
            found += [*([] if self.drawer.network is None else [self.drawer.network]), *clip]
            found += self.drawer.others.values()
        return found

    def part(
        self, work: str, first: int, count: int, progress: Callable[[int, int], None] | None = None
    ) -> MeasuredRange:
        """Measure ``count`` images from number ``first`` on.

        Args:
            work: REAL, DRAWN, IMAGES, a key of ``others`` or of held_out.MEASURES.
            progress: callback while images are drawn, called with the solver steps done and their total.
        """
        if work == REAL:
            assert self.real is not None
            return self.real.part(first, count)
        if work == DRAWN:
            assert self.drawer is not None
            return self.drawer.part(first, count, progress)
        if work == IMAGES:
            assert self.drawer is not None
            return MeasuredRange(first, {IMAGES: self.drawer.images(first, count)})
        if work in self.others:
            return self.others[work].part(first, count)
        assert self.held is not None
        return self.held.part(work, first, count)


Measure = Callable[[Bench, str, Sequence[tuple[int, int]], Progress | None], Iterator[MeasuredRange]]
"""``measure(bench, work, ranges, progress)`` yields a part for each range (first, count), in their order, and calls
``progress`` with the number of images done and their total."""


def measure_here(
    bench: Bench, work: str, stretches: Sequence[tuple[int, int]], progress: Progress | None = None
) -> Iterator[MeasuredRange]:
    """Measure the ranges one after another in this process; a :data:`Measure`."""
    total, before = sum(count for _, count in stretches), 0
    for first, count in stretches:

        def report_part(done: int, steps: int, before: int = before, count: int = count) -> None:
            if progress is not None:
                progress(before + count * done / steps, total)

        yield bench.part(work, first, count, report_part)
        before += count
        if progress is not None:
            progress(before, total)
