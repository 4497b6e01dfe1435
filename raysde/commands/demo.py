"""The command `raysde demo`."""

import argparse
from pathlib import Path

from raysde.commands import STARTED


def add_demo_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde demo` to its parser."""
    command.description = (
        "Writes handwritten digits as an image folder, ingests them, trains a model of them on Ray, and registers it. "
        "Samples 500 digits from prompts, and prints the share that a classifier reads as asked. It takes two to five "
        "minutes on two CPU cores and downloads nothing."
    )
    command.add_argument("--recipe", default="digits", help="YAML file or built-in recipe (default %(default)s)")
    command.add_argument(
        "--out", default="out/demo", help="output folder; an earlier demo there is replaced (default %(default)s)"
    )
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="changed keys of the recipe digits"
    )
    command.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    """Run `raysde demo`: train a model of handwritten digits and print the accuracy of its samples.

    Raises:
        ValueError, OSError, RuntimeError: as :func:`raysde.cluster.demo.demo_job`.
    """
    from raysde.cluster.demo import demo_job

    demo_job(args.recipe, Path(args.out).absolute(), args.overrides, started=STARTED)
