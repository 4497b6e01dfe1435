"""The command `raysde tune-sampler`: search EMA length, solver, steps and guidance for a trained model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands import add_tracking_option
from raysde.io.amounts import amount

if TYPE_CHECKING:
    from raysde.tuning.sampler.successive_halving import Settled

SHARED = ("metric", "features", "seed", "split", "reference", "allow_few", "batch_size", "allow_code", "device")
"""Options that are passed on to the study unchanged."""
EXAMPLES = """examples:
  raysde tune-sampler models:/digits@candidate --data ~/raysde/digits --features judge --metric kid
        tries unipc, dpmpp_2m and heun in 5, 10 and 20 steps at guidance 1, 1.5, 2 and 3
  raysde tune-sampler runs/photos --data s3://bucket/photos --metric fid --samples 20000 --rounds 2 \\
        ema_std=none,0.05,0.1,0.15 solver=heun,edm steps=10,18 churn=0,20,40
        compares EMA weights of three lengths with the run's own, each with and without churn, a setting of edm
  raysde tune-sampler runs/ve --data shards --features judge solver=pc steps=100,200 target_snr=0.08,0.16,0.24
  raysde tune-sampler runs/cats --data shards --features judge steps=10 guidance=2,3 guidance_interval=none,0.2:5,0.5:3

A setting is KEY=VALUE,VALUE,...; every combination is tried once, without the keys that its solver ignores. Keys:
  ema_std             EMA length, see raysde ema --help; none keeps the run's own weights. MODEL must be a run's folder
  solver, steps, grid, corrector, target_snr, eta, order, churn, ...   see raysde sample --help
  guidance            guidance scale; 1 disables guidance
  guidance_interval   LOW:HIGH in sigma / alpha; none applies guidance at every noise level

