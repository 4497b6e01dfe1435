"""Decoded microbatches, as data tasks hand them on."""

from raysde.data.batches.feed import Feed
from raysde.data.batches.tables import Decoded
from raysde.data.dataset.sources import AnyReader


def decode_steps(feed: Feed, reader: AnyReader, start: int, stop: int) -> list[Decoded]:
    """Return the decoded microbatches of the steps in [start, stop)."""
    places = [(step, index) for step in range(start, stop) for index in feed.plan.of_rank(0, 1)]
    return [Decoded(step, index, *feed.read(reader, step, index)) for step, index in places]
