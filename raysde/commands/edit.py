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
    warn_of_older_pictures,
)
from raysde.io.amounts import amount

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = """\
Exactly one of --mask, --colorise, --upscale and --strength says what is done:

  raysde edit models:/photos@champion --image a.png b.png --mask hole.png
        fills in what is black in the mask and keeps what is white
  raysde edit models:/photos@champion --image old.png --colorise -n 4
        colours a grey image, in four ways
  raysde edit models:/photos@champion --image small.png --upscale 2
        draws an image of twice the size whose blocks of 2 x 2 pixels have the colours of the small one's pixels
  raysde edit models:/photos@champion --image a.png --strength 0.6 --prompt "the same in winter"
        adds noise and takes it away again under a prompt: 0 changes nothing, 1 keeps nothing

--strength draws by what raysde tune-sampler found for the model, the others by everybody's defaults. docs/editing.md
says what each does, and where it comes from.
"""


def add_edit_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Changes images: fills them in, colours them, enlarges them, or draws them anew with a likeness. Writes "
        "image-000.png, ... and sheet.png, which shows each input beside its results. Result i depends on the seed, i "
        "and its image alone."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_options(command)
    image = (
        "images of the model's size (smaller for --upscale), of any kind that raysde ingest reads; transparent ones "
        "are laid on white"
    )
    mask = (
        "inpaint: an image of the same size, without transparency: white where images are kept, black where they are "
        "filled in"
    )
    command.add_argument("--image", nargs="+", required=True, metavar="FILE", help=image)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--mask", metavar="FILE", help=mask)
    what.add_argument("--colorise", action="store_true", help="take the mean over channels and draw the colours")
    what.add_argument("--upscale", type=int, metavar="K", help="enlarge images K times to the model's size")
    what.add_argument(
        "--strength", type=float, metavar="S", help="from 0, the image itself, to 1, a new one: how much is redrawn"
    )
    command.add_argument("-n", type=int, default=1, help="results for each image (default %(default)s)")
    add_prompt_options(command)
    restoring = command.add_argument_group("for --mask, --colorise and --upscale")
    restoring.add_argument(
        "--method",
        choices=("moment_matching", "replacement"),
        help="moment_matching (default) follows the score given what is known, at some gradients a step; replacement "
        "puts what is known back after every step, which is cheap and fits less well",
    )
    restoring.add_argument("--noise", type=float, help="deviation of the known pixels from the truth, in levels of 255")
    restoring.add_argument(
        "--iterations", type=int, help="of moment_matching; more fit better and cost a gradient each"
    )
    restoring.add_argument("--resample", type=int, help="of replacement: how often each step is repeated (default 0)")
    add_solver_options(command)
    command.add_argument("--out", default="edited", help="folder for the images (default %(default)s)")
    command.set_defaults(run=run_edit)


def run_edit(args: argparse.Namespace) -> None:
    """raysde edit."""
    from raysde.images.tensors import save_picture, save_png
    from raysde.inference.edit_files import draw_sheet, edit_files

    check_drawing_options(args)
    restoring = check_restoring_options(args)
    check_inputs_stay(args)
    files = [(path, image) for path, image in open_images(args.image) for _ in range(args.n)]
    load = make_loader(args)
    model = load(args.model)
    warn_of_older_pictures(args.out, len(files))
    with drawing_arguments(args, model, len(files), load, own=args.strength is not None) as drawing:
        wanted = {name: getattr(args, name) for name in ("mask", "colorise", "upscale", "strength")}
        shown, drawn = edit_files(model, files, **wanted, **drawing, **restoring)
    out = Path(args.out)
    names, paths = [Path(path).name for path, _ in files], [f"image-{index:03d}" for index in range(len(files))]
    done = "inpaint" if args.mask else "colorise" if args.colorise else f"upscale {args.upscale}"
    done = done if args.strength is None else f"strength {args.strength:g}"
    told = [{**drawn.metadata(index), "image": name} for index, name in enumerate(names)]
    save_png(drawn.images, out, paths, metadata=told)
    save_picture(draw_sheet(names, shown, drawn, args.n, done), out / "sheet.png")
    print(f"{amount(len(files), 'image')} and {out / 'sheet.png'} ({amount(drawn.nfe, 'network evaluation')} each)")


def check_inputs_stay(args: argparse.Namespace) -> None:
    """Guard the images that are given against the results, which have names of their own in the folder ``--out``.

    Raises:
        ValueError: naming one that would be overwritten.
    """
    out = Path(args.out).resolve()
    written = {out / f"image-{number:03d}.png" for number in range(len(args.image) * args.n)} | {out / "sheet.png"}
    for given in (*args.image, *([args.mask] if args.mask else [])):
        if Path(given).resolve() in written:
            raise ValueError(f"--out {args.out}: a result would be written over {given}; name another folder")


def check_restoring_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of restoring that are given.

    Raises:
        ValueError: if one is out of range, or does not belong to what is done.
    """
    given = {name: getattr(args, name) for name in ("method", "noise", "iterations", "resample")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.n < 1:
        raise ValueError(f"-n must be at least 1, got {args.n}")
    if args.strength is not None and not 0.0 <= args.strength <= 1.0:
        raise ValueError(f"--strength must lie between 0 and 1, got {args.strength}")
    if args.strength is not None and given:
        raise ValueError(f"--{next(iter(given))} has no effect with --strength")
    return given


def open_images(paths: list[str]) -> "list[tuple[str, Tensor]]":
    """Read image files as an ingest does, and print what had to be changed; return each name with uint8 [C, H, W].

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
