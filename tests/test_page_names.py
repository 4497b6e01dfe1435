"""Names on every page, whether or not a test runs its blocks: links, pictures, imports, keys of recipes, API entries.

The site's build checks links too, but needs its own libraries and takes longer than these tests.
"""

import ast
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml

from raysde.cli import build_parser
from raysde.config.reference import list_keys
from raysde.models.sampling_defaults import KINDS as SAMPLER
from raysde.sampling.method import SETTINGS
from raysde.sde import VE, VP
from tests.support.names import resolved
from tests.support.pages import DOCS, read_blocks
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
IMPORT = re.compile(r"^ *from (raysde[\w.]*) import (\([^)]*\)|.+)$", re.MULTILINE)
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
KEY = re.compile(r"([a-z]+(?:\.[a-z_0-9]+)+)(=.+)?")
COMMAND = re.compile(r"(?:^|-- |-m )(?:raysde(?:\.cli)? (?=[a-z])|python jobs/(?=\w+\.py ))(.+)$")
FILES = ("jsonl", "json", "yaml", "png", "py", "csv", "npy")
OTHERS = {"coming-from.md"}
"""Pages with keys of other libraries; tests/test_docs.py checks raysde's."""
RECIPES = ("train", "tune", "plan", "config")
"""Commands that take keys of a recipe."""
SPACE = {*SETTINGS, "guidance", "guidance_interval"}
"""Keys that `raysde tune-sampler` varies."""


def slug(heading: str) -> str:
    """Return the anchor of a heading, as Python-Markdown and GitHub make it."""
    plain = re.sub(r"[^\w\s-]", "", CODE.sub(r"\1", heading)).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)}


def broken_links(text: str, page: Path) -> list[str]:
    """Return the links and pictures of a page's text that lead nowhere."""
    wrong = []
    for target in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            wrong.append(target)
    return wrong


def missing_names(text: str) -> list[str]:
    """Return the names of raysde that a text imports or documents, and that do not exist."""
    names = ENTRY.findall(text)
    for module, imported in IMPORT.findall(text):
        listed = re.sub(r"#.*", "", imported.strip("()")).replace("\n", " ").split(",")
        names += [f"{module}.{name.split()[0]}" for name in listed if name.strip()]
    return [name for name in names if not resolved(name)]


def known(key: str) -> bool:
    """Return True for a key of a recipe, or a mapping of keys; keys of ``kwargs`` and ``config`` are the user's own."""
    parts = key.split(".")
    if {"kwargs", "config"} & set(parts[:-1]):
        return True
    if parts[:2] == ["validation", "sampler"] and parts[2:]:
        return parts[2] in SAMPLER
    return key in list_keys() or any(each.startswith(f"{key}.") for each in list_keys())


