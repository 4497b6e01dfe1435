"""The command that searches sampler settings: its refusals, its files and the model's new defaults."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.models.sampling_defaults import describe_settings
from raysde.registry import load
from tests.support.command_line import refused
from tests.support.outcomes import outcome_of
from tests.support.pictures import open_image


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["steps=5", "--metric", "bpd"], "--metric must be one of fid"),
        (["steps=5", "--metric", "recall"], "--metric must be one of fid"),
        (["steps=5", "--metric", "accuracy", "--samples", "9"], "1 drawn images are too few for a round"),
        (["steps=5", "--name", "a/b"], "--name 'a/b' must be of letters"),
        (["steps=5", "--metric", "fid", "--samples", "3000"], "FID of 334 drawn images says little"),
        (["steps=5", "--samples", "6", "--rounds", "2"], "2 drawn images are too few"),
        (["steps=5", "--rounds", "0"], "--rounds must be at least 1"),
        (["step=5"], "step is not a setting"),
        (["steps=5", "--device", "toaster"], "is no device"),
        (["churn=0,40"], "churn has no effect here"),
        (["ema_std=0.1"], "holds no snapshots in profiles/"),
        (["steps=5", "--features", "nowhere.pth"], "there is no feature network 'nowhere.pth'"),
    ],
)
def test_mistakes_are_one_sentence_before_ray(labels, digits, tmp_path, capsys, monkeypatch, more, said):
    def forbidden(*given, **more):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", forbidden)
    given = ["tune-sampler", labels, "--data", digits.path, "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    assert said in refused(capsys, *given, *([] if "--features" in more else ["--features", "judge"]), *more)
    assert not (tmp_path / "out" / "model").exists()


def test_a_folder_of_another_study_is_refused(labels, digits, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--data", digits.path, "--cache", str(tmp_path), "--out", str(out), "--features", "judge"]
    (out / "model").mkdir(parents=True)
    said = refused(capsys, "tune-sampler", labels, *given, "steps=5")
    assert f"exists already: register it with raysde register {out / 'model'} --name NAME" in said
    (out / "model").rmdir()
    (out / "study.json").write_text(json.dumps({"weights": "other"}))
    assert "another model" in refused(capsys, "tune-sampler", labels, *given, "steps=5")


def test_the_command_writes_model_and_table(labels, digits, tmp_path, capsys, monkeypatch):
    """Invent metrics: 10 steps are best, 5 steps cannot be told from them, and so 5 win."""
    values = {2: 9.0, 5: 1.1, 10: 1.0}

    def made_up(study, out):
        return lambda left, samples: [outcome_of(each, values[each.drawing["steps"]], samples, 0.2) for each in left]

    monkeypatch.setattr("raysde.cluster.tune_sampler.measure_on_ray", made_up)
    out = tmp_path / "out"
    given = [
        "tune-sampler",
        labels,
        "--data",
        digits.path,
        "--cache",
        str(tmp_path),
        "--features",
        "judge",
        "--out",
        str(out),
    ]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    more = [
        "solver=unipc",
        "steps=2,5,10",
        "guidance=1.5",
        "--samples",
        "60",
        "--name",
        "settled",
        "--tracking-uri",
        uri,
    ]
    assert main([*given, *more]) == 0
    shown = capsys.readouterr().out
    assert "is not significantly better" in shown
    assert "models:/settled/1 is candidate" in shown
    own = {"solver": "unipc", "steps": 5, "guidance": 1.5}
    assert load(out / "model").spec.generation == own
    assert load("models:/settled@candidate", tracking_uri=uri).spec.generation == own
    table = list(csv.DictReader((out / "settings.csv").open()))
    assert [row["steps"] for row in table] == ["10", "5", "2"]
    assert [row["won"] for row in table] == ["", "yes", ""]
    assert [row["samples"] for row in table] == ["60", "60", "7"]
    assert [float(row["evaluations"]) for row in table] == [20.0, 10.0, 4.0]
    assert math.isclose(float(table[1]["low"]), 0.9)
    assert [row["behind"] for row in (table[0], table[2])] == ["", ""]  # the best, and a candidate of an earlier round
    behind = [float(table[1][key]) for key in ("behind_low", "behind", "behind_high")]
    assert behind == pytest.approx([0.1 - 0.2 * math.sqrt(2.0), 0.1, 0.1 + 0.2 * math.sqrt(2.0)])
    assert torch.equal(
        load(out / "model").sample(labels=[3, 4], seed=2).images,
        load(labels).sample(labels=[3, 4], seed=2, **own).images,
    )


def settled(labels, digits, out, monkeypatch, *more, best):
    """Return the model that the command writes if the candidates of ``best`` get the best invented metrics, and the
    study."""
    studies = []

    def made_up(study, out):
        studies.append(study)

        def measure(left, samples):
            return [outcome_of(each, float(not best.items() <= each.drawing.items()), samples) for each in left]

        return measure

    monkeypatch.setattr("raysde.cluster.tune_sampler.measure_on_ray", made_up)
    given = ["--data", digits.path, "--features", "judge", "--out", str(out), "--samples", "60", "--rounds", "1"]
    assert main(["tune-sampler", labels, *more, *given]) == 0
    return load(out / "model"), studies[0]


def drawn_by_command(folder, out):
    assert main(["sample", str(folder), "--label", "3", "--label", "4", "--seed", "2", "--out", str(out)]) == 0
    return torch.stack([open_image(path) for path in sorted(out.glob("image-*.png"))])


def test_a_winner_without_guidance_draws_without_it(labels, digits, tmp_path, monkeypatch, capsys):
    """The winner keeps the guidance 1 that it was measured at, not the command's 2; caches lie in the output folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model, study = settled(
        labels, digits, tmp_path / "out", monkeypatch, "solver=unipc", "steps=2,5", best={"steps": 5}
    )
    assert model.spec.generation == {"solver": "unipc", "steps": 5, "guidance": 1.0}
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"draws by {describe_settings(model.spec.generation)}")
    plain = load(labels).sample(labels=[3, 4], seed=2, solver="unipc", steps=5, guidance=1.0)
    assert torch.equal(drawn_by_command(tmp_path / "out" / "model", tmp_path / "drawn"), plain.images)
    assert study.cache == str(tmp_path / "out" / "cache")
    assert {path.name.split("-")[0] for path in (tmp_path / "out" / "cache").glob("*.safetensors")} == {
        "judge",
        "reference",
    }
    assert not (tmp_path / "home" / "raysde").exists()


def test_a_winner_takes_nothing_from_the_settings_before(labels, digits, tmp_path, monkeypatch):
    """At guidance 1 the model's earlier interval has no effect, and `raysde sample` would refuse it."""
    own = {"solver": "unipc", "steps": 4, "guidance": 2.0, "guidance_interval": (0.2, 5.0)}
    checkpoint.export_with_settings(Path(labels), tmp_path / "own", own)
    source, best = str(tmp_path / "own"), {"guidance": 1.0}
    model, _ = settled(source, digits, tmp_path / "out", monkeypatch, "guidance=1,2", best=best)
    assert model.spec.generation == {"solver": "unipc", "steps": 4, "guidance": 1.0}
    plain = load(labels).sample(labels=[3, 4], seed=2, solver="unipc", steps=4)
    assert torch.equal(drawn_by_command(tmp_path / "out" / "model", tmp_path / "drawn"), plain.images)
