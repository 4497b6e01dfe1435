"""The command `raysde tune`."""

import argparse

from raysde.io.passwords import hide_passwords

EXAMPLES = """examples:
  raysde tune digits --sweep digits
        reads the settings of a built-in sweep; the same command resumes a sweep that was killed
  raysde tune RECIPE train.batch=256 --over 'sde.kind=[vp,sub_vp,ve]' --over 'train.lr=log(1e-4,1e-2)' --trials 24
        varies keys of the recipe over a list or a range: uniform(a,b), log(a,b), int(a,b)
  raysde tune RECIPE --over 'sde=[{kind: ve}, {kind: vp, schedule: cosine}]' --over 'train.lr=log(1e-4,1e-2,4)' \\
        --search grid
        varies whole sections; a range with a number of points is a list, and lists make a grid
  raysde tune RECIPE --over 'sde.kind,train.weighting=[[vp,sigma2],[ve,target]]' --search optuna --trials 50
        varies two keys together; Optuna proposes values from the results so far

docs/tuning.md explains sweeps.
"""


def add_tune_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde tune` to its parser."""
    command.description = (
        "Trains a recipe many times with some keys varied, stops trials that fall behind, and ranks the trials by an\n"
        "error that is comparable between SDEs. Writes a table, a CSV, plots in MLflow and the best trial's recipe."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("recipe", help="YAML file, or the name of a built-in recipe (raysde recipes lists them)")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe keys to change in every trial"
    )
    command.add_argument("--name", help="name of the sweep (default: the recipe's name with -sweep)")
    command.add_argument("--sweep", metavar="FILE", help="YAML file of the settings below, or a built-in sweep's name")
    command.add_argument(
        "--over", action="append", default=[], metavar="KEY=SPACE", help="key and values or range; may be repeated"
    )
    command.add_argument("--search", choices=("random", "grid", "optuna"), help="search strategy (default random)")
    command.add_argument("--trials", type=int, help="number of trials (default: all combinations of lists)")
    command.add_argument("--seed", type=int, help="seed of the search (default 0)")
    command.add_argument("--scheduler", help="asha stops trials early, fifo does not (default asha)")
    command.add_argument(
        "--grace", type=int, metavar="STEPS", help="minimum steps of a trial (default: validation.every)"
    )
    command.add_argument(
        "--reduction", type=float, metavar="N", help="each round keeps 1 in N trials, N times as long (default 4)"
    )
    command.add_argument("--metric", help="metric to minimise (default: mean error over log-SNR)")
    command.add_argument("--concurrent", type=int, metavar="N", help="concurrent trials (default: as many as fit)")
    command.set_defaults(run=run_tune)


def run_tune(args: argparse.Namespace) -> None:
    """Run `raysde tune`: train a recipe many times with other settings, and write the best as a recipe.

    Raises:
        ValueError: naming the key of the space or the sweep setting.
    """
    from raysde.tuning.training.settings import base_tree, read_settings

    names = ("search", "trials", "seed", "scheduler", "grace", "reduction", "metric", "concurrent")
    settings = read_settings(args.sweep, args.over, {name: getattr(args, name) for name in names})
    tree = base_tree(args.recipe, settings, args.overrides)
    name = args.name or f"{tree['name']}-sweep"
    from raysde.cluster.tune_training import tune_job

    done = tune_job(tree, settings, name)
    print(done.table)
    print(f"\nthe same as CSV   {done.csv}")
    print(f"best recipe       {done.recipe}")
    if done.checkpoint is not None:
        print(f"its checkpoint    {done.checkpoint}")
    print(f"plots, trials     MLflow run {done.run_id} in {hide_passwords(done.tracking_uri)}")
    print(f"train it          raysde train {done.recipe}")
