"""What is tried after training, what it costs, and who wins: without Ray."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.linalg import hadamard
from scipy.stats import norm, sem
from torch import nn

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.data.dataset.manifest import write_manifest
from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics.intervals import Z
from raysde.evaluation.metrics.jackknife import Influence
from raysde.inference.model import Model
from raysde.inference.sample import DrawingModel
from raysde.models.sampling_defaults import sentence
from raysde.registry import load
from raysde.sde import EDM, VE, VP, Flow
from raysde.tuning.sampler.space import Candidate, candidates, evaluations, parse_space, usual
from raysde.tuning.sampler.study import Study
from raysde.tuning.sampler.successive_halving import (
    Outcome,
    ahead,
    ranked,
    rounds,
    settle,
    survivors,
    winner,
)
from tests.conftest import description_of, open_image, write_digit_shards
from tests.test_cli import refused
from tests.test_edit_command import write_model
from tests.test_networks import model_with, spec_with


def listed(pairs, own=None, sde=None, conditional=True):
    found = candidates(parse_space(pairs), own or {}, sde or VP(), conditional=conditional)
    return [str(each) for each in found]


def test_every_combination_is_tried_once():
    assert listed(["solver=unipc,heun", "steps=5,10"]) == [
        "solver=unipc steps=5", "solver=unipc steps=10", "solver=heun steps=5", "solver=heun steps=10",
    ]  # fmt: skip
    # churn is edm's alone, and an interval is of guidance alone
    assert listed(["solver=heun,edm", "steps=5", "churn=0,40"]) == [
        "solver=heun steps=5", "solver=edm steps=5 churn=0", "solver=edm steps=5 churn=40",
    ]  # fmt: skip
    assert listed(["steps=5", "guidance=1,2", "guidance_interval=none,0.2:5"]) == [
        "solver=unipc steps=5 guidance=1", "solver=unipc steps=5 guidance=2",
        "solver=unipc steps=5 guidance=2 guidance_interval=0.2:5",
    ]  # fmt: skip
    assert listed(["ema_std=none,0.1", "steps=5"]) == ["solver=unipc steps=5", "ema_std=0.1 solver=unipc steps=5"]
    assert listed(["steps=5,5", "denoise=true"]) == ["solver=unipc steps=5 denoise=true"]
    assert listed(["solver=pc,heun", "steps=50", "target_snr=0.08,0.16"], sde=VE()) == [
        "solver=pc steps=50 target_snr=0.08", "solver=pc steps=50 target_snr=0.16", "solver=heun steps=50",
    ]  # fmt: skip
    assert listed(["corrector=none,langevin", "steps=9"]) == [
        "solver=unipc steps=9 corrector=none", "solver=heun steps=9 corrector=langevin",
    ]  # fmt: skip
    # a model from before there was another default
    found = candidates(
        parse_space(["steps=5", "order=1,2"]), {"solver": "unipc"}, VP(), conditional=False, usual="heun"
    )
    assert [str(each) for each in found] == ["solver=unipc steps=5 order=1", "solver=unipc steps=5 order=2"]
    found = candidates(parse_space(["steps=5"]), {}, VP(), conditional=False, usual="heun")
    assert [str(each) for each in found] == ["solver=heun steps=5"]


def test_the_models_own_settings_count_where_nothing_is_said():
    own = {"solver": "edm", "steps": 18, "churn": 20.0, "guidance": 2.0}
    assert listed(["churn=0,20"], own) == [
        "solver=edm steps=18 churn=0 guidance=2", "solver=edm steps=18 churn=20 guidance=2",
    ]  # fmt: skip
    assert listed(["solver=unipc", "steps=5"], own) == ["solver=unipc steps=5 guidance=2"]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["steps"], "must read key=value"),
        (["step=5"], "step is no setting; there are ema_std, solver"),
        (["steps=5", "steps=6"], "steps is given twice"),
        (["steps=ten"], "steps: "),
        (["steps=0"], "steps must be at least 1"),
        (["solver=magic"], "solver: "),
        (["ema_std=0.5"], "between 0 and 0.28"),
        (["ema_std=long"], "ema_std must be a number or none"),
        (["guidance_interval=5:0.2", "guidance=2"], "0 <= low < high"),
        (["guidance_interval=5", "guidance=2"], "guidance_interval: "),
        (["churn=0,40", "solver=heun"], "churn changes nothing here: it is of solver=edm"),
        (["target_snr=0.1"], "target_snr changes nothing here: it is of correctors"),
        (["guidance_interval=0.2:5"], "guidance_interval changes nothing here: it is of a guidance other than 1"),
        (["rho=5,7", "solver=unipc"], "rho changes nothing here: it is of grid=edm"),
        (["eta=0,1", "solver=unipc"], "eta changes nothing here: it is of solver=ddim"),
        (["solver=unipc", "corrector=langevin"], "corrector langevin cannot follow unipc"),
        (["solver=rk45"], "solver rk45 chooses its own steps"),
    ],
)
def test_a_space_with_what_cannot_be_is_refused(pairs, said):
    with pytest.raises(ValueError, match=said):
        listed(pairs)


def test_a_space_that_the_model_cannot_take_is_refused():
    with pytest.raises(ValueError, match=r"guidance=2\.0 is of models with captions or labels"):
        listed(["guidance=1,2"], conditional=False)
    with pytest.raises(ValueError, match="undefined on Flow"):
        listed(["corrector=langevin"], sde=Flow())
    assert "guidance" not in usual(conditional=False)
    assert len(candidates(usual(conditional=True), {}, VP(), conditional=True)) == 36


@pytest.mark.parametrize(
    ("drawing", "wanted"),
    [
        ({"solver": "unipc", "steps": 10}, 10),
        ({"solver": "heun", "steps": 10}, 20),
        ({"solver": "heun", "steps": 10, "guidance": 2.0}, 40),
        ({"solver": "pc", "steps": 10}, 19),
        ({"solver": "unipc", "steps": 10, "guidance": 1.0, "guidance_interval": (0.1, 1.0)}, 10),
        ({"solver": "unipc", "steps": 10, "denoise": True}, 11),
    ],
)
def test_evaluations_count_guidance_twice(drawing, wanted):
    assert evaluations(drawing, VP()) == wanted


@pytest.mark.parametrize("sde", [VP(), EDM()])
def test_guidance_costs_where_it_is_and_as_the_sampler_pays(sde):
    """The count is that of the rows that the network really sees, but for Heun's second evaluation a step further."""
    drawing = {"solver": "unipc", "steps": 20, "guidance": 2.0, "guidance_interval": (0.2, 5.0)}
    model, rows = counted(sde)
    model.sample(labels=[3], seed=0, **drawing)
    assert 20 < sum(rows) < 40
    assert evaluations(drawing, sde) == sum(rows)


