"""The README's path from a folder of pictures to a champion, with every line as printed there.

The test provides what the lines expect, and only adds options that make a line faster, see tests/support/desk.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raysde.registry import list_aliases
from raysde.tracking import connect_client
from tests.support.desk import added, lay_desk, serve, shell, strip_comment
from tests.support.paths import ROOT

pytestmark = [pytest.mark.readme, pytest.mark.timeout(900)]

FEWER = {"* 16": "* 2", "steps=10": "steps=2", "20).x": "4).x"}
"""Replacements that make the lines of Python fast."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    here = tmp_path_factory.mktemp("desk")
    lay_desk(here)
    return here


def section() -> str:
    """Return the README's section about own images."""
    return (ROOT / "README.md").read_text().partition("## Your own images\n")[2].partition("\n## ")[0]


def blocks() -> tuple[list[str], str]:
    """Return the commands and the Python code of the section, as a reader would copy them."""
    code = "\n".join(line[4:] for line in section().splitlines() if line.startswith("    ") or not line)
    commands, _, python = code.partition("import raysde")
    lines = commands.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()], f"import raysde{python}"


def test_every_line_is_known_to_the_test():
    """No line of the section is left out."""
    commands, python = blocks()
    assert len(commands) >= 12
    for command in commands:
        added(command)
    assert all(old in python for old in FEWER)


def test_own_images_from_a_folder_to_a_champion(desk):
    commands, python = blocks()
    subprocess.run(["git", "init", "--quiet"], cwd=desk, check=True)
    for command in commands:
        line = f"{strip_comment(command)} {added(command)}".strip()
        if line == "raysde ui":
            serve(desk, line)
        else:
            shell(desk, line)
    home = desk.parent / "home"
    client = connect_client(f"sqlite:///{home / 'raysde' / 'mlflow.db'}")
    assert list_aliases(client, "photos") == {"candidate": "2", "champion": "2"}
    recipe = json.loads((home / "raysde/runs/photos/step_000000004/checkpoint.json").read_text())["recipe"]
    assert recipe["text.path"] == "sentence-transformers/all-MiniLM-L6-v2"
    for old, new in FEWER.items():
        python = python.replace(old, new)
    (desk.parent / "lines.py").write_text(python)
    shell(desk, f"{sys.executable} {desk.parent / 'lines.py'}")
    assert len(list((desk / "many").rglob("*.parquet"))) == 1
    found = subprocess.run(["git", "status", "--porcelain"], cwd=desk, capture_output=True, text=True, check=True)
    ours = {".gitignore", "CATALOGUE/", "MORE_PHOTOS/", "PHOTOS/", "a.png", "keep.png", "prompts.txt"}
    assert {line[3:] for line in found.stdout.splitlines()} == ours, "what the commands write is not in .gitignore"
