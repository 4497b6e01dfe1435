"""Random streams: different names have different keys."""

import itertools

import torch

from raysde import rng

PARTS = (-1, 0, 1, 2, 10, 11, 12, 21, 111, 112, 255, 256, 257, 2**32, 2**63 - 1)


def test_streams_of_different_names_have_different_keys():
    """3,642 names (seeds, and paths of up to three numbers) have different 63-bit keys; by chance two agree with
    probability 1e-12. Names with equal concatenated digits or bytes, such as (1, 11) and (11, 1), are among them."""
    names = [name for length in (1, 2, 3) for name in itertools.product(PARTS, repeat=length)]
    names += [(0, *name) for name in itertools.product((0, 1, 11), repeat=3)]
    keys = {rng.key(*name) for name in names}
    assert len(keys) == len(names)
    assert all(0 <= key < 2**63 for key in keys)
    assert any(key >= 2**62 for key in keys)


def test_a_stream_begins_anew_wherever_it_is_opened():
    """Torch numbers name the same streams as equal ints."""
    first, again = (torch.rand(3, generator=rng.generator(7, rng.MICROBATCH, 1, 2)) for _ in range(2))
    assert torch.equal(first, again)
    other = torch.rand(3, generator=rng.generator(7, rng.MICROBATCH, 2, 1))
    assert not torch.equal(first, other)
    assert rng.key(1, torch.tensor(3)) == rng.key(1, 3)
