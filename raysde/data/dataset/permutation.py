"""Permutations of 0..n-1 that are computed where they are asked for, from a key and nothing else."""

from functools import lru_cache

import numpy as np

EXACT = 4096
"""Up to this size a permutation is drawn whole, uniformly among all; above, it is a keyed cipher of the numbers."""
ROUNDS = 8

Numbers = np.ndarray


def permute_numbers(numbers: Numbers, count: int, key: int) -> Numbers:
    """The images of ``numbers`` (int64, each in 0..count-1) under the permutation ``key`` of 0..count-1.

    Large ones are an alternating Feistel network over the next power of two; a number that leaves the range is sent
    through again until it comes back (Black and Rogaway 2002, "cycle walking"), which takes less than two passes
    on average.
    """
    assert count > 0
    assert len(numbers) == 0 or (numbers.min() >= 0 and numbers.max() < count)
    if count <= EXACT:
        return _draw_permutation(count, key)[numbers]
    bits = (count - 1).bit_length()
    result = _feistel(numbers.astype(np.uint64), bits, key)
    while (outside := result >= count).any():
        result[outside] = _feistel(result[outside], bits, key)
    return result.astype(np.int64)


@lru_cache(maxsize=64)
def _draw_permutation(count: int, key: int) -> Numbers:
    """A permutation from raw Philox words, which numpy promises to keep."""
    result = np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
    result.flags.writeable = False
    return result


@lru_cache(maxsize=64)
def _round_keys(key: int) -> Numbers:
    return np.random.Philox(key=key).random_raw(ROUNDS)


def _feistel(numbers: Numbers, bits: int, key: int) -> Numbers:
    """A permutation of 0..2**bits-1: the halves of the number change each other in turn."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = numbers >> low_bits, numbers & low_mask
    for number, word in enumerate(_round_keys(key)):
        if number % 2:
            low = low ^ (_mix_words(high + word) & low_mask)
        else:
            high = high ^ (_mix_words(low + word) & high_mask)
    return (high << low_bits) | low


def _mix_words(words: Numbers) -> Numbers:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), modulo 2**64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
