"""Suggestions for misspelt names."""

import pytest

from raysde.config import reference
from raysde.io.near import did_you_mean, find_nearest

KEYS = reference.list_meanings()
MEANT = {
    "train.learning_rate": "train.lr", "learning_rate": "train.lr", "train.batch_size": "train.batch",
    "train.epochs": "train.length.epochs", "train.bach": "train.batch", "model.channels": "network.channels",
    "sde.betamax": "sde.beta_max", "resources.num_workers": "resources.workers", "train.gradient_clip": "train.clip",
    "tracking.url": "tracking.uri", "data.random_flip": "data.flip", "sampling.prompt": "sampling.prompts",
}  # fmt: skip


@pytest.mark.parametrize(("given", "meant"), MEANT.items())
def test_a_key_of_other_programs_leads_to_ours(given, meant):
    assert find_nearest(given, KEYS, KEYS)[0] == meant


@pytest.mark.parametrize("key", sorted(reference.list_keys())[::7])
def test_a_key_without_one_of_its_letters_is_recognised(key):
    """The missing letter is the middle one, which may leave another key equally near."""
    last = key.rpartition(".")[2]
    if len(last) > 2:
        place = len(key) - len(last) // 2 - 1
        assert key in find_nearest(key[:place] + key[place + 1 :], KEYS, KEYS)


def test_what_is_like_nothing_is_not_asked_for():
    assert find_nearest("zebra", KEYS, KEYS) == []
    assert did_you_mean("zebra", ["heun", "unipc"]) == ""
    assert did_you_mean("heun", []) == ""
    assert did_you_mean("dpm++2m", ["heun", "dpmpp_2m"]) == "; did you mean dpmpp_2m?"
