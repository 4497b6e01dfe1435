"""The command line's commands, one module each: its options and its run function."""

import argparse
import time

from raysde.images.sizes import Size, read_size

STARTED = time.time()
"""``time.time()`` when the command began; imports take nearly all of the start-up time."""
SOURCES = (
    "a checkpoint folder, a run's folder, RUN@best, RUN@last or RUN@STEP for one of its checkpoints, "
    "models:/NAME@ALIAS, models:/NAME/VERSION, a run id, or the folder of a diffusers pipeline"
)


def add_tracking_option(command: argparse.ArgumentParser) -> None:
    """Add --tracking-uri."""
    command.add_argument("--tracking-uri", help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite in ~/raysde)")


def parse_size_option(text: str | None) -> Size | None:
    """Return ``--size`` as (height, width), None if it is not given.

    Raises:
        ValueError: if it is neither N nor HxW.
    """
    try:
        return None if text is None else read_size(text)
    except ValueError as error:
        raise ValueError(f"--size: {error}") from None
