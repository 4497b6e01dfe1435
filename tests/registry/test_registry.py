"""The model registry: registration, aliases, the gate between candidate and champion, and the table of all models."""

import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file

from raysde import registry
from raysde.checkpoints import checkpoint
from raysde.cli import build_parser, main
from raysde.config import loading
from raysde.config.names import check_name, check_sweep_name
from raysde.evaluation.metric import Metric, compute_margin, describe_mismatch, parse_metric
from raysde.evaluation.report import Subject, choose_figure, read_report
from raysde.registry.description import describe_version
from raysde.registry.promotion import recorded_figures
from raysde.tracking import Input, connect_client, find_or_create_experiment, open_mlflow_run
from tests.support.command_line import refused
from tests.support.full_disk import small_files
from tests.support.models import caption_spec, filled_model

FID = {"metric": "fid", "value": 12.0, "low": 11.5, "high": 12.5, "samples": 5000, "seed": 0, "features": "f", "data": "d"}  # fmt: skip
ACCURACY = {"metric": "accuracy", "value": 0.9, "low": 0.88, "high": 0.92, "samples": 500, "seed": 0, "features": "c", "data": "d"}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """Return checkpoints of untrained models with different weights."""
    place = tmp_path_factory.mktemp("models")
    return [write_checkpoint(place / str(number), number) for number in range(3)]


def write_checkpoint(folder: Path, number: int) -> str:
    folder.mkdir()
    model = filled_model(text=None)
    next(model.parameters()).data += 0.01 * number
    save_file(checkpoint.complete_weights(model), folder / "ema.safetensors")
    checkpoint.write_description(folder, caption_spec(text=None), {"step": 10 * number}, {}, {})
    return str(folder)


@pytest.fixture
def uri(tmp_path, monkeypatch, empty_store) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    found = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found)
    return found


@pytest.fixture
def client(uri):
    return connect_client(uri)


def report(tmp_path, *entries: dict) -> str:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(entries))
    return str(path)


def fid(value: float, half: float = 0.5, **changes) -> dict:
    return {**FID, "value": value, "low": value - half, "high": value + half, **changes}


@pytest.fixture
def two(client, folders, tmp_path) -> str:
    """Register versions 1 and 2 of digits; the first is the champion with a FID of 12.0 [11.5, 12.5]."""
    for folder in folders[:2]:
        assert main(["register", folder, "--name", "digits"]) == 0
    assert main(["promote", "models:/digits/1", "--report", report(tmp_path, fid(12.0))]) == 0
    return "models:/digits@candidate"


def champion(client) -> str:
    return str(client.get_registered_model("digits").aliases["champion"])


def tags(client, version: int) -> dict[str, str]:
    found = client.get_model_version("digits", str(version)).tags
    return {key.removeprefix("raysde.gate."): value for key, value in found.items() if "gate" in key}


# registration


def test_a_checkpoint_is_registered_once(client, folders, capsys):
    """The same weights are the same version; other weights are a new version and get the alias."""
    first, second = folders[:2]
    for folder in (first, first, second):
        assert main(["register", folder, "--name", "digits"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"models:/digits/{number} is candidate" for number in (1, 1, 2)]
    aliases = client.get_registered_model("digits").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"candidate": 2}
    assert main(["register", "models:/digits/1", "--alias", "old"]) == 0
    assert registry.list_aliases(client, "digits") == {"candidate": "2", "old": "1"}


def test_a_registered_model_is_found_by_every_name(client, uri, folders, tmp_path):
    """models:/NAME@ALIAS, models:/NAME/VERSION, the run's id and the folder give the same weights."""
    first, second = folders[:2]
    run_id = open_mlflow_run(client, "e", "r", {}, (tmp_path / "artifacts").as_uri())
    registry.publish_checkpoint(client, Path(first), run_id=run_id, name="digits", alias="old")
    registry.publish_checkpoint(client, Path(second), run_id=None, name="digits", alias="new")
    for source, folder in [("models:/digits@old", first), ("models:/digits/1", first), (run_id, first), (first, first),
                           ("models:/digits@new", second), ("models:/digits/2", second)]:  # fmt: skip
        found = checkpoint.read_description(registry.resolve_source(source, uri)).files
        assert found == checkpoint.read_description(Path(folder)).files
    assert int(registry.register_model(client, run_id, name="digits", alias=None).version) == 1
    one, two = (checkpoint.read_description(Path(folder)).files["ema.safetensors"] for folder in (first, second))
    for source, subject in [
        ("models:/digits@old", Subject("models:/digits@old", one, 0, "digits", "1", run_id)),
        ("models:/digits/2", Subject("models:/digits/2", two, 10, "digits", "2")),
        (run_id, Subject(run_id, one, 0, run_id=run_id)),
        (second, Subject(second, two, 10)),
    ]:
        assert registry.resolve_with_subject(source, uri)[1] == subject
    assert registry.load("models:/digits@old", tracking_uri=uri).sample(n=1, steps=1).images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(("whose", "work"), [(checkpoint, "export_checkpoint"), (MlflowClient, "log_model_artifacts")])
def test_a_full_disk_under_a_model_is_named(client, folders, tmp_path, monkeypatch, whose, work):
    """The disk is full for the first copy, or for the store's copy; the database has room."""
    plain = getattr(whose, work)

    def limited(*given):
        with small_files():
            plain(*given)

    monkeypatch.setattr(whose, work, limited)
    with pytest.raises(OSError, match=r"^the model( digits)? cannot be written to (/|file://)\S+: .*File too large"):
        registry.publish_checkpoint(client, Path(folders[0]), run_id=None, name="digits", alias=None)


