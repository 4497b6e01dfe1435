"""Options of `raysde sample` for the sampling trajectory: start, times, and a picture of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.commands.model_options import parse_method
from raysde.sampling.method import check_timed

if TYPE_CHECKING:
    from torch import Tensor


def add_path_options(group: argparse._ArgumentGroup) -> None:
    """Add the options."""
    group.add_argument(
        "--path",
        type=int,
        metavar="K",
        help="also write path.png: K states of each image from noise to data, evenly spaced in log-SNR, each above the "
        "network's prediction of the clean image",
    )
    group.add_argument(
        "--times",
        metavar="T,T,...",
        help="decreasing times of the solver's steps, instead of --steps, --grid and --rho: 1,0.5,0.1,0.001",
    )
    group.add_argument(
        "--start",
        metavar="FILE",
        help=".npy or .safetensors file of floats [N, C, H, W]: initial states, instead of noise from the prior",
    )


def path_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options as keyword arguments of a model's ``sample``.

    Raises:
        ValueError: naming the option, if its value is invalid or conflicts with another option.
    """
    found: dict[str, Any] = {}
    if args.times is not None:
        check_timed(parse_method(args), lambda name: f"--{name}")
        found["times"] = parse_times(args.times)
    if args.start is not None:
        found["start"] = read_array(args.start)
        if args.n is not None and args.n != len(found["start"]):
            raise ValueError(
                f"-n {args.n}, but --start {args.start} holds {len(found['start'])}"
                "; give the same number, or leave -n out"
            )
    if args.path is not None and args.path < 2:
        raise ValueError(f"--path must be at least 2, the first and the last state, got {args.path}")
    return found


def parse_times(text: str) -> "Tensor":
    """Return the times of ``--times``, float64 [N]; :func:`raysde.sampling.solvers.grids.check_times` checks them.

    Raises:
        ValueError: if an item is not a number.
    """
    import torch

    try:
        return torch.tensor([float(word) for word in text.split(",")], dtype=torch.float64)
    except ValueError:
        raise ValueError(f"--times {text!r} must be numbers with commas between, such as 1,0.5,0.1,0.001") from None


def read_array(path: str) -> "Tensor":
    """Return the only array of a .npy or .safetensors file as float32 [N, C, H, W].

    Raises:
        ValueError: naming the file, if it cannot be read or does not hold exactly one such array of floats.
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
    if not tensors[0].isfinite().all():
        raise ValueError(f"--start {path} holds NaN or infinity; give finite numbers")
    return tensors[0].float()
