"""raysde commands run in this process."""

from raysde.cli import main


def refused(capsys, *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("raysde: ")
    return lines[0]
