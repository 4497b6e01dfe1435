"""The command line: `raysde COMMAND`. Errors are one sentence, with exit status 2 for wrong input and 1 for a failed
run."""

import argparse
import copy
import os
import platform
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import raysde
from raysde.commands.config import add_config_options
from raysde.commands.data import add_inspect_options, add_plan_options
from raysde.commands.demo import add_demo_options
from raysde.commands.edit import add_edit_options
from raysde.commands.ema import add_ema_options
from raysde.commands.evaluate import add_evaluate_options
from raysde.commands.ingest import add_ingest_options
from raysde.commands.pipelines import add_export_options, add_import_options
from raysde.commands.precompute import add_precompute_options
from raysde.commands.recipes import add_recipes_options
from raysde.commands.registry import add_models_options, add_promote_options, add_register_options
from raysde.commands.sample import add_sample_options
from raysde.commands.signals import run_command
from raysde.commands.train import add_train_options
from raysde.commands.tune import add_tune_options
from raysde.commands.tune_sampler import add_tune_sampler_options
from raysde.commands.ui import add_ui_options
from raysde.io.near import did_you_mean
from raysde.io.passwords import hide_passwords

FORMER = {"settle": "tune-sampler"}
"""Former names of commands, which still work, and their current names."""


def describe_former_command(former: str) -> str:
    """Return the sentence that gives the current name of a former command."""
    return f"raysde {former} is called raysde {FORMER[former]} now"


class Parser(argparse.ArgumentParser):
    """A parser that suggests the command, option or choice that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and one sentence."""
        if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message):
            choices = [choice for choice in re.findall(r"'([^']*)'", match[2]) if choice not in FORMER]
            message = message.replace(match[2], ", ".join(map(repr, choices))) + did_you_mean(match[1], choices)
        super().error(message)

    def unrecognized(self, words: Sequence[str]) -> NoReturn:
        """End the program as :meth:`error` does, for arguments that the command does not take."""
        given = words[0].partition("=")[0]
        options = list(self._option_string_actions) if given.startswith("-") else []
        self.error(f"unrecognized arguments: {' '.join(words)}{did_you_mean(given, options)}")


def version_text() -> str:
    """Return the installed version, and the versions of the libraries that results depend on."""
    parts = [f"{name} {metadata.version(name)}" for name in ("raysde", "torch", "ray", "mlflow")]
    return f"{', '.join(parts)}, Python {platform.python_version()}"


class Version(argparse.Action):
    """The option --version; it looks up versions only on request, since that takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the versions and end the program."""
        print(version_text())
        parser.exit()


def build_parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="raysde", description="Score-based generative models through SDEs, from a laptop to a Ray cluster."
    )
    top.add_argument("--version", action=Version, nargs=0, help="print the versions of raysde and its libraries")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_ingest_options(commands.add_parser("ingest", help="convert captioned images into shards"))
    add_inspect_options(commands.add_parser("inspect", help="print statistics of a data set, and draw a contact sheet"))
    add_precompute_options(commands.add_parser("precompute", help="run a frozen encoder over a data set, once"))
    add_plan_options(commands.add_parser("plan", help="list the rows of a training step"))
    add_train_options(commands.add_parser("train", help="train a recipe, or resume its run"))
    add_tune_options(commands.add_parser("tune", help="search hyperparameters: train a recipe with varied keys"))
    add_sample_options(commands.add_parser("sample", help="sample images from a checkpoint or registered model"))
    add_edit_options(commands.add_parser("edit", help="inpaint, colorise, upscale or vary images"))
    add_evaluate_options(commands.add_parser("evaluate", help="compare a model's images with real ones: FID, KID, ..."))
    add_ema_options(commands.add_parser("ema", help="recompute a run's EMA weights with another length"))
    add_tune_sampler_options(commands.add_parser("tune-sampler", help="search solver, steps and guidance of a model"))
    for former, name in FORMER.items():
        renamed = commands.choices[former] = copy.copy(commands.choices[name])
        renamed.description = f"{describe_former_command(former)}. {renamed.description}"
    add_import_options(commands.add_parser("import", help="convert a diffusers pipeline into a checkpoint"))
    add_export_options(commands.add_parser("export", help="convert a model into a diffusers pipeline"))
    add_register_options(commands.add_parser("register", help="register a checkpoint, or set alias and metrics"))
    add_promote_options(commands.add_parser("promote", help="make a version champion if its metrics are better"))
    add_models_options(commands.add_parser("models", help="list registered models with aliases and metrics"))
    add_config_options(commands.add_parser("config", help="explain all recipe keys, or check a recipe"))
    add_recipes_options(commands.add_parser("recipes", help="list the built-in recipes, or print one"))
    add_demo_options(commands.add_parser("demo", help="ingest, train, register and sample digits here"))
    add_ui_options(commands.add_parser("ui", help="open the MLflow UI on the tracking store"))
    return top


def find_command_parser(top: Parser, name: str) -> Parser:
    """Return the parser of a command."""
    (commands,) = (action.choices for action in top._actions if action.dest == "command")
    found: Parser = commands[name]  # type: ignore[index]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 if a run failed; 2 if the user's input was wrong; 130 after Ctrl-C, 143 after SIGTERM and
        141 after a broken pipe (128 plus the signal's number).
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    find_factories()
    return run_command(lambda: run_and_report_errors(argv))


def find_factories() -> None:
    """Make modules in the working folder importable for recipes with external code, as they are in Ray's workers."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def run_and_report_errors(argv: Sequence[str] | None) -> int:
    """Run a command and print an error as one sentence."""
    top = build_parser()
    args, rest = top.parse_known_args(argv)
    if rest and not (hasattr(args, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        find_command_parser(top, args.command).unrecognized(rest)
    if rest:
        args.overrides = [*args.overrides, *rest]  # argparse does not accept key=value after an option
    if args.command in FORMER:
        print(describe_former_command(args.command), file=sys.stderr)
    try:
        args.run(args)
    except BrokenPipeError:
        raise
    except ValueError as error:
        report_error(error)
        return 2
    except (RuntimeError, FloatingPointError, OSError) as error:
        report_error(error)
        return 1
    return 0


def report_error(error: Exception) -> None:
    """Print an error as one line, without the passwords in its URIs."""
    print(f"raysde: {hide_passwords(' '.join(str(error).split()))}", file=sys.stderr)


PLAIN_FORMAT = warnings.formatwarning
"""Python's own format of warnings."""


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of raysde as one line, without the place in the code, and others in Python's own format."""
    if Path(raysde.__file__).parent in Path(filename).parents:
        return f"warning: {hide_passwords(' '.join(str(message).split()))}\n"
    return PLAIN_FORMAT(message, category, filename, lineno, line)


def entry() -> None:
    """Run the console script."""
    warnings.formatwarning = format_warning
    sys.exit(main())


if __name__ == "__main__":
    entry()
