"""The command `raysde ema`: EMA weights of another length, computed after training."""

import argparse
from pathlib import Path


def add_ema_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde ema` to its parser."""
    command.description = (
        "Writes a checkpoint for sampling whose EMA weights have a length chosen now, computed from the snapshots of a "
        "run with train.ema.profiles (post-hoc EMA, Karras et al. 2024)."
    )
    command.add_argument(
        "source",
        metavar="run",
        help="folder or URI of the run, with profiles/ and step_*; RUN@best, RUN@last or RUN@STEP for the average up "
        "to that checkpoint",
    )
    command.add_argument(
        "--std", type=float, required=True, help="EMA length: relative width of the average (sigma_rel in the paper)"
    )
    command.add_argument("--out", required=True, help="folder of the new checkpoint, which must not exist")
    command.add_argument("--step", type=int, help="step at which the average ends (default: that of the last snapshot)")
    command.set_defaults(run=run_ema)


def run_ema(args: argparse.Namespace) -> None:
    """Run `raysde ema`: build a checkpoint with averaged weights of a chosen length.

    Raises:
        ValueError: if there is no such run or checkpoint, or ``--step`` is given beside a checkpoint.
    """
    from raysde.checkpoints import checkpoint, ema_snapshots
    from raysde.checkpoints.names import find_checkpoint, split_name
    from raysde.io.progress import say

    out = Path(args.out).expanduser()
    source, until = args.source, args.step
    folder, name = split_name(source)
    if name is not None and folder.is_dir():
        if until is not None:
            raise ValueError(f"--step {until} and {source} both name a step; keep one of them")
        source, until = str(folder), checkpoint.read_description(find_checkpoint(folder, name, say)).step
    step = ema_snapshots.export_average(source, out, args.std, until)
    print(f"checkpoint {out}, averaged with std {args.std} up to step {step}")
