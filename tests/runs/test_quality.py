"""Metrics of drawn images while a run trains: those of `raysde evaluate`, on any number of ranks."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.config import loading
from raysde.data.dataset.reader import Reader
from raysde.distributed.world import World, current_world
from raysde.evaluation.features import classifier
from raysde.evaluation.features.classifier import open_judge
from raysde.runs import quality
from raysde.runs.local import train_here
from raysde.runs.run import check_resumable, open_run
from tests.support.ranks import on_ranks
from tests.support.training import Recorded, same_tensors, small_recipe, stirred

METRICS = ("kid", "accuracy", "precision")


def tree_of(digits, place: Path, /, **changes) -> dict:
    given = {"text": None, "class_conditional": True, "train__lr": 3e-2, "train__length__steps": 4,
             "checkpoint_every": 2, "validation__rows": 24, "validation__metrics": list(METRICS),
             "validation__metrics_every": 2, "validation__samples": 40, "validation__reference": 50,
             "validation__features": "judge", "validation__seed": 3,
             "validation__sampler": {"solver": "euler", "steps": 3, "guidance": 1.5}}  # fmt: skip
    return small_recipe(digits, place, **{**given, **changes})


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """Keep judges and statistics in a folder of the tests' own, with a judge that was trained for seconds."""
    folder = tmp_path_factory.getbasetemp() / "quality_home"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(folder))
    for name, value in (("IMAGES", 300), ("LEAST", 1), ("MOST", 2)):
        monkeypatch.setattr(classifier, name, value)
    return folder


def test_metrics_of_a_run_are_those_of_evaluate(digits, tmp_path):
    """`raysde evaluate` of each checkpoint with the same seed and settings gives the logged values and intervals, bit
    for bit; they are in checkpoint.json, and a grid of fixed seeds is drawn beside them."""
    tree, sink = tree_of(digits, tmp_path), Recorded()
    train_here(open_run(loading.parse_recipe(tree)), sink)
    assert sink.pictures == [2, 4]
    for step in (2, 4):
        report, folder = tmp_path / f"{step}.json", tmp_path / "small" / checkpoint.checkpoint_name(step)
        command = ["evaluate", str(folder), "--data", digits.path, "--metrics", ",".join(METRICS), "--samples", "40"]
        command += ["--reference", "50", "--features", "judge", "--seed", "3", "--solver", "euler", "--steps", "3"]
        assert main([*command, "--guidance", "1.5", "--device", "cpu", "--output", str(report)]) == 0
        figures = {each["name"]: each for each in json.loads(report.read_text())["figures"]}
        stored = checkpoint.read_description(folder).state["metrics"]
        for name in METRICS:
            expected = [figures[name][key] for key in ("value", "low", "high")]
            names = [f"val/{name}", f"val/{name}/low", f"val/{name}/high"]
            assert [sink.of(each)[step] for each in names] == expected
            assert [stored[each] for each in names] == expected
    assert sink.of("val/kid")[2] != sink.of("val/kid")[4]


def test_measuring_changes_no_weights(digits, tmp_path):
    """The weights are those of a run without metrics, bit for bit."""
    plain, measured = (
        tree_of(digits, tmp_path / name, validation__metrics=metrics) for name, metrics in (("a", []), ("b", ["kid"]))
    )
    for tree in (plain, measured):
        train_here(open_run(loading.parse_recipe(tree)), None)
    folders = [Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(4) for tree in (plain, measured)]
    for kind in ("ema", "weights", "optimizer"):
        assert same_tensors(*(load_file(folder / f"{kind}.safetensors") for folder in folders))


def measured_on_rank(rank: int, tree: dict, home: str, out: str) -> None:
    """Measure stirred weights on two ranks; write the metrics of each rank."""
    if rank == 1:  # another machine, without a judge and statistics of its own
        home = f"{home}-other"
    os.environ["HOME"] = home
    run = open_run(loading.parse_recipe(tree))
    torch.distributed.init_process_group("gloo")
    world, state = current_world(), stirred(run)
    measure = quality.make_quality(run, state.model.eval(), world)
    assert measure is not None
    with torch.no_grad():
        Path(out, f"{rank}.json").write_text(json.dumps(measure(state.model)))