@pytest.mark.parametrize("name", ["digits.v2", "a.b-c_1", "2026.10.17", "a..b", "x" * 200])
def test_every_name_that_a_run_may_have_can_be_registered(client, uri, folders, name):
    """Names that MLflow refuses are refused before training, so no registration fails after it."""
    assert (
        check_name(name, "name")
        == loading.parse_recipe({"name": name, "data": {"path": "x"}, "train": {"length": {"steps": 1}}}).model_name
    )
    assert registry.publish_checkpoint(client, Path(folders[0]), run_id=None, name=name, alias="new") == "1"
    assert registry.publish_checkpoint(client, Path(folders[0]), run_id=None, name=name, alias="new") == "1"
    found = checkpoint.read_description(registry.resolve_source(f"models:/{name}@new", uri)).files
    assert found == checkpoint.read_description(Path(folders[0])).files


@pytest.mark.parametrize("name", ["a:b", "a/b", "models:/x", "a\nb", "..", "", "my digits", "100%"])
def test_names_that_mlflow_refuses_are_refused_first(client, name):
    """MLflow's own check defines these names."""
    with pytest.raises(ValueError, match="must be of letters"):
        check_name(name, "name")
    if set(name) & set("/:"):
        with pytest.raises(MlflowException):
            client.create_registered_model(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [("foo.", "foo"), ("my digits", "my-digits"), ("Ziffern\u00df", "Ziffern"), ("a/b:c", "a-b-c"), ("_x", "x")],
)
def test_a_name_that_is_refused_comes_with_one_near_it(name, near):
    """The error proposes a valid name, for name and for register_as of a recipe."""
    tree = {"name": "fine", "data": {"path": "x"}, "train": {"length": {"steps": 1}}}
    for changed in ({"name": name}, {"tracking": {"register_as": name}}):
        with pytest.raises(ValueError, match=f"{re.escape(repr(name))}.*such as '{near}'"):
            loading.parse_recipe({**tree, **changed})
    assert loading.parse_recipe({**tree, "name": near}).name == near


@pytest.mark.parametrize("name", ["foo.", "my digits", "a/b", "x" * 201])
def test_a_name_of_the_command_line_is_refused_before_anything_is_logged(client, folders, name, capsys):
    assert "--name" in refused(capsys, "register", folders[0], "--name", name)
    assert client.search_logged_models([each.experiment_id for each in client.search_experiments()]) == []
    assert registry.list_registered_models(client) == []


def test_a_sweep_is_called_so_that_its_trials_can_be(recipe):
    """The longest valid name of a sweep gives valid names of trials and of the best recipe; a longer one is refused."""
    name = "x" * 193
    assert check_sweep_name(name, "--name") == name
    for made in (f"{name}-000", f"{name}-999999", f"{name}-best"):
        assert loading.parse_recipe(recipe(name=made)).name == made
    for bad in ("x" * 194, "foo.", "a b"):
        with pytest.raises(ValueError, match=r"^--name"):
            check_sweep_name(bad, "--name")


def test_the_name_of_a_prompt_is_no_models(client, folders, capsys):
    """MLflow stores prompts in the same table, and would treat a model's version as the prompt's second."""
    client.register_prompt(name="digits", template="draw {{digit}}")
    assert "has a prompt named 'digits'" in refused(capsys, "register", folders[0], "--name", "digits")
    with pytest.raises(ValueError, match="prompt named 'digits'"):
        registry.check_model_name(client, "digits")
    registry.check_model_name(client, "letters")
    assert client.get_prompt_version("digits", "1").template == "draw {{digit}}"
    assert client.search_model_versions("name = 'digits'") == []


def test_a_store_that_tells_no_capitals_apart_is_explained(client, folders, monkeypatch):
    """MySQL finds `digits` in a query for `Digits`."""
    client.create_registered_model("digits")
    asked = type(client).get_registered_model
    monkeypatch.setattr(type(client), "get_registered_model", lambda self, name: asked(self, name.lower()))
    with pytest.raises(ValueError, match="holds a model 'digits' and takes 'Digits' for the same name"):
        registry.publish_checkpoint(client, Path(folders[0]), run_id=None, name="Digits", alias=None)
    assert client.search_logged_models([each.experiment_id for each in client.search_experiments()]) == []
    registry.check_model_name(client, "digits")


def test_an_alias_too_long_for_the_database_is_refused_first(client, folders, capsys):
    with pytest.raises(MlflowException):
        client.set_registered_model_alias("digits", "x" * 256, "1")
    assert "256 characters" in refused(capsys, "register", folders[0], "--name", "digits", "--alias", "x" * 256)
    assert registry.list_registered_models(client) == []
    with pytest.raises(ValueError, match="experiment"):
        loading.parse_recipe({"name": "a", "data": {"path": "x"}, "tracking": {"experiment": "x" * 501}})


@pytest.mark.parametrize("killed", ["log_model_artifacts", "finalize_logged_model", "create_model_version"])
@pytest.mark.parametrize("of_a_run", [True, False])
def test_a_kill_while_a_version_is_made_leaves_one_logged_model(
    client, uri, folders, tmp_path, monkeypatch, killed, of_a_run
):
    """The kill comes before the files exist, before the model is marked as ready, or before the version; the next
    process completes it."""
    run_id = open_mlflow_run(client, "raysde", "r", {}, (tmp_path / "artifacts").as_uri()) if of_a_run else None
    real = getattr(type(client), killed)

    def dies(self, *arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(client), killed, dies)
    with pytest.raises(KeyboardInterrupt):
        registry.publish_checkpoint(client, Path(folders[0]), run_id=run_id, name="digits.v2", alias="new")
    monkeypatch.setattr(type(client), killed, real)
    for _ in range(2):
        assert (
            registry.publish_checkpoint(client, Path(folders[0]), run_id=run_id, name="digits.v2", alias="new") == "1"
        )
    (logged,) = client.search_logged_models([client.get_experiment_by_name("raysde").experiment_id])
    assert (str(logged.status), logged.source_run_id or None) == ("READY", run_id)
    found = registry.load("models:/digits.v2@new", tracking_uri=uri)
    assert found.spec == checkpoint.read_description(Path(folders[0])).spec
    registry.publish_checkpoint(client, Path(folders[1]), run_id=run_id, name="digits.v2", alias="new")
    registry.publish_checkpoint(client, Path(folders[0]), run_id=run_id, name="letters", alias="new")
    assert len(client.search_logged_models([logged.experiment_id])) == 3


