"""The command `raysde recipes`: the recipes and sweeps that are part of raysde."""

import argparse


def add_recipes_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde recipes` to its parser."""
    command.description = (
        "Lists the built-in recipes, or prints one, to be copied and changed: raysde recipes digits > mine.yaml"
    )
    command.add_argument("name", nargs="?", help="print this recipe as it is written")
    command.add_argument("--sweep", action="store_true", help="list or print sweeps, for raysde tune --sweep NAME")
    command.set_defaults(run=run_recipes)


def run_recipes(args: argparse.Namespace) -> None:
    """Run `raysde recipes`: list the built-in recipes, or print one.

    Raises:
        ValueError: if there is no recipe of that name.
    """
    from raysde.config.builtin import find_builtin, list_builtin

    kind = "sweep" if args.sweep else "recipe"
    if args.name is not None:
        print(find_builtin(kind, args.name).read_text(encoding="utf-8"), end="")
        return
    for name, path in list_builtin(kind).items():
        print(f"{name:<22}{path.read_text(encoding='utf-8').partition(chr(10))[0].removeprefix('# ')}")
