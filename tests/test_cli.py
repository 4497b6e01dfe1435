"""The command line: errors are one sentence on stderr and exit status 2, before any worker starts."""

import argparse
import json
import shlex
from importlib import metadata
from pathlib import Path

import pytest
import torch
from PIL import Image

from raysde.cli import FORMER, build_parser, format_warning, main
from raysde.commands.next_step import suggest_condition
from raysde.config.loading import load_recipe
from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.shards import distinct_captions
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.models import spec_with
from tests.support.pictures import rng_image

RECIPE = "digits"


@pytest.fixture
def refuse_ray(monkeypatch):
    """Make any start of Ray fail, so that errors must be found before."""

    def started() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raysde.cluster.ingest.connect", started)
    monkeypatch.setattr("raysde.cluster.job.connect", started)


def test_a_warning_of_raysde_is_one_line_without_its_place_in_the_code():
    place = load_recipe.__code__.co_filename
    said = format_warning("attribute age=51 of mlflow at http://me:secret@host", UserWarning, place, 3)
    assert said == "warning: attribute age=51 of mlflow at http://me:***@host\n"
    assert "other.py:3: UserWarning: deprecated" in format_warning("deprecated", UserWarning, "other.py", 3)


@pytest.fixture
def places(tmp_path) -> list[str]:
    write_digit_shards(tmp_path / "shards")
    return [f"data.path={tmp_path}/shards", f"storage={tmp_path}/runs", f"tracking.uri=sqlite:///{tmp_path}/m.db"]


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (["train.epochs=3"], "train.epochs"),
        (["train.lr=fast"], "train.lr"),
        (["train.microbatch=100"], "train.batch=128"),
        (["resources.workers=3"], "resources.workers=3"),
        (["sde.kind=ve", "sde.sigma_min=99"], "sigma_min"),
        (["data.path=/no/such/place"], "/no/such/place"),
        (["data.image_size=12"], "network.attention"),
        (["data.scale=[0.5,1.5]"], "data.scale"),
        (["validation.rows=5000"], "validation.rows=5000"),
        (["network.multipliers=[1,2,2,2,2]"], "network.multipliers"),
        (["tracking.uri=http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["tracking.uri=./mlruns"], "./mlruns"),
        (["text.kind=pretrained", "text.path=/no/such/encoder"], "/no/such/encoder"),
    ],
)
def test_train_refuses(capsys, refuse_ray, places, overrides, culprit):
    assert culprit in refused(capsys, "train", RECIPE, *places, *overrides)


def test_train_refuses_a_damaged_shard(capsys, refuse_ray, places, tmp_path):
    path = tmp_path / "shards" / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "train-00000.parquet" in refused(capsys, "train", RECIPE, *places)


def test_train_refuses_to_continue_another_sde(capsys, refuse_ray, places, tmp_path):
    short = ["train.length.steps=1", "network.channels=8", "network.head_channels=8", "train.batch=8"]
    assert main(["train", RECIPE, "--no-ray", *places, *short]) == 0
    capsys.readouterr()
    assert "sde.kind=vp" in refused(capsys, "train", RECIPE, *places, *short, "sde.kind=ve")


def test_ingest_refuses(capsys, refuse_ray, tmp_path):
    assert "no/such" in refused(capsys, "ingest", "no/such", str(tmp_path / "out"))
    assert "--size" in refused(capsys, "ingest", str(tmp_path), str(tmp_path / "out"), "--size", "0")


def test_ingest_refuses_before_ray(capsys, refuse_ray, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(capsys, "ingest", str(tmp_path / "empty"), str(tmp_path / "out"))
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(rng_image(0)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "b.png", "text": "gone"}))
    assert "b.png" in refused(capsys, "ingest", str(folder), str(tmp_path / "out"))


