"""The command `raysde tune`."""

import argparse

EXAMPLES = """\
  raysde tune digits --sweep digits
        the settings of a built-in sweep; give them again to go on with a sweep that was killed
  raysde tune RECIPE train.batch=256 --over 'sde.kind=[vp,sub_vp,ve]' --over 'train.lr=log(1e-4,1e-2)' --trials 24
        any key of the recipe, from a list or a range: uniform(a,b), log(a,b), int(a,b)
  raysde tune RECIPE --over 'sde=[{kind: ve}, {kind: vp, schedule: cosine}]' --over 'train.lr=log(1e-4,1e-2,4)' \\
        --search grid
        whole nodes; a range with a number of points is a list, and lists make a grid
  raysde tune RECIPE --over 'sde.kind,train.weighting=[[vp,sigma2],[ve,target]]' --search optuna --trials 50
        keys that vary together; Optuna looks at what came out so far

docs/tuning.md says more.
"""


def add_tune_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Trains a recipe many times with some keys varied, stops what falls behind, and ranks the trials by an error "
        "that means the same under every SDE. Ends with a table, a CSV, plots in MLflow and the best trial's recipe."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("recipe", help="YAML file, or the name of a built-in recipe (raysde recipes lists them)")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="of every trial, as for raysde train"
    )
    command.add_argument("--name", help="of the sweep, which goes on under it (default: the recipe's, with -sweep)")
    command.add_argument(
        "--sweep", metavar="FILE", help="YAML file of the settings below, or the name of a built-in sweep"
    )
    command.add_argument(
        "--over", action="append", default=[], metavar="KEY=SPACE", help="a key that varies; may be repeated"
    )
    command.add_argument("--search", choices=("random", "grid", "optuna"), help="(default random)")
    command.add_argument("--trials", type=int, help="how many (default: all combinations, if there are only lists)")
    command.add_argument("--seed", type=int, help="of the search (default 0)")
    command.add_argument("--scheduler", help="asha stops trials early, fifo never (default asha)")
    command.add_argument("--grace", type=int, metavar="STEPS", help="that every trial gets (default: to a validation)")
    command.add_argument(
        "--reduction", type=float, metavar="N", help="about 1 in N trials goes on, N times as far (default 4)"
    )
    command.add_argument("--metric", help="of the validation, less is better (default: the mean error over log-SNR)")
    command.add_argument("--concurrent", type=int, metavar="N", help="trials at once (default: as many as fit)")
    command.set_defaults(run=run_tune)


def run_tune(args: argparse.Namespace) -> None:
    """raysde tune."""
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
    print(f"plots, trials     MLflow run {done.run_id} in {done.tracking_uri}")
    print(f"train it          raysde train {done.recipe}")
