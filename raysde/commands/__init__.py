"""One module for each command: its options, and what it runs."""

import argparse
import time

from raysde.images.sizes import Size, read_size

STARTED = time.time()
"""When the command began, in seconds; nearly all of a start is imports."""
SOURCES = (
    "a checkpoint folder, a run's folder, models:/NAME@ALIAS, models:/NAME/VERSION, a run id, "
    "or the folder of a diffusers pipeline"
)


def add_tracking_option(command: argparse.ArgumentParser) -> None:
    """Adds --tracking-uri."""
    command.add_argument("--tracking-uri", help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite in ~/raysde)")


def parse_size_option(text: str | None) -> Size | None:
    """Return the (height, width) that ``--size`` means, None without.

    Raises:
        ValueError: if it reads otherwise.
    """
    try:
        return None if text is None else read_size(text)
    except ValueError as error:
        raise ValueError(f"--size: {error}") from None
