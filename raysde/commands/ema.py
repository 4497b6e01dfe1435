"""The command `raysde ema`: an average of another length, made after training."""

import argparse
from pathlib import Path


def add_ema_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Writes a checkpoint to sample from whose weights are averaged over a length chosen now, put together from "
        "the snapshots of a run with train.ema.profiles (Karras et al. 2024)."
    )
    command.add_argument("source", metavar="run", help="the run's folder or URI, which holds profiles/ and step_...")
    command.add_argument(
        "--std", type=float, required=True, help="length: standard deviation of the averaged times, relative to the end"
    )
    command.add_argument("--out", required=True, help="folder of the checkpoint, which must not exist")
    command.add_argument("--step", type=int, help="average up to the snapshot of this step (default: the last)")
    command.set_defaults(run=run_ema)


def run_ema(args: argparse.Namespace) -> None:
    """raysde ema."""
    from raysde.checkpoints import ema_snapshots

    out = Path(args.out).expanduser()
    step = ema_snapshots.export_average(args.source, out, args.std, args.step)
    print(f"checkpoint {out}, averaged with std {args.std} up to step {step}")
