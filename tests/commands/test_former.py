"""Renamed commands still work under their former names."""

import pytest

from raysde.cli import FORMER, main


@pytest.mark.parametrize("former", sorted(FORMER))
def test_a_former_name_is_the_command_of_today_with_a_line_that_says_so(capsys, former):
    """Both names end with the same error, about an option that is checked first."""
    given = ["no/such/model", "--data", "shards", "--device", "abacus"]
    assert main([FORMER[former], *given]) == 2
    refused = capsys.readouterr().err.splitlines()
    assert len(refused) == 1
    assert main([former, *given]) == 2
    assert capsys.readouterr().err.splitlines() == [f"raysde {former} is called raysde {FORMER[former]} now", *refused]


@pytest.mark.parametrize("former", sorted(FORMER))
def test_the_help_of_a_former_name_says_what_it_is_called_now(capsys, former):
    for command in (former, FORMER[former]):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    former_help, help_now = capsys.readouterr().out.split("usage: ")[1:]
    said = f"raysde {former} is called raysde {FORMER[former]} now. "
    assert said in former_help
    assert former_help.replace(said, "") == help_now


@pytest.mark.parametrize("command", ["train", "tune", "plan"])
def test_what_may_be_left_out_is_not_asked_for(capsys, command):
    with pytest.raises(SystemExit):
        main([command])
    assert "key=value" not in capsys.readouterr().err.splitlines()[-1]
