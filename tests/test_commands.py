"""The commands and programs of the how-to pages, in the order of each page, after the commands of Get started."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.desk import added, lay_desk, shell, strip_comment
from tests.support.pages import DOCS, RUN, Block, read_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
START = DOCS / "get-started.md"
ELSEWHERE = {"tutorial.md", "extend.md", "own-code.md"}
"""Pages whose blocks tests/test_pages.py and tests/training/test_own_code.py run."""


def to_run(page: Path) -> list[Block]:
    """Return the blocks of a page that are run here."""
    if page.name in ELSEWHERE:
        return []
    return [block for block in read_blocks(page) if block.language in RUN and block.reason is None]


def shortened(script: str) -> str:
    """A block of bash with every command of raysde made shorter, which stops at the first line that fails."""
    lines = script.replace("\\\n", " ").splitlines()
    short = [f"{strip_comment(line)} {added(line)}" if line.startswith("raysde ") else line for line in lines]
    return "set -e\n" + "\n".join(short)


def run_page(page: Path, desk: Path) -> None:
    """Run a page's commands one block after another, then its Python as one program."""
    for block in to_run(page):
        if block.language == "bash":
            shell(desk, shortened(block.text))
    program = "\n".join(block.text for block in to_run(page) if block.language == "python")
    if program:
        (desk.parent / "program.py").write_text(program)
        printed = shell(desk, f"{sys.executable} {desk.parent / 'program.py'}").stdout
        for block in to_run(page):
            assert (block.output or "") in printed, f"{block} prints\n{printed}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A desk on which Get started was followed, beside one as it was before."""
    here = tmp_path_factory.mktemp("pages") / "desk"
    here.mkdir()
    lay_desk(here)
    shutil.copytree(here, here.parent / "untouched")
    run_page(START, here)
    return here


def test_get_started_leads_to_a_champion(desk):
    assert json.loads((desk / "report.json").read_text())
    assert len(list((desk / "drawn").glob("image-*.png"))) == 2
    shell(desk, "raysde sample models:/photos@champion --prompt 'a red disc' -n 1 --steps 1 --out one")
    assert (desk / "one" / "image-000.png").exists()


@pytest.mark.parametrize(
    "page", [page for page in sorted(DOCS.glob("*.md")) if page != START and to_run(page)], ids=lambda page: page.name
)
def test_the_commands_of_a_page_run(page, desk):
    here = desk.parent / page.stem
    shutil.copytree(desk.parent / "untouched", here)
    run_page(page, here)
