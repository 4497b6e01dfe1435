"""The package as it is installed: its version, its checks, its archives, and its demo in an empty folder."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import raysde
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_has_one_source():
    """The package's own; the metadata are made from it, and the changelog has a section for it."""
    assert "version" in PROJECT["dynamic"]
    assert f"## {raysde.__version__} (" in (ROOT / "CHANGELOG.md").read_text()
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_commits_are_checked_as_make_lint_checks():
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    asked = [line.strip().removesuffix(" .") for line in lint.splitlines()[1:]]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"].replace(".venv/bin", "$(BIN)") for hook in local["hooks"]] == asked
    assert local["repo"] == "local"


def test_the_citation_says_what_the_package_says():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["license"] == PROJECT["license"] == "Apache-2.0"
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert {"cff-version", "message", "title"} <= set(cited)
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def tree_of_the_readme() -> dict[str, list[str]]:
    """Return the entries of the README's tree below each of its folders."""
    page = (ROOT / "README.md").read_text().partition("## What is where\n")[2].partition("\n| To change")[0]
    found: dict[str, list[str]] = {"": []}
    for line in page.strip("\n").splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2 - 2, line.split()[0]
        above = "" if depth == 0 else "raysde/"
        found.setdefault(above, []).append(name)
    return found


def test_the_tree_of_the_readme_is_that_of_the_project():
    """An entry a line; every package and module at the top of raysde/, but for what every package has."""
    tree = tree_of_the_readme()
    here = {f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / "raysde").iterdir()}
    assert set(tree["raysde/"]) == here - {"__init__.py", "py.typed", "__pycache__/"}
    assert all((ROOT / name).exists() for name in tree[""])


def test_the_wheel_takes_all_files_of_the_package():
    """Each file beside the modules, such as a recipe, fits a pattern of the package data."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    given = project["tool"]["setuptools"]["package-data"]
    packed = {path for name, patterns in given.items() for each in patterns
              for path in (ROOT / name.replace(".", "/")).glob(each)}  # fmt: skip
    files = {path for path in (ROOT / "raysde").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files <= packed
    assert len(files) > 10


def test_the_set_up_pins_every_dependency():
    """Direct ones, of the package and of its extras for tests, lint and docs."""
    pins = {
        re.sub("[._]", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(each for name in ("test", "lint", "docs", "dev") for each in extras[name])]
    names = {re.sub("[._]", "-", re.split(r"[\[<>=~; ]", each)[0]).lower() for each in wanted} - {"raysde"}
    assert {name for name in names if name not in pins} == set()


def test_what_the_readme_names_exists():
    """Paths in the table of what to change, names in the modules that it gives, and linked pages."""
    page = (ROOT / "README.md").read_text()
    rows = page.partition("| To change | open |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert len(rows) > 15
    for row in rows:
        words = re.findall(r"`([^`]+)`", row)
        paths = [word for word in words if word.startswith("raysde/")]
        assert paths, row
        assert all((ROOT / path).exists() for path in paths), row
        files = [
            file for path in paths for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).glob("*.py"))
        ]
        text = "\n".join(file.read_text() for file in files)
        for word in set(words) - set(paths):
            assert re.search(rf"\b{word}\b", text) or (ROOT / paths[0] / word).exists(), row
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / link).exists(), link


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what git has of the project, without what earlier builds left."""
    folder = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    """Return the archive of a kind, built where torch cannot be imported."""
    (out / "without").mkdir(parents=True)
    (out / "without" / "torch.py").write_text("raise ImportError('the build imported torch')")
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out / "dist"), str(source)]
    above = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(out / "without"), *above])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "would be ignored" not in done.stdout + done.stderr, done.stderr
    (archive,) = (out / "dist").iterdir()
    return archive


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    return build(tree, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel, tree):
    """Every file of raysde/, byte for byte, and metadata with the version, the licence and the README."""
    found = contents(wheel)
    info = f"raysde-{raysde.__version__}.dist-info"
    files = {name: text for name, text in found.items() if not name.startswith(f"{info}/")}
    kept = {path.relative_to(tree).as_posix(): path.read_bytes() for path in (tree / "raysde").rglob("*")
            if path.is_file()}  # fmt: skip
    assert files == kept
    metadata = Parser().parsestr(found[f"{info}/METADATA"].decode())
    assert (metadata["Name"], metadata["Version"]) == ("raysde", raysde.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert found[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(wheel, tree, tmp_path):
    with tarfile.open(build(tree, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build(unpacked, "wheel", tmp_path / "again")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)
    assert {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "constraints.txt", "docs", "jobs",
            "tests"} <= {path.name for path in unpacked.iterdir()}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_runs_from_the_wheel_in_an_empty_folder(wheel, tmp_path):
    """Digits that the model draws from prompts are read by a judge that saw real ones alone."""
    place, home, folder = tmp_path / "venv", tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    folder.mkdir()
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RAY_", "MLFLOW_"))}
    kept.pop("OMP_NUM_THREADS", None)
    environment = {**kept, "HOME": str(home), "PATH": f"{place / 'bin'}{os.pathsep}{kept['PATH']}"}
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], env=environment, check=True)
    # the libraries come from the environment of this test; a .pth file of theirs, such as that of an editable raysde,
    # is not read from there
    (site,) = place.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))

    def raysde_command(*words: str) -> str:
        command = [str(place / "bin" / "raysde"), *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        print(f"{done.stdout}{done.stderr}", flush=True)
        assert done.returncode == 0, words
        return done.stdout

    where = subprocess.run(
        [str(python), "-c", "import raysde; print(raysde.__file__)"], cwd=folder, env=environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    assert f"raysde {raysde.__version__}, " in raysde_command("--version")
    said = raysde_command("demo")
    assert float(re.search(r"^prompt accuracy (\d\.\d+)", said, flags=re.MULTILINE)[1]) >= 0.97
    assert {path.name for path in folder.iterdir()} == {"out"}
