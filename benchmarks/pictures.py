"""Draw the pictures of docs/choosing.md and docs/tutorial.md.

    python benchmarks/pictures.py [--out docs]

trajectories.png has forward and reverse trajectories of a 2-D mixture under each SDE; tutorial/ has what the tutorial's
blocks draw.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.sampling.sampler import sample
from raysde.sampling.solvers.grids import time_grid
from raysde.sde import (
    EDM,
    SDE,
    VE,
    VP,
    Flow,
    SubVP,
)
from tests.support.oracles import mixture
from tests.support.pages import DOCS, read_blocks, run_python

SHOWN: dict[str, SDE] = {
    "VP": VP(),
    "sub-VP": SubVP(),
    "VE (sigma_max 8)": VE(sigma_max=8.0),
    "EDM (sigma_max 8)": EDM(sigma_max=8.0, train_floor=2.5e-4, sample_floor=2.5e-4),
    "Flow": Flow(),
}
PATHS = 24


def forward(sde: SDE, x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return times [T] and paths of the forward SDE from x0 [N, 2], by its exact transitions."""
    times = torch.linspace(sde.sample_floor, sde.ceiling, 300, dtype=torch.float64)
    alpha, sigma = sde.marginal(times)
    x, paths = alpha[0] * x0 + sigma[0] * torch.randn_like(x0), []
    for index in range(len(times)):
        if index:
            a = alpha[index] / alpha[index - 1]
            b2 = (sigma[index] ** 2 - (a * sigma[index - 1]) ** 2).clamp(min=0.0)
            x = a * x + b2.sqrt() * torch.randn_like(x)
        paths.append(x)
    return times, torch.stack(paths)


def reverse(sde: SDE, solver: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return times and paths of a sampler with the exact score."""
    times, paths = time_grid(sde, steps, "log_snr"), []
    g = torch.Generator().manual_seed(2)
    start = sde.prior((PATHS, 2), generator=g, dtype=torch.float64)
    sample(
        mixture().score(sde),
        sde,
        start.shape,
        solver=solver,
        times=times,
        start=start,
        generator=g,
        dtype=torch.float64,
        callback=lambda _, x: paths.append(x),
    )
    return times, torch.stack([start, *paths])


def draw_tutorial(folder: Path) -> None:
    """Run the tutorial's blocks, and keep their pictures in 64 colours."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        run_python([block for block in read_blocks(DOCS / "tutorial.md") if block.language == "python"], {})
        for picture in Path(place).glob("*.png"):
            Image.open(picture).convert("RGB").quantize(64).save(folder / picture.name, optimize=True)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=DOCS)
    given = arguments.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x0 = mixture().sample(PATHS, torch.Generator().manual_seed(1))
    figure, axes = plt.subplots(3, len(SHOWN), figsize=(3.4 * len(SHOWN), 8.4), squeeze=False)
    for column, (title, sde) in enumerate(SHOWN.items()):
        rows = (
            forward(sde, x0),
            reverse(sde, "euler_maruyama", 400),
            reverse(sde, "heun", 100),
        )
        for axis, (times, paths) in zip(axes[:, column], rows, strict=True):
            axis.plot(times, paths[:, :, 0], linewidth=0.6)
            axis.axvline(0.0, color="grey", linewidth=0.5)
            axis.set_xlim(-0.02, 1.02)
        axes[0, column].set_title(title)
        axes[2, column].set_xlabel("t  (0 is data, 1 is noise)")
    for axis, label in zip(axes[:, 0], ("forward SDE", "reverse SDE", "probability flow"), strict=True):
        axis.set_ylabel(f"{label}: first coordinate")
    figure.tight_layout()
    figure.savefig(given.out / "trajectories.png", dpi=100)
    draw_tutorial(given.out / "tutorial")


if __name__ == "__main__":
    main()
