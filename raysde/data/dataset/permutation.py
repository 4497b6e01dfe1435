"""Keyed permutations of 0..n-1 that compute any element without storing the others."""

from functools import lru_cache

import numpy as np

EXACT = 4096
"""Size up to which a permutation is drawn as a whole, uniformly among all; larger ones are a keyed cipher."""
ROUNDS = 8

Numbers = np.ndarray


def permute_numbers(numbers: Numbers, count: int, key: int) -> Numbers:
    """Return the images of ``numbers`` (int64 [N], in 0..count-1) under the permutation ``key`` of 0..count-1.

    Large permutations are an alternating Feistel network over the next power of two. A number outside the range is
    permuted again until it lies inside (Black and Rogaway 2002, "cycle walking"), in less than two passes on average.
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
    """Return a permutation of 0..count-1 from raw Philox words, whose stream numpy keeps stable across versions."""
    result = np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
    result.flags.writeable = False
    return result


@lru_cache(maxsize=64)
def _round_keys(key: int) -> Numbers:
    return np.random.Philox(key=key).random_raw(ROUNDS)


def _feistel(numbers: Numbers, bits: int, key: int) -> Numbers:
    """Return ``numbers`` uint64 under a permutation of 0..2**bits-1; each half is mixed into the other in turn."""
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
    """Return uint64 words after the finaliser of SplitMix64 (Steele, Lea and Flood 2014), modulo 2**64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
