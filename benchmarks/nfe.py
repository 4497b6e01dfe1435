"""Measure the distance of samples to the data by solver and number of network evaluations (NFE).

    python benchmarks/nfe.py [--model RUN_OR_CHECKPOINT] [--out docs/nfe.md]

Uses a mixture with exact score, and a digits model. The distance is the sliced Wasserstein distance between samples and
data, with its standard error over seeds; the first line is the distance between two samples of the data. Without
--model the script trains a digits model first, as `make demo` does. Writes the table and docs/nfe.png.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conformance import sliced_wasserstein

from raysde.sampling.sampler import sample
from raysde.sde import VP
from tests.support.oracles import mixture

SEEDS = 8
COUNT = 4000
FAST = ("ddim", "heun", "edm", "deis", "dpmpp_2m", "dpmpp_3m", "unipc", "dpmpp_2m_sde")
ON_DIGITS = ("ddim", "dpmpp_2m", "unipc")
BUDGETS = (5, 8, 10, 20, 50)
LONG = 1000


def sliced(a: Tensor, b: Tensor) -> float:
    """Return the sliced Wasserstein distance of two samples [N, D], over 128 directions."""
    return sliced_wasserstein(a, b, directions=128)


def steps_for(solver: str, nfe: int) -> int:
    """Return the largest number of steps of a solver that costs at most ``nfe`` evaluations."""
    return nfe // (2 if solver in ("heun", "edm") else 1)


def summary(values: list[float]) -> tuple[float, float]:
    """Return mean and standard error."""
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().item(), (found.std() / len(values) ** 0.5).item()


def on_mixture(solver: str, steps: int, grid: str | None) -> tuple[float, float]:
    """Return the distance of VP samples with the exact score to the mixture."""
    data, sde, values = mixture(), VP(), []
    for seed in range(SEEDS):
        g = torch.Generator().manual_seed(seed)
        x = sample(
            data.score(sde), sde, (COUNT, 2), solver=solver, steps=steps, grid=grid, generator=g, dtype=torch.float64
        ).x
        values.append(sliced(x, data.sample(COUNT, torch.Generator().manual_seed(1000 + seed))))
    return summary(values)


def digits_model(folder: Path) -> str:
    """Train the digits recipe here, without Ray, and return its run folder."""
    shards = folder / "shards"
    run = [sys.executable, "-m", "raysde.cli"]
    subprocess.run([*run, "ingest", "sklearn:digits", str(shards)], check=True)
    settings = ["name=nfe", f"data.path={shards}", f"storage={folder / 'runs'}", "sampling.every=0"]
    subprocess.run([*run, "train", "digits", *settings, "--no-ray"], check=True)
    return str(folder / "runs" / "nfe")


class Digits:
    """A digits model sampled for all digits equally, and the real digits."""

    def __init__(self, source: str, count: int, seeds: int) -> None:
        from sklearn.datasets import load_digits

        from raysde.data.ingest.digits import WORDS
        from raysde.registry import load

        self.model, self.count, self.seeds = load(source), count, seeds
        self.prompts = [f"a handwritten {WORDS[i % 10]}" for i in range(count)]
        real = load_digits()
        self.real = torch.from_numpy(real.images).flatten(1).double() / 16.0
        self.labels = torch.from_numpy(real.target)

    def real_sample(self, seed: int) -> Tensor:
        """Return real digits with equally many of each class."""
        g = torch.Generator().manual_seed(seed)
        each = self.count // 10
        rows = [(self.labels == digit).nonzero()[:, 0] for digit in range(10)]
        return torch.cat([self.real[row[torch.randperm(len(row), generator=g)[:each]]] for row in rows])

    def distance(self, solver: str, steps: int, grid: str | None) -> tuple[float, float]:
        values = []
        for seed in range(self.seeds):
            drawn = self.model.sample(prompts=self.prompts, seed=seed, solver=solver, steps=steps, grid=grid)
            x = drawn.images.double().flatten(1) / 255.0
            values.append(sliced(x, self.real_sample(seed)))
        return summary(values)

    def floor(self) -> tuple[float, float]:
        return summary([sliced(self.real_sample(seed), self.real_sample(50 + seed)) for seed in range(self.seeds)])


def rows(distance, solvers: tuple[str, ...]) -> list[tuple[str, int, tuple[float, float]]]:
    """Return solver, evaluations and distance of every entry."""
    found = [("euler_maruyama", LONG, distance("euler_maruyama", LONG, None))]
    found.append(("euler_maruyama", 50, distance("euler_maruyama", 50, None)))
    print(*found, sep="\n", flush=True)
    for solver in solvers:
        for nfe in BUDGETS:
            found.append((solver, nfe, distance(solver, steps_for(solver, nfe), None)))
            print(*found[-1], flush=True)
    return found


def grid_of(found: list[tuple[str, int, tuple[float, float]]], floor: tuple[float, float]) -> str:
    """Return a Markdown table: one row per solver, one column per NFE."""
    heads = [*BUDGETS, LONG]
    cells = {(solver, nfe): f"{mean:.4f} ± {error:.4f}" for solver, nfe, (mean, error) in found}
    lines = ["| solver | " + " | ".join(f"{nfe}" for nfe in heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for solver in dict.fromkeys(solver for solver, _, _ in found):
        lines.append(f"| {solver} | " + " | ".join(cells.get((solver, nfe), "") for nfe in heads) + " |")
    return "\n".join([f"Data to other data: {floor[0]:.4f} ± {floor[1]:.4f}.", "", *lines])


def picture(parts: dict[str, tuple[list, tuple[float, float]]], path: Path) -> None:
    """Draw distance against NFE, both logarithmic; the dashed line is the distance between two samples of the data."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(parts), figsize=(6.2 * len(parts), 4.4), squeeze=False)
    for axis, (title, (found, floor)) in zip(axes[0], parts.items(), strict=True):
        for solver in FAST:
            points = [(nfe, mean) for name, nfe, (mean, _) in found if name == solver]
            if not points:
                continue
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=solver)
        long = [(nfe, mean) for name, nfe, (mean, _) in found if name == "euler_maruyama"]
        axis.plot(*zip(*sorted(long), strict=True), marker="s", color="black", label="euler_maruyama")
        axis.axhline(floor[0], color="grey", linestyle="--", label="data to data")
        axis.set(xscale="log", yscale="log", xlabel="network evaluations", title=title)
    axes[0][0].set_ylabel("sliced Wasserstein distance to the data")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", help="a digits run or checkpoint; default: train one")
    arguments.add_argument("--out", default="docs/nfe.md")
    given = arguments.parse_args()
    data = mixture()
    floor = summary(
        [
            sliced(*(data.sample(COUNT, torch.Generator().manual_seed(start + seed)) for start in (1000, 2000)))
            for seed in range(SEEDS)
        ]
    )
    parts = {"mixture of three, exact score": (rows(on_mixture, FAST), floor)}
    with tempfile.TemporaryDirectory() as folder:
        digits = Digits(given.model or digits_model(Path(folder)), 100, 3)
    parts["digits model"] = (rows(digits.distance, ON_DIGITS), digits.floor())
    text = (
        "# Distance to the data by network evaluations\n"
        "\n"
        "The tables have the sliced Wasserstein distance between samples and data, with its standard error\n"
        "over seeds, by solver and number of function evaluations. Data to other data is the best possible\n"
        "value. The process is VP, and each solver uses its own grid. `make nfe` computes the tables again.\n"
        "\n"
        "![Distance to the data against network evaluations](nfe.png)\n"
    )
    for title, (found, floor) in parts.items():
        text += f"\n## {title.capitalize()}\n\n{grid_of(found, floor)}\n"
    Path(given.out).write_text(text)
    picture(parts, Path(given.out).with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
