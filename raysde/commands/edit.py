"""The command `raysde edit`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands.model_options import (
    check_drawing,
    drawing_arguments,
    loader,
    model_options,
    prompt_options,
    solver_options,
    warn_of_older,
)

if TYPE_CHECKING:
    from torch import Tensor

    from raysde.images.remarks import Change
    from raysde.inference.sample import Drawn

SAID: "dict[Change, str]" = {
    "profile": "its colour profile was converted to sRGB",
    "unusable": "its colour profile is damaged or does not fit the pixels, and was passed over",
    "transparent": "it is transparent in places and was laid on white",
    "frames": "it has several frames or pages, of which the first was taken",
    "ink": "it is CMYK without a colour profile, and was converted by the plain formula (1 - ink)(1 - black)",
    "black": "it has 16 bits a pixel and no value above 255, and became black; scale it to 0 to 65535",
}
"""What is said of an image that was changed on the way in."""
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

--strength draws by what raysde settle found for the model, the others by everybody's defaults. docs/editing.md says
what each does, and where it comes from.
"""


def edit_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Changes images: fills them in, colours them, enlarges them, or draws them anew with a likeness. Writes "
        "image-000.png, ... and sheet.png, which shows each input beside its results. Result i depends on the seed, i "
        "and its image alone."
    )
    command.epilog = EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    model_options(command)
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
    prompt_options(command)
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
    solver_options(command)
    command.add_argument("--out", default="edited", help="folder for the images (default %(default)s)")
    command.set_defaults(run=run_edit)


def run_edit(args: argparse.Namespace) -> None:
    """raysde edit."""
    from raysde.images.tensors import grid, save_picture, save_png

    check_drawing(args)
    restoring = checked_restoring(args)
    files = [(path, image) for path, image in opened(args.image) for _ in range(args.n)]
    load = loader(args)
    model = load(args.model)
    warn_of_older(args.out, len(files))
    with drawing_arguments(args, model, len(files), load, own=args.strength is not None) as drawing:
        shown, drawn = edited(model, args, files, {**drawing, **restoring})
    out = Path(args.out)
    save_png(drawn.images, out, [f"image-{index:03d}" for index in range(len(files))])
    sheet = side_by_side(shown, drawn.images, args.n)
    save_picture(grid(sheet, columns=args.n + 1), out / "sheet.png")
    print(f"{len(files)} images and {out / 'sheet.png'} ({drawn.nfe} network evaluations each)")


def checked_restoring(args: argparse.Namespace) -> dict[str, Any]:
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


def opened(paths: list[str]) -> "list[tuple[str, Tensor]]":
    """Read image files as an ingest does, and print what had to be changed; return each name with uint8 [C, H, W].

    Raises:
        ValueError: naming the file, if it cannot be read as an image.
    """
    files = []
    for path in paths:
        image, changes = open_file(path)
        files.append((path, image))
        for change in sorted(changes):
            print(f"{path}: {SAID[change]}")
    return files


def open_file(path: str) -> "tuple[Tensor, frozenset[Change]]":
    """Read an image file as uint8 [C, H, W], one channel if it is of a grey kind, and what was changed on the way.

    Raises:
        ValueError: naming the file, if it cannot be read as an image.
    """
    import numpy as np
    import torch

    from raysde.images.open import is_grey, read_picture

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        read = read_picture(data, 1 if data and is_grey(data) else 3)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    array = np.array(read.picture)
    image = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
    return image, read.changes & set(SAID)


def edited(
    model: Any, args: argparse.Namespace, files: "list[tuple[str, Tensor]]", options: dict[str, Any]
) -> "tuple[Tensor, Drawn]":
    """What the sheet shows of the inputs, uint8 [B, C, H, W], and the results.

    Raises:
        ValueError: if an image or the mask does not fit the model.
    """
    latent = model.spec.latent
    channels, height, width = model.spec.image if latent is None else latent.pixels
    if args.mask is not None:
        images, known = stacked(files, channels, (height, width)), open_mask(args.mask, (height, width))
        return images.where(known, images.new_tensor(128)), model.inpaint(images, known, **options)
    if args.colorise:
        grey = stacked([(path, means(image)) for path, image in files], 1, (height, width))
        return grey, model.colorise(grey, **options)
    if args.upscale is not None:
        if args.upscale < 1 or height % args.upscale or width % args.upscale:
            raise ValueError(f"--upscale {args.upscale} does not divide the model's {height} x {width} images")
        small = stacked(files, channels, (height // args.upscale, width // args.upscale))
        large = small.repeat_interleave(args.upscale, dim=2).repeat_interleave(args.upscale, dim=3)
        return large, model.upscale(small, args.upscale, **options)
    images = stacked(files, channels, (height, width))
    return images, model.edit(images, args.strength, **options)


def stacked(files: "list[tuple[str, Tensor]]", channels: int, size: tuple[int, int]) -> "Tensor":
    """uint8 [B, C, H, W].

    Raises:
        ValueError: naming an image of another size or number of channels, and both.
    """
    import torch

    for path, image in files:
        if image.shape != (channels, *size):
            raise ValueError(f"{path} is {described(*image.shape)}, the model takes {described(channels, *size)} here")
    return torch.stack([image for _, image in files])


def described(channels: int, height: int, width: int) -> str:
    """A shape for people, height x width."""
    return (
        f"{height} x {width} and {'grey' if channels == 1 else 'RGB' if channels == 3 else f'of {channels} channels'}"
    )


def means(image: "Tensor") -> "Tensor":
    """uint8 [1, H, W]: the mean over channels, to the nearest level."""
    import torch

    return image.float().mean(dim=0, keepdim=True).round().to(torch.uint8)


def open_mask(path: str, size: tuple[int, int]) -> "Tensor":
    """Read a mask: bool [H, W], True where the file is nearer to white than to black.

    Raises:
        ValueError: if it is no image, of several frames, transparent in places, dark without being black, or of
            another size, naming both.
    """
    image, changes = open_file(path)
    if "transparent" in changes:
        raise ValueError(
            f"the mask {path} is transparent in places, which says neither kept nor filled in; "
            "paint white where the image is kept and black where it is filled in, and save it without transparency"
        )
    if "frames" in changes:
        raise ValueError(f"the mask {path} has several frames or pages; save the one that is meant alone")
    if image.shape[1:] != size:
        height, width = image.shape[1:]
        raise ValueError(
            f"the mask {path} is {height} x {width}, the images are {size[0]} x {size[1]} (height x width)"
        )
    levels = image.float().mean(dim=0)
    if "black" in changes or 0 < levels.max() <= 127.5:
        raise ValueError(
            f"the mask {path} is dark everywhere and not black, so that nothing would be kept; "
            "scale it to black and white, 0 and 255 in a file of 8 bits and 0 and 65535 in one of 16"
        )
    return levels > 127.5


def side_by_side(shown: "Tensor", results: "Tensor", n: int) -> "Tensor":
    """For each of the inputs, which come ``n`` times each, it and its results in turn: uint8 [B (n + 1), C, H, W]."""
    import torch

    inputs = shown[::n].expand(-1, results.shape[1], -1, -1)
    rows = torch.cat([inputs[:, None], results.unflatten(0, (-1, n))], dim=1)
    return rows.flatten(0, 1)
