"""Options of `raysde sample` for the walk itself: where it begins, by which times it goes, and a picture of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands.model_options import parse_method
from raysde.sampling.method import check_timed

if TYPE_CHECKING:
    from torch import Tensor


def add_path_options(group: argparse._ArgumentGroup) -> None:
    """Describes the options."""
    group.add_argument(
        "--path",
        type=int,
        metavar="K",
        help="also draw path.png: K states of each image from noise to data, evenly spaced in log-SNR, with the clean "
        "image that the network predicts from each below it",
    )
    group.add_argument(
        "--times",
        metavar="T,T,...",
        help="falling times to walk instead of --steps, --grid and --rho: 1,0.5,0.1,0.001",
    )
    group.add_argument(
        "--start",
        metavar="FILE",
        help="what the walk begins with instead of noise from the prior: floats [N, C, H, W] in a .npy or .safetensors "
        "file",
    )


def path_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of a model's ``sample`` that the options give.

    Raises:
        ValueError: naming the option, if its value is no such thing or another option says the same.
    """
    found: dict[str, Any] = {}
    if args.times is not None:
        check_timed(parse_method(args), lambda name: f"--{name}")
        found["times"] = parse_times(args.times)
    if args.start is not None:
        found["start"] = read_array(args.start)
        if args.n is not None and args.n != len(found["start"]):
            raise ValueError(f"-n {args.n}, but --start {args.start} holds {len(found['start'])}")
    if args.path is not None and args.path < 2:
        raise ValueError(f"--path must be at least 2, the beginning and the end, got {args.path}")
    return found


def parse_times(text: str) -> "Tensor":
    """Return the times of ``--times``, float64.

    Raises:
        ValueError: if one is no number.
    """
    import torch

    try:
        return torch.tensor([float(word) for word in text.split(",")], dtype=torch.float64)
    except ValueError:
        raise ValueError(f"--times {text!r} must be numbers with commas between, such as 1,0.5,0.1,0.001") from None


def read_array(path: str) -> "Tensor":
    """Return the one array in a file.

    Raises:
        ValueError: naming the file, if it cannot be read or holds anything else.
    """
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if Path(path).suffix == ".safetensors":
            tensors = list(load_file(path).values())
        else:
            tensors = [torch.from_numpy(np.load(path, allow_pickle=False))]
    except (OSError, ValueError, EOFError, TypeError, SafetensorError) as error:
        raise ValueError(f"--start {path} cannot be read as a .npy or .safetensors file: {error}") from None
    if len(tensors) != 1 or tensors[0].ndim != 4 or not tensors[0].is_floating_point():
        raise ValueError(f"--start {path} must hold one array of floats [N, C, H, W]")
    return tensors[0].float()