RECIPE_KEYS = {"train.lr": 0.001, "sde.kind": "vp", "storage": "/secret/runs", "sampling.prompts": ['a red "7"']}


def test_a_version_says_what_it_is(client, uri, tmp_path):
    """The description has its data, recipe, newest grid and a sampling command that raysde accepts."""
    run_id = open_mlflow_run(client, "e", "r", {}, (tmp_path / "artifacts").as_uri())
    for step in (5, 40):
        client.log_image(run_id, np.zeros((2, 2), np.uint8), artifact_file=f"samples/grid-{step:07d}.png")
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(checkpoint.complete_weights(filled_model(text=None)), folder / "ema.safetensors")
    data = {"path": "s3://bucket/photos", "fingerprint": "0123456789abcdef", "rows": 61}
    checkpoint.write_description(folder, caption_spec(text=None), {"step": 40}, RECIPE_KEYS, data)
    registry.publish_checkpoint(client, folder, run_id=run_id, name="digits", alias=None)
    said = client.get_model_version("digits", "1").description
    for part in ("s3://bucket/photos", "61 rows", "0123456789abcdef", "train.lr=0.001", "after 40 steps"):
        assert part in said
    assert "/secret/runs" not in said
    (link,) = re.findall(r"!\[samples\]\(get-artifact\?(.*)\)", said)
    assert parse_qs(link) == {"path": ["samples/grid-0000040.png"], "run_uuid": [run_id]}
    (line,) = [line for line in said.splitlines() if "raysde sample" in line]
    asked = build_parser().parse_args(shlex.split(line)[1:])
    assert (asked.model, asked.n) == ("models:/digits/1", 16)
    client.update_model_version("digits", "1", "ours")
    registry.publish_checkpoint(client, folder, run_id=run_id, name="digits", alias=None)
    assert client.get_model_version("digits", "1").description == "ours"


@pytest.mark.parametrize(
    ("changes", "recipe", "expected"),
    [
        ({}, {"sampling.prompts": ['a red "7"', "b"], "sampling.guidance": 2.0}, ["--prompt", 'a red "7"', "--guidance", "2.0"]),
        ({"text": None, "classes": 2, "class_names": ("cat", "big dog")}, {}, ["--label", "cat"]),
        ({"text": None, "classes": 2, "class_names": ("cat", "big dog")}, {"sampling.labels": ["big dog"]}, ["--label", "big dog"]),
        ({"text": None}, {"sampling.guidance": 1.0, "train.note": "x" * 9000}, []),
    ],
)  # fmt: skip
def test_the_command_of_a_version_asks_for_what_its_model_knows(changes, recipe, expected):
    """The description is cut to the database's length, in whole lines and after the command."""
    found = checkpoint.Description(caption_spec(**changes), {"step": 1}, recipe, {}, {}, {})
    said = describe_version("digits", "3", found)
    (line,) = [line for line in said.splitlines() if "raysde sample" in line]
    assert shlex.split(line) == ["raysde", "sample", "models:/digits/3", "-n", "16", *expected]
    assert len(said) <= 5000
    build_parser().parse_args(shlex.split(line)[1:])


def test_figures_are_metrics_of_the_run(client, folders, tmp_path):
    """They are logged once at the checkpoint's step, with the ends of their intervals, also for names that MLflow
    refuses."""
    run_id = open_mlflow_run(client, "e", "r", {}, (tmp_path / "artifacts").as_uri())
    registry.publish_checkpoint(client, Path(folders[2]), run_id=run_id, name="digits", alias=None)
    odd = {**FID, "metric": "fid:5k ours/x", "value": 3.0, "low": 2.0, "high": 4.0}
    for _ in range(2):
        assert main(["register", "models:/digits/1", "--report", report(tmp_path, fid(12.0), odd)]) == 0
    assert client.get_run(run_id).data.metrics == {
        "figures/fid": 12.0, "figures/fid/low": 11.5, "figures/fid/high": 12.5, "figures/fid-5k ours-x": 3.0,
        "figures/fid-5k ours-x/low": 2.0, "figures/fid-5k ours-x/high": 4.0}  # fmt: skip
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "figures/fid")] == [(20, 12.0)]
    assert main(["promote", "models:/digits/1", "--report", report(tmp_path, fid(11.0))]) == 0
    assert sorted(each.value for each in client.get_metric_history(run_id, "figures/fid")) == [11.0, 12.0]
    client.delete_run(run_id)
    assert main(["register", "models:/digits/1", "--report", report(tmp_path, fid(10.0))]) == 0


@pytest.mark.parametrize("metric", ["fid@5k", "a//b", "/fid", "", "fid\n", "x" * 201, "\u03b1"])
def test_a_figure_that_no_tag_can_hold_is_refused_before_anything_is_registered(
    client, folders, tmp_path, capsys, metric
):
    """MLflow's own check of a tag's key agrees."""
    said = refused(
        capsys, "register", folders[0], "--name", "digits", "--report", report(tmp_path, {**FID, "metric": metric})
    )
    assert "metric" in said
    assert registry.list_registered_models(client) == []


