"""The command `raysde evaluate`."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands.closest_pairs import describe_memorisation, name_pairs, save_pairs
from raysde.commands.model_options import (
    Options,
    add_model_options,
    add_solver_options,
    add_workers_option,
    check_drawing_options,
    make_loader,
    parse_method,
)
from raysde.io.cache import EVALUATION

if TYPE_CHECKING:
    from raysde.evaluation.features.networks import FeatureNetwork
    from raysde.evaluation.real_data import RealReader
    from raysde.evaluation.workload import Measure

EXAMPLES = """examples:
  raysde evaluate models:/digits@champion --data ~/raysde/digits --features judge --samples 2048
        compares 2,048 samples with real digits in the features of a classifier, which is trained on the real digits
        first (one minute) and cached
  raysde evaluate models:/photos@candidate --data s3://bucket/photos --samples 50000 --metrics fid,is,recall
        the metrics of papers, in the features of the FID Inception network, which torch.hub downloads once
  raysde evaluate runs/cats --data ~/cats --features weights-inception-2015-12-05-6726825d.pth --metrics kid \\
        --samples 1000 --reference 5000 --solver unipc --steps 10
        a first look: KID is unbiased, so few images suffice
  ray job submit --working-dir . -- python jobs/evaluate.py models:/photos@candidate --data s3://bucket/photos \\
        --tracking-uri https://mlflow.example.org --samples 50000 --workers 8 --output ~/report.json
        the same metrics from eight workers of a cluster: on one GPU each if it has some, otherwise on its CPUs
  raysde evaluate models:/photos@candidate --data ~/raysde/photos --clip ~/clip-vit-large-patch14 \
        --dinov2 ~/dinov2-large --metrics fd_dinov2,cmmd,clip_score
        quality and agreement with the captions in current networks; fetch the weights once, such as by
        `hf download facebook/dinov2-large --local-dir ~/dinov2-large`
  raysde evaluate models:/photos@candidate --data ~/raysde/photos --features ~/dinov2-large --metrics memorised
        does the model draw training images? --data must be the data that it was trained on, with held-out images

The metrics:
  fid        Fréchet distance of features: the usual metric, biased upwards by few images; at least 2,048 of each
  kid        kernel distance of features: unbiased, so comparable between sample sizes
  is         inception score: rewards sharp and varied images; does not use real images
  precision  fraction of samples that lie among real images: fidelity
  recall     fraction of real images that lie among samples: variety
  fd_dinov2  Fréchet distance of DINOv2 features (needs --dinov2): agrees with people better than fid; at least 2,048
  cmmd       kernel distance of CLIP embeddings (needs --clip): unbiased, for any number of images
  clip_score 100 cos of the CLIP embeddings of sample and caption (needs --clip and a model of captions)
  memorised  fraction of samples as near to a training image as the nearest 5% of held-out images are; about 0.05 for a
             model that memorises nothing. Writes a picture of the closest pairs beside the report
  accuracy   fraction of samples that a classifier of real images assigns to the requested label
  bpd        bits per dimension of held-out images, an upper bound; takes minutes per hundred images
  denoised_psnr, denoised_mse, denoised_ssim, denoised_lpips
             held-out images, noised to --t and denoised, compared with the originals; mse on pixels in [0, 1]
  inpainted_psnr, inpainted_mse, inpainted_ssim, inpainted_lpips
             held-out images with the centre removed and inpainted, compared with the originals

