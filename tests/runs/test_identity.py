"""A run's MLflow run is identified by its folder, not by its name."""

import shutil

import pytest

from raysde.runs import identity
from raysde.runs.identity import BY_NAME, settle_word
from raysde.tracking import connect_client, open_mlflow_run
from tests.support.checkpoints import write_model

SHAPE = {"train.lr": 1e-3, "steps": 20}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_run_keeps_its_word_as_long_as_its_folder_is_there(tmp_path, scheme):
    """A run killed before or after its first checkpoint is the same run; without the folder it is another."""
    folder = f"{scheme}{tmp_path}/runs/small"
    first = settle_word(folder, SHAPE, begun=False)
    assert len(first) == 32
    assert settle_word(folder, SHAPE, begun=False) == first
    (tmp_path / "runs/small/step_000000005").mkdir()
    (tmp_path / "runs/small/step_12.partial").mkdir()
    assert identity.list_steps(folder) == [5]
    assert settle_word(folder, {**SHAPE, "steps": 30}, begun=True) == first
    assert settle_word(folder, {**SHAPE, "steps": 30}, begun=False) == first
    shutil.rmtree(tmp_path / "runs/small")
    assert identity.list_steps(folder) == []
    assert settle_word(folder, SHAPE, begun=False) not in (first, BY_NAME)


@pytest.mark.parametrize("changed", [{"steps": 15}, {"train.lr": 2e-3}, {"fingerprint": "other"}])
def test_a_run_that_starts_anew_with_another_recipe_is_another(tmp_path, changed):
    """It has no checkpoint to resume from, so the logged numbers are not its own."""
    first = settle_word(str(tmp_path / "a"), SHAPE, begun=False)
    other = settle_word(str(tmp_path / "a"), {**SHAPE, **changed}, begun=False)
    assert other != first
    assert settle_word(str(tmp_path / "a"), SHAPE, begun=False) not in (first, other)


def test_a_run_that_ended_and_lost_its_checkpoints_is_another(tmp_path):
    folder = str(tmp_path / "a")
    first = settle_word(folder, SHAPE, begun=False)
    identity.note_end(folder)
    assert settle_word(folder, SHAPE, begun=False) != first


def test_a_run_from_before_there_were_words_is_found_by_its_name(tmp_path):
    """Its checkpoints show that it resumes, and it is found by name from then on too."""
    folder = str(tmp_path / "a")
    for _ in range(2):
        assert settle_word(folder, SHAPE, begun=True) == BY_NAME
    identity.note_end(str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"word": "a"}', "null"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / identity.FILE).write_text(content)
    with pytest.raises(ValueError, match=r"identity\.json is damaged.*remove it"):
        settle_word(str(tmp_path), SHAPE, begun=False)


def test_an_interrupted_run_says_where_it_goes_on(tmp_path):
    assert "run 'a' was interrupted; the same command goes on from its beginning" in str(
        identity.describe_interruption(str(tmp_path / "a"))
    )
    (tmp_path / "a").mkdir()
    for step in (5, 40, 30, 50):
        write_model(tmp_path / f"a/step_{step:09d}", step, text=None)
    (tmp_path / "a/step_000000050/ema.safetensors").unlink()  # damaged, so that the run passes it over
    assert str(identity.describe_interruption(f"file://{tmp_path}/a")).endswith(
        "goes on from its checkpoint at step 40"
    )


def test_each_word_is_an_mlflow_run_of_its_own(tmp_path, empty_store, monkeypatch):
    """A name without a word finds the MLflow run without one; runs with another word keep their params and metrics."""
    monkeypatch.chdir(tmp_path)
    client = connect_client(f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    old = open_mlflow_run(client, "e", "digits", {"lr": 1}, None)
    client.log_metric(old, "loss", 0.5, step=20)
    new = open_mlflow_run(client, "e", "digits", {"lr": 2}, None, word="w")
    assert new != old
    assert open_mlflow_run(client, "e", "digits", {"lr": 2}, None, word="w") == new
    assert open_mlflow_run(client, "e", "digits", {"lr": 1}, None, word="v") not in (old, new)
    assert open_mlflow_run(client, "e", "digits", {"lr": 1}, None) == old
    found = client.get_run(old).data
    assert (found.params, found.metrics) == ({"lr": "1"}, {"loss": 0.5})
    assert client.get_run(new).data.params == {"lr": "2"}
