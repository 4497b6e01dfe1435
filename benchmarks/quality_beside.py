"""Measure the cost of metrics of drawn images during training: none, by the workers, and beside training.

    RAYSDE_DATA=FOLDER python benchmarks/quality_beside.py [--repeats 3] [--steps 400] [--every 100] [--samples 500]

FOLDER/fashion-mnist holds the idx files. Each run is the built-in recipe with one worker on one CPU, in a process of
its own. Runs of the three kinds alternate, and the table has medians. The time is that of the training loop with the
wait for the last results. The first run, which is not counted, fills the caches. Drawing alone is timed on the last
checkpoint, with one thread, in the process of this script; its share is of the run without metrics.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KINDS = ("without", "workers", "beside")


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind (default %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="length of a run (default %(default)s)")
    parser.add_argument("--every", type=int, default=100, help="steps between measurements (default %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="images of a measurement (default %(default)s)")
    parser.add_argument("--solver-steps", type=int, default=10, help="solver steps (default %(default)s)")
    parser.add_argument("--reference", type=int, default=10_000, help="real images (default %(default)s)")
    parser.add_argument("--shards", help="ingested data set (default: RAYSDE_DATA/fashion-mnist is ingested)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further keys of the recipe")
    return parser.parse_args()


def run_command(*command: str) -> None:
    """Run raysde in a process of its own.

    Raises:
        SystemExit: with the end of its output, if it fails.
    """
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "raysde.cli", *command], env=place, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"raysde {' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def ingest(folder: Path) -> str:
    """Return the shards of Fashion-MNIST, made from the idx files in RAYSDE_DATA."""
    source, shards = Path(os.environ.get("RAYSDE_DATA", ROOT / "data")) / "fashion-mnist", str(folder / "shards")
    run_command("ingest", str(source), shards, "--label-names", "fashion-mnist")
    return shards


def overrides_of(kind: str, args: argparse.Namespace, shards: str, folder: Path, name: str) -> list[str]:
    """Return the keys of the recipe of a run."""
    metrics = {
        "metrics": "[kid, accuracy]", "metrics_every": args.every, "samples": args.samples, "features": "judge",
        "reference": args.reference, "where": kind,
        "sampler": f"{{solver: unipc, steps: {args.solver_steps}, guidance: 1.5}}",
    }  # fmt: skip
    given = {
        "name": name, "data.path": shards, "storage": folder / "runs",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db", "train.length.steps": args.steps, "train.warmup": 0,
        "resources.workers": 1, "resources.cpus_per_worker": 1, "data.stream": "worker", "validation.every": 0,
        "sampling.every": 0, "checkpoint_every": args.every, "data.verify": "listing",
        **({} if kind == "without" else {f"validation.{key}": value for key, value in metrics.items()}),
    }  # fmt: skip
    return [*(f"{key}={value}" for key, value in given.items()), *args.overrides]


def time_run(kind: str, args: argparse.Namespace, shards: str, folder: Path, name: str) -> float:
    """Train a run of a kind and return the seconds of its loop."""
    from raysde import tracking

    run_command("train", "fashion-mnist", *overrides_of(kind, args, shards, folder, name))
    client = tracking.connect_client(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("raysde").experiment_id
    (found,) = client.search_runs([experiment], filter_string=f"attributes.run_name = '{name}'")
    return float(found.data.tags["raysde.seconds.loop"])


def time_drawing(args: argparse.Namespace, shards: str, folder: Path, name: str) -> float:
    """Return the seconds of one measurement of a run's last checkpoint, with one thread and filled caches."""
    from raysde.checkpoints import checkpoint
    from raysde.config import loading
    from raysde.evaluation.workload import measure_here
    from raysde.runs.quality import measure_model
    from raysde.runs.run import open_run

    torch.set_num_threads(1)
    run = open_run(loading.load_recipe("fashion-mnist", overrides_of("workers", args, shards, folder, name)))
    last = sorted((folder / "runs" / name).glob("step_*"))[-1]
    model = checkpoint.load_model(last)
    begin = time.perf_counter()
    measure_model(run, model, measure_here)
    return time.perf_counter() - begin


def main() -> None:
    """Run the benchmark and print its table."""
    args = parse_options()
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="raysde-beside-") as scratch:
        folder = Path(scratch)
        shards = args.shards or ingest(folder)
        time_run("workers", args, shards, folder, "first")
        for repeat in range(args.repeats):
            for kind in KINDS:
                seconds = time_run(kind, args, shards, folder, f"{kind}-{repeat}")
                found[kind].append(seconds)
                print(f"repeat {repeat}: {kind} {seconds:.1f} s", flush=True)
        drawing = statistics.median(time_drawing(args, shards, folder, "workers-0") for _ in range(3))
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    count = -(-args.steps // args.every)
    print(f"\n{args.steps} steps, {count} measurements of {args.samples} images in {args.solver_steps} solver steps")
    print("| metrics | loop, median of seconds | all runs | beside no metrics |\n|---|---|---|---|")
    for kind, seconds in middle.items():
        every = ", ".join(f"{value:.1f}" for value in found[kind])
        print(f"| {kind} | {seconds:.1f} | {every} | {100 * (seconds / middle['without'] - 1):+.1f}% |")
    share = count * drawing / middle["without"]
    print(
        f"\none measurement alone takes {drawing:.1f} s; all {count} are {100 * share:.1f}% of the run without metrics"
    )


if __name__ == "__main__":
    main()
