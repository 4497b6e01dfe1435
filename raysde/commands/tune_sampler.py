"""The command `raysde tune-sampler`: the average and the sampler settings that suit a trained model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands import add_tracking_option
from raysde.io.amounts import amount

if TYPE_CHECKING:
    from raysde.tuning.sampler.successive_halving import Settled

SHARED = ("metric", "features", "seed", "split", "reference", "allow_few", "batch_size", "allow_code", "device")
"""Options that a study takes as they are."""
EXAMPLES = """\
  raysde tune-sampler models:/digits@candidate --data ~/raysde/digits --features judge --metric kid
        tries unipc, dpmpp_2m and heun in 5, 10 and 20 steps at guidance 1, 1.5, 2 and 3
  raysde tune-sampler runs/photos --data s3://bucket/photos --metric fid --samples 20000 --rounds 2 \\
        ema_std=none,0.05,0.1,0.15 solver=heun,edm steps=10,18 churn=0,20,40
        averages of three lengths and the run's own, with and without churn, which is of edm
  raysde tune-sampler runs/ve --data shards --features judge solver=pc steps=100,200 target_snr=0.08,0.16,0.24
  raysde tune-sampler runs/cats --data shards --features judge steps=10 guidance=2,3 guidance_interval=none,0.2:5,0.5:3

A setting is KEY=VALUE,VALUE,...; every combination is tried once, and what its solver does not read is left out. Keys:
  ema_std             length of the average, as of raysde ema; none is the run's own. MODEL is then a run's folder
  solver, steps, grid, corrector, target_snr, eta, order, churn, ...   as of raysde sample
  guidance            1 for none
  guidance_interval   LOW:HIGH in sigma / alpha, none for everywhere

All settings draw from the same noise. In the first of --rounds each is measured on few images, a third goes on to three
times as many, and the last round takes --samples. Two are compared image by image; who is not behind the best beyond
the interval of that and takes the fewest network evaluations wins.
"""


def add_tune_sampler_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Finds the average and the sampler settings that suit a trained model, without training: on Ray, on the "
        "cluster of RAY_ADDRESS or of the surrounding job, otherwise on this machine. OUT/model is the model that "
        "draws by them when nobody says otherwise, OUT/settings.csv the table. Repeated after a crash, it goes on."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("model", help="a checkpoint, a run's folder or id, models:/NAME@ALIAS or models:/NAME/VERSION")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=v1,v2", help="settings to try (default: as above)"
    )
    command.add_argument("--data", required=True, metavar="SHARDS", help="folder or URI of real images, as ingested")
    command.add_argument(
        "--metric", default="kid", help="fid, kid, is, precision or accuracy decides (default %(default)s)"
    )
    command.add_argument(
        "--features", default="inception", metavar="NETWORK", help="as of raysde evaluate (default %(default)s)"
    )
    command.add_argument("--samples", type=int, default=2000, help="images of the last round (default %(default)s)")
    command.add_argument("--rounds", type=int, default=3, help="rounds of successive halving (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the images (default %(default)s)")
    command.add_argument(
        "--split", choices=("train", "validation"), default="train", help="the real images (default %(default)s)"
    )
    command.add_argument("--reference", type=int, metavar="N", help="random real images of the split (default: all)")
    command.add_argument("--allow-few", action="store_true", help="FID of fewer than 2,048 images, which says little")
    command.add_argument("--batch-size", type=int, default=256, help="images drawn at a time (default %(default)s)")
    command.add_argument(
        "--out", default="settled", help="folder that every worker reaches, for models and table (default %(default)s)"
    )
    command.add_argument("--name", help="register the result as a new version of this name, with the alias candidate")
    command.add_argument(
        "--cache",
        help="folder that every worker reaches, for judges and statistics of real images (default OUT/cache)",
    )
    command.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    command.add_argument(
        "--allow-code", action="store_true", help="import the classes that the checkpoint or --features name"
    )
    add_tracking_option(command)
    command.set_defaults(run=run_tune_sampler)


def run_tune_sampler(args: argparse.Namespace) -> None:
    """raysde tune-sampler."""
    from raysde.commands.evaluate import show_progress_bars
    from raysde.commands.model_options import make_loader
    from raysde.io.filesystems import absolute_location
    from raysde.registry import resolve_checkpoint
    from raysde.tuning.sampler.search import prepare_search
    from raysde.tuning.sampler.study import Study

    make_loader(args)  # says what is wrong with the device
    check_registry(args)
    out = Path(args.out).expanduser().absolute()
    cache = Path(args.cache or out / "cache").expanduser().absolute()
    shared = {name: getattr(args, name) for name in SHARED}
    study = Study({}, absolute_location(args.data), cache=str(cache), **shared)
    source = resolve_checkpoint(args.model, args.tracking_uri)
    search = prepare_search(source, out, args.overrides, study, run=args.model, samples=args.samples, count=args.rounds)
    with show_progress_bars() as told:
        search.study.rehearse(search.candidates[0], search.images[0], told)
    from raysde.cluster.tune_sampler import measure_on_ray  # loads Ray

    print(
        f"{amount(len(search.candidates), 'setting')}, on {', '.join(str(samples) for samples in search.images)} images"
    )
    found, drawing = search.run(measure_on_ray(search.study, out))
    print_report(found, out, drawing)
    if args.name:
        register_result(args, out / "model")


SHOWN = 12
"""Settings on the terminal."""


def print_report(found: "Settled", out: Path, drawing: dict[str, Any]) -> None:
    """Says what came out: a model that draws by ``drawing``."""
    from raysde.commands.registry import align_columns
    from raysde.models.sampling_defaults import describe_settings

    rows = [("", "setting", "evaluations", "figure", "behind the first", "images")]
    for each in found.outcomes[:SHOWN]:
        marks = "won" if each is found.winner else ""
        evaluations = f"{each.candidate.evaluations:g}"
        behind = str(found.behind(each) or "")
        rows.append((marks, str(each.candidate), evaluations, str(each.figure), behind, str(each.figure.samples)))
    print(align_columns(rows))
    if len(found.outcomes) > SHOWN:
        print(f"and {len(found.outcomes) - SHOWN} more in {out / 'settings.csv'}")
    if found.winner is not found.best:
        print("the first is not ahead beyond the interval, image by image, and takes more network evaluations")
    print(f"model {out / 'model'} draws by {describe_settings({**found.winner.candidate.values, **drawing})}")


def check_registry(args: argparse.Namespace) -> None:
    """Finds out before the work whether the result can be registered.

    Raises:
        ValueError: if --name can be none, or there is no such store.
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
    """Registers the result."""
    from raysde.registry import register_model
    from raysde.tracking import connect_client, default_uri, report_server_errors

    uri = args.tracking_uri or default_uri()
    with report_server_errors(uri):
        version = register_model(connect_client(uri), str(folder), name=args.name, alias="candidate")
    print(f"models:/{version.name}/{version.version} is candidate")
