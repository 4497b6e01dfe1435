"""The command `raysde sample`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raysde.commands import parse_size_option
from raysde.commands.model_options import (
    add_model_options,
    add_prompt_options,
    add_solver_options,
    add_workers_option,
    check_drawing_options,
    drawing_arguments,
    guidance_arguments,
    make_loader,
    parse_method,
    show_progress_bar,
)
from raysde.commands.outputs import check_out, name_pictures, say_older_pictures
from raysde.commands.path_options import add_path_options, path_arguments
from raysde.io.amounts import amount
from raysde.io.near import did_you_mean
from raysde.io.progress import say

if TYPE_CHECKING:
    from torch import Tensor

    from raysde.models.spec import ModelSpec

EXAMPLES = """examples:
  raysde sample models:/digits@champion --prompt "a handwritten seven" --prompt "the digit 3" -n 16 --guidance 2
        writes sixteen images, the two prompts in turn, and a grid of them
  raysde sample models:/photos@champion --prompts-file prompts.txt --out drawn --form png
        writes an image for each line; after an interruption, the same command resumes
  ray job submit --working-dir . -- python jobs/sample.py models:/photos@champion --workers 8 --seed 1 \\
        --tracking-uri https://mlflow.example.org --prompts-file s3://bucket/prompts.parquet --out s3://bucket/drawn
        samples a table with a column prompt or label (optional: seed, negative); eight workers write Parquet files
