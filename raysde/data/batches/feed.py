"""The decoded rows of a run's microbatches, without torch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from raysde.data.batches.plan import BatchPlan
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.reader import FIELDS, Columns, allocate_images
from raysde.data.dataset.source_rows import MixedRows
from raysde.data.dataset.sources import AnyReader
from raysde.data.dataset.view import View, draw_uniforms


@dataclass(frozen=True)
class Feed:
    """The rows and crops of a run's microbatches.

    Attributes:
        plan: positions, in 0..rows-1, of each microbatch.
        rows: map from positions to row numbers of the data set.
        view: crop settings of the images.
        fields: values that the model takes beside images, see :class:`raysde.data.dataset.reader.Reader`.
    """

    plan: BatchPlan
    rows: Rows | MixedRows
    view: View = field(default_factory=View)
    fields: frozenset[str] = FIELDS

    def read(
        self, reader: AnyReader, step: int, index: int, take: Callable[[tuple[int, ...]], np.ndarray] = allocate_images
    ) -> tuple[np.ndarray, Columns]:
        """Return the row numbers, int64 [B], and decoded rows of microbatch ``index`` of step ``step``.

        The images are in memory from ``take``.

        Raises:
            ValueError: as :meth:`raysde.data.dataset.reader.Reader.read`.
        """
        chosen = self.rows[self.plan.rows_of(step, index)]
        return chosen, reader.read(chosen, self.view, draw_uniforms(self.plan.seed, step, index, len(chosen)), take)
