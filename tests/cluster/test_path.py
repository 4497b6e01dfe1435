"""From a sweep to a served champion, on real pictures of clothes, with the commands that users type."""

import json
import os
import subprocess
import sys

import mlflow
import pandas as pd
import pytest

from raysde.config.builtin import list_builtin
from raysde.registry import list_aliases
from raysde.tracking import connect_client
from tests.support.paths import ROOT
from tests.support.real import real
from tests.support.serving import ask, serving

RECIPE = "fashion-mnist"
DRAWN = {"seed": 5, "steps": 3, "solver": "unipc", "guidance": 1.5}
SHORT = ["resources.workers=1", "data.stream=worker", "train.warmup=2", "sampling.every=0", "validation.rows=64"]


def raysde(uri: str, *words: str) -> None:
    """Run a raysde command in a process of its own, as in a shell."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"MLFLOW_TRACKING_URI": uri}
    done = subprocess.run(
        [sys.executable, "-m", "raysde.cli", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_a_sweep_to_images_over_http(tmp_path, monkeypatch):
    """After sweep, training of the winner, evaluation and promotion, pyfunc and HTTP give the files of `raysde
    sample`."""
    uri, shards = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "shards")
    source = real("fashion-mnist/t10k-images-idx3-ubyte.gz")
    raysde(uri, "ingest", str(source), shards, "--label-names", RECIPE)
    place = [f"data.path={shards}", f"storage={tmp_path}"]
    swept = ["train.length.steps=8", "validation.every=4", "--over", "train.lr=[1e-3,2e-3]", "--name", "swept"]
    raysde(uri, "tune", RECIPE, *place, *SHORT, *swept)
    best = tmp_path / "swept" / "best.yaml"
    raysde(uri, "train", str(best), "name=clothes", "train.length.steps=16", "validation.every=8")
    report = tmp_path / "report.json"
    figures = ["--features", "judge", "--metrics", "kid,accuracy", "--samples", "40", "--reference", "500"]
    drawing = ["--solver", "unipc", "--steps", "3", "--guidance", "1.5"]
    raysde(uri, "evaluate", "models:/clothes@candidate", "--data", shards, *figures, *drawing, "--output", str(report))
    raysde(uri, "promote", "models:/clothes@candidate", "--report", str(report), "--metric", "kid")
    assert list_aliases(connect_client(uri), "clothes") == {"candidate": "1", "champion": "1"}
    gate = connect_client(uri).get_model_version("clothes", "1").tags
    assert float(gate["raysde.gate.value"]) == json.loads(report.read_text())["figures"][0]["value"]
    names = list_builtin("list of class names")[RECIPE].read_text().split("\n")[:10]
    labels = [word for name in names for word in ("--label", name)]
    raysde(
        uri, "sample", "models:/clothes@champion", *labels, *drawing, "--seed", "5", "--out", str(tmp_path / "drawn")
    )
    files = [path.read_bytes() for path in sorted((tmp_path / "drawn").glob("image-*.png"))]
    assert len(set(files)) == 10
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    table = pd.DataFrame({"label": names})
    assert mlflow.pyfunc.load_model("models:/clothes@champion").predict(table, params=DRAWN)["image"].tolist() == files
    with serving(uri, "models:/clothes@champion") as address:
        assert ask(address, {"dataframe_split": table.to_dict(orient="split", index=False), "params": DRAWN}) == files
