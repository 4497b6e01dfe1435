"""Paths in a recipe mean the same in every process."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from raysde.checkpoints import checkpoint
from raysde.cli import find_factories
from raysde.config import loading, places, reference
from raysde.io.filesystems import resolve_folder_or_name
from raysde.runs.run import check_resumable, open_run
from raysde.tuning.training.ledger import Ledger
from tests.support.command_line import refused


def test_every_key_that_holds_a_place_is_known():
    """Find the keys by the words folder, URI or path in the reference; a factory is a Python name."""
    lines = reference.format_reference().splitlines()
    said = {line.split()[0] for line in lines if line and not line.startswith(("#", " "))}
    named = {
        key for key in said if key.rpartition(".")[2] in ("path", "uri", "storage", "vae", "folder", "file", "cache")
    }
    assert named == set(places.PLACES)
    assert said >= named


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///rel.db", "sqlite:///{here}/rel.db"),
        ("sqlite:///a/b/../rel.db?timeout=3", "sqlite:///{here}/a/b/../rel.db?timeout=3"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite+pysqlite:///rel.db", "sqlite+pysqlite:///{here}/rel.db"),
        ("sqlite:///~/m.db", "sqlite:///{home}/m.db"),
        ("http://server:5000", "http://server:5000"),
        ("postgresql://user@host/rel.db", "postgresql://user@host/rel.db"),
        ("sqlite://", "sqlite://"),
    ],
)
def test_a_database_is_a_file_below_the_working_folder(tmp_path, monkeypatch, uri, expected):
    monkeypatch.chdir(tmp_path)
    assert places.resolve_database(uri) == expected.format(here=tmp_path, home=Path.home())
    assert places.resolve_database(places.resolve_database(uri)) == places.resolve_database(uri)


def test_a_model_is_a_folder_if_there_is_one(tmp_path, monkeypatch):
    """A folder comes before a name of the hub, as in transformers and diffusers; else the name is unchanged."""
    monkeypatch.chdir(tmp_path)
    assert resolve_folder_or_name("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    (tmp_path / "google-bert/bert-base-uncased").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("google-bert/bert-base-uncased", "./google-bert/bert-base-uncased", "~/google-bert/bert-base-uncased"):
        assert resolve_folder_or_name(name) == f"{tmp_path}/google-bert/bert-base-uncased"


def test_an_absolute_recipe_is_the_same_from_every_folder(recipe, tmp_path, monkeypatch):
    for name in ("here", "there", "here/encoder", "here/vae"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given = {"storage": "runs", "data__path": "shards", "tracking__uri": "sqlite:///m.db", "latent": {"vae": "vae"},
             "text": {"kind": "pretrained", "path": "encoder"}}  # fmt: skip
    found = places.resolve_places(loading.parse_recipe(recipe(**given)))
    flat = found.flat()
    here = f"{tmp_path}/here"
    assert {key: flat[key] for key in places.PLACES} == {
        "storage": f"{here}/runs", "data.path": f"{here}/shards", "text.path": f"{here}/encoder",
        "latent.vae": f"{here}/vae", "tracking.uri": f"sqlite:///{here}/m.db"}  # fmt: skip
    monkeypatch.chdir(tmp_path / "there")
    assert places.resolve_places(found) == found
    tree = {"data": {"path": "s3://bucket/shards"}, "text": None, "name": "a"}
    assert places.resolve_places_in_tree(tree) == tree


def test_a_run_from_before_places_were_absolute_goes_on(recipe, tmp_path, monkeypatch):
    """The checkpoint has the relative path `encoder`, the recipe an absolute one; another encoder is another run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    run = open_run(loading.parse_recipe(recipe()))
    data = {**run.data_identity, "microbatch": run.plan.microbatch}

    def found(path: str) -> checkpoint.Description:
        return checkpoint.Description(run.spec, {"step": 1}, {**run.config.flat(), "text.path": path}, data, {}, {})

    monkeypatch.setattr(type(run.config), "flat", lambda self: {**flat(self), "text.path": f"{tmp_path}/encoder"})
    check_resumable(run, found("encoder"))
    with pytest.raises(ValueError, match=r"text\.path=other"):
        check_resumable(run, found("other"))
    ledger = {"recipe": {"text.path": "encoder"}}
    Ledger(str(tmp_path / "sweep"), ledger)
    Ledger(str(tmp_path / "sweep"), {"recipe": {"text.path": f"{tmp_path}/encoder"}})
    with pytest.raises(ValueError, match=r"recipe text\.path"):
        Ledger(str(tmp_path / "sweep"), {"recipe": {"text.path": f"{tmp_path}/other"}})


flat = loading.RunConfig.flat


def test_a_factory_is_found_in_the_working_folder(capsys, digits, recipe, tmp_path, monkeypatch):
    """Ray's workers find it there, also if Python's path has only the script's folder."""
    (tmp_path / "nets_of_mine.py").write_text("class Net:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    tree = recipe(network={"kind": "external", "factory": "nets_of_mine:Other"}, text=None)
    (tmp_path / "recipe.yaml").write_text(loading.dump_yaml(tree))
    said = refused(capsys, "train", "recipe.yaml", "--no-ray")
    assert "module 'nets_of_mine' has no attribute 'Other'" in said


def test_a_file_in_the_working_folder_does_not_stand_for_a_library_of_its_name(tmp_path, monkeypatch):
    """A user's copy.py or tokenizers.py beside the recipe leaves the library's import alone."""
    (tmp_path / "colorsys.py").write_text("")
    (tmp_path / "colours_of_mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    find_factories()
    found = {name: PathFinder.find_spec(name, sys.path).origin for name in ("colorsys", "colours_of_mine")}
    assert found["colours_of_mine"] == str(tmp_path / "colours_of_mine.py")
    assert found["colorsys"] != str(tmp_path / "colorsys.py")
