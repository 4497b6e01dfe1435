"""The command `raysde sample`."""

import argparse

from raysde.commands.drawing import (
    check_drawing,
    drawing_arguments,
    loader,
    model_options,
    prompt_options,
    solver_options,
)


def sample_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Draws images and writes image-000.png, ... and grid.png. Image i depends on the seed and i alone."
    )
    model_options(command)
    prompt_options(command)
    command.add_argument("-n", type=int, help="number of images (default: one for each prompt or label, otherwise 16)")
    solver_options(command)
    command.add_argument("--out", default="samples", help="folder for the images (default %(default)s)")
    command.set_defaults(run=run_sample)


def run_sample(args: argparse.Namespace) -> None:
    """raysde sample."""
    check_drawing(args)
    count = args.n if args.n is not None else max(len(args.prompt), len(args.label)) or 16
    load = loader(args)
    model = load(args.model)
    with drawing_arguments(args, count, load) as drawing:
        drawn = model.sample(n=count, **drawing)
    paths = drawn.save(args.out)
    print(f"{len(paths) - 1} images and {paths[-1]} ({drawn.nfe} network evaluations each)")