def nested_keys(values: dict, above: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += nested_keys(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
    return found


def commands(text: str) -> list[list[str]]:
    """Return the words after the program's name of every command of raysde, also as a job or under torchrun."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if match := COMMAND.search(line.strip()):
            words = shlex.split(match[1], comments=True)
            found.append([words[0].removesuffix(".py").replace("_", "-"), *words[1:]])
    return found


def wrong_words(command: list[str]) -> list[str]:
    """Return the options that a command does not have, and the keys that a recipe does not have."""
    given, rest = build_parser().parse_known_args(command)
    if command[0] == "tune-sampler":
        return [word for word in rest if word.partition("=")[0] not in SPACE]
    if command[0] not in RECIPES:
        return rest
    words = [*rest, *(getattr(given, "overrides", None) or []), *(getattr(given, "over", None) or [])]
    return [word for word in words if "=" not in word or not known(word.partition("=")[0])]


def wrong_keys(text: str) -> list[str]:
    """Return the keys in running text that begin as a key of a recipe does, and are none."""
    sections = {key.partition(".")[0] for key in list_keys() if "." in key}
    found = [match for token in CODE.findall(text) if (match := KEY.fullmatch(token))]
    keys = [match[1] for match in found if match[1].partition(".")[0] in sections]
    return [key for key in keys if key.rpartition(".")[2] not in FILES and not known(key)]


@EVERY
def test_a_row_of_a_table_follows_a_row(page):
    """A blank line within a table ends it, and the rows below would be shown as text."""
    lines, fenced = ["", *page.read_text().splitlines(), ""], False
    for number, line in enumerate(lines[1:-1], 1):
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("|") and not fenced:
            begins = lines[number + 1].startswith("|-")
            assert begins or lines[number - 1].startswith("|"), f"line {number}: {line[:60]}"


@EVERY
def test_links_and_pictures_lead_somewhere(page):
    assert broken_links(page.read_text(), page) == []


@EVERY
def test_imports_and_api_entries_exist(page):
    assert missing_names(page.read_text()) == []


@EVERY
def test_commands_have_their_options_and_keys(page):
    """Also those that no test runs, such as jobs on a cluster."""
    if page.parent == DOCS:
        lines = [block.text for block in read_blocks(page) if block.language == "bash"]
    else:
        lines = re.findall(r"(?:^    .*\n)+", page.read_text(), re.MULTILINE)
    for block in lines:
        for command in commands(textwrap.dedent(block)):
            assert wrong_words(command) == [], command


@EVERY
def test_keys_of_recipes_exist(page):
    if page.name in OTHERS:
        return
    text = page.read_text()
    assert wrong_keys(text) == []
    for block in read_blocks(page):
        if block.language == "yaml":
            keys = nested_keys(yaml.safe_load(block.text))
            assert [key for key in keys if not known(key)] == [], block


def test_the_tutorial_text_gives_the_numbers_of_its_code():
    """Numbers in sentences are those of the defaults and of the blocks that the sentences describe."""
    text = re.sub(r"\s+", " ", (DOCS / "tutorial.md").read_text())
    names: dict = {}
    for block in read_blocks(DOCS / "tutorial.md"):
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                    names[name] = value
    unipc = re.search(r"UniPC: (\d+) evaluations", text)
    assert unipc is not None
    for sentence in (
        f"with beta rising from {VP().beta_min} to {VP().beta_max:g}.",
        f"Training starts at t = {VP().train_floor:g}".replace("1e-05", "1e-5"),
        f"Encoding starts at t = {VP().train_floor:g}".replace("1e-05", "1e-5"),
        f"UniPC, needs about {unipc[1]} evaluations",
        f"noise sigma_min = {VE().sigma_min:g}, which its process has at t = 0. Beside modes of width {names['STD']} ",
        f"{3 * 32 * 32:,} for a colour image of 32 x 32",
    ):
        assert sentence in text, sentence


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](get-started.md#4-sample) [b](https://a.b/c) ![c](digits.png)", []),
        ("[a](get-start.md)", ["get-start.md"]),
        ("![a](digit.png)", ["digit.png"]),
        ("[a](get-started.md#sample)", ["get-started.md#sample"]),
    ],
)
def test_a_broken_link_is_found(text, wrong):
    assert broken_links(text, DOCS / "index.md") == wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from raysde.sde import VP, VE  # two\n::: raysde.sde.vp.VP\n", []),
        ("from raysde.sde import (\n    VP,\n    VPSDE,\n)\n", ["raysde.sde.VPSDE"]),
        ("    from raysde.sdes import VP\n", ["raysde.sdes.VP"]),
        ("::: raysde.sde.vp.Vp\n", ["raysde.sde.vp.Vp"]),
    ],
)
def test_a_missing_name_is_found(text, wrong):
    assert missing_names(text) == wrong


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("raysde sample models:/a@b --path 8", []),
        ("raysde sample models:/a@b --paths 8", ["--paths", "8"]),
        ("ray job submit --working-dir . -- python jobs/train.py a train.lr=1 \\\n    train.lrs=1", ["train.lrs=1"]),
        ("torchrun -m raysde.cli train a --no-rays resources.workers=2", ["--no-rays"]),
        ("raysde tune a --over 'sde.kinds=[vp,ve]' --trials 2", ["sde.kinds=[vp,ve]"]),
        ("python jobs/tune_sampler.py m --data d steps=1,2", []),
        ("raysde tune-sampler m --data d step=1,2", ["step=1,2"]),
    ],
)
def test_a_wrong_option_or_key_of_a_command_is_found(line, wrong):
    (command,) = commands(line)
    assert wrong_words(command) == wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`train.lr=1e-3`, `sde.kind`, `data.json`, `np.linspace`, `network.config.width=3`", []),
        ("`train.learning_rate=1e-3`", ["train.learning_rate"]),
        ("`sde.betas`", ["sde.betas"]),
    ],
)
def test_a_wrong_key_in_running_text_is_found(text, wrong):
    assert wrong_keys(text) == wrong
