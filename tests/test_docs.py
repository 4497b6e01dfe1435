"""Names in the documentation: modules, functions, commands and files exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from raysde.cli import build_parser
from raysde.config.loading import load_recipe
from raysde.config.reference import list_keys
from tests.support.names import resolved

DOCS = Path(__file__).parents[1] / "docs"
CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"raysde(\.\w+)*")
COMMAND = re.compile(r"raysde (\w+)")
OVERRIDE = re.compile(r"([a-z_.0-9]+)(=.+)?")
HEADER = ["there", "here", "note"]


def cells(page: str) -> list[str]:
    """Return the column ``here`` of every table "there | here | note"."""
    found, inside = [], False
    for line in page.splitlines():
        row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif row == HEADER:
            inside = True
        elif inside and not set(line) <= set("|- :"):
            assert len(row) == len(HEADER), f"a row of {len(row)} cells: {line}"
            found.append(row[1])
    return found


def command_exists(name: str) -> bool:
    choices = next(action.choices for action in build_parser()._subparsers._group_actions)
    return name in choices


def mistakes(page: str, folder: Path) -> list[str]:
    """Return the names on a page that raysde does not have."""
    wrong = [name for name in CODE.findall(page) if NAME.fullmatch(name) and not resolved(name)]
    recipe = folder / "recipe.yaml"
    recipe.write_text("{name: page, data: {path: shards}, sde: {kind: vp}, network: {kind: unet}}")
    for cell in cells(page):
        overrides = []
        for token in CODE.findall(cell):
            command, override = COMMAND.fullmatch(token), OVERRIDE.fullmatch(token)
            if NAME.fullmatch(token):
                continue
            if command and command_exists(command[1]):
                continue
            if override is None or override[1] not in list_keys():
                wrong.append(token)
            elif override[2]:
                overrides.append(token)
        try:
            load_recipe(recipe, overrides)
        except ValueError as error:
            wrong.append(f"{cell}: {error}")
    return wrong


def test_every_name_in_coming_from_exists(tmp_path):
    page = (DOCS / "coming-from.md").read_text()
    assert len(cells(page)) > 50
    assert mistakes(page, tmp_path) == []


def test_every_name_in_diffusers_exists(tmp_path):
    page = (DOCS / "diffusers.md").read_text()
    assert "`raysde.networks.diffusers_contract`" in page
    assert mistakes(page, tmp_path) == []


@pytest.mark.parametrize(
    ("cell", "wrong"),
    [
        ("`raysde.sde.VP` and `raysde.sampling.sampler.Method.target_snr`", None),
        ("`raysde train`, `sampling.solver=pc`", None),
        ("`sde.kind=ve` `sde.sigma_max=90`", None),
        ("`raysde.sde.VPSDE`", "raysde.sde.VPSDE"),
        ("`raysde.nothing.at_all`", "raysde.nothing.at_all"),
        ("`raysde.sampling.sampler.Method.snr`", "raysde.sampling.sampler.Method.snr"),
        ("`raysde fly`", "raysde fly"),
        ("`sampling.snr`", "sampling.snr"),
        ("`sampling.solver=pndm`", "pndm"),
        ("`sde.kind=ve` `sde.beta_max=3`", "beta_max"),
        ("`VPSDE`", "VPSDE"),
    ],
)
def test_a_wrong_name_is_found(cell, wrong, tmp_path):
    found = mistakes(f"| there | here | note |\n|-|-|-|\n| a | {cell} | b |\n", tmp_path)
    assert found == [] if wrong is None else any(wrong in mistake for mistake in found)


def test_names_in_running_text_are_checked(tmp_path):
    assert mistakes("see `raysde.sde.Nothing`, and `np.linspace`", tmp_path) == ["raysde.sde.Nothing"]


def written() -> set[str]:
    """Return the paths that the README's commands write in the working folder, explicitly or by default."""
    page, found = (DOCS.parent / "README.md").read_text(), set()
    for line in re.findall(r"^    raysde (.*)$", page, flags=re.MULTILINE):
        given = vars(build_parser().parse_args(shlex.split(line, comments=True)))
        found |= {given[name] for name in ("out", "output", "sheet") if given.get(name)}
    return {name for name in found if "/" not in name}


def test_what_the_commands_write_is_neither_committed_nor_uploaded(tmp_path):
    """Git's own reading of .gitignore, and Ray's reading of it and of .rayignore for `ray job submit`, exclude them."""
    from ray._private.runtime_env.packaging import get_uri_for_directory

    assert {"drawn", "many", "edited", "settled", "report.json", "contact-sheet.png"} <= written()
    for name in (".gitignore", ".rayignore"):
        shutil.copy(DOCS.parent / name, tmp_path / name)
    (tmp_path / "code.py").touch()

    def seen() -> tuple[str, str]:
        listed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return listed.stdout, get_uri_for_directory(str(tmp_path), include_gitignore=True)

    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    before = seen()
    for name in written():
        if Path(name).suffix:
            (tmp_path / name).write_text("1")
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "image-000.png").write_text("1")
    assert seen() == before
    (tmp_path / "mine.txt").write_text("1")
    assert all(one != other for one, other in zip(seen(), before, strict=True))
