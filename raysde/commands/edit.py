"""The command `raysde edit`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands.model_options import (
    add_model_options,
    add_prompt_options,
    add_solver_options,
    check_drawing_options,
    drawing_arguments,
    make_loader,
)
from raysde.commands.outputs import check_out, name_pictures, say_older_pictures
from raysde.io.amounts import amount

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = """\
Exactly one of --mask, --colorise, --upscale and --strength selects the task:

  raysde edit models:/photos@champion --image a.png b.png --mask hole.png
        inpaints: keeps the pixels where the mask is white and samples those where it is black
  raysde edit models:/photos@champion --image old.png --colorise -n 4
        colorises a grey image; writes four results
  raysde edit models:/photos@champion --image small.png --upscale 2
        samples an image of twice the size in which each block of 2 x 2 pixels has the mean colour of one input pixel
  raysde edit models:/photos@champion --image a.png --strength 0.6 --prompt "the same in winter"
        adds noise and denoises under a prompt (SDEdit): strength 0 keeps the image, 1 samples a new one

--strength uses the sampler settings that raysde tune-sampler stored in the model, the other tasks use raysde's
defaults. docs/editing.md explains the methods and cites their sources.
"""


def add_edit_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde edit` to its parser."""
    command.description = (
        "Edits images: inpaints, colorises, upscales or varies them. Writes image-000.png, ... and sheet.png, which\n"
        "shows each input beside its results. Result i depends only on the seed, i and its image."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_options(command)
    image = (
        "images of the model's size (smaller for --upscale), in any format that raysde ingest reads; transparent "
        "images get a white background"
    )
    mask = "inpaint with this image of the same size, without transparency: white keeps pixels, black replaces them"
    command.add_argument("--image", action="extend", nargs="+", required=True, metavar="FILE", help=image)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--mask", metavar="FILE", help=mask)
    what.add_argument(
        "--colorise", action="store_true", help="reduce images to grey (mean over channels) and sample the colours"
    )
    what.add_argument("--upscale", type=int, metavar="K", help="enlarge images by the factor K to the model's size")
    what.add_argument(
        "--strength", type=float, metavar="S", help="amount of change, from 0 (the input image) to 1 (a new image)"
    )
    command.add_argument("-n", type=int, default=1, help="number of results per image (default %(default)s)")
    add_prompt_options(command)
    restoring = command.add_argument_group("for --mask, --colorise and --upscale")
    restoring.add_argument(
        "--method",
        choices=("moment_matching", "replacement"),
        help="moment_matching (default) follows the score conditioned on the known pixels, with gradients in each "
        "step; replacement resets the known pixels after every step, which is faster and less coherent",
    )
    restoring.add_argument(
        "--noise", type=float, help="standard deviation of noise in the known pixels, in levels of 255"
    )
    restoring.add_argument(
        "--iterations", type=int, help="iterations of moment_matching: more fit better and cost one gradient each"
    )
    restoring.add_argument("--resample", type=int, help="for replacement: repetitions of each step (default 0)")
    add_solver_options(command)
    command.add_argument("--out", default="edited", help="output folder (default %(default)s)")
    command.set_defaults(run=run_edit)


def run_edit(args: argparse.Namespace) -> None:
    """Run `raysde edit`: inpaint, colorise, upscale or redraw images, and write them and a sheet.

    Raises:
        ValueError: naming the option, the image, or the file that would be overwritten.
    """
    from raysde.images.tensors import save_picture, save_png
    from raysde.inference.edit_files import draw_sheet, edit_files

    check_drawing_options(args)
    restoring = check_restoring_options(args)
    out, names = Path(args.out).expanduser(), name_pictures(len(args.image) * args.n)
    check_inputs_stay(args, [out / name for name in (*names, "sheet.png")])
    check_out(out, [*names, "sheet.png"])
    files = [(path, image) for path, image in open_images(args.image) for _ in range(args.n)]
    load = make_loader(args)
    model = load(args.model)
    with drawing_arguments(args, model, len(files), load, own=args.strength is not None) as drawing:
        wanted = {name: getattr(args, name) for name in ("mask", "colorise", "upscale", "strength")}
        shown, drawn = edit_files(model, files, **wanted, **drawing, **restoring)
    say_older_pictures(out, len(files))
    sources = [Path(path).name for path, _ in files]
    done = "inpaint" if args.mask else "colorise" if args.colorise else f"upscale {args.upscale}"
    done = done if args.strength is None else f"strength {args.strength:g}"
    metadata = [{**drawn.metadata(index), "image": name} for index, name in enumerate(sources)]
    save_png(drawn.images, out, [name.removesuffix(".png") for name in names], metadata=metadata)
    save_picture(draw_sheet(sources, shown, drawn, args.n, done), out / "sheet.png")
    print(f"{amount(len(files), 'image')} and {out / 'sheet.png'} ({amount(drawn.nfe, 'network evaluation')} each)")


def check_inputs_stay(args: argparse.Namespace, written: list[Path]) -> None:
    """Refuse an output folder in which a result would overwrite an input image or the mask.

    Raises:
        ValueError: naming the input that would be overwritten.
    """
    results = {path.resolve() for path in written}
    for given in (*args.image, *([args.mask] if args.mask else [])):
        if Path(given).resolve() in results:
            raise ValueError(f"--out {args.out}: a result would be written over {given}; name another folder")


def check_restoring_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options of the restoring methods.

    Raises:
        ValueError: if an option is out of range, or does not apply to the selected task.
    """
    given = {name: getattr(args, name) for name in ("method", "noise", "iterations", "resample")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.n < 1:
        raise ValueError(f"-n must be at least 1, got {args.n}")
    if args.strength is not None and not 0.0 <= args.strength <= 1.0:
        raise ValueError(f"--strength must lie between 0 and 1, got {args.strength}")
    if args.strength is not None and given:
        raise ValueError(f"--{next(iter(given))} has no effect with --strength; leave it out")
    return given


def open_images(paths: list[str]) -> "list[tuple[str, Tensor]]":
    """Read image files as an ingest does, and print the conversions; return each name with its uint8 [C, H, W].

    Raises:
        ValueError: naming the file, if it cannot be read as an image.
    """
    from raysde.images.files import SAID, open_file

    files = []
    for path in paths:
        image, changes = open_file(path)
        files.append((path, image))
        for change in sorted(changes):
            print(f"{path}: {SAID[change]}")
    return files
