"""Measurements of sampler settings: the noise that they share, and the hash of everything that they depend on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from raysde.checkpoints import checkpoint
from raysde.data.dataset.manifest import write_manifest
from raysde.inference.model import Model
from raysde.tuning.sampler.space import Candidate
from raysde.tuning.sampler.study import Study
from tests.support.checkpoints import description_of
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards


def study_of(labels, digits, cache, **changes):
    given = {"metric": "kid", "features": "judge", "seed": 5, **changes}
    return Study({None: labels}, digits.path, cache=str(cache), **given)


def test_candidates_draw_from_the_same_noise_and_differ_in_their_settings_alone(labels, digits, tmp_path, monkeypatch):
    """Seed, image numbers and labels are the same for all settings, and a later round's first images are an earlier
    one's."""
    study, seen = study_of(labels, digits, tmp_path), []
    usual = Model.sample

    def remembered(self, **given):
        drawn = usual(self, **given)
        seen.append(({name: given[name] for name in ("n", "seed", "first", "labels")}, drawn.images))
        return drawn

    monkeypatch.setattr(Model, "sample", remembered)
    # eta makes two methods: without it, ddim is euler in another form, and their images may agree to the bit
    first, second = (Candidate(None, {"solver": name, "steps": 2}, 2.0) for name in ("ddim", "ancestral"))
    figures = [study.outcome(*each).figure for each in ((first, 8), (second, 8), (first, 24))]
    assert seen[0][0] == seen[1][0]
    assert seen[0][0] == {"n": 8, "seed": 5, "first": 0, "labels": [0, 1, 2, 3, 4, 5, 6, 7]}
    assert (seen[0][1].int() - seen[2][1][:8].int()).abs().max() <= 1
    assert figures[0].samples == 8
    assert figures[0].value != figures[1].value
    assert study.outcome(first, 8).figure == figures[0]
    assert len({study.key(first, 8), study.key(second, 8), study.key(first, 24)}) == 3
    other = study_of(labels, digits, tmp_path, seed=6)
    assert other.key(first, 8) != study.key(first, 8)


def test_a_settled_model_is_measured_by_the_candidate_alone(labels, digits, tmp_path):
    """A candidate that leaves out grid and interval does not get the model's own; its metric equals the plain model's,
    and that of the model with the candidate's settings."""
    own = {"solver": "ddim", "steps": 4, "grid": "quadratic", "guidance": 2.0, "guidance_interval": (0.2, 5.0)}
    checkpoint.export_with_settings(Path(labels), tmp_path / "own", own)
    candidate = Candidate(None, {"solver": "ddim", "steps": 3, "guidance": 2.0}, 6.0)
    usual, found = (
        study_of(folder, digits, tmp_path).outcome(candidate, 12).figure for folder in (labels, str(tmp_path / "own"))
    )
    assert found == usual
    assert found.overrides is None


def test_a_measurement_is_known_by_everything_that_it_is_of(labels, digits, tmp_path):
    """The hash changes with weights, data, metric, seed, split, real images, number and settings."""
    checkpoint.export_with_settings(Path(labels), tmp_path / "other", {"solver": "ddim"})
    with description_of(tmp_path / "other") as description:
        description["files"]["ema.safetensors"] = f"{int(description['files']['ema.safetensors'], 16) ^ 1:064x}"
    again = write_digit_shards(tmp_path / "again", 200, 120)
    last = replace(again.shards[1], sha256=f"{int(again.shards[1].sha256, 16) ^ 1:064x}")
    write_manifest(replace(again, shards=(again.shards[0], last)))
    one = Candidate(None, {"solver": "ddim", "steps": 2}, 2.0)

    def key(candidate=one, samples=8, model=labels, data=digits.path, **changes):
        given = {"metric": "kid", "features": "judge", "seed": 5, **changes}
        study = Study({None: labels, 0.1: model}, data, cache=str(tmp_path), **given)
        study.__dict__["network"] = changes.get("features", "network")  # another test covers its hash
        return study.key(candidate, samples)

    far = replace(one, average=0.1)
    keys = [
        key(), key(samples=9), key(seed=6), key(metric="is"), key(split="validation"), key(reference=100),
        key(reference=101), key(data=again.path), key(far, model=str(tmp_path / "other")), key(features="other"),
        key(replace(one, drawing={"solver": "ddim", "steps": 3})), key(replace(one, drawing={**one.drawing, "eta": 0.1})),
        key(replace(one, drawing={**one.drawing, "guidance": 1.0})),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key(batch_size=3) == key(far) == keys[0]  # such as the run's own average under another name


def test_a_study_asks_every_candidate_the_same(labels, digits, tmp_path):
    """All candidates get the common settings, and only their own guidance."""
    given = {"seed": 8, "split": "validation", "reference": 77, "allow_few": True, "batch_size": 9}
    study = study_of(labels, digits, tmp_path, **given)
    for drawing in ({"solver": "ddim", "steps": 2}, {"solver": "heun", "steps": 3, "guidance": 2.5}):
        found = study.question(Candidate(None, drawing, 1.0), 50)
        assert found.settings == {"guidance": 1.0, **drawing, "batch_size": 9}
        assert (found.metrics, found.samples, found.seed, found.split) == (("kid",), 50, 8, "validation")
        assert (found.reference, found.allow_few) == (77, True)


def test_a_model_with_settings_of_its_own_is_another_study(labels, digits, tmp_path, capsys):
    """The model's own settings complete a candidate's, so the same weights with other settings are refused."""
    out = tmp_path / "out"
    out.mkdir()
    description = checkpoint.read_description(Path(labels))
    own = {"weights": description.files["ema.safetensors"], "generation": {"solver": "ddim"}}
    (out / "study.json").write_text(json.dumps(own))
    given = ["--data", digits.path, "--cache", str(tmp_path), "--out", str(out), "--features", "judge"]
    assert "holds the study of another model" in refused(capsys, "tune-sampler", labels, *given, "steps=5")
    assert json.loads((out / "study.json").read_text()) == own


def test_another_feature_network_is_another_measurement(labels, digits, tmp_path):
    """A measurement by one network is not reused for another network with the same name."""
    file, candidate = tmp_path / "features.pt", Candidate(None, {"solver": "ddim", "steps": 2}, 2.0)

    def key():
        return study_of(labels, digits, tmp_path, features=str(file), allow_code=True).key(candidate, 8)

    torch.jit.script(nn.Flatten()).save(file)
    first = key()
    assert key() == first
    torch.jit.script(nn.Sequential(nn.Flatten(), nn.Softmax(dim=1))).save(file)
    assert key() != first


def test_a_rehearsal_finds_what_does_not_fit_and_leaves_what_all_need(labels, digits, tmp_path, monkeypatch):
    calls = []
    candidate = Candidate(None, {"solver": "ddim", "steps": 2}, 2.0)
    study_of(labels, digits, tmp_path).rehearse(candidate, 50, lambda *what: calls.append(what))
    assert {path.name.split("-")[0] for path in tmp_path.glob("*.safetensors")} == {"judge", "reference"}
    monkeypatch.setattr("raysde.evaluation.features.classifier.train_classifier", None)
    study_of(labels, digits, tmp_path).outcome(candidate, 6)
    with pytest.raises(ValueError, match="FID of 200 real images says little"):
        study_of(labels, digits, tmp_path, metric="fid").rehearse(candidate, 3000, lambda *what: None)
    study_of(labels, digits, tmp_path, metric="fid", allow_few=True).rehearse(candidate, 50, lambda *what: None)
