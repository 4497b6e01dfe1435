"""Built-in recipes, sweeps and class names: found by name, by the path that they had, and after the user's own files."""

import shutil

import pytest

from raysde.cli import main
from raysde.config import load_recipe
from raysde.config.builtin import KINDS, list_builtin, resolve_builtin
from raysde.tuning.training.settings import read_settings
from tests.support.command_line import refused


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_printed(capsys, *words: str) -> list[str]:
    assert main(["recipes", *words]) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_recipes_and_sweeps_are_found_by_name():
    assert load_recipe("digits").name == "digits"
    assert load_recipe("digits", ["train.lr=0.5"]).train.lr == 0.5
    assert read_settings("digits", [], {}).scheduler == "asha"


@pytest.mark.parametrize("given", ["digits", "jobs/configs/digits.yaml"])
def test_a_file_of_the_users_takes_precedence(empty, given, capsys):
    (empty / given).parent.mkdir(parents=True, exist_ok=True)
    (empty / given).write_text("{name: mine, data: {path: shards}}")
    assert load_recipe(given).name == "mine"
    assert capsys.readouterr().err == ""


def test_a_folder_of_that_name_does_not(empty):
    """Shards are often kept in a folder that is called as the recipe."""
    (empty / "digits").mkdir()
    assert load_recipe("digits").name == "digits"


@pytest.mark.parametrize("root", ["", "./", "/gone/clone/", "~/gone/"])
def test_former_paths_work_with_one_line_that_names_the_new_way(root, capsys):
    """The files below jobs/ moved into the package; scripts that name them go on working."""
    for kind, former in (
        ("recipe", "jobs/configs/{}.yaml"),
        ("sweep", "jobs/sweeps/{}.yaml"),
        ("list of class names", "jobs/configs/{}.txt"),
    ):
        for name, path in list_builtin(kind).items():
            given = root + former.format(name)
            assert resolve_builtin(kind, given) == path
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"{given}: ")
            assert f"write {name} " in line
    assert load_recipe(f"{root}jobs/configs/digits.yaml") == load_recipe("digits")


@pytest.mark.parametrize(
    "given",
    ["configs/digits.yaml", "jobs/digits.yaml", "jobs/sweeps/digits.yaml", "jobs/configs/digits.yml", "digits.yaml",
     "jobs/configs/digits.txt", "recipes/digits", "s3://bucket/jobs/configs/mine.yaml", "x" * 300, "~nobody-at-all/digits"],
)  # fmt: skip
def test_other_paths_stand_for_themselves(given, capsys):
    assert resolve_builtin("recipe", given) == given
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["train", "tune", "plan", "config", "demo"])
def test_a_wrong_name_lists_the_built_in_recipes(capsys, command):
    words = {"plan": ["digitz", "--step", "1"], "demo": ["--recipe", "digitz"]}.get(command, ["digitz"])
    said = refused(capsys, command, *words)
    assert said.startswith("raysde: recipe digitz cannot be read: No such file or directory; built-in names: ")
    assert said.strip().endswith("; did you mean digits?")
    assert all(name in said for name in list_builtin("recipe"))
    assert "; built-in names: digits" in refused(capsys, "tune", "digits", "--sweep", "swep")


def test_every_command_that_reads_a_recipe_takes_a_name(capsys):
    """Each gets as far as the data that are not there."""
    (line,) = [line for line in names_of_config(capsys, "digits") if line.startswith("name=")]
    assert line == 'name="digits"'
    for words in (["train", "digits"], ["train", "digits", "--no-ray"], ["plan", "digits", "--step", "1"]):
        assert "data.path" in refused(capsys, *words, "data.path=nowhere")
    assert "data.path" in refused(capsys, "tune", "digits", "--sweep", "digits", "data.path=nowhere")


def names_of_config(capsys, name: str) -> list[str]:
    assert main(["config", name]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_path_that_cannot_be_looked_up_is_named(capsys):
    assert "cannot be read: File name too long" in refused(capsys, "config", "x" * 300)


def test_recipes_are_listed_each_with_a_sentence(capsys):
    assert names_printed(capsys) == sorted(list_builtin("recipe"))
    assert names_printed(capsys, "--sweep") == sorted(list_builtin("sweep"))
    assert main(["recipes"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert line[22].isupper(), line
        assert line.endswith("."), line


def test_a_printed_recipe_is_the_file_and_can_be_trained(empty, capsys):
    for kind, more in (("recipe", []), ("sweep", ["--sweep"])):
        for name, path in list_builtin(kind).items():
            assert main(["recipes", name, *more]) == 0
            assert capsys.readouterr().out == path.read_text()
    shutil.copy(list_builtin("recipe")["digits"], empty / "mine.yaml")
    assert load_recipe("mine.yaml") == load_recipe("digits")


def test_only_built_in_recipes_are_printed(empty, capsys):
    """`raysde recipes digits > digits` empties a file of that name before it is read."""
    (empty / "digits").write_text("")
    assert main(["recipes", "digits"]) == 0
    assert capsys.readouterr().out == list_builtin("recipe")["digits"].read_text()
    (empty / "mine.yaml").write_text("name: mine")
    assert "recipe mine.yaml is not built in; built-in names: " in refused(capsys, "recipes", "mine.yaml")
    assert "did you mean digits?" in refused(capsys, "recipes", "digit")


def test_class_names_are_found_by_name(empty, capsys, monkeypatch):
    """`raysde ingest --label-names fashion-mnist` opens the source with the built-in list."""
    opened = {}

    def open_source(source, **settings):
        opened.update(settings)
        raise ValueError("enough")

    monkeypatch.setattr("raysde.data.ingest.sources.open_source", open_source)
    refused(capsys, "ingest", "source", "shards", "--label-names", "fashion-mnist")
    assert opened["label_names"] == str(list_builtin("list of class names")["fashion-mnist"])
    refused(capsys, "ingest", "source", "shards", "--label-names", "s3://bucket/names.txt")
    assert opened["label_names"] == "s3://bucket/names.txt"


def test_every_kind_has_files():
    assert all(list_builtin(kind) for kind in KINDS)