def test_versions_are_in_the_order_of_their_numbers(client, tmp_path, capsys):
    """Version 12 is newer than 9 in Python, in the table, and in the error about a missing version."""
    client.create_registered_model("digits")
    for number in range(12):
        client.create_model_version("digits", source=f"{tmp_path}/{number}", tags={"raysde.step": str(number)})
    assert [int(version.version) for version in registry.list_versions(client, "digits")] == list(range(12, 0, -1))
    assert main(["models", "digits"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        str(number) for number in range(12, 0, -1)
    ]
    assert registry.find_version(client, "models:/digits/10").tags["raysde.step"] == "9"
    with pytest.raises(ValueError, match=r"no version 13; it has 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12$"):
        registry.find_version(client, "models:/digits/13")
    assert registry.list_versions(client, "letters") == []


def test_registering_again_moves_the_alias_back(client, folders):
    """The alias moves to the version with these weights."""
    for folder in (folders[0], folders[1], folders[0]):
        assert main(["register", folder, "--name", "digits"]) == 0
    assert registry.list_aliases(client, "digits") == {"candidate": "1"}
    assert registry.register_model(client, folders[0], name="digits", alias=None).version in (1, "1")
    assert len(registry.list_versions(client, "digits")) == 2


def test_a_run_is_its_newest_model(client, uri, folders, tmp_path):
    """The id of a run with three models gives the last; models of another run in the experiment are ignored."""
    run, other = (open_mlflow_run(client, "e", name, {}, (tmp_path / "artifacts").as_uri()) for name in ("r", "other"))
    for number, folder in enumerate(folders):
        registry.publish_checkpoint(client, Path(folder), run_id=run, name="digits", alias=None)
        assert checkpoint.read_description(registry.resolve_source(run, uri)).step == 10 * number
    registry.publish_checkpoint(client, Path(folders[0]), run_id=other, name="digits", alias=None)
    assert checkpoint.read_description(registry.resolve_source(f"runs:/{run}", uri)).step == 20
    third = open_mlflow_run(client, "e", "third", {}, None)
    with pytest.raises(ValueError, match=f"run {third} has logged no model"):
        registry.resolve_source(third, uri)


@pytest.mark.parametrize(
    ("recipe", "given", "expected"),
    [
        ({"name": "run"}, None, "run"),
        ({"name": "run", "tracking.register_as": "product"}, None, "product"),
        ({"name": "run", "tracking.register_as": None}, None, "run"),
        ({"name": "run", "tracking.register_as": "product"}, "other", "other"),
    ],
)
def test_a_checkpoint_is_called_what_its_recipe_says(client, folders, tmp_path, recipe, given, expected):
    folder = shutil.copytree(folders[0], tmp_path / "named")
    checkpoint.write_description(folder, caption_spec(text=None), {"step": 5}, recipe, {})
    assert registry.register_model(client, str(folder), name=given, alias="best").name == expected
    assert registry.list_aliases(client, expected) == {"best": "1"}


def test_a_model_of_a_recipe_without_a_run_is_in_its_experiment(client, folders, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "named")
    checkpoint.write_description(folder, caption_spec(text=None), {"step": 5}, {"tracking.experiment": "own"}, {})
    registry.register_model(client, str(folder), name="digits", alias=None)
    experiment = client.get_experiment_by_name("own").experiment_id
    (logged,) = client.search_logged_models([experiment])
    assert (logged.name, logged.params["step"], logged.params["sde"]) == ("digits", "5", "vp")
    assert logged.source_run_id is None


def test_versions_that_draw_otherwise_are_others(client, folders, tmp_path):
    """The same weights with sampler settings are a version of their own, registered once."""
    checkpoint.export_with_settings(Path(folders[0]), tmp_path / "settled", {"solver": "unipc", "steps": 4})
    found = [
        registry.register_model(client, str(folder), name="digits", alias=None)
        for folder in (folders[0], tmp_path / "settled", folders[0], tmp_path / "settled")
    ]
    assert [int(version.version) for version in found] == [1, 2, 1, 2]
    assert registry.generation_of(found[0]) == {}
    assert registry.generation_of(found[1]) == {"solver": "unipc", "steps": 4}


def test_the_same_weights_of_two_runs_are_two_versions(client, folders, tmp_path):
    runs = [open_mlflow_run(client, "e", name, {}, (tmp_path / "artifacts").as_uri()) for name in ("a", "b", "a")]
    found = [
        registry.publish_checkpoint(client, Path(folders[0]), run_id=run, name="digits", alias=None) for run in runs
    ]
    assert found == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["register", "{folder}"], "--name"),
        (["register", "{folder}", "--name", "a/b"], "a/b"),
        (["register", "{folder}", "--name", "digits", "--alias", "champion"], "raysde promote"),
        (["register", "models:/digits@king"], "no alias 'king'; it has candidate (version 2), champion (version 1)"),
        (["register", "models:/digits/9"], "no version 9; it has 1, 2"),
        (["register", "models:/digits/1", "--name", "letters"], "'digits' already, not as 'letters'"),
        (["register", "models:/letters/1"], "no model named 'letters' is registered"),
        (["models", "letters"], "there are digits"),
        (["register", "models:/digts/1"], "there are digits; did you mean digits?"),
        (["promote", "models:/digits@championn"], "no alias 'championn'; it has candidate (version 2), champion"),
        (["sample", "models:/digits@championn"], "champion (version 1); did you mean champion?"),
        (
            ["sample", "models:/digits"],
            "models:/NAME/VERSION; did you mean models:/digits@champion or models:/digits@",
        ),
        (["promote", "models:/digits@king"], "no alias 'king'"),
        (["sample", "models:/digits@king"], "no alias 'king'"),
        (["promote", "models:/digits/2"], "has no metrics: give --report"),
        (["promote", "models:/digits/1", "--force", "--reason", "x"], "is the champion already"),
        (["promote", "models:/digits/2", "--force"], "--reason"),
        (["promote", "models:/digits/2", "--force", "--reason", " "], "--reason"),
        (["promote", "models:/digits/2", "--reason", "x"], "--force"),
        (["promote", "models:/digits/2", "--report", "nowhere.json"], "nowhere.json"),
        (["promote", "models:/digits/2", "--force", "--reason", "x", "--alias", "v7"], "'v7' is reserved by MLflow"),
        (["register", "{folder}", "--name", "digits", "--alias", "Latest"], "'Latest' is reserved by MLflow"),
        (["register", "models:/digits/2", "--alias", "a b"], "--alias 'a b' must be of letters"),
        (["sample", "models:/foo:bar@champion"], "must read models:/NAME@ALIAS"),
        (["sample", "0123456789abcdef0123456789abcdef"], "no run 0123456789abcdef0123456789abcdef"),
    ],
)
def test_what_is_not_there_is_named(two, client, folders, capsys, arguments, culprit):
    capsys.readouterr()
    assert culprit in refused(capsys, *(argument.format(folder=folders[2]) for argument in arguments))
    assert champion(client) == "1"
    assert tags(client, 2) == {}
    assert len(registry.list_versions(client, "digits")) == 2


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_version_whose_files_are_gone_is_one_sentence(two, client, tmp_path, capsys, command):
    """It is not the user's mistake, so the exit status is 1."""
    shutil.rmtree(tmp_path / "artifacts")
    more = ["--data", str(tmp_path)] if command == "evaluate" else []
    assert main([command, "models:/digits/1", *more]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("raysde: MLflow at sqlite:///")


def test_an_alias_that_can_be_none_is_refused_before_training(capsys):
    """The recipe is refused, not the registration of the trained model."""
    for alias in ("v1", "latest", "a.b"):
        assert f"tracking.alias: alias '{alias}'" in refused(capsys, "config", "digits", f"tracking.alias={alias}")


def test_a_run_whose_beginning_was_cut_short_gets_the_rest(client, tmp_path, monkeypatch):
    """Params, recipe and data are there once, whenever the server went away."""
    asked = client, "e", "r", {f"key{number}": number for number in range(150)}, (tmp_path / "artifacts").as_uri()
    data = Input("/shards", "abc", 10)
    for method in ("log_batch", "log_dict", "log_inputs"):
        with monkeypatch.context() as context:
            context.setattr(type(client), method, lambda *given, **more: gone())
            with pytest.raises(ConnectionError):
                open_mlflow_run(*asked, data=data)
    run = client.get_run(open_mlflow_run(*asked, data=data))
    assert open_mlflow_run(*asked, data=data) == run.info.run_id
    assert run.data.params == {f"key{number}": str(number) for number in range(150)}
    assert [each.dataset.digest for each in client.get_run(run.info.run_id).inputs.dataset_inputs] == ["abc"]
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["recipe.json"]


def gone():
    raise ConnectionError


# the gate


def test_the_first_promotion_needs_no_rival(two, client):
    """The tags have the metric, its interval and its direction, and no earlier version."""
    assert tags(client, 1) == {"alias": "champion", "metric": "fid", "better": "lower", "value": "12.0", "low": "11.5", "high": "12.5"}  # fmt: skip
    assert recorded_figures(client.get_model_version("digits", "1")) == {"fid": parse_metric(FID, "the figure")}


def test_a_better_candidate_takes_the_alias(two, client, tmp_path):
    """The tags have the metric, the earlier version, and the margin 12.0 - 11.0 with half-width sqrt(0.5^2 + 0.5^2)."""
    assert main(["promote", two, "--report", report(tmp_path, fid(11.0), ACCURACY), "--metric", "fid"]) == 0
    assert champion(client) == "2"
    found = tags(client, 2)
    assert {key: found[key] for key in ("metric", "value", "low", "high", "before")} == {
        "metric": "fid", "value": "11.0", "low": "10.5", "high": "11.5", "before": "1"}  # fmt: skip
    assert float(found["margin"]) == 1.0
    assert float(found["margin_low"]) == pytest.approx(1.0 - math.sqrt(0.5))
    assert float(found["margin_high"]) == pytest.approx(1.0 + math.sqrt(0.5))
    assert set(recorded_figures(client.get_model_version("digits", "2"))) == {"fid", "accuracy"}


def test_each_alias_has_a_gate_of_its_own(two, client, tmp_path):
    """The rival is the holder of the alias that moves, not the champion; a new alias has none."""
    assert main(["promote", "models:/digits/2", "--report", report(tmp_path, fid(50.0)), "--alias", "cheap"]) == 0
    assert registry.list_aliases(client, "digits") == {"candidate": "2", "champion": "1", "cheap": "2"}
    assert "before" not in tags(client, 2)
    assert main(["promote", "models:/digits/1", "--alias", "cheap"]) == 0  # 12.0 against 50.0
    assert registry.list_aliases(client, "digits") == {"candidate": "2", "champion": "1", "cheap": "1"}
    assert (tags(client, 1)["before"], tags(client, 1)["alias"], tags(client, 1)["margin"]) == ("2", "cheap", "38.0")


@pytest.mark.parametrize(("value", "passes"), [(0.92, False), (0.93, True)])
def test_the_margin_counts_both_intervals_where_higher_is_better(client, folders, tmp_path, capsys, value, passes):
    """For 0.9 +- 0.02 and value +- 0.01 the limit is 0.9 + sqrt(0.02^2 + 0.01^2) = 0.9224."""
    for folder in folders[:2]:
        assert main(["register", folder, "--name", "digits"]) == 0
    assert main(["promote", "models:/digits/1", "--report", report(tmp_path, ACCURACY)]) == 0
    mine = {**ACCURACY, "value": value, "low": value - 0.01, "high": value + 0.01}
    order = ["promote", "models:/digits/2", "--report", report(tmp_path, mine)]
    capsys.readouterr()
    if passes:
        assert main(order) == 0
    else:
        assert "not better than the champion" in refused(capsys, *order)
    assert champion(client) == ("2" if passes else "1")


@pytest.mark.parametrize(
    ("candidate", "champions"),
    [(fid(12.0), fid(12.0)), (fid(12.0, 0.0), fid(12.0, 0.0)), (fid(0.0, 0.0), fid(0.0, 0.0))],
)
def test_an_equal_figure_is_not_better(client, folders, tmp_path, capsys, candidate, champions):
    for folder in folders[:2]:
        assert main(["register", folder, "--name", "digits"]) == 0
    assert main(["promote", "models:/digits/1", "--report", report(tmp_path, champions)]) == 0
    capsys.readouterr()
    said = refused(capsys, "promote", "models:/digits/2", "--report", report(tmp_path, candidate))
    assert "not better than the champion" in said


def test_a_metric_that_the_report_or_the_champion_lacks_is_named(two, client, tmp_path, capsys):
    path = report(tmp_path, fid(11.0), ACCURACY)
    capsys.readouterr()
    assert "'kid'; there are accuracy, fid" in refused(capsys, "promote", two, "--report", path, "--metric", "kid")
    said = refused(capsys, "promote", two, "--report", path, "--metric", "accuracy")
    assert "the champion, version 1 of 'digits', has no accuracy to compare with" in said
    assert "accuracy, fid" in refused(capsys, "promote", two, "--report", path)
    assert (champion(client), recorded_figures(client.get_model_version("digits", "2"))) == ("1", {})


@pytest.mark.parametrize(
    ("candidate", "margin"),
    [(fid(11.4), "0.6 [-0.1071, 1.307]"), (fid(12.0), "0 ["), (fid(14.0), "-2 ["), (fid(11.5, half=0.0), "0.5 [0, ")],
)
def test_a_candidate_that_is_not_better_is_refused(two, client, tmp_path, capsys, candidate, margin):
    """11.4 and 11.5 are better than 12.0, but not beyond the intervals; nothing changes."""
    before = client.get_model_version("digits", "2").tags
    said = refused(capsys, "promote", two, "--report", report(tmp_path, candidate))
    assert f"not better than the champion: fid {candidate['value']:.4g}" in said
    assert f"a margin of {margin}" in said
    assert champion(client) == "1"
    assert client.get_model_version("digits", "2").tags == before


def test_figures_of_a_refused_promotion_are_logged(client, folders, tmp_path, capsys):
    """The MLflow run gets them once, whatever the gate decides; the version keeps its earlier tags."""
    run_id = open_mlflow_run(client, "e", "r", {}, (tmp_path / "artifacts").as_uri())
    registry.publish_checkpoint(client, Path(folders[1]), run_id=None, name="digits", alias=None)
    registry.publish_checkpoint(client, Path(folders[2]), run_id=run_id, name="digits", alias=None)
    assert main(["promote", "models:/digits/1", "--report", report(tmp_path, fid(12.0))]) == 0
    before = client.get_model_version("digits", "2").tags
    capsys.readouterr()
    for _ in range(2):
        assert "not better" in refused(capsys, "promote", "models:/digits/2", "--report", report(tmp_path, fid(14.0)))
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "figures/fid")] == [(20, 14.0)]
    assert client.get_model_version("digits", "2").tags == before


