"""Counts with singular and plural nouns."""

import pytest

from raysde.io.amounts import amount


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (2, "image", "2 images"), (1, "class", "1 class"),
     (10, "class", "10 classes")],
)  # fmt: skip
def test_a_noun_follows_its_number(count, noun, said):
    assert amount(count, noun) == said
