"""The command `raysde settle`: the average and the sampler settings that suit a trained model."""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands import tracking_option

if TYPE_CHECKING:
    from raysde.models.spec import ModelSpec
    from raysde.tuning.sampler.space import Candidate
    from raysde.tuning.sampler.study import Study
    from raysde.tuning.sampler.successive_halving import Settled

SHARED = ("metric", "features", "seed", "split", "reference", "allow_few", "batch_size", "allow_code", "device")
"""Options that a study takes as they are."""
EXAMPLES = """\
  raysde settle models:/digits@candidate --data ~/raysde/digits --features judge --metric kid
        tries unipc, dpmpp_2m and heun in 5, 10 and 20 steps at guidance 1, 1.5, 2 and 3
  raysde settle runs/photos --data s3://bucket/photos --metric fid --samples 20000 --rounds 2 \\
        ema_std=none,0.05,0.1,0.15 solver=heun,edm steps=10,18 churn=0,20,40
        averages of three lengths and the run's own, with and without churn, which is of edm
  raysde settle runs/ve --data shards --features judge solver=pc steps=100,200 target_snr=0.08,0.16,0.24
  raysde settle runs/cats --data shards --features judge steps=10 guidance=2,3 guidance_interval=none,0.2:5,0.5:3

A setting is KEY=VALUE,VALUE,...; every combination is tried once, and what its solver does not read is left out. Keys:
  ema_std             length of the average, as of raysde ema; none is the run's own. MODEL is then a run's folder
  solver, steps, grid, corrector, target_snr, eta, order, churn, ...   as of raysde sample
  guidance            1 for none
  guidance_interval   LOW:HIGH in sigma / alpha, none for everywhere

All settings draw from the same noise. In the first of --rounds each is measured on few images, a third goes on to three
times as many, and the last round takes --samples. Two are compared image by image; who is not behind the best beyond
the interval of that and takes the fewest network evaluations wins.
"""


def settle_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Finds the average and the sampler settings that suit a trained model, without training: on Ray, on the "
        "cluster of RAY_ADDRESS or of the surrounding job, otherwise on this machine. OUT/model is the model that "
        "draws by them when nobody says otherwise, OUT/settings.csv the table. Repeated after a crash, it goes on."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("model", help="a checkpoint, a run's folder or id, models:/NAME@ALIAS or models:/NAME/VERSION")
    command.add_argument("overrides", nargs="*", metavar="key=v1,v2", help="settings to try (default: as above)")
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
    tracking_option(command)
    command.set_defaults(run=run_settle)


def run_settle(args: argparse.Namespace) -> None:
    """raysde settle."""
    from raysde.checkpoints import checkpoint
    from raysde.commands.evaluate import bars
    from raysde.commands.model_options import loader
    from raysde.evaluation.metric import direction
    from raysde.models.spec import check_code
    from raysde.tuning.sampler import space, successive_halving

    loader(args)  # says what is wrong with the device
    wanted = space.parse_space(args.overrides)
    images = successive_halving.rounds(args.samples, args.rounds)
    out = Path(args.out).expanduser().absolute()
    if (out / "model").exists():
        raise ValueError(
            f"{out / 'model'} exists already: register it with raysde register {out / 'model'} --name NAME, or give "
            "another --out"
        )
    check_registry(args)
    source, spec = found_model(args)
    wanted = wanted or space.usual(conditional=spec.conditional)
    check_code(spec, allow_code=args.allow_code)
    candidates = space.candidates(
        wanted, spec.generation, spec.process, conditional=spec.conditional, usual=spec.default_solver
    )
    study = opened_study(args, source, out, candidates)
    for each in candidates:
        study.question(each, images[0])
    with bars() as told:
        study.rehearse(candidates[0], images[0], told)
    from raysde.cluster.tune_sampler import measure_on_ray

    print(f"{len(candidates)} settings, on {', '.join(str(samples) for samples in images)} images")
    found = successive_halving.settle(candidates, images, direction(study.metric), measure_on_ray(study, out))
    drawing = drawn_by(found.winner.candidate, spec)
    write_table(out / "settings.csv", found)
    checkpoint.settle(Path(study.models[found.winner.candidate.average]), out / "model", drawing)  # ends the study
    report(found, out, drawing)
    if args.name:
        registered(args, out / "model")


def drawn_by(won: "Candidate", spec: "ModelSpec") -> dict[str, Any]:
    """A winner's settings with the guidance that it was measured at, which is not everybody's default."""
    return won.drawing | ({"guidance": won.drawing.get("guidance", 1.0)} if spec.conditional else {})