Every metric has a 95% confidence interval; two models differ if their intervals do not overlap. See docs/evaluating.md.
"""


def add_evaluate_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde evaluate` to its parser."""
    command.description = (
        "Samples images, for each label or caption in turn, and compares them with real images. Prints a table and\n"
        "writes a report. Image i depends only on the seed and i; the batch size changes metrics at most by rounding."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_options(command)
    command.add_argument(
        "--metrics",
        default="fid,kid,precision,recall",
        help="comma-separated metrics from the list below (default %(default)s)",
    )
    command.add_argument("--output", default="report.json", help="path or URI of the report (default %(default)s)")
    add_real_options(command.add_argument_group("real images"))
    add_network_options(command.add_argument_group("feature networks"))
    drawing = command.add_argument_group("samples")
    add_drawing_options(drawing)
    add_solver_options(drawing)
    add_workers_option(command)
    command.set_defaults(run=run_evaluate)


def add_real_options(group: Options) -> None:
    """Add the options for the real images that samples are compared with."""
    group.add_argument(
        "--data",
        metavar="SHARDS",
        help="data set of real images: folder or URI (default: the data that the model was trained on: its version and "
        "selected rows, and of several data sets their shares)",
    )
    group.add_argument("--data-version", type=int, metavar="N", help="version of --data (default: the newest)")
    group.add_argument(
        "--filter", metavar="CONDITION", help="rows of --data to take, as data.filter of a recipe (default: all)"
    )
    group.add_argument(
        "--split", choices=("train", "validation"), default="train", help="split of real images (default %(default)s)"
    )
    group.add_argument("--reference", type=int, metavar="N", help="number of real images, at random (default: all)")
    group.add_argument(
        "--rows", type=int, default=64, help="held-out images for bpd, denoised_* and inpainted_* (default %(default)s)"
    )
    for name, what in (("rtol", "relative"), ("atol", "absolute")):
        text = f"{what} tolerance of the bpd solver; 1e-2 takes a tenth of the time (default %(default)s)"
        group.add_argument(f"--bpd-{name}", type=float, default=1e-5, metavar="E", help=text)
    group.add_argument("--t", type=float, default=0.5, help="noise time of denoised_* (default %(default)s)")


def add_network_options(group: Options) -> None:
    """Add the options that select the feature network and its cache."""
    group.add_argument(
        "--features",
        default="inception",
        metavar="NETWORK",
        help="inception (default: the FID Inception network, downloaded once), a file of its weights (.safetensors, "
        ".pth), a folder of transformers' DINOv2 or CLIP, judge (a classifier of --data's labels), or with "
        "--allow-code a TorchScript file or module:name",
    )
    for name, kind, metrics in (("clip", "CLIPModel", "clip_score and cmmd"), ("dinov2", "Dinov2Model", "fd_dinov2")):
        group.add_argument(
            f"--{name}",
            metavar="FOLDER",
            help=f"weights of transformers' {kind} for {metrics}: a folder with config.json and model.safetensors",
        )
    group.add_argument(
        "--lpips",
        default="alexnet",
        metavar="WEIGHTS",
        help="LPIPS network: alexnet (default: torchvision's weights, downloaded once), or a .pth or .safetensors file",
    )
    group.add_argument(
        "--cache",
        default=EVALUATION,
        help="cache folder for judges and statistics of real images (default %(default)s)",
    )


def add_drawing_options(group: Options) -> None:
    """Add the options for the number, seed and guidance of samples."""
    group.add_argument("--samples", type=int, default=2048, help="number of samples (default %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of samples and choices (default %(default)s)")
    group.add_argument("--allow-few", action="store_true", help="allow FID of fewer than 2,048 images (unreliable)")
    group.add_argument(
        "--guidance",
        type=float,
        help="classifier-free guidance scale; 1 disables guidance (default: the choice of raysde tune-sampler for this "
        "model, else 2 with captions or labels, else 1)",
    )
    group.add_argument(
        "--autoguide", metavar="MODEL", help="guide away from a smaller or less trained model of the same SDE"
    )
    group.add_argument("--autoguidance", type=float, metavar="SCALE", help="guidance scale of --autoguide")


def run_evaluate(args: argparse.Namespace) -> None:
    """Run `raysde evaluate`: measure a model on a data set, print the metrics and write a report.

    Raises:
        ValueError: naming the option, or the metric that the model or the data do not allow.
    """
    from raysde.evaluation.evaluate import evaluate, format_figures
    from raysde.evaluation.question import Question
    from raysde.io.filesystems import absolute_location, check_writable, write_json
    from raysde.registry import resolve_with_subject

    started, target = time.monotonic(), absolute_location(args.output)
    check_writable(target, "--output")
    check_drawing_options(args)
    given = {} if args.guidance is None else {"guidance": args.guidance}
    settings = {**given, "batch_size": args.batch_size, **parse_method(args)}
    question = Question(
        metrics=tuple(name.strip() for name in args.metrics.split(",") if name.strip()),
        samples=args.samples,
        seed=args.seed,
        split=args.split,
        reference=args.reference,
        rows=args.rows,
        t=args.t,
        allow_few=args.allow_few,
        settings=settings,
        lpips=args.lpips,
        rtol=args.bpd_rtol,
        atol=args.bpd_atol,
        clip=args.clip,
        dinov2=args.dinov2,
    )
    picture = name_pairs(target)
    if question.memorises:
        check_writable(picture, "--output")
    folder, subject = resolve_with_subject(args.model, args.tracking_uri)
    data = choose_data(args, folder)
    load, cache = make_loader(args, args.workers), Path(args.cache).expanduser()
    model, guide = load(str(folder)), None if args.autoguide is None else load(args.autoguide)
    with show_progress_bars() as progress, open_measurer(args, progress) as measure:
        opener = network_opener(args, model, cache, progress)
        answer = evaluate(
            model,
            data,
            question,
            open_features=opener,
            cache=cache,
            progress=progress,
            measure=measure,
            guide=guide,
            autoguidance=args.autoguidance,
        )
    report = {"model": asdict(subject), **answer.dump(), "seconds": round(time.monotonic() - started, 1)}
    print(format_figures(answer.figures))
    if answer.pairs is not None:
        print(describe_memorisation(report["memorisation"]))
        save_pairs(answer.pairs, picture)
        report["memorisation"]["picture"] = picture
    write_json(target, report)
    print(f"report {target}")
    if subject.run_id is not None:
        log_report(subject.run_id, subject.step or 0, report, target, args.tracking_uri)


def choose_data(args: argparse.Namespace, folder: Path) -> "str | RealReader":
    """Return the real images that the options ask for; without ``--data``, those of the run that trained the model.

    The location of a data set stands for all rows of its newest version.

    Args:
        folder: folder of the model.

    Raises:
        ValueError: if there is no such data, or the options contradict each other.
    """
    from raysde.checkpoints.checkpoint import read_description
    from raysde.evaluation.real_data import open_filtered, open_recorded
    from raysde.io.filesystems import absolute_location

    chosen = {"--data-version": args.data_version, "--filter": args.filter}
    if args.data is not None:
        place = absolute_location(args.data)
        if all(value is None for value in chosen.values()):
            return place
        return open_filtered(place, args.data_version, args.filter)
    for option, value in chosen.items():
        if value is not None:
            raise ValueError(f"{option} goes with --data; give the data set, or leave {option} out")
    if not (folder / "checkpoint.json").exists():
        raise ValueError(f"--data: {args.model} is no checkpoint, which would name its data; give --data")
    found = read_description(folder)
    return open_recorded(found.recipe, found.data, args.model)


def log_report(run_id: str, step: int, report: dict[str, Any], target: str, tracking_uri: str | None) -> None:
    """Log the metrics of a report to the MLflow run that trained the model.

    Args:
        step: step of the model's checkpoint.
        target: location of the report, for messages.

    Raises:
        RuntimeError: if MLflow does not answer.
    """
    from raysde.evaluation.report import parse_figures
    from raysde.registry.promotion import log_to_run
    from raysde.tracking import connect_client, default_uri, report_server_errors

    uri = tracking_uri or default_uri()
    with report_server_errors(uri):
        log_to_run(connect_client(uri), run_id, step, {each.name: each for each in parse_figures(report, target)})


@contextmanager
def open_measurer(args: argparse.Namespace, progress: Callable[[str, float, float], None]) -> Iterator["Measure"]:
    """Yield the function that measures: in this process, or on Ray workers, which end with the context.

    Raises:
        ValueError: if ``--workers`` is less than 1.
    """
    from raysde.evaluation.workload import measure_here

    if not args.workers:
        yield measure_here
        return
    from raysde.cluster.evaluate import Workers

    with Workers(args.workers, device=args.device, progress=progress) as workers:
        yield workers


def network_opener(
    args: argparse.Namespace, model: Any, cache: Path, progress: Callable[[str, float, float], None]
) -> Callable[["RealReader"], "FeatureNetwork"]:
    """Return a function that opens the selected feature network for a data set.

    Raises:
        ValueError: by the function, as :func:`raysde.evaluation.evaluate.choose_network`.
    """
    from raysde.evaluation.evaluate import choose_network

    def opener(reader: "RealReader") -> "FeatureNetwork":
        return choose_network(reader, model, args.features, cache, allow_code=args.allow_code, progress=progress)

    return opener


@contextmanager
def show_progress_bars() -> Iterator[Callable[[str, float, float], None]]:
    """Yield a function that shows a progress bar with the remaining time for each stage in turn."""
    from tqdm import tqdm

    shown: dict[str, Any] = {}

    def show_stage(what: str, done: float, total: float) -> None:
        if what not in shown:
            for bar in shown.values():
                bar.close()
            shown[what] = tqdm(total=total, initial=done, desc=what, file=sys.stderr, delay=0.5, bar_format=FORM)
        if what != next(reversed(shown)):
            return  # a later stage is already shown
        shown[what].update(done - shown[what].n)

    try:
        yield show_stage
    finally:
        for bar in shown.values():
            bar.close()


FORM = "{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} [{elapsed}, {remaining} left]"