def counted(sde):
    spec = {"text": None, "classes": 10, "sde": sde}
    model, rows = model_with(**spec), []
    model.network.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    return Model(model, spec_with(**spec)), rows


def outcome(value, cost, half=0.0, metric="kid", samples=64, noise=None):
    """With an interval of +-half by the noise of that number; different noises vary independently of each other."""
    figure = Metric(metric, value, value - half, value + half, samples, 0)
    unit = torch.from_numpy(hadamard(64)[1 + (int(cost) if noise is None else noise) % 63]).double()
    influence = Influence({"drawn": unit / unit.std() * 8.0 * half / Z}, {"drawn": 64})
    return Outcome(Candidate(None, {"steps": int(cost)}, cost), figure, influence)


def plain(candidate, value, samples, half=0.0):
    figure = Metric("kid", value, value - half, value + half, samples, 0)
    return Outcome(candidate, figure, outcome(value, candidate.evaluations, half).influence)


def test_two_outcomes_are_compared_image_by_image():
    """The interval is that of a paired comparison: intervals of +-30 on both sides do not hide a difference of 1 that
    every image shows; and for images that a judge reads right or wrong it is scipy's of the mean of differences."""
    one, two = outcome(10.0, 40, 30.0, noise=5), outcome(11.0, 10, 30.0, noise=5)
    assert str(ahead(one, two, "lower")) == "1 [1, 1]"
    assert winner([one, two], "lower") is one
    g = torch.Generator().manual_seed(0)
    read = [(torch.rand(400, generator=g) < share).double() for share in (0.9, 0.8)]
    figures = [Metric("accuracy", each.mean().item(), 0.0, 1.0, 400, 0) for each in read]
    first, second = (
        Outcome(Candidate(None, {}, 1.0), figure, Influence({"drawn": each}, {"drawn": 400}))
        for figure, each in zip(figures, read, strict=True)
    )
    apart = (read[0] - read[1]).numpy()
    expected = norm.interval(0.95, apart.mean(), sem(apart))
    found = ahead(first, second, "higher")
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-5)
    assert ahead(second, first, "higher").value == -found.value
    with pytest.raises(ValueError, match="steps=1 and steps=2 cannot be compared: the number of samples"):
        ahead(outcome(1.0, 1), outcome(1.0, 2, samples=65), "lower")


