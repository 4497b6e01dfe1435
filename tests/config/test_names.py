"""Names and aliases that MLflow and file systems accept."""

import pytest

from raysde.config.names import check_alias, check_name


@pytest.mark.parametrize("name", ["a", "A9", "0", "a.b_c-d", "x" * 200])
def test_names(name):
    assert check_name(name, "--name") == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a b", "a/b", "a:b", "a@b", "ä", "a\n"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match=r"--name .* must be of letters"):
        check_name(name, "--name")


@pytest.mark.parametrize("alias", ["a", "vx", "v1a", "1v", "latest2", "my-alias_2"])
def test_aliases(alias):
    assert check_alias(alias) == alias


@pytest.mark.parametrize(("alias", "why"), [("v1", "reserved"), ("V20", "reserved"), ("LATEST", "reserved"), ("a.b", "letters"), ("", "letters"), ("a\n", "letters")])  # fmt: skip
def test_aliases_that_are_none(alias, why):
    with pytest.raises(ValueError, match=f"^alias .*{why}"):
        check_alias(alias)
