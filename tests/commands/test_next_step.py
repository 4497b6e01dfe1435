"""The sample command printed at the end of a run works with the run's model."""

import shlex
from pathlib import Path

import pytest

from raysde.cli import main
from raysde.commands.next_step import suggest_sample_command
from raysde.networks import ExternalConfig
from tests.support.checkpoints import write_model

OWN = ExternalConfig(factory="tests.support.models:Own", kwargs={"gain": 0.5})


@pytest.mark.parametrize("changes", [{}, {"network": OWN}], ids=["ours", "own"])
def test_the_command_draws_also_with_code_of_the_users_own(tmp_path, changes):
    folder = write_model(tmp_path / "model", text=None, **changes)
    words = shlex.split(suggest_sample_command(folder, Path(folder)))
    assert words[:3] == ["raysde", "sample", folder]
    assert ("--allow-code" in words) is bool(changes)
    assert main([*words[1:], "--steps", "1", "--out", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("image-*.png"))) == 16