def test_the_cheapest_of_those_that_cannot_be_told_apart_wins():
    """Independent errors, +-3 on both sides of a difference of 4: hypot(3, 3) = 4.24 reaches it; of 5 it does not."""
    best, cheap, cheaper = outcome(10.0, 40, 3.0), outcome(14.0, 20, 3.0), outcome(15.0, 10, 3.0)
    found = ranked([cheaper, cheap, best], "lower")
    assert found == [best, cheap, cheaper]
    assert winner(found, "lower") is cheap
    assert winner(ranked([best, cheaper], "lower"), "lower") is best
    high = [outcome(0.9, 40, 0.02, "accuracy"), outcome(0.88, 20, 0.02, "accuracy"), outcome(0.5, 5, 0.02, "accuracy")]
    assert winner(ranked(high, "higher"), "higher") is high[1]
    alike = [outcome(0.9 - 0.01 * each, 20, 0.02, "accuracy", noise=each + 1) for each in (0, 1)]
    assert winner(ranked(alike, "higher"), "higher") is alike[0]
    same = [outcome(1.0, 20), outcome(1.0, 10)]
    assert ranked(same, "lower")[0] is same[1]


def test_a_third_goes_on_and_who_would_win_now():
    many = [outcome(float(value), 100 - value, 0.1) for value in range(9)]
    assert survivors(many, "lower") == many[:3]
    wide = [outcome(float(value), 100 - value, 100.0) for value in range(9)]
    assert survivors(wide, "lower") == [*wide[:2], wide[8]]
    assert len(survivors(many[:3], "lower")) == 2


def test_rounds_rise_by_three_to_what_is_asked_for():
    assert rounds(2000, 3) == [223, 667, 2000]
    assert rounds(50, 1) == [50]
    for samples, count in ((100, 0), (0, 2)):
        with pytest.raises(ValueError, match="must be at least 1"):
            rounds(samples, count)


def test_halving_measures_few_images_of_all_and_many_of_the_best():
    """Candidate k has the value k; each round asks for the left ones alone, and the table keeps who left earlier."""
    given = [Candidate(None, {"steps": steps}, float(steps)) for steps in range(1, 13)]
    asked = []

    def measure(left, samples):
        asked.append((len(left), samples))
        return [plain(each, each.evaluations, samples) for each in left]

    found = settle(given, [10, 30, 90], "lower", measure)
    assert asked == [(12, 10), (4, 30), (2, 90)]
    assert found.winner is found.best is found.outcomes[0]
    assert [each.candidate.evaluations for each in found.outcomes] == [float(steps) for steps in range(1, 13)]
    assert [each.figure.samples for each in found.outcomes] == [90] * 2 + [30] * 2 + [10] * 8


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "labels", text=None, classes=10)