"""


def add_sample_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde sample` to its parser."""
    command.description = (
        "Samples images and writes image-000.png, ... and grid.png. With a file of prompts, writes a large collection\n"
        "part by part. Image i depends only on the seed, i and its prompt."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_options(command)
    add_prompt_options(command)
    command.add_argument(
        "--condition-image",
        action="append",
        default=[],
        metavar="FILE",
        help="image that the model takes as a condition, such as a depth map, for models that were trained with "
        "image_condition.kind=column; if repeated, images take them in turn",
    )
    command.add_argument("-n", type=int, help="number of images (default: one for each prompt or label, otherwise 16)")
    command.add_argument(
        "--size",
        metavar="N|HxW",
        help="side length of the images, or height and width; any size that the network supports (default: the model's "
        "training size)",
    )
    command.add_argument(
        "--prompts-file",
        metavar="FILE",
        help="sample one image per row: .txt with one prompt per line, or .csv, .tsv, .jsonl or .parquet with a column "
        "prompt, label or both, or the model's numeric attributes by name, or image (and mask) for models with an "
        "image condition (optional columns: seed, negative)",
    )
    command.add_argument(
        "--form",
        choices=("parquet", "png"),
        default="parquet",
        help="output format for --prompts-file: Parquet with a column of images, or folders of PNG files with "
        "metadata.jsonl (default %(default)s)",
    )
    add_solver_options(command)
    add_path_options(command.add_argument_group("the trajectory from noise to data"))
    add_workers_option(command)
    command.add_argument(
        "--out", default="samples", help="folder; with --prompts-file also a URI (default %(default)s)"
    )
    command.set_defaults(run=run_sample)


def run_sample(args: argparse.Namespace) -> None:
    """Run `raysde sample`: sample images, and write them and a grid.

    Raises:
        ValueError: naming the option, or the file that would be overwritten.
    """
    check_drawing_options(args)
    size = parse_size_option(args.size)
    if args.prompts_file is not None:
        run_bulk(args)
        return
    if args.n is not None and args.n < 1:
        raise ValueError(f"-n must be at least 1, got {args.n}")
    if args.workers:
        raise ValueError("--workers is for a --prompts-file; leave it out, or give --prompts-file")
    walk = path_arguments(args)
    names = [text.partition("=")[0] for text in args.attribute]
    given = max(len(args.prompt), len(args.label), len(args.condition_image), *map(names.count, names)) or 16
    count = args.n if args.n is not None else len(walk["start"]) if "start" in walk else given
    out = Path(args.out).expanduser()
    check_out(out, [*name_pictures(count), "grid.png", *(["path.png"] if args.path is not None else [])])
    load = make_loader(args)
    model = load(args.model)
    if count > args.batch_size:
        say(f"sampling {count} images, {args.batch_size} at a time; with --prompts-file each finished part is kept")
    with drawing_arguments(args, model, count, load) as drawing:
        asked = {"n": count, "size": size, **walk, **drawing, **condition_arguments(args, model.spec, count)}
        drawn = model.sample(**asked) if args.path is None else model.sample_path(args.path, **asked)
    say_older_pictures(out, count)
    with show_progress_bar("writing", "image") as progress:
        paths = drawn.save(out, progress)
    strip = "" if args.path is None else f", their paths in {out / 'path.png'}"
    print(f"{amount(len(paths) - 1, 'image')} and {paths[-1]} ({amount(drawn.nfe, 'network evaluation')} each){strip}")


def condition_arguments(args: argparse.Namespace, spec: "ModelSpec", count: int) -> "dict[str, Tensor]":
    """Return the condition images of ``count`` images as a keyword argument of sampling, [count, C, H, W], if given.

    Raises:
        ValueError: naming the file that is no image or does not fit the model, or if the model takes none.
    """
    from raysde.inference.second_images import read_seconds
    from raysde.io.filesystems import read_bytes

    files = []
    for path in args.condition_image:
        try:
            files.append((path, bytes(read_bytes(path))))
        except (FileNotFoundError, IsADirectoryError):
            raise ValueError(f"there is no image {path}") from None
    if not files:
        return {}
    images = read_seconds(spec, files)
    return {"condition_images": images[[number % len(images) for number in range(count)]]}


def run_bulk(args: argparse.Namespace) -> None:
    """Run `raysde sample --prompts-file`: sample an image for each row, part by part.

    Raises:
        ValueError: naming the option that cannot be combined with a prompt file, or the row that cannot be sampled.
    """
    from raysde.commands.evaluate import show_progress_bars
    from raysde.inference.bulk import Bulk, Draw, draw_all, draw_here
    from raysde.inference.image_conditions import image_columns
    from raysde.inference.prompt_file import COLUMNS, read_requests
    from raysde.io.filesystems import absolute_location
    from raysde.models.sampling_defaults import resolve_settings
    from raysde.sampling.method import make_method

    alone = {f"--{name}": getattr(args, name) is not None for name in ("path", "times", "start")}
    conditions = {"--prompt": args.prompt, "--label": args.label, "--attribute": args.attribute}
    conditions["--condition-image"] = args.condition_image
    for option, given in {**conditions, "-n": args.n is not None, **alone}.items():
        if given:
            raise ValueError(
                f"{option} cannot be given with --prompts-file, which has the prompts, labels and attributes; "
                "leave one of them out"
            )
    draw: Draw = draw_here
    if args.workers:
        from raysde.cluster.sample import draw_on_actors

        draw = draw_on_actors(args.workers, args.device)
    load = make_loader(args, args.workers)
    model = load(args.model)
    spec = model.spec
    requests = read_requests(args.prompts_file, [each.name for each in spec.attributes], image_columns(spec))
    if requests.unread:
        known = [*COLUMNS, *(each.name for each in spec.attributes), *image_columns(spec)]
        hints = "".join(did_you_mean(name, known) for name in requests.unread)
        print(f"{requests.file}: columns {', '.join(requests.unread)} are ignored{hints}", file=sys.stderr)
    guided = guidance_arguments(args, spec, load, conditional=True)
    found = resolve_settings(spec.generation, parse_method(args) | guided, True, usual=spec.default_solver)
    negative, settings = guided.pop("negative"), {"batch_size": args.batch_size, **make_method(found), **guided}
    if (size := parse_size_option(args.size)) is not None:
        settings["size"] = size
    requests = requests.labelled(spec.classes, spec.class_names)
    bulk = Bulk(model, requests, absolute_location(args.out), args.form, args.seed, negative, settings)
    with show_progress_bars() as progress:
        kept = draw_all(bulk, draw, lambda done, total: progress("drawing images", done, total))
    drawn = f"{amount(requests.count, 'image')} in {amount(len(bulk.parts), 'part')}"
    print(f"{drawn} in {bulk.out} ({kept} of them existed already)")