def test_higher_is_better_where_it_is(client, folders, tmp_path, capsys):
    for folder in folders:
        assert main(["register", folder, "--name", "digits"]) == 0
    high, low = {**ACCURACY, "value": 0.97, "low": 0.96, "high": 0.98}, {**ACCURACY, "value": 0.5, "low": 0.45, "high": 0.55}  # fmt: skip
    assert main(["promote", "models:/digits/1", "--report", report(tmp_path, ACCURACY)]) == 0
    assert main(["promote", "models:/digits/2", "--report", report(tmp_path, high)]) == 0
    capsys.readouterr()
    assert "not better" in refused(capsys, "promote", "models:/digits/3", "--report", report(tmp_path, low))
    assert champion(client) == "2"


def test_a_metric_of_unknown_direction_is_given_one(client, folders, tmp_path, capsys):
    for folder in folders:
        assert main(["register", folder, "--name", "digits"]) == 0
    own = {**ACCURACY, "metric": "charm"}
    capsys.readouterr()
    assert "--better" in refused(capsys, "promote", "models:/digits/1", "--report", report(tmp_path, own))
    for version, value in ((1, 0.9), (2, 0.2)):
        path = report(tmp_path, {**own, "value": value, "low": value - 0.01, "high": value + 0.01})
        assert main(["promote", f"models:/digits/{version}", "--report", path, "--better", "lower"]) == 0
    assert tags(client, 2)["better"] == "lower"
    path = report(tmp_path, fid(1.0))
    assert "a lower fid is better" in refused(capsys, "promote", "models:/digits/3", "--report", path, "--better", "higher")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"samples": 10_000}, "number of samples is 10000 for the one and 5000"),
        ({"features": "g"}, "feature network is g for the one and f"),
        ({"features": None}, "feature network is None for the one and f"),
        ({"data": "e"}, "data is e for the one and d"),
        ({"overrides": "steps=50"}, "in place of the model's own is steps=50 for the one and None"),
    ],
)
def test_figures_that_cannot_be_compared_are_refused(two, client, tmp_path, capsys, change, culprit):
    path = report(tmp_path, fid(1.0, **change))
    assert culprit in refused(capsys, "promote", two, "--report", path)
    assert champion(client) == "1"
    # a forced promotion stores no margin
    assert main(["promote", two, "--report", path, "--force", "--reason", "new features"]) == 0
    assert champion(client) == "2"
    assert "margin" not in tags(client, 2)
    assert tags(client, 2)["reason"] == "new features"


