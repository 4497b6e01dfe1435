"""The command `raysde config`: the reference of all keys, or a recipe checked and complete."""

import argparse


def add_config_options(command: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    command.add_argument(
        "recipe", nargs="?", help="print this file or built-in recipe, complete and checked, not the explanation"
    )
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    command.set_defaults(run=run_config)


def run_config(args: argparse.Namespace) -> None:
    """raysde config."""
    from raysde.config import loading, reference

    if args.recipe is None:
        print(reference.format_reference())
        return
    for key, value in loading.load_recipe(args.recipe, args.overrides).flat().items():
        print(f"{key}={loading.format_override(value)}")
