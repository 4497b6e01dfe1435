"""Passwords in URIs stay out of messages and of MLflow."""

import json

import pytest
from mlflow.tracking import MlflowClient

from raysde import cli, tracking
from raysde.io.passwords import hide_passwords
from raysde.io.progress import say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:a%2Fb+c@photos/x?region=eu", "s3://AKIA:***@photos/x?region=eu"),
        ("postgresql+psycopg2://me:p:w@db:5432/m", "postgresql+psycopg2://me:***@db:5432/m"),
        ("from s3://a:b@c to 'http://d:e@f/g'", "from s3://a:***@c to 'http://d:***@f/g'"),
        ("http://host:5000/path@x, s3://bucket/a@b, a:b@c", "http://host:5000/path@x, s3://bucket/a@b, a:b@c"),
    ],
)
def test_only_passwords_are_hidden(text, shown):
    assert hide_passwords(text) == shown


def test_messages_show_no_password(capsys):
    """Errors at the command line, of a folder that is missing on a store that does not answer, and progress."""
    say("reading s3://key:secret@bucket/x")
    assert cli.main(["inspect", "s3://key:secret@/x"]) == 2
    said = capsys.readouterr().err
    assert said.count(":***@") >= 2
    assert "secret" not in said


def test_mlflow_gets_no_password(tmp_path):
    """Neither the parameters of a run, nor its recipe or data set hold one; an entry of a list counts too."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    params = {"data.path": "s3://k:hushhush@b/x", "data.mix": [{"path": "s3://k:hushhush@b/y"}], "train.lr": 0.1}
    data = tracking.Input("s3://k:hushhush@b/x", "0" * 16, 10)
    run_id = tracking.open_mlflow_run(client, "e", "r", params, artifacts=str(tmp_path / "artifacts"), data=data)
    run = client.get_run(run_id)
    assert run.data.params["data.path"] == "s3://k:***@b/x"
    assert run.data.params["train.lr"] == "0.1"
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source) == {"uri": "s3://k:***@b/x"}
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hushhush" not in stored