def test_two_that_were_given_the_same_settings_can_be_compared(two, client, tmp_path):
    """The champion's metric with other settings replaces that with its own."""
    given = report(tmp_path, fid(12.0, overrides="steps=50"))
    assert main(["register", "models:/digits@champion", "--report", given]) == 0
    assert main(["promote", two, "--report", report(tmp_path, fid(11.0, overrides="steps=50"))]) == 0
    assert champion(client) == "2"


def test_another_seed_can_be_compared(two, client, tmp_path):
    assert main(["promote", two, "--report", report(tmp_path, fid(11.0, seed=7))]) == 0


def test_a_worse_candidate_can_be_forced(two, client, tmp_path):
    """The reason and the negative margin are stored; a later regular promotion removes them."""
    path = report(tmp_path, fid(14.0))
    assert main(["promote", two, "--report", path, "--force", "--reason", "licence of the data"]) == 0
    assert champion(client) == "2"
    assert (tags(client, 2)["reason"], float(tags(client, 2)["margin"])) == ("licence of the data", -2.0)
    assert main(["promote", "models:/digits/1"]) == 0
    assert main(["promote", "models:/digits/2", "--report", report(tmp_path, fid(3.0))]) == 0
    assert "reason" not in tags(client, 2)
    assert float(tags(client, 2)["margin"]) == 9.0