def found_model(args: argparse.Namespace) -> "tuple[Path, ModelSpec]":
    """The checkpoint's folder and what it says.

    Raises:
        ValueError: if there is none, or it is a diffusers pipeline.
    """
    from raysde.checkpoints import checkpoint
    from raysde.registry import resolve_checkpoint

    folder = resolve_checkpoint(args.model, args.tracking_uri)
    return folder, checkpoint.verify(folder).spec


def opened_study(args: argparse.Namespace, source: Path, out: Path, candidates: "list[Candidate]") -> "Study":
    """The study, with each model that it needs in ``out``.

    Raises:
        ValueError: if an average cannot be made.
    """
    from raysde.checkpoints import checkpoint, ema_snapshots
    from raysde.io.filesystems import location
    from raysde.tuning.sampler.study import Study

    claim(source, out)
    models: dict[float | None, str] = {}
    averages = list(dict.fromkeys(each.average for each in candidates))
    settings = {name: getattr(args, name) for name in SHARED}
    cache = Path(args.cache or out / "cache").expanduser().absolute()
    study = Study(models, location(args.data), cache=str(cache), **settings)
    for average in averages:
        target = out / "models" / ("own" if average is None else f"ema-{average:g}")
        models[average] = str(target)
        if target.exists():
            continue
        if average is None:
            checkpoint.export(source, target)
        else:
            if not Path(args.model).expanduser().is_dir():
                raise ValueError(f"ema_std needs the folder of a run, which holds its averages; {args.model!r} is none")
            ema_snapshots.export(args.model, target, average)
    return study


def claim(source: Path, out: Path) -> None:
    """Makes ``out`` the folder of this model, or finds that it is.

    Raises:
        ValueError: if it is that of another.
    """
    from raysde.checkpoints import checkpoint
    from raysde.tuning.sampler.study import journal

    description = checkpoint.read(source)
    own = {"weights": description.files["ema.safetensors"], "generation": description.spec.dump()["generation"]}
    refused = f"{out} holds the study of another model: give another --out"
    journal(out).begin(own, lambda found, wanted: None if found == wanted else refused)


def write_table(path: Path, found: "Settled") -> None:
    """All settings with their figures, the best first."""
    from raysde.io.atomic import whole_file

    keys = list(dict.fromkeys(key for each in found.outcomes for key in each.candidate.values))
    with whole_file(path, "the table") as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        figures = ["metric", "value", "low", "high", "samples", "behind", "behind_low", "behind_high"]
        table.writerow(["place", *keys, "evaluations", *figures, "won"])
        for place, each in enumerate(found.outcomes, start=1):
            values = [each.candidate.values.get(key, "") for key in keys]
            figure, won = each.figure, each is found.winner
            behind = found.behind(each)
            numbers = [figure.name, figure.value, figure.low, figure.high, figure.samples]
            numbers += [behind.value, behind.low, behind.high] if behind else ["", "", ""]
            table.writerow([place, *values, each.candidate.evaluations, *numbers, "yes" if won else ""])


SHOWN = 12
"""Settings on the terminal."""


def report(found: "Settled", out: Path, drawing: dict[str, Any]) -> None:
    """Says what came out: a model that draws by ``drawing``."""
    from raysde.commands.registry import columns
    from raysde.models.sampling_defaults import sentence

    rows = [("", "setting", "evaluations", "figure", "behind the first", "images")]
    for each in found.outcomes[:SHOWN]:
        marks = "won" if each is found.winner else ""
        evaluations = f"{each.candidate.evaluations:g}"
        behind = str(found.behind(each) or "")
        rows.append((marks, str(each.candidate), evaluations, str(each.figure), behind, str(each.figure.samples)))
    print(columns(rows))
    if len(found.outcomes) > SHOWN:
        print(f"and {len(found.outcomes) - SHOWN} more in {out / 'settings.csv'}")
    if found.winner is not found.best:
        print("the first is not ahead beyond the interval, image by image, and takes more network evaluations")
    print(f"model {out / 'model'} draws by {sentence({**found.winner.candidate.values, **drawing})}")


def check_registry(args: argparse.Namespace) -> None:
    """Finds out before the work whether the result can be registered.

    Raises:
        ValueError: if --name can be none, or there is no such store.
        RuntimeError: if the store fails.
    """
    from raysde.config.names import checked_name
    from raysde.registry import check_name
    from raysde.tracking import answering, client_for, default_uri

    if args.name:
        uri = args.tracking_uri or default_uri()
        client = client_for(uri)
        with answering(uri):
            check_name(client, checked_name(args.name, "--name"))


def registered(args: argparse.Namespace, folder: Path) -> None:
    """Registers the result."""
    from raysde.registry import register
    from raysde.tracking import answering, client_for, default_uri

    uri = args.tracking_uri or default_uri()
    with answering(uri):
        version = register(client_for(uri), str(folder), name=args.name, alias="candidate")
    print(f"models:/{version.name}/{version.version} is candidate")
