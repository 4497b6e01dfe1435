"""The command `raysde ema`: EMA weights of another length, computed after training."""

import argparse
from pathlib import Path


def add_ema_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde ema` to its parser."""
    command.description = (
        "Writes a checkpoint for sampling whose EMA weights have a length chosen now, computed from the snapshots of a "
        "run with train.ema.profiles (post-hoc EMA, Karras et al. 2024)."
    )
    command.add_argument("source", metavar="run", help="folder or URI of the run, with profiles/ and step_*")
    command.add_argument(
        "--std", type=float, required=True, help="EMA length: relative width of the average (sigma_rel in the paper)"
    )
    command.add_argument("--out", required=True, help="folder of the new checkpoint, which must not exist")
    command.add_argument("--step", type=int, help="step at which the average ends (default: that of the last snapshot)")
    command.set_defaults(run=run_ema)


def run_ema(args: argparse.Namespace) -> None:
    """Run `raysde ema`: build a checkpoint with averaged weights of a chosen length."""
    from raysde.checkpoints import ema_snapshots

    out = Path(args.out).expanduser()
    step = ema_snapshots.export_average(args.source, out, args.std, args.step)
    print(f"checkpoint {out}, averaged with std {args.std} up to step {step}")
