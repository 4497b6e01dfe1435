"""Exact shares of several sources in one sequence of rows.

The weights become whole numbers a_i with the sum P, and the sequence of sources repeats after P rows. Before any row n,
source i has come fewer than one row more or less often than its share n a_i / P. Such a sequence always exists
(Tijdeman 1980, "The chairman assignment problem"). It is found as the schedule of periodic tasks on one processor:
the j-th row of source i has the places from floor((j - 1) P / a_i) up to ceil(j P / a_i), and each place takes the row
that must come soonest (Baruah, Cohen, Plaxton and Varvel 1996, "Proportionate progress").
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

PERIOD = 1 << 16
"""Largest number of rows after which the sequence of sources repeats."""


def exact_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Return whole numbers in proportion to positive weights, in lowest terms.

    Weights are taken as decimals: 0.7 and 0.3 give 7 and 3. If the sum would be more than ``PERIOD``, the numbers sum
    to ``PERIOD`` and are rounded by largest remainders.

    Raises:
        ValueError: naming the weight that is less than one in ``PERIOD`` of all.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(each.denominator for each in exact))
    whole = [int(each * scale) for each in exact]
    whole = [each // math.gcd(*whole) for each in whole]
    if sum(whole) <= PERIOD:
        return tuple(whole)
    for weight, each in zip(weights, whole, strict=True):
        if each * PERIOD < sum(whole):
            raise ValueError(
                f"weight {weight:g} is less than one row in {PERIOD} of all weights; raise it, or leave the source out"
            )
    return split_count(PERIOD, whole)


def split_count(count: int, shares: Sequence[int]) -> tuple[int, ...]:
    """Return whole numbers in proportion to ``shares`` that sum to ``count``, rounded by largest remainders."""
    total = sum(shares)
    parts = [divmod(count * share, total) for share in shares]
    order = sorted(range(len(shares)), key=lambda number: (-parts[number][1], number))
    more = set(order[: count - sum(whole for whole, _ in parts)])
    return tuple(whole + (number in more) for number, (whole, _) in enumerate(parts))


def fit_shares(rows: Sequence[int], shares: Sequence[int]) -> int:
    """Return a number of rows that :func:`split_count` divides so that no source gives more than its ``rows``.

    It is the largest one for which no share of a source, before rounding, is more than its rows.
    """
    return min(count * sum(shares) // share for count, share in zip(rows, shares, strict=True))


@dataclass(frozen=True)
class SourceOrder:
    """The repeating sequence of sources.

    Attributes:
        order: source of each row of a period, int64 [P].
        places: rows of a period that each source has, sorted.
    """

    order: np.ndarray
    places: tuple[np.ndarray, ...]

    def sources_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the source of each row, int64 [N]; rows are counted from the beginning of the run."""
        return self.order[rows % len(self.order)]

    def count_before(self, source: int, rows: np.ndarray) -> np.ndarray:
        """Return the number of rows of a source before each of ``rows``, int64 [N]."""
        periods, inside = np.divmod(rows, len(self.order))
        places = self.places[source]
        return periods * len(places) + np.searchsorted(places, inside)


@lru_cache(maxsize=8)
def mix_sources(shares: tuple[int, ...]) -> SourceOrder:
    """Return the sequence of sources with these shares."""
    period = sum(shares)
    first = [(0, -(-period // share), number, 1) for number, share in enumerate(shares)]
    waiting, ready = first, list[tuple[int, int, int]]()
    heapq.heapify(waiting)
    order = np.empty(period, dtype=np.int64)
    for place in range(period):
        while waiting and waiting[0][0] <= place:
            _, deadline, number, count = heapq.heappop(waiting)
            heapq.heappush(ready, (deadline, number, count))
        deadline, number, count = heapq.heappop(ready)
        assert place < deadline, "each row has a place before its deadline"
        order[place] = number
        share = shares[number]
        if count < share:
            heapq.heappush(waiting, (count * period // share, -(-(count + 1) * period // share), number, count + 1))
    places = tuple(np.flatnonzero(order == number) for number in range(len(shares)))
    return SourceOrder(order, places)
