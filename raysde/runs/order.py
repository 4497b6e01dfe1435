"""The order of a run's rows, from its recipe and data set, in each version of the order."""

from raysde.config.loading import RunConfig
from raysde.data.batches.microbatch import Feed
from raysde.data.batches.plan import LANED, WINDOWED, Plan
from raysde.data.dataset.layout import AlignedRows, Rows
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.split import lane_window, shuffle_window
from raysde.data.dataset.view import View


def make_feed(config: RunConfig, manifest: Manifest, rows: Rows, view: View, order: int = LANED) -> Feed:
    """Return a run's microbatches: the order of its rows, in a version of the order, and their crops.

    Raises:
        ValueError: if there are no rows, or the batch is no multiple of the microbatch.
    """
    batch, wanted = config.train.batch, config.data.shuffle_window
    windows = {
        WINDOWED: lambda: shuffle_window(manifest, wanted),
        LANED: lambda: lane_window(manifest, rows.count, batch, config.microbatch, wanted),
    }
    plan = Plan(
        rows=rows.count,
        batch=batch,
        microbatch=config.microbatch,
        seed=config.seed,
        window=windows[order](),
        chunk=manifest.row_group,
        buckets=rows.sizes if len(rows.layouts) > 1 else (),
        order=order,
    )
    # without lanes, both versions of the order see the same rows
    kind = AlignedRows if plan.has_lanes else Rows
    return Feed(plan, kind(rows.layouts, rows.held), view)
