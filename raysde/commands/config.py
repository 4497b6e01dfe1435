"""The command `raysde config`: the reference of all recipe keys, or one recipe checked and completed."""

import argparse


def add_config_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde config` to its parser."""
    command.description = "Explains every key of a recipe, or checks a recipe and prints it with all defaults."
    command.add_argument(
        "recipe", nargs="?", help="file or built-in recipe to check and print (default: explain all keys)"
    )
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="changed keys, such as sde.kind=ve"
    )
    command.set_defaults(run=run_config)


def run_config(args: argparse.Namespace) -> None:
    """Run `raysde config`: print the reference of all keys, or the keys and values of a recipe."""
    from raysde.config import loading, reference

    if args.recipe is None:
        print(reference.format_reference())
        return
    for key, value in loading.load_recipe(args.recipe, args.overrides).flat().items():
        print(f"{key}={loading.format_override(value)}")