def study_of(labels, digits, cache, **changes):
    given = {"metric": "kid", "features": "judge", "seed": 5, **changes}
    return Study({None: labels}, digits.path, cache=str(cache), **given)


def test_candidates_draw_from_the_same_noise_and_differ_in_their_settings_alone(labels, digits, tmp_path, monkeypatch):
    """Whatever the settings: seed, image numbers and labels. The first images of a later round are those of an earlier."""
    study, seen = study_of(labels, digits, tmp_path), []
    usual = DrawingModel.sample

    def remembered(self, **given):
        drawn = usual(self, **given)
        seen.append(({name: given[name] for name in ("n", "seed", "first", "labels")}, drawn.images))
        return drawn

    monkeypatch.setattr(DrawingModel, "sample", remembered)
    # two methods: without eta, ddim is euler in another form, and their images may agree to the bit
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
    """Its own grid and interval are none of a candidate's that leaves them out; the figure is that of the plain model,
    and as good as one of the model that the candidate becomes."""
    own = {"solver": "ddim", "steps": 4, "grid": "quadratic", "guidance": 2.0, "guidance_interval": (0.2, 5.0)}
    checkpoint.settle(Path(labels), tmp_path / "own", own)
    candidate = Candidate(None, {"solver": "ddim", "steps": 3, "guidance": 2.0}, 6.0)
    usual, found = (
        study_of(folder, digits, tmp_path).outcome(candidate, 12).figure for folder in (labels, str(tmp_path / "own"))
    )
    assert found == usual
    assert found.overrides is None