def test_two_ranks_measure_what_one_does(digits, tmp_path, monkeypatch, home):
    """Each rank draws one of two ranges. Both get the metrics of one process to 1e-6, also the rank of a machine that
    has neither the judge nor the statistics."""
    tree = tree_of(digits, tmp_path / "runs", validation__samples=300)
    run = open_run(loading.parse_recipe(tree))
    open_judge(Reader(run.manifest), (8, 8), home / "raysde" / "evaluation")
    model = stirred(run).model.eval()
    with torch.no_grad():
        alone = quality.make_quality(run, model, World())(model)
    on_ranks(2, measured_on_rank, tree, str(home), str(tmp_path))
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert both[0] == both[1]
    assert both[0].keys() == alone.keys()
    assert both[0] == pytest.approx(alone, abs=1e-6)
    for mine, other in zip(
        *(sorted(each.glob("**/*.safetensors")) for each in (home, Path(f"{home}-other"))), strict=True
    ):
        assert mine.read_bytes() == other.read_bytes()


def test_checkpoints_are_ranked_by_a_metric_of_drawn_images(digits, tmp_path, monkeypatch):
    """keep.by=val/accuracy keeps the checkpoint with the highest value, and measures it at each checkpoint. Patience
    counts the measurements at steps 2, 4 and 6; those of other checkpoints and of the loss do not count."""
    values = iter([0.1, 0.7, 0.4, 0.5, 0.9, 0.6])
    monkeypatch.setattr(
        "raysde.runs.local.make_quality", lambda run, model, world: lambda model: {"val/accuracy": next(values)}
    )
    keep = {"newest": 1, "best": 1, "by": "val/accuracy"}
    changes = {"train__length__steps": 9, "checkpoint_every": 1, "validation__every": 1, "validation__patience": 2}
    tree, sink = tree_of(digits, tmp_path, keep=keep, **changes), Recorded()
    train_here(open_run(loading.parse_recipe(tree)), sink)
    assert sink.of("val/accuracy") == {1: 0.1, 2: 0.7, 3: 0.4, 4: 0.5, 5: 0.9, 6: 0.6}
    kept = sorted(path.name for path in (tmp_path / "small").glob("step_*"))
    assert kept == [checkpoint.checkpoint_name(step) for step in (5, 6)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validation__metrics": ["kidd"]}, "validation.metrics: metrics must be of fid, kid"),
        ({"validation__metrics": ["fid"]}, "or set validation.allow_few=true"),
        (
            {"validation__metrics": ["clip_score"]},
            "validation.metrics: clip_score needs weights that training does not load; leave clip_score out, and "
            "measure checkpoints by `raysde evaluate --metrics clip_score --clip FOLDER`",
        ),
        ({"validation__samples": 2}, "validation.metrics: kid: 2 drawn images are too few"),
        ({"validation__samples": 0}, "validation.samples: must be at least 1, got 0"),
        (
            {"image_condition": {"kind": "upscale", "factor": 2}},
            "validation.metrics: kid: the model has an image condition",
        ),
        ({"validation__metrics_every": 0}, "validation.metrics_every: must be at least 1, got 0"),
        ({"validation__sampler": {"stps": 3}}, "validation.sampler: stps is not a setting"),
        ({"validation__sampler": {"steps": 0}}, "validation.sampler: steps"),
        ({"validation__sampler": {"guidance": "x"}}, "validation.sampler: guidance"),
        ({"class_conditional": False}, "validation.metrics: accuracy needs a model with labels or captions"),
        ({"validation__every": 0, "validation__metrics_every": None}, "validation: metrics are never measured"),
        ({"validation__metrics": ["kid", "kid"]}, "validation: metrics must differ"),
        ({"keep": {"by": "val/fid"}}, "keep.by=val/fid is not measured here; add fid to validation.metrics"),
    ],
)
def test_a_bad_value_is_a_sentence(digits, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        open_run(loading.parse_recipe(tree_of(digits, tmp_path, **changes)))
    assert "\n" not in str(refused.value)


def test_a_missing_feature_network_is_named_by_keys_of_the_recipe(digits, tmp_path):
    tree = tree_of(digits, tmp_path, validation__features="nothing.pth")
    with pytest.raises(ValueError, match=r"there is no feature network 'nothing\.pth'") as refused:
        train_here(open_run(loading.parse_recipe(tree)), None)
    assert "--" not in str(refused.value)


def test_settings_of_the_metrics_cannot_change_under_a_run(digits, tmp_path):
    """Other images would give other metrics, which cannot be ranked with the earlier ones; intervals may change."""
    run = open_run(loading.parse_recipe(tree_of(digits, tmp_path)))
    recipe = run.config.flat()
    data = {**run.data_identity, "microbatch": run.plan.microbatch}
    found = type("Found", (), {"spec": run.spec, "recipe": recipe, "data": data})()
    check_resumable(open_run(loading.parse_recipe(tree_of(digits, tmp_path, validation__metrics_every=4))), found)
    with pytest.raises(ValueError, match=r"validation\.samples=40, the recipe says 41"):
        check_resumable(open_run(loading.parse_recipe(tree_of(digits, tmp_path, validation__samples=41))), found)
