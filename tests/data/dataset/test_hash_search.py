"""Pairs of hashes within a Hamming distance: equal to a comparison of all with all, in bounded memory."""

import numpy as np
import pytest

from raysde.data.dataset import hash_search
from raysde.data.dataset.hash_search import band_count, choose_bands, find_pairs
from tests.support.memory import peak_bytes


def random_hashes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def flipped(hashes, most, rng):
    """Return hashes with 0 to ``most`` bits flipped each."""
    bits = [rng.choice(64, rng.integers(0, most + 1), replace=False) for _ in hashes]
    return hashes ^ np.array([sum(1 << int(bit) for bit in each) for each in bits], dtype=np.uint64)


def found(queries, hashes, radius):
    return {
        pair
        for one, two in find_pairs(queries, hashes, radius)
        for pair in zip(one.tolist(), two.tolist(), strict=True)
    }


@pytest.mark.parametrize("radius", [0, 1, 3, 4, 7, 8, 11, 15])
@pytest.mark.parametrize("at_once", [50, 1 << 21])
def test_pairs_are_those_of_a_full_comparison(radius, at_once, monkeypatch):
    monkeypatch.setattr(hash_search, "AT_ONCE", at_once)
    rng = np.random.default_rng(radius)
    hashes = random_hashes(400)
    queries = np.concatenate([flipped(hashes[:250], radius + 3, rng), random_hashes(50, seed=1)])
    wanted = np.nonzero(np.bitwise_count(queries[:, None] ^ hashes[None]) <= radius)
    assert len(wanted[0]) > 50
    assert found(queries, hashes, radius) == set(zip(*(each.tolist() for each in wanted), strict=True))


@pytest.mark.parametrize(("radius", "bands"), [(0, 8), (3, 4), (7, 4), (11, 5)])
def test_pairs_among_one_set_are_found_in_one_order_at_least(radius, bands, monkeypatch):
    monkeypatch.setattr(hash_search, "band_count", lambda count, radius: bands)
    rng = np.random.default_rng(radius)
    hashes = random_hashes(300)
    hashes = np.concatenate([hashes, flipped(hashes, radius + 3, rng)])
    hashes = hashes[rng.permutation(len(hashes))]
    wanted = np.nonzero(np.bitwise_count(hashes[:, None] ^ hashes[None]) <= radius)
    got = {tuple(sorted(pair)) for pair in found(hashes, hashes, radius)}
    assert got == {tuple(sorted(pair)) for pair in zip(*(each.tolist() for each in wanted), strict=True)}


def test_pairs_that_differ_in_two_bits_of_each_band_are_found(monkeypatch):
    """Each of the two hashes has one of the two bits, in each of the three bands of a large set."""
    monkeypatch.setattr(hash_search, "band_count", lambda count, radius: 3)
    bands = choose_bands(2, 8)
    one, two = (sum(1 << (band.start + place) for band in bands) for place in (3, 9))
    hashes = np.array([one, two], dtype=np.uint64)
    assert {tuple(sorted(pair)) for pair in found(hashes, hashes, 8)} == {(0, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("count", [10, 10**6, 10**8])
@pytest.mark.parametrize("radius", [0, 7, 15])
def test_bands_have_every_bit_once(count, radius):
    bands = choose_bands(count, radius)
    assert [bit for band in bands for bit in range(band.start, band.start + band.width)] == list(range(64))
    assert len(bands) == band_count(count, radius)


def test_memory_grows_by_few_bytes_a_hash(monkeypatch):
    """Four times as many hashes need less than 150 bytes of memory for each more; a full comparison would need 50,000."""
    monkeypatch.setattr(hash_search, "AT_ONCE", 1 << 12)
    small, large = random_hashes(10_000), random_hashes(40_000)

    def work(hashes):
        return lambda: [None for _ in find_pairs(hashes, hashes, 4)]

    assert peak_bytes(work(large)) - peak_bytes(work(small)) < 150 * 30_000


def test_nothing_is_near_in_an_empty_set():
    assert not found(np.empty(0, np.uint64), random_hashes(5), 7)
    assert not found(random_hashes(5), np.empty(0, np.uint64), 7)


@pytest.mark.slow
def test_a_million_hashes_take_seconds():
    """The 200 planted pairs are found among a million hashes, in less than two minutes of one processor."""
    import time

    rng, hashes = np.random.default_rng(1), random_hashes(10**6)
    hashes[-200:] = flipped(hashes[:200], 7, rng)
    started = time.process_time()
    pairs = {tuple(sorted(pair)) for pair in found(hashes, hashes, 7)}
    assert time.process_time() - started < 120
    assert {(place, 10**6 - 200 + place) for place in range(200)} <= pairs
