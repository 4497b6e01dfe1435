"""RUN@best, RUN@last and RUN@STEP name checkpoints of a run."""

import pytest

from raysde import registry
from raysde.checkpoints import checkpoint
from raysde.cli import main
from tests.support.checkpoints import description_of, write_model


@pytest.fixture
def folder(tmp_path):
    """Return a run's folder whose best checkpoint by the recipe of the newest one is that of step 20, then step 30."""
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    for step, value in ((10, 0.5), (20, 0.9), (30, 0.8)):
        place = folder / checkpoint.checkpoint_name(step)
        write_model(place, step, text=None)
        with description_of(place) as content:
            content["state"]["metrics"] = {"val/accuracy": value, "val/loss": value}
            content["recipe"] = {"keep.by": "val/accuracy", "keep.mode": "max"} if step == 30 else {}
    return folder


@pytest.mark.parametrize(("name", "step"), [("best", 20), ("last", 30), ("10", 10), ("step_000000020", 20)])
def test_a_checkpoint_is_found_by_its_name(folder, name, step):
    assert registry.resolve_source(f"{folder}@{name}") == folder / checkpoint.checkpoint_name(step)


def test_a_damaged_best_checkpoint_is_passed_over(folder, capsys):
    """The second best is taken, and the fault is printed; by its step the damaged one is refused."""
    weights = folder / checkpoint.checkpoint_name(20) / "ema.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert registry.resolve_source(f"{folder}@best").name == checkpoint.checkpoint_name(30)
    assert "the best whole one is step_000000030" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not match its sha256"):
        registry.resolve_source(f"{folder}@20")


def test_a_run_of_an_older_version_is_ranked_by_its_loss(folder):
    """A recipe without the keys ranks by the validation loss, of which lower is better."""
    with description_of(folder / checkpoint.checkpoint_name(30)) as content:
        content["recipe"] = {}
    assert registry.resolve_source(f"{folder}@best").name == checkpoint.checkpoint_name(10)


def test_a_folder_with_the_sign_in_its_name_is_that_folder(folder):
    named = folder.with_name("digits@best")
    folder.rename(named)
    assert registry.resolve_source(str(named)) == named / checkpoint.checkpoint_name(30)
    assert registry.resolve_source(f"{named}@last") == named / checkpoint.checkpoint_name(30)


@pytest.mark.parametrize(
    ("name", "culprit"),
    [("bst", r"did you mean best\?"), ("11", "no checkpoint of step 11; its steps are 10, 20, 30"), ("", "best, last")],
)
def test_a_checkpoint_that_is_not_there_is_named(folder, name, culprit):
    with pytest.raises(ValueError, match=culprit):
        registry.resolve_source(f"{folder}@{name}")


def test_a_run_without_metrics_has_no_best_checkpoint(folder, capsys):
    """The command ends with one sentence and status 2."""
    for step in (10, 20, 30):
        with description_of(folder / checkpoint.checkpoint_name(step)) as content:
            del content["state"]["metrics"]
    assert main(["sample", f"{folder}@best"]) == 2
    said = capsys.readouterr().err
    assert "no checkpoint of the run has a value of val/accuracy" in said
    assert said.count("\n") == 1


def test_a_folder_without_checkpoints_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="no run's folder with checkpoints"):
        registry.resolve_source(f"{tmp_path}@best")


def test_the_checkpoints_of_a_run_are_listed_with_their_ranks(folder, capsys):
    """`raysde inspect RUN` prints a row for each step, newest first, and RUN@best the metrics of that step."""
    assert main(["inspect", str(folder)]) == 0
    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["step", "val/accuracy", "rank", "checkpoint"]
    assert [row[:3] for row in rows] == [["30", "0.80000", "2"], ["20", "0.90000", "1"], ["10", "0.50000", "3"]]
    assert main(["inspect", f"{folder}@20"]) == 0
    assert ["val/accuracy", "0.9"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_an_average_up_to_a_checkpoint_takes_no_second_step(folder, capsys):
    arguments = ["ema", f"{folder}@best", "--std", "0.1", "--out", str(folder.parent / "out"), "--step", "10"]
    assert main(arguments) == 2
    assert "both name a step; keep one of them" in capsys.readouterr().err