def test_a_champion_without_figures_gets_them(client, folders, tmp_path, capsys):
    """A champion forced without a report has nothing to compare with; the error tells how to add metrics."""
    for folder in folders[:2]:
        assert main(["register", folder, "--name", "digits"]) == 0
    assert main(["promote", "models:/digits/1", "--force", "--reason", "the only one"]) == 0
    assert tags(client, 1) == {"alias": "champion", "reason": "the only one"}
    path = report(tmp_path, fid(11.0))
    capsys.readouterr()
    assert "raysde register models:/digits@champion --report" in refused(capsys, "promote", "models:/digits/2", "--report", path)  # fmt: skip
    assert main(["register", "models:/digits@champion", "--report", report(tmp_path, fid(12.0))]) == 0
    assert main(["register", "models:/digits/2", "--report", report(tmp_path, fid(11.0))]) == 0
    assert main(["promote", "models:/digits/2"]) == 0
    assert champion(client) == "2"


def evaluated(tmp_path, source: str, **changes) -> str:
    """Return a report in the form of `raysde evaluate`."""
    figure = {
        "name": "kid",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "samples": 9,
        "seed": 0,
        "network": "f",
        "reference": 9,
    }
    subject = dataclasses.asdict(registry.resolve_with_subject(source)[1])
    data = {"fingerprint": "d", "split": "train", "shape": [8, 8]}
    content = {
        "model": subject,
        "data": data,
        "held_out": {"t": 0.5},
        "overrides": None,
        "figures": [figure],
        **changes,
    }
    (tmp_path / "report.json").write_text(json.dumps(content))
    return str(tmp_path / "report.json")


@pytest.mark.parametrize("command", ["promote", "register", "force"])
def test_a_report_of_another_model_is_refused(two, client, folders, tmp_path, capsys, command):
    """The error names both models, forced or not; a report of the same weights under another name is accepted."""
    order = ["promote", "--alias", "best"] if command != "register" else ["register", "--alias", "best"]
    order += ["--force", "--reason", "x"] if command == "force" else []
    hashes = [checkpoint.read_description(Path(folder)).files["ema.safetensors"][:12] for folder in folders]
    capsys.readouterr()
    for source, called in [
        ("models:/digits@champion", "models:/digits@champion, which was models:/digits/1"),
        (folders[0], folders[0]),
    ]:
        said = refused(capsys, *order, "models:/digits/2", "--report", evaluated(tmp_path, source))
        assert f"the report is of {called} (weights {hashes[0]}), not of" in said
        assert f"(weights {hashes[1]})" in said
        assert "digits" in said.partition("not of")[2]
    assert "best" not in registry.list_aliases(client, "digits")
    assert "kid" not in recorded_figures(client.get_model_version("digits", "2"))
    assert main([*order, "models:/digits/2", "--report", evaluated(tmp_path, folders[1])]) == 0
    assert registry.list_aliases(client, "digits")["best"] == "2"
    assert recorded_figures(client.get_model_version("digits", "2"))["kid"].value == 0.5


def test_a_report_of_another_checkpoint_is_not_registered(client, folders, tmp_path, capsys):
    path = evaluated(tmp_path, folders[0])
    assert f"the report is of {folders[0]}" in refused(
        capsys, "register", folders[1], "--name", "digits", "--report", path
    )
    assert not registry.list_registered_models(client)
    assert main(["register", folders[0], "--name", "digits", "--report", path]) == 0


@pytest.mark.parametrize("model", ["runs/digits", None, {"weights": "0"}])
def test_a_report_that_does_not_say_of_what_is_refused(two, folders, tmp_path, capsys, model):
    path = evaluated(tmp_path, folders[1], model=model)
    capsys.readouterr()
    assert "does not name its model" in refused(capsys, "promote", two, "--report", path)


def test_figures_of_a_pipeline_are_of_no_version(two, folders, tmp_path, capsys):
    """Unknown weights do not match the weights of any version."""
    path = evaluated(tmp_path, folders[1], model={"source": "stable-diffusion"})
    capsys.readouterr()
    assert "stable-diffusion (weights unknown), not of version 2" in refused(capsys, "promote", two, "--report", path)


