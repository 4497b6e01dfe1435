"""The code blocks of the documentation, and what runs them.

A fenced block of Python or bash is run by a test, in the order of its page and with what the blocks before it left
behind. One that no test can run has the reason above it: ``<!-- not run: reason -->``. A block of text right after a
Python block is what that block prints.
"""

import contextlib
import io
import re
import runpy
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
RUN = ("python", "bash")
"""Languages whose blocks are run."""
SHOWN = ("text", "yaml", "json")
"""Languages of blocks that a page only shows."""
FENCE = re.compile(r"^( *)```(\w*)$")
NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page, line: file and the line of its first line of code.
        language: of the fence.
        text: code, without the fence's indentation.
        reason: why it is not run, if it is not.
        output: what a page says that it prints; None if it does not say.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order, each text with the block that it follows."""
    found: list[Block] = []
    reason, between, lines = None, True, iter(enumerate(page.read_text().splitlines(), start=1))
    for number, line in lines:
        if (fence := FENCE.match(line)) is None:
            marked = NOT_RUN.match(line)
            reason = marked[1] if marked else reason if not line.strip() else None
            between = between and not line.strip()
            continue
        indent, language = fence.groups()
        code = []
        for _, inner in lines:
            if inner.strip() == "```":
                break
            assert inner.startswith(indent) or not inner.strip(), f"{page.name}:{number}: a line leaves the block"
            code.append(inner[len(indent) :])
        else:
            raise AssertionError(f"{page.name}:{number}: the block does not end")
        text = "\n".join(code) + "\n"
        if language == "text" and found and between and found[-1].language == "python":
            found[-1] = Block(**{**vars(found[-1]), "output": text})
        else:
            found.append(Block(page, number + 1, language, text, reason))
        reason, between = None, True
    return found


def run_python(blocks: list[Block], names: dict) -> list[str]:
    """Run Python blocks one after another in one namespace, and return what each prints."""
    printed = []
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        printed.append(out.getvalue())
    return printed


def same_output(said: str, printed: str) -> bool:
    """Return True if words agree, and numbers to two units of the last digit that the page shows."""
    if [NUMBER.sub("#", line).split() for line in said.splitlines()] != [
        NUMBER.sub("#", line).split() for line in printed.splitlines()
    ]:
        return False
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True)
    return all(abs(float(a.replace(",", "")) - float(b.replace(",", ""))) <= 2.01 * last_digit(a) for a, b in pairs)


def last_digit(number: str) -> float:
    """Return the value of one unit of the last digit that a number shows."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def run_files(blocks: list[Block], folder: Path) -> list[str]:
    """Write each Python block to the file that its first line names and run it as a program, in one folder.

    The folder has to be the working directory and on Python's path. Returns what each file prints.
    """
    printed = []
    for block in blocks:
        name = block.text.partition("\n")[0].removeprefix("# ")
        assert re.fullmatch(r"\w+\.py", name), f"{block} does not begin with its file's name"
        (folder / name).write_text(block.text)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            runpy.run_path(str(folder / name), run_name="__main__")
        printed.append(out.getvalue())
    return printed
