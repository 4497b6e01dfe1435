"""One run with all that a long run uses at once, killed five times at random: the weights of an undisturbed run.

The run mixes two data sets, one of them filtered and weighted, tells the network captions, a number and a second image,
measures FID while it trains, keeps its best checkpoints, and returns to a checkpoint once its loss is NaN.
"""

import sqlite3
from pathlib import Path
from random import Random

import pytest

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.cluster.networks import Noted
from tests.support.ingested import DESCRIBED, described_parts, ingest_here
from tools.kills import WORKER, Case, Trial, kill

pytestmark = pytest.mark.slow
STEPS, EVERY, KILLS, BAD = 30, 5, 5, 12
"""Steps of the run and between checkpoints, number of kills, and step of the batch whose loss is NaN."""
FILTER = "score > 3 and language == 'en'"


def recipe(both, storage: Path, network: dict) -> dict:
    """Return the recipe of the run."""
    first, second = (each.path for each in both)
    mix = [
        {"path": first, "weight": 2, "filter": FILTER, "weights": {"column": "score"}},
        {"path": second, "weight": 1, "weights": "balanced", "caption_template": "one of {label}: {caption}"},
    ]
    return {
        "name": "small",
        "storage": str(storage),
        "data": {"mix": mix, "stream": "ray"},
        "network": {"kind": "external", **network},
        "text": {"kind": "scratch", "width": 16, "layers": 1, "heads": 2},
        "attributes": {"names": ["tilt"]},
        "image_condition": {"kind": "column"},
        "train": {"length": {"steps": STEPS}, "batch": 16, "lr": 1e-3, "warmup": 3, "microbatch": 8,
                  "ema": {"half_life": 100}, "on_bad_step": "rollback", "bad_steps": {"window": 5}},
        "validation": {"rows": 24, "every": EVERY, "metrics": ["fid"], "samples": 32, "batch": 8, "allow_few": True,
                       "features": "judge", "sampler": {"solver": "euler", "steps": 2}},
        "keep": {"newest": 2, "best": 2, "by": "val/fid"},
        "sampling": {"every": 0},
        "resources": {"workers": 2, "cpus_per_worker": 1, "max_failures": 10},
        "tracking": {"uri": f"sqlite:///{storage.parent / 'mlflow.db'}"},
        "log_every": 1,
        "checkpoint_every": EVERY,
    }  # fmt: skip


class Whole(Trial):
    """A run of `raysde train` with the recipe of this file."""

    both: tuple = ()
    bad = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.environment["HOME"] = str(self.data)  # both runs take one judge and one set of real images

    def recipe(self) -> dict:
        network = {"factory": "tests.cluster.networks:SpoiledAt", "kwargs": {"bad": self.bad}}
        return recipe(self.both, self.folder / "runs", network)


def time_of_a_row(both, place: Path) -> float:
    """Return the network's time input for a row of batch ``BAD``, by a run of one process."""
    tree = recipe(both, place / "runs", {"factory": "tests.cluster.networks:Noted"})
    changes = {"validation": {"rows": 0}, "keep": {}, "resources": {}, "tracking": {}, "checkpoint_every": 0}
    tree |= changes
    tree["train"]["length"]["steps"] = BAD + 1
    Noted.times.clear()
    train_here(open_run(loading.parse_recipe(tree)), None)
    assert len(Noted.times) == 2 * (BAD + 1)
    found = Noted.times[-2][3].item()
    assert sum(int((each == found).sum()) for each in Noted.times) == 1
    return found


def disturb(trial: Trial, random: Random) -> list[str]:
    """Run the command to its end with kills of workers and of the command itself; return the names of the killed."""
    process, killed, calls = trial.start(), [], 0
    while len(killed) < KILLS:
        calls = trial.calls + random.randrange(4, 16)
        assert trial.until(process, lambda wanted=calls: trial.calls >= wanted), trial_log(trial)
        if random.random() < 0.4:
            process.kill()
            process.wait()
            killed.append("driver")
            process = trial.start()
        elif kill(trial, WORKER, random.randrange(2)):
            killed.append("worker")
    assert trial.ended(process) == 0, trial_log(trial)
    return killed


def trial_log(trial: Trial) -> str:
    return (trial.folder / "train.log").read_text()[-3000:]


def outcome(trial: Trial) -> dict:
    """Return the hashes of all kept checkpoints, their metrics and rows, the logged FID and the registered version."""
    folders = sorted(path for path in trial.run.iterdir() if path.name.startswith("step_"))
    found = {}
    for folder in folders:
        about = checkpoint.read_description(folder)
        kept = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
        assert kept
        found[folder.name] = (kept, about.state["metrics"], about.state["rows_digest"], about.bad.left_out)
    with sqlite3.connect(trial.database) as rows:
        fid = rows.execute("SELECT step, value FROM metrics WHERE key = 'val/fid' ORDER BY step").fetchall()
        tags = rows.execute("SELECT version, key, value FROM model_version_tags").fetchall()
        runs = rows.execute("SELECT status FROM runs").fetchall()
    weights = {(version, key): value for version, key, value in tags if "weights" in key or "best" in value}
    return {"checkpoints": found, "fid": fid, "version": weights, "runs": runs}


def test_a_run_with_everything_survives_five_kills(tmp_path):
    first = ingest_here(described_parts(240), tmp_path / "first", DESCRIBED)
    both = (first, ingest_here(described_parts(120, first=1000), tmp_path / "second", DESCRIBED))
    Whole.both, Whole.bad = both, time_of_a_row(both, tmp_path)
    plain, killed = (Whole(Case(number, "none", 2), tmp_path, 900.0) for number in range(2))
    try:
        assert plain.ended(plain.start()) == 0, trial_log(plain)
        names = disturb(killed, Random(25))
        assert {"driver", "worker"} == set(names)
        expected, found = outcome(plain), outcome(killed)
    finally:
        for trial in (plain, killed):
            trial.close(keep=False)
    assert expected["runs"] == [("FINISHED",)]
    assert len(expected["fid"]) == STEPS // EVERY
    left_out = expected["checkpoints"][checkpoint.checkpoint_name(STEPS)][3]
    assert left_out == [(10, BAD + 1)]
    assert found == expected
