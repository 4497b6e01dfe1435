"""Commands that were renamed go on working under the name that they had."""

import pytest

from raysde.cli import FORMER, main


@pytest.mark.parametrize("former", sorted(FORMER))
def test_a_former_name_is_the_command_of_today_with_a_line_that_says_so(capsys, former):
    """Both end with the same refusal, of an option that comes first."""
    given = ["no/such/model", "--data", "shards", "--device", "abacus"]
    assert main([FORMER[former], *given]) == 2
    refused = capsys.readouterr().err.splitlines()
    assert len(refused) == 1
    assert main([former, *given]) == 2
    assert capsys.readouterr().err.splitlines() == [f"raysde {former} is called raysde {FORMER[former]} now", *refused]