All settings sample from the same noise. The first of --rounds measures every setting on few images. Each further round
keeps a third of the settings on three times as many images, up to --samples in the last round. Settings are compared
image by image. Among the settings that do not differ significantly from the best, the winner is the one with the fewest
network evaluations.
"""


def add_tune_sampler_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde tune-sampler` to its parser."""
    command.description = (
        "Searches EMA length, solver, steps and guidance for a trained model, without training: on Ray, on the\n"
        "cluster of RAY_ADDRESS or of the surrounding job, otherwise on this machine. OUT/model is the model with the\n"
        "best settings as its defaults, OUT/settings.csv the table. After a crash, the same command resumes."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("model", help="a checkpoint, a run's folder or id, models:/NAME@ALIAS or models:/NAME/VERSION")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=v1,v2", help="settings to try (default: see the first example)"
    )
    command.add_argument("--data", required=True, metavar="SHARDS", help="data set of real images: folder or URI")
    command.add_argument("--metric", default="kid", help="fid, kid, is, precision or accuracy (default %(default)s)")
    command.add_argument(
        "--features", default="inception", metavar="NETWORK", help="see raysde evaluate --help (default %(default)s)"
    )
    command.add_argument("--samples", type=int, default=2000, help="images of the last round (default %(default)s)")
    command.add_argument("--rounds", type=int, default=3, help="rounds of successive halving (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="seed of the images (default %(default)s)")
    command.add_argument(
        "--split", choices=("train", "validation"), default="train", help="split of real images (default %(default)s)"
    )
    command.add_argument("--reference", type=int, metavar="N", help="number of real images, at random (default: all)")
    command.add_argument("--allow-few", action="store_true", help="allow FID of fewer than 2,048 images (unreliable)")
    command.add_argument("--batch-size", type=int, default=256, help="images per batch (default %(default)s)")
    command.add_argument("--out", default="settled", help="output folder, shared by all workers (default %(default)s)")
    command.add_argument("--name", help="register the result as a new version of this name, with the alias candidate")
    command.add_argument(
        "--cache", help="folder of judges and statistics of real images, shared by all workers (default OUT/cache)"
    )
    command.add_argument("--device", help="torch device, such as cpu or cuda (default: a GPU if there is one)")
    command.add_argument(
        "--allow-code", action="store_true", help="allow the checkpoint and --features to import your own classes"
    )
    add_tracking_option(command)
    command.set_defaults(run=run_tune_sampler)


def run_tune_sampler(args: argparse.Namespace) -> None:
    """Run `raysde tune-sampler`: search sampler settings of a trained model, and store the winner.

    Raises:
        ValueError: naming the option, or the setting that the model cannot use.
    """
    from raysde.commands.evaluate import show_progress_bars
    from raysde.commands.model_options import make_loader
    from raysde.io.filesystems import absolute_location
    from raysde.registry import resolve_checkpoint
    from raysde.tuning.sampler.search import prepare_search
    from raysde.tuning.sampler.study import Study

    make_loader(args)  # checks the device
    check_registry(args)
    out = Path(args.out).expanduser().absolute()
    cache = Path(args.cache or out / "cache").expanduser().absolute()
    shared = {name: getattr(args, name) for name in SHARED}
    study = Study({}, absolute_location(args.data), cache=str(cache), **shared)
    source = resolve_checkpoint(args.model, args.tracking_uri)
    search = prepare_search(source, out, args.overrides, study, run=args.model, samples=args.samples, count=args.rounds)
    with show_progress_bars() as progress:
        search.study.rehearse(search.candidates[0], search.images[0], progress)
    from raysde.cluster.tune_sampler import measure_on_ray  # imports Ray

    print(
        f"{amount(len(search.candidates), 'setting')}, on {', '.join(str(samples) for samples in search.images)} images"
    )
    found, drawing = search.run(measure_on_ray(search.study, out))
    print_report(found, out, drawing)
    if args.name:
        register_result(args, out / "model")


SHOWN = 12
"""Maximum number of settings printed on the terminal."""


def print_report(found: "Settled", out: Path, drawing: dict[str, Any]) -> None:
    """Print the table of settings, and the settings that the winning model samples with."""
    from raysde.commands.registry import align_columns
    from raysde.models.sampling_defaults import describe_settings

    rows = [("", "setting", "evaluations", "figure", "behind the best", "images")]
    for each in found.outcomes[:SHOWN]:
        marks = "won" if each is found.winner else ""
        evaluations = f"{each.candidate.evaluations:g}"
        behind = str(found.behind(each) or "")
        rows.append((marks, str(each.candidate), evaluations, str(each.figure), behind, str(each.figure.samples)))
    print(align_columns(rows))
    if len(found.outcomes) > SHOWN:
        print(f"and {len(found.outcomes) - SHOWN} more in {out / 'settings.csv'}")
    if found.winner is not found.best:
        print("the best value is not significantly better, image by image, and needs more network evaluations")
    print(f"model {out / 'model'} draws by {describe_settings({**found.winner.candidate.values, **drawing})}")


def check_registry(args: argparse.Namespace) -> None:
    """Check before the work that the result can be registered.

    Raises:
        ValueError: if --name is invalid, or the tracking store does not exist.
        RuntimeError: if the store fails.
    """
    from raysde.config.names import check_name
    from raysde.registry import check_model_name
    from raysde.tracking import connect_client, default_uri, report_server_errors

    if args.name:
        uri = args.tracking_uri or default_uri()
        client = connect_client(uri)
        with report_server_errors(uri):
            check_model_name(client, check_name(args.name, "--name"))


def register_result(args: argparse.Namespace, folder: Path) -> None:
    """Register the result with the alias candidate.

    Raises:
        ValueError: if the server does not answer, or the name or the model is not valid.
        RuntimeError: if the server fails.
    """
    from raysde.registry import register_model
    from raysde.tracking import connect_client, default_uri, report_server_errors

    uri = args.tracking_uri or default_uri()
    with report_server_errors(uri):
        version = register_model(connect_client(uri), str(folder), name=args.name, alias="candidate")
    print(f"models:/{version.name}/{version.version} is candidate")