def test_sample_refuses(capsys, places, tmp_path):
    unconditional = ["text=null", "sampling.prompts=[]", "sampling.guidance=1"]
    short = ["train.length.steps=1", "network.channels=8", "network.head_channels=8", "train.batch=8"]
    assert main(["train", RECIPE, "--no-ray", *places, *short, *unconditional]) == 0
    capsys.readouterr()
    run = str(tmp_path / "runs" / "digits")
    assert "no text encoder" in refused(capsys, "sample", run, "--prompt", "a seven")
    assert "no classes" in refused(capsys, "sample", run, "--label", "7")
    assert "solver" in refused(capsys, "sample", run, "--solver", "magic")
    assert "steps" in refused(capsys, "sample", run, "--steps", "0")
    assert "--device" in refused(capsys, "sample", run, "--device", "toaster")
    assert "no model named" in refused(capsys, "sample", "models:/x@y", "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    assert "nowhere" in refused(capsys, "sample", "nowhere")
    weights = str(next((tmp_path / "runs" / "digits").rglob("*.safetensors")))
    assert "it is a file, and a checkpoint is a folder" in refused(capsys, "sample", weights)
    for count in ("0", "-2"):
        assert f"-n must be at least 1, got {count}" in refused(capsys, "sample", run, "-n", count, "--prompt", "a")
    assert main(["sample", run, "-n", "2", "--steps", "2", "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "grid.png").exists()


def test_former_commands_are_no_choices(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["settel"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "'tune-sampler', 'import'" in said
    assert not any(repr(former) in said for former in FORMER)


def test_every_command_explains_itself(capsys):
    (commands,) = (action.choices for action in build_parser()._actions if action.dest == "command")
    assert len(commands) > 15
    for command, described in commands.items():
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([command, "--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert f"raysde {FORMER.get(command, command)}" in said
        assert described.description, f"{command} has no description"
        for action in described._actions:
            assert all(option in said for option in action.option_strings)
            assert action.help, f"{command} {action.dest} has no help text, or a hidden one"
            assert action.help != argparse.SUPPRESS, f"{command} {action.dest} is hidden"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a: is wrong;\n  do b"), 2),
        (RuntimeError("a: is wrong;\n  do b"), 1),
        (FloatingPointError("a: is wrong;\n  do b"), 1),
        (FileNotFoundError("a: is wrong;\n  do b"), 1),
        (ConnectionError("a: is wrong;\n  do b"), 1),
    ],
)
def test_an_error_is_one_line_and_a_status(capsys, monkeypatch, error, status):
    """The status is 2 for wrong input and 1 for a failed run; an internal error is a traceback."""

    def fails() -> None:
        raise error

    monkeypatch.setattr("raysde.config.reference.format_reference", fails)
    assert main(["config"]) == status
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "raysde: a: is wrong; do b\n")
    monkeypatch.setattr("raysde.config.reference.format_reference", lambda: [][0])
    with pytest.raises(IndexError):
        main(["config"])


def test_overrides_may_come_after_options(capsys):
    """This holds for commands with overrides; any other word is refused before the command runs."""
    assert main(["plan", RECIPE, "--step", "5", "train.bach=3"]) == 2
    assert "unknown key 'train.bach'" in capsys.readouterr().err
    for words in (
        ["plan", RECIPE, "--step", "5", "word"],
        ["plan", RECIPE, "--step", "5", "--lr=3"],
        ["models", "m", "a=b"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_config_prints_what_it_reads(capsys):
    assert main(["config"]) == 0
    assert "train.lr" in capsys.readouterr().out
    assert main(["config", RECIPE, "sde.kind=ve"]) == 0
    printed = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert {key: json.loads(value) for key, value in printed.items()} == load_recipe(RECIPE, ["sde.kind=ve"]).flat()


def test_names_that_do_not_exist_lead_to_those_that_were_meant(capsys):
    """The cases are a command, an option, a choice, a solver and a solver's setting."""
    for words, meant in (
        (["trian"], "train"),
        (["sample", "x", "--guidence", "2"], "--guidance"),
        (["sample", "x", "--gird", "edm"], "--grid"),
        (["sample", "x", "--form", "pngs"], "png"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert f"; did you mean {meant}?" in capsys.readouterr().err
    assert "did you mean unipc?" in refused(capsys, "sample", "x", "--solver", "unpic")
    assert "did you mean eta?" in refused(capsys, "sample", "x", "--set", "etaa=1")
    assert "did you mean fid" in refused(capsys, "evaluate", "x", "--data", "y", "--metrics", "fidd")


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"raysde {metadata.version('raysde')}, torch {torch.__version__}")


def test_a_folder_of_pictures_is_not_offered_as_a_place_for_shards(capsys, refuse_ray, places, tmp_path):
    """`raysde ingest` reads such a folder; it may write to an empty or missing folder."""
    pictures, empty = tmp_path / "pictures", tmp_path / "empty"
    (pictures / "cats").mkdir(parents=True)
    empty.mkdir()
    Image.fromarray(rng_image(0)).save(pictures / "cats" / "a.png")
    said = refused(capsys, "train", RECIPE, *places[1:], f"data.path={pictures}")
    assert f"raysde ingest {pictures} SHARDS" in said
    assert f"SOURCE {pictures}" not in said
    picture = pictures / "cats" / "a.png"
    assert said.startswith(f"raysde: data.path '{pictures}' holds no manifest.json")
    assert refused(capsys, "inspect", str(pictures)).startswith(f"raysde: the folder '{pictures}' holds no manifest")
    assert f"raysde ingest {picture} SHARDS" in refused(capsys, "train", RECIPE, *places[1:], f"data.path={picture}")
    for place in (empty, tmp_path / "missing"):
        assert f"raysde ingest SOURCE {place}" in refused(capsys, "train", RECIPE, *places[1:], f"data.path={place}")
    (empty / ".ingest").mkdir()
    assert "repeat its command" in refused(capsys, "train", RECIPE, *places[1:], f"data.path={empty}")


def test_training_here_ends_with_the_path_and_a_command_that_draws(capsys, places, tmp_path):
    """The printed command uses a caption of the recipe, else of the data, and runs as printed."""
    small = ["train.length.steps=2", "network.channels=8", "network.head_channels=8", "train.batch=8"]
    own = ["name=own", "sampling.prompts=[]", "sampling.guidance=1"]
    captions = distinct_captions(read_manifest(str(tmp_path / "shards")), 1000)
    for more, known in (([], load_recipe(RECIPE).sampling.prompts), (own, captions)):
        assert main(["train", RECIPE, "--no-ray", *places, *small, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        folder, command = lines[-3].split()[1], shlex.split(lines[-1].removeprefix("draw from it:"))
        assert (Path(folder).name, command[:3]) == ("step_000000002", ["raysde", "sample", folder])
        assert command[command.index("--prompt") + 1] in known
    register = shlex.split(lines[-2].removeprefix("register it:"))
    assert main([*register[1:], "--tracking-uri", f"sqlite:///{tmp_path / 'm.db'}"]) == 0
    assert "own" in capsys.readouterr().out
    assert main([*command[1:], "-n", "2", "--steps", "2", "--out", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("image-*.png"))) == 2
    capsys.readouterr()
    for count, said in ((2, "which are replaced"), (1, "of which 1 stays beside the new ones (image-001.png, ...)")):
        assert main([*command[1:], "-n", str(count), "--steps", "2", "--out", str(tmp_path / "drawn")]) == 0
        assert f"drawn holds 2 pictures of an earlier drawing, {said}" in capsys.readouterr().err
    assert "--guidance must be a number of at least 0" in refused(capsys, *command[1:], "--guidance", "-1")
    assert main(["train", RECIPE, "--no-ray", *places, *small[1:], *own, "train.length.steps=3"]) == 0
    assert "continuing from step 2 of 3" in capsys.readouterr().err
    assert main(["train", RECIPE, "--no-ray", *places, *small[1:], *own, "train.length.steps=1"]) == 0
    assert "the run is at step 3, beyond the 1 of the recipe's length: nothing is left" in capsys.readouterr().err


def test_a_class_is_what_is_asked_for_of_a_model_of_classes(tmp_path):
    """The label is the recipe's, else the first class name of the data, else a number."""
    named, plain = spec_with(classes=3, class_names=("box", "disc", "star")), spec_with(classes=3)
    assert suggest_condition(named, {"sampling.labels": ["star"]}, {}) == ["--label", "star"]
    assert suggest_condition(named, {}, {}) == ["--label", "box"]
    assert suggest_condition(plain, {}, {}) == ["--label", "0"]
    assert suggest_condition(spec_with(), {}, {}) == []
