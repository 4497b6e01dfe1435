"""The command line: `raysde COMMAND`. Errors are one sentence and status 2."""

import argparse
import copy
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from raysde.commands.config import config_options
from raysde.commands.data import inspect_options, plan_options
from raysde.commands.demo import demo_options
from raysde.commands.edit import edit_options
from raysde.commands.ema import ema_options
from raysde.commands.evaluate import evaluate_options
from raysde.commands.ingest import ingest_options
from raysde.commands.pipelines import export_options, import_options
from raysde.commands.precompute import precompute_options
from raysde.commands.registry import models_options, promote_options, register_options
from raysde.commands.sample import sample_options
from raysde.commands.signals import orderly
from raysde.commands.train import train_options
from raysde.commands.tune import tune_options
from raysde.commands.tune_sampler import tune_sampler_options
from raysde.commands.ui import ui_options
from raysde.io.near import did_you_mean

FORMER = {"settle": "tune-sampler"}
"""Commands by the name that they had; it goes on working."""


def called(former: str) -> str:
    """Return the sentence that says what a former command is called."""
    return f"raysde {former} is called raysde {FORMER[former]} now"


class Parser(argparse.ArgumentParser):
    """A parser that asks for the command, the option or the choice that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and a sentence."""
        if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message):
            message += did_you_mean(match[1], re.findall(r"'([^']*)'", match[2]))
        super().error(message)

    def unrecognized(self, words: Sequence[str]) -> NoReturn:
        """End the program as :meth:`error` does, for words that no option of the command takes."""
        given = words[0].partition("=")[0]
        options = list(self._option_string_actions) if given.startswith("-") else []
        self.error(f"unrecognized arguments: {' '.join(words)}{did_you_mean(given, options)}")


def version() -> str:
    """Return the installed version, with those of the libraries that results depend on."""
    parts = [f"{name} {metadata.version(name)}" for name in ("raysde", "torch", "ray", "mlflow")]
    return f"{', '.join(parts)}, Python {platform.python_version()}"


class Version(argparse.Action):
    """The option --version; versions are looked up only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the versions and end the program."""
        print(version())
        parser.exit()


def parser() -> Parser:
    """All commands with their help."""
    top = Parser(
        prog="raysde", description="Score-based generative models through SDEs, from a laptop to a Ray cluster."
    )
    top.add_argument("--version", action=Version, nargs=0, help="print the versions of raysde and its libraries")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ingest_options(commands.add_parser("ingest", help="turn a collection of captioned images into shards"))
    inspect_options(commands.add_parser("inspect", help="show what shards hold, with a contact sheet"))
    precompute_options(commands.add_parser("precompute", help="run a frozen encoder over a data set, once"))
    plan_options(commands.add_parser("plan", help="list the rows that a step is trained on"))
    train_options(commands.add_parser("train", help="train a recipe, or continue the run of its name"))
    tune_options(commands.add_parser("tune", help="train a recipe with some keys varied, and rank what comes out"))
    sample_options(commands.add_parser("sample", help="draw images from a checkpoint or a registered model"))
    edit_options(commands.add_parser("edit", help="fill in, colour, enlarge or change images"))
    evaluate_options(commands.add_parser("evaluate", help="measure a model's images beside real ones: FID, KID, ..."))
    ema_options(commands.add_parser("ema", help="average a run's weights over another length, after training"))
    tune_sampler_options(commands.add_parser("tune-sampler", help="find the sampler settings that suit a model"))
    for former, name in FORMER.items():
        renamed = commands.choices[former] = copy.copy(commands.choices[name])
        renamed.description = f"{called(former)}. {renamed.description}"
    import_options(commands.add_parser("import", help="make a checkpoint of a diffusers pipeline's folder"))
    export_options(commands.add_parser("export", help="make a diffusers pipeline's folder of a model"))
    register_options(commands.add_parser("register", help="register a checkpoint, or what is known of a version"))
    promote_options(commands.add_parser("promote", help="make a version the champion, if its figures are better"))
    models_options(commands.add_parser("models", help="list registered models, their aliases and figures"))
    config_options(commands.add_parser("config", help="explain every key of a recipe, or check one"))
    demo_options(commands.add_parser("demo", help="digits from images to a registered model, on this machine"))
    ui_options(commands.add_parser("ui", help="open the MLflow UI on the tracking store"))
    return top


def command_of(top: Parser, name: str) -> Parser:
    """Return the parser of a command."""
    (commands,) = (action.choices for action in top._actions if action.dest == "command")
    found: Parser = commands[name]  # type: ignore[index]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Its exit status: 0, 1 if a run failed, 2 if the user's input was wrong, and 128 plus a signal's number if Ctrl-C
        (130), SIGTERM (143) or a reader that went away (141) ended it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    find_factories()
    return orderly(lambda: answered(argv))


def find_factories() -> None:
    """Let the recipe's factories be found below the working folder, as Ray's workers find them."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def answered(argv: Sequence[str] | None) -> int:
    """Run a command, with its errors in a sentence."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest and not (hasattr(args, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        command_of(top, args.command).unrecognized(rest)
    if rest:
        args.overrides = [*args.overrides, *rest]  # argparse does not take key=value after an option
    if args.command in FORMER:
        print(called(args.command), file=sys.stderr)
    try:
        args.run(args)
    except BrokenPipeError:
        raise
    except ValueError as error:
        print(f"raysde: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (RuntimeError, FloatingPointError, OSError) as error:
        print(f"raysde: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
