"""The command line: `raysde COMMAND`. Errors are one sentence and status 2."""

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from raysde.commands.data import inspect_options, plan_options
from raysde.commands.edit import edit_options
from raysde.commands.ema import ema_options
from raysde.commands.evaluate import evaluate_options
from raysde.commands.ingest import ingest_options
from raysde.commands.next_step import draw_command
from raysde.commands.pipelines import export_options, import_options
from raysde.commands.precompute import precompute_options
from raysde.commands.registry import models_options, promote_options, register_options
from raysde.commands.sample import sample_options
from raysde.commands.signals import orderly
from raysde.commands.tune import tune_options
from raysde.commands.tune_sampler import settle_options
from raysde.commands.ui import ui_options
from raysde.io.near import did_you_mean

if TYPE_CHECKING:
    from raysde.config.loading import RunConfig

STARTED = time.time()


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
    _train(commands.add_parser("train", help="train a recipe, or continue the run of its name"))
    tune_options(commands.add_parser("tune", help="train a recipe with some keys varied, and rank what comes out"))
    sample_options(commands.add_parser("sample", help="draw images from a checkpoint or a registered model"))
    edit_options(commands.add_parser("edit", help="fill in, colour, enlarge or change images"))
    evaluate_options(commands.add_parser("evaluate", help="measure a model's images beside real ones: FID, KID, ..."))
    ema_options(commands.add_parser("ema", help="average a run's weights over another length, after training"))
    settle_options(commands.add_parser("settle", help="find the sampler settings that suit a trained model"))
    import_options(commands.add_parser("import", help="make a checkpoint of a diffusers pipeline's folder"))
    export_options(commands.add_parser("export", help="make a diffusers pipeline's folder of a model"))
    register_options(commands.add_parser("register", help="register a checkpoint, or what is known of a version"))
    promote_options(commands.add_parser("promote", help="make a version the champion, if its figures are better"))
    models_options(commands.add_parser("models", help="list registered models, their aliases and figures"))
    _config(commands.add_parser("config", help="explain every key of a recipe, or check one"))
    _demo(commands.add_parser("demo", help="digits from images to a registered model, on this machine"))
    ui_options(commands.add_parser("ui", help="open the MLflow UI on the tracking store"))
    return top


def _train(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Trains on Ray: on the cluster of RAY_ADDRESS or of the surrounding job, otherwise on this machine."
    )
    command.add_argument("recipe", help="YAML file, see jobs/configs")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="such as sde.kind=ve train.lr=1e-3")
    command.add_argument(
        "--no-ray",
        action="store_true",
        help="run the bare loop in this process, or under torchrun; metrics and grids go to the run's folder, or "
        "to MLflow if the recipe gives tracking.uri",
    )
    command.set_defaults(run=run_train)


def _config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", nargs="?", help="print this recipe, complete and checked, instead of the explanation"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.set_defaults(run=run_config)


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recipe", default="jobs/configs/digits.yaml", help="(default %(default)s)")
    command.add_argument(
        "--out",
        default="out/demo",
        help="folder for what the demo makes; an earlier demo there is replaced (default %(default)s)",
    )
    command.add_argument("overrides", nargs="*", metavar="key=value")
    command.set_defaults(run=run_demo)


def run_train(args: argparse.Namespace) -> None:
    """raysde train."""
    from raysde.config import loading

    recipe = loading.load(args.recipe, args.overrides)
    if args.no_ray:
        train_without_ray(recipe)
        return
    from raysde.cluster.job import train_job

    done = train_job(recipe, started=STARTED)
    print(f"checkpoint {done.checkpoint}")
    print(f"registered {done.model}, alias {recipe.tracking.alias}, in {done.tracking_uri} (run {done.run_id})")
    source, store = f"models:/{recipe.model_name}@{recipe.tracking.alias}", ("--tracking-uri", done.tracking_uri)
    print(f"draw from it:  {draw_command(source, done.checkpoint, *store)}")


def train_without_ray(recipe: "RunConfig") -> None:
    """Train in this process, or in each process of torchrun.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM, with how to go on.
    """
    from raysde.checkpoints import storage
    from raysde.config.places import absolute
    from raysde.distributed.world import current_world
    from raysde.io.filesystems import child
    from raysde.io.progress import say
    from raysde.runs.history import recorded
    from raysde.runs.identity import interrupted
    from raysde.runs.local import check_place, train_here
    from raysde.runs.run import check, open_run, remarks

    run = open_run(absolute(recipe))
    check_place(run)
    check(run)
    if os.environ.get("RANK", "0") == "0":
        for remark in remarks(run):
            say(remark)
    line = PrintedMetrics(run.steps, run.plan.batch)
    try:
        with recorded(run, line) as sink:
            train_here(run, sink)
    except (KeyboardInterrupt, SystemExit) as error:
        raise interrupted(child(run.config.storage, run.config.name)) from error
    finally:
        line.line.close()
    last = storage.newest_checkpoint(recipe.storage, recipe.name)
    if current_world().is_first and last is not None:
        print(f"checkpoint {last}")
        print(f"draw from it:  {draw_command(str(last), last)}")


class PrintedMetrics:
    """Shows metrics as a progress line, and no pictures."""

    def __init__(self, steps: int, batch: int) -> None:
        from raysde.io.progress import ProgressLine

        self.line = ProgressLine(steps, batch, every=0.0)
        self.values: dict[str, float] = {}

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.values = {**self.values, **values}
        self.line.show(step, self.values)

    def image(self, step: int, name: str, image: object) -> None:
        pass


def run_config(args: argparse.Namespace) -> None:
    """raysde config."""
    from raysde.config import loading, reference

    if args.recipe is None:
        print(reference.reference())
        return
    for key, value in loading.load(args.recipe, args.overrides).flat().items():
        print(f"{key}={json.dumps(value)}")


def run_demo(args: argparse.Namespace) -> None:
    """raysde demo."""
    from raysde.cluster.demo import demo

    demo(args.recipe, Path(args.out).absolute(), args.overrides, started=STARTED)


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
        args.overrides += rest  # argparse does not take key=value after an option
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
