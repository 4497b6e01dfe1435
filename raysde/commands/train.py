"""The command `raysde train`: on Ray, or without Ray in this process or under torchrun."""

import argparse
import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from raysde.commands import STARTED
from raysde.commands.next_step import suggest_sample_command
from raysde.commands.signals import hold_signal
from raysde.io.passwords import hide_passwords

if TYPE_CHECKING:
    from raysde.config.recipe import RunConfig


def add_train_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde train` to its parser."""
    command.description = (
        "Trains a recipe on Ray: on the cluster of RAY_ADDRESS or of the surrounding job, otherwise on this machine. "
        "Resumes from the newest checkpoint if a run of the recipe's name exists."
    )
    command.add_argument("recipe", help="YAML file, or the name of a built-in recipe (raysde recipes lists them)")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="changed keys, such as sde.kind=ve train.lr=1e-3"
    )
    command.add_argument(
        "--no-ray",
        action="store_true",
        help="train without Ray in this process, or under torchrun; metrics and sample grids go to the run's folder, "
        "or to MLflow if the recipe sets tracking.uri",
    )
    command.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> None:
    """Run `raysde train`: train a recipe, on Ray or in this process, and register the model.

    Raises:
        ValueError: naming the key of the recipe, or why the run cannot resume.
    """
    from raysde.config import loading

    recipe = loading.load_recipe(args.recipe, args.overrides)
    if args.no_ray:
        train_without_ray(recipe)
        return
    from raysde.cluster.job import train_job

    done = train_job(recipe, started=STARTED, hold=hold_signal)
    print(f"checkpoint {done.checkpoint}")
    uri = hide_passwords(done.tracking_uri)
    print(f"registered {done.model}, alias {recipe.tracking.alias}, in {uri} (run {done.run_id})")
    print(f"registered checkpoint: {done.choice}")
    source, store = f"models:/{recipe.model_name}@{recipe.tracking.alias}", ("--tracking-uri", done.tracking_uri)
    print(f"draw from it:  {suggest_sample_command(source, done.checkpoint, *store)}")


def train_without_ray(recipe: "RunConfig") -> None:
    """Train in this process, or in each process of torchrun.

    Raises:
        ValueError: for anything wrong that shows before the first step.
        Interrupted: on Ctrl-C or SIGTERM; the message says how to resume.
        TakenOver: if another command took the run over.
    """
    from raysde.checkpoints import storage
    from raysde.config.places import resolve_places
    from raysde.distributed.world import current_world
    from raysde.io.filesystems import child_path
    from raysde.io.progress import say
    from raysde.runs.history import record_history
    from raysde.runs.identity import describe_interruption
    from raysde.runs.keeping import choose_published
    from raysde.runs.lease import hold_run
    from raysde.runs.local import check_place, train_here
    from raysde.runs.run import check_run, list_remarks, open_run

    run = open_run(resolve_places(recipe))
    check_place(run)
    first, folder = os.environ.get("RANK", "0") == "0", child_path(run.config.storage, run.config.name)
    remarks = [*check_run(run), *list_remarks(run)]
    for remark in remarks if first else ():
        say(remark)
    line = PrintedMetrics(run.steps, run.plan.batch)
    try:
        with (
            hold_run(folder, run.config.resources.lease, say) if first else nullcontext() as lease,
            record_history(run, line, lease) as sink,
            hold_signal() as should_stop,
        ):
            train_here(run, sink, should_stop, lease)
    except (KeyboardInterrupt, SystemExit) as error:
        raise describe_interruption(folder) from error
    finally:
        line.line.close()
    found = storage.find_newest_checkpoint(recipe.storage, recipe.name) if current_world().is_first else None
    if found is not None:
        last = Path(found.path)
        chosen = choose_published(run, last, say)
        store = [] if recipe.tracking.uri is None else ["--tracking-uri", recipe.tracking.uri]
        register = shlex.join(["raysde", "register", str(chosen.folder), "--name", recipe.model_name, *store])
        print(f"checkpoint {last}")
        if chosen.folder != last:
            print(f"checkpoint {chosen.folder}, {chosen.reason}")
        print(f"register it:   {register}")
        print(f"draw from it:  {suggest_sample_command(str(chosen.folder), chosen.folder)}")


class PrintedMetrics:
    """A sink of metrics that shows them on a progress line and ignores sample grids.

    Args:
        steps, batch: number of steps of the run, and of images in a step.
    """

    def __init__(self, steps: int, batch: int) -> None:
        from raysde.io.progress import ProgressLine

        self.line = ProgressLine(steps, batch, every=0.0)
        self.values: dict[str, float] = {}

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.values = {**self.values, **values}
        self.line.show(step, self.values)

    def image(self, step: int, name: str, image: object) -> None:
        pass
