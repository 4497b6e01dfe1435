"""Commands too long for one module with the others: their options and what they run."""

import argparse

SOURCES = (
    "a checkpoint folder, a run's folder, models:/NAME@ALIAS, models:/NAME/VERSION, a run id, "
    "or the folder of a diffusers pipeline"
)


def tracking_option(command: argparse.ArgumentParser) -> None:
    """Adds --tracking-uri."""
    command.add_argument("--tracking-uri", help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite in ~/raysde)")