def test_a_measurement_is_known_by_everything_that_it_is_of(labels, digits, tmp_path):
    """Weights, data, metric, seed, split, real images, number and settings: the smallest change is another one."""
    checkpoint.settle(Path(labels), tmp_path / "other", {"solver": "ddim"})
    with description_of(tmp_path / "other") as told:
        told["files"]["ema.safetensors"] = f"{int(told['files']['ema.safetensors'], 16) ^ 1:064x}"
    again = write_digit_shards(tmp_path / "again", 200, 120)
    last = replace(again.shards[1], sha256=f"{int(again.shards[1].sha256, 16) ^ 1:064x}")
    write_manifest(replace(again, shards=(again.shards[0], last)))
    one = Candidate(None, {"solver": "ddim", "steps": 2}, 2.0)

    def key(candidate=one, samples=8, model=labels, data=digits.path, **changes):
        given = {"metric": "kid", "features": "judge", "seed": 5, **changes}
        study = Study({None: labels, 0.1: model}, data, cache=str(tmp_path), **given)
        study.__dict__["network"] = changes.get("features", "network")  # whose hash another test is of
        return study.key(candidate, samples)

    far = replace(one, average=0.1)
    keys = [
        key(), key(samples=9), key(seed=6), key(metric="is"), key(split="validation"), key(reference=100),
        key(reference=101), key(data=again.path), key(far, model=str(tmp_path / "other")), key(features="other"),
        key(replace(one, drawing={"solver": "ddim", "steps": 3})), key(replace(one, drawing={**one.drawing, "eta": 0.1})),
        key(replace(one, drawing={**one.drawing, "guidance": 1.0})),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key(batch_size=3) == key(far) == keys[0]  # the run's own average under another name, say


def test_a_study_asks_every_candidate_the_same(labels, digits, tmp_path):
    """All that is common to them, and nobody's guidance but their own."""
    given = {"seed": 8, "split": "validation", "reference": 77, "allow_few": True, "batch_size": 9}
    study = study_of(labels, digits, tmp_path, **given)
    for drawing in ({"solver": "ddim", "steps": 2}, {"solver": "heun", "steps": 3, "guidance": 2.5}):
        found = study.question(Candidate(None, drawing, 1.0), 50)
        assert found.settings == {"guidance": 1.0, **drawing, "batch_size": 9}
        assert (found.metrics, found.samples, found.seed, found.split) == (("kid",), 50, 8, "validation")
        assert (found.reference, found.allow_few) == (77, True)


def test_a_model_with_settings_of_its_own_is_another_study(labels, digits, tmp_path, capsys):
    """What is tried beside a candidate's settings are those of the model: the same weights with others are refused."""
    out = tmp_path / "out"
    out.mkdir()
    description = checkpoint.read(Path(labels))
    own = {"weights": description.files["ema.safetensors"], "generation": {"solver": "ddim"}}
    (out / "study.json").write_text(json.dumps(own))
    given = ["--data", digits.path, "--cache", str(tmp_path), "--out", str(out), "--features", "judge"]
    assert "holds the study of another model" in refused(capsys, "settle", labels, *given, "steps=5")
    assert json.loads((out / "study.json").read_text()) == own


def test_another_feature_network_is_another_measurement(labels, digits, tmp_path):
    """Of the same name: what was measured in the eyes of the one is not taken for the other."""
    file, candidate = tmp_path / "features.pt", Candidate(None, {"solver": "ddim", "steps": 2}, 2.0)

    def key():
        return study_of(labels, digits, tmp_path, features=str(file), allow_code=True).key(candidate, 8)

    torch.jit.script(nn.Flatten()).save(file)
    first = key()
    assert key() == first
    torch.jit.script(nn.Sequential(nn.Flatten(), nn.Softmax(dim=1))).save(file)
    assert key() != first


def test_a_rehearsal_finds_what_does_not_fit_and_leaves_what_all_need(labels, digits, tmp_path, monkeypatch):
    told = []
    candidate = Candidate(None, {"solver": "ddim", "steps": 2}, 2.0)
    study_of(labels, digits, tmp_path).rehearse(candidate, 50, lambda *what: told.append(what))
    assert {path.name.split("-")[0] for path in tmp_path.glob("*.safetensors")} == {"judge", "reference"}
    monkeypatch.setattr("raysde.evaluation.features.classifier.trained", None)
    study_of(labels, digits, tmp_path).outcome(candidate, 6)
    with pytest.raises(ValueError, match="FID of 200 real images says little"):
        study_of(labels, digits, tmp_path, metric="fid").rehearse(candidate, 3000, lambda *what: None)
    study_of(labels, digits, tmp_path, metric="fid", allow_few=True).rehearse(candidate, 50, lambda *what: None)


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
        (["step=5"], "step is no setting"),
        (["steps=5", "--device", "toaster"], "is no device"),
        (["churn=0,40"], "churn changes nothing here"),
        (["ema_std=0.1"], "holds no snapshots in profiles/"),
        (["steps=5", "--features", "nowhere.pth"], "there is no feature network 'nowhere.pth'"),
    ],
)
def test_mistakes_are_one_sentence_before_ray(labels, digits, tmp_path, capsys, monkeypatch, more, said):
    def forbidden(*given, **more):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", forbidden)
    given = ["settle", labels, "--data", digits.path, "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    assert said in refused(capsys, *given, *([] if "--features" in more else ["--features", "judge"]), *more)
    assert not (tmp_path / "out" / "model").exists()


def test_a_folder_of_another_study_is_refused(labels, digits, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--data", digits.path, "--cache", str(tmp_path), "--out", str(out), "--features", "judge"]
    (out / "model").mkdir(parents=True)
    said = refused(capsys, "settle", labels, *given, "steps=5")
    assert f"exists already: register it with raysde register {out / 'model'} --name NAME" in said
    (out / "model").rmdir()
    (out / "study.json").write_text(json.dumps({"weights": "other"}))
    assert "another model" in refused(capsys, "settle", labels, *given, "steps=5")


def test_the_command_writes_model_and_table(labels, digits, tmp_path, capsys, monkeypatch):
    """With figures that are made up: 10 steps are best, 5 cannot be told from them, and are the winner's."""
    values = {2: 9.0, 5: 1.1, 10: 1.0}

    def made_up(study, out):
        return lambda left, samples: [plain(each, values[each.drawing["steps"]], samples, 0.2) for each in left]

    monkeypatch.setattr("raysde.cluster.tune_sampler.measure_on_ray", made_up)
    out = tmp_path / "out"
    given = [
        "settle",
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
    assert "is not ahead beyond the interval" in shown
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
    assert [row["behind"] for row in (table[0], table[2])] == ["", ""]  # the first, and who left earlier
    behind = [float(table[1][key]) for key in ("behind_low", "behind", "behind_high")]
    assert behind == pytest.approx([0.1 - 0.2 * math.sqrt(2.0), 0.1, 0.1 + 0.2 * math.sqrt(2.0)])
    assert torch.equal(
        load(out / "model").sample(labels=[3, 4], seed=2).images,
        load(labels).sample(labels=[3, 4], seed=2, **own).images,
    )


def settled(labels, digits, out, monkeypatch, *more, best):
    """The model that the command writes with figures that are made up: those with ``best`` are; and the study."""
    studies = []

    def made_up(study, out):
        studies.append(study)

        def measure(left, samples):
            return [plain(each, float(not best.items() <= each.drawing.items()), samples) for each in left]

        return measure

    monkeypatch.setattr("raysde.cluster.tune_sampler.measure_on_ray", made_up)
    given = ["--data", digits.path, "--features", "judge", "--out", str(out), "--samples", "60", "--rounds", "1"]
    assert main(["settle", labels, *more, *given]) == 0
    return load(out / "model"), studies[0]


def drawn_by_command(folder, out):
    assert main(["sample", str(folder), "--label", "3", "--label", "4", "--seed", "2", "--out", str(out)]) == 0
    return torch.stack([open_image(path) for path in sorted(out.glob("image-*.png"))])


def test_a_winner_without_guidance_draws_without_it(labels, digits, tmp_path, monkeypatch, capsys):
    """It was measured so; everybody else's default of the command is 2. What all workers need is where all reach it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model, study = settled(
        labels, digits, tmp_path / "out", monkeypatch, "solver=unipc", "steps=2,5", best={"steps": 5}
    )
    assert model.spec.generation == {"solver": "unipc", "steps": 5, "guidance": 1.0}
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"draws by {sentence(model.spec.generation)}")
    plain = load(labels).sample(labels=[3, 4], seed=2, solver="unipc", steps=5, guidance=1.0)
    assert torch.equal(drawn_by_command(tmp_path / "out" / "model", tmp_path / "drawn"), plain.images)
    assert study.cache == str(tmp_path / "out" / "cache")
    assert {path.name.split("-")[0] for path in (tmp_path / "out" / "cache").glob("*.safetensors")} == {
        "judge",
        "reference",
    }
    assert not (tmp_path / "home" / "raysde").exists()


def test_a_winner_takes_nothing_from_the_settings_before(labels, digits, tmp_path, monkeypatch):
    """At guidance 1 the interval that the model had means nothing, and `raysde sample` refuses it."""
    own = {"solver": "unipc", "steps": 4, "guidance": 2.0, "guidance_interval": (0.2, 5.0)}
    checkpoint.settle(Path(labels), tmp_path / "own", own)
    source, best = str(tmp_path / "own"), {"guidance": 1.0}
    model, _ = settled(source, digits, tmp_path / "out", monkeypatch, "guidance=1,2", best=best)
    assert model.spec.generation == {"solver": "unipc", "steps": 4, "guidance": 1.0}
    plain = load(labels).sample(labels=[3, 4], seed=2, solver="unipc", steps=4)
    assert torch.equal(drawn_by_command(tmp_path / "out" / "model", tmp_path / "drawn"), plain.images)