def test_the_table_lists_versions_aliases_and_figures(two, client, folders, tmp_path, capsys):
    assert main(["register", folders[0], "--name", "letters", "--alias", "best", "--report", report(tmp_path, ACCURACY)]) == 0  # fmt: skip
    capsys.readouterr()
    assert main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["name", "version", "aliases", "step", "figures", "draws", "by"],
        ["digits", "2", "candidate", "10", "-", "-"],
        ["digits", "1", "champion", "0", "fid", "12", "[11.5,", "12.5]", "-"],
        ["letters", "1", "best", "0", "accuracy", "0.9", "[0.88,", "0.92]", "-"],
    ]
    assert main(["models", "letters"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_empty_registry_says_so(client, capsys):
    assert main(["models"]) == 0
    assert "nothing is registered" in capsys.readouterr().out


# figures


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ("{", "not valid JSON"),
        ("{}", "list of figures"),
        ("[]", "list of figures"),
        (json.dumps([FID, FID]), "holds fid twice"),
        (json.dumps([FID, {**FID, "metric": "kid", "low": 13.0}]), "figure 1 of report .*kid 12.0 lies outside"),
        (json.dumps([{key: value for key, value in FID.items() if key != "samples"}]), "samples: Field required"),
        (json.dumps([{**FID, "value": "NaN"}]), "value"),
        ('[{"metric": "fid", "value": NaN, "low": NaN, "high": NaN, "samples": 5, "seed": 0}]', "value"),
        (json.dumps([{**FID, "worker": 3}]), "worker"),
        (json.dumps([{**FID, "samples": 0}]), "0 samples"),
    ],
)
def test_reports_that_are_none_are_named(tmp_path, content, culprit):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=f"report .*{culprit}|{culprit}") as raised:
        read_report(tmp_path / "report.json")
    assert "report.json" in str(raised.value)


def test_a_figure_says_beside_what_it_was_measured(folders, tmp_path):
    """Images of another size and noise of another time cannot be compared; likelihoods do not depend on the solver."""

    def found(name, shape=(8, 8), t=0.5, overrides="steps=50"):
        figure = {"name": name, "value": 0.5, "low": 0.4, "high": 0.6, "samples": 9, "seed": 0, "network": "f", "reference": 9}  # fmt: skip
        data = {"fingerprint": "d", "split": "train", "shape": list(shape)}
        path = evaluated(tmp_path, folders[0], data=data, held_out={"t": t}, overrides=overrides, figures=[figure])
        return read_report(path)[name]

    assert describe_mismatch(found("fid"), found("fid", t=0.25)) is None
    assert "d train 9 8x8 for the one and d train 9 16x16" in describe_mismatch(found("fid"), found("fid", (16, 16)))
    for name in ("denoised_psnr", "denoised_lpips"):
        assert "8x8 t=0.5 for the one and" in describe_mismatch(found(name), found(name, t=0.25))
    assert describe_mismatch(found("inpainted_psnr"), found("inpainted_psnr", t=0.25)) is None
    assert "steps=50" in describe_mismatch(found("inpainted_psnr"), found("inpainted_psnr", overrides=None))
    assert describe_mismatch(found("bpd"), found("bpd", overrides=None)) is None


def test_several_figures_need_a_name(tmp_path):
    found = read_report(report(tmp_path, FID, ACCURACY))
    assert choose_figure(found, "accuracy").value == 0.9
    with pytest.raises(ValueError, match="accuracy, fid"):
        choose_figure(found, None)
    with pytest.raises(ValueError, match="'kid'; there are accuracy, fid"):
        choose_figure(found, "kid")


def test_two_equal_models_pass_the_gate_as_rarely_as_the_interval_says():
    """For two estimates of the same normal mean, each with its 95% interval, 2.5% of the margins lie above 0.

    The rule that intervals must not touch would let 0.56% pass, a comparison of the values alone 50%.
    """
    count, deviation = 20_000, 3.0
    drawn = 7.0 + deviation * torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = 1.959964 * deviation
    passed = 0
    for one, two in drawn.tolist():
        pair = [Metric("fid", value, value - half, value + half, 5000, 0) for value in (one, two)]
        passed += compute_margin(pair[0], pair[1], "lower").low > 0.0
    assert abs(passed / count - 0.025) < 4.0 * math.sqrt(0.025 * 0.975 / count)


def test_each_end_of_a_margin_comes_from_its_own_sides():
    """Compare with Zou and Donner's limits of a difference of two estimates with unequal sides, written out."""
    one = Metric("accuracy", 0.9, 0.8, 0.93, 100, 0)
    two = Metric("accuracy", 0.6, 0.56, 0.8, 100, 0)
    found = compute_margin(one, two, "higher")
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - math.sqrt(0.1**2 + 0.2**2))
    assert found.high == pytest.approx(0.3 + math.sqrt(0.03**2 + 0.04**2))
    turned = compute_margin(two, one, "lower")
    assert (turned.value, turned.low, turned.high) == (found.value, found.low, found.high)


def test_an_experiment_is_made_once_by_many(client, uri):
    """A second process that creates it between the first one's query and its creation gets the same experiment."""
    first = find_or_create_experiment(client, "e", None)
    look = client.get_experiment_by_name
    answers = iter([None])
    client.get_experiment_by_name = lambda name: next(answers, look(name))
    assert find_or_create_experiment(client, "e", None) == first


def test_all_pages_are_read(client, monkeypatch):
    """The store returns a few entries per page."""
    for number in range(5):
        client.create_registered_model(f"m{number}")
    whole = client.search_registered_models
    monkeypatch.setattr(
        client, "search_registered_models", lambda page_token: whole(max_results=2, page_token=page_token)
    )
    assert [model.name for model in registry.list_registered_models(client)] == [f"m{number}" for number in range(5)]
    for number in range(5):
        client.create_model_version("m0", source=str(number))
    some = client.search_model_versions
    monkeypatch.setattr(
        client, "search_model_versions", lambda asked, page_token: some(asked, 2, page_token=page_token)
    )
    assert [int(version.version) for version in registry.list_versions(client, "m0")] == [5, 4, 3, 2, 1]
