"""The error for a key of another kind of a node differs from that for an unknown key."""

import pytest

from raysde.config import loading


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (["sde.kind=ve", "sde.beta_min=1"], "key 'sde.beta_min' is none of sde.kind=ve"),
        (["network.kind=dit", "network.multipliers=[1,2]"], "key 'network.multipliers' is none of network.kind=dit"),
        (["sde.kind=ve", "sde.beta_mim=1"], "unknown key 'sde.beta_mim'; did you mean sde.beta_min"),
    ],
)
def test_a_key_of_another_kind_names_the_kind(overrides, culprit):
    tree = {"name": "here", "data": {"path": "shards"}}
    loading.merge_overrides(tree, overrides)
    with pytest.raises(ValueError, match=culprit) as refused:
        loading.parse_recipe(tree)
    assert "did you mean sde.beta_min?" not in str(refused.value) or "beta_mim" in culprit
