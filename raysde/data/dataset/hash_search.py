"""Search for pairs of 64-bit hashes within a Hamming distance, without comparing every hash with every other one.

Multi-index hashing (Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing, 2012): the bits
are divided into bands. Two hashes that differ in at most R bits differ in at most R // bands bits of some band. In each
band the hashes are sorted, and every hash is compared with those whose band differs from its own in so few bits. Memory
is 24 bytes for each hash, and a fixed amount for the pairs that are compared at a time.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np

AT_ONCE = 1 << 21
"""Number of pairs that are compared at a time."""
BANDS = range(3, 9)
"""Possible numbers of bands; fewer would make tables of more than 2**22 entries."""
LOOKUP = 2.0
"""Time of a look-up in a table, as a multiple of the time of a comparison."""


@dataclass(frozen=True)
class Band:
    """Bits ``start`` to ``start + width`` of a hash."""

    start: int
    width: int

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the band's bits of hashes uint64 [N], int64 [N]."""
        mask = np.uint64((1 << self.width) - 1)
        return ((hashes >> np.uint64(self.start)) & mask).astype(np.int64)


def find_pairs(queries: np.ndarray, hashes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the positions, int64 [P] each, of pairs of a query and a hash that differ in at most ``radius`` bits.

    A pair may be yielded once for each band in which it agrees. If both arrays are the same object, each pair
    is yielded in one order at least.

    Args:
        queries: uint64 [Q].
        hashes: uint64 [N].
        radius: number of bits, from 0 to 15.
    """
    assert 0 <= radius < 16
    if not len(queries) or not len(hashes):
        return
    for band in choose_bands(len(hashes), radius):
        parts = band.of(hashes)
        order = np.argsort(parts, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(parts, minlength=1 << band.width))])
        here = hashes[order]
        # neighbours in this order read neighbouring places of the table
        asking = np.argsort(band.of(queries), kind="stable")
        sought = band.of(queries)[asking]
        for flipped in _masks(band.width, radius // band_count(len(hashes), radius)):
            # among one set of hashes, the other order finds the rest
            top = (1 << flipped.bit_length()) >> 1
            half = slice(None) if queries is not hashes else sought & top == 0
            first, last = starts[sought[half] ^ flipped], starts[(sought[half] ^ flipped) + 1]
            here_asking = asking[half]
            for places, found in _expand(first, last - first):
                near = np.bitwise_count(queries[here_asking[places]] ^ here[found]) <= radius
                if near.any():
                    yield here_asking[places[near]], order[found[near]]


def _expand(first: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of a position and each of ``counts`` numbers from ``first`` on, at most ``AT_ONCE`` at a time."""
    filled = np.flatnonzero(counts)
    ends = np.cumsum(counts[filled])
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, AT_ONCE):
        numbers = np.arange(start, min(start + AT_ONCE, total))
        low, high = np.searchsorted(ends, [numbers[0], numbers[-1]], side="right")
        inside = np.diff(np.minimum(ends[low : high + 1], numbers[-1] + 1), prepend=start)
        places = np.repeat(np.arange(low, high + 1), inside)
        yield filled[places], first[filled[places]] + numbers - (ends - counts[filled])[places]


@lru_cache
def _masks(width: int, most: int) -> list[int]:
    """Return all numbers of ``width`` bits with at most ``most`` bits set."""
    chosen = (bits for count in range(most + 1) for bits in itertools.combinations(range(width), count))
    return [sum(1 << bit for bit in bits) for bits in chosen]


@lru_cache
def band_count(count: int, radius: int) -> int:
    """Return the number of bands with the fewest look-ups and comparisons for each of ``count`` random hashes."""

    def cost(bands: int) -> float:
        width = 64 // bands
        probes = sum(comb(width, each) for each in range(radius // bands + 1))
        return bands * probes * (LOOKUP + count / 2**width)

    return min(BANDS, key=cost)


def choose_bands(count: int, radius: int) -> list[Band]:
    """Return the bands for a search among ``count`` hashes; together they have every bit once."""
    number = band_count(count, radius)
    cuts = [64 * place // number for place in range(number + 1)]
    return [Band(start, stop - start) for start, stop in itertools.pairwise(cuts)]
