"""The order of a run's rows, from its recipe and data set, in each version of the order."""

from raysde.config.loading import RunConfig
from raysde.data.batches.feed import Feed
from raysde.data.batches.plan import LANED, Plan
from raysde.data.dataset.layout import AlignedRows, Rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.selection import FilteredLayout
from raysde.data.dataset.split import filtered_window, lane_window, shuffle_window
from raysde.data.dataset.view import View


def make_feed(config: RunConfig, manifest: Manifest, rows: Rows, view: View, order: int = LANED) -> Feed:
    """Return a run's microbatches: the order of its rows, in a version of the order, and their crops.

    Raises:
        ValueError: if there are no rows, or the batch is no multiple of the microbatch.
    """
    batch, wanted = config.train.batch, config.data.shuffle_window
    chunk, filtered = manifest.row_group, any(isinstance(layout, FilteredLayout) for layout in rows.layouts)
    if filtered:
        window, chunk = filtered_window(manifest, rows, batch, config.microbatch, wanted)
    elif order == LANED:
        window = lane_window(manifest, rows.count, batch, config.microbatch, wanted)
    else:
        window = shuffle_window(manifest, wanted)
    plan = Plan(
        rows=rows.count,
        batch=batch,
        microbatch=config.microbatch,
        seed=config.seed,
        window=window,
        chunk=chunk,
        buckets=rows.sizes if len(rows.layouts) > 1 else (),
        order=order,
    )
    # without lanes, both versions of the order see the same rows
    kind = AlignedRows if plan.has_lanes and not filtered else Rows
    return Feed(plan, kind(rows.layouts, rows.held), view)
