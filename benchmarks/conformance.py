"""Test every SDE, target, solver and likelihood against exact answers; write docs/conformance.md, fail if a row misses.

    python benchmarks/conformance.py [--out docs/conformance.md]

The data are a correlated Gaussian and a mixture of three in two dimensions. Their scores are known, so any error is the
solver's or the SDE's. A row passes if mean and covariance are within four standard errors plus the solver's bias at its
number of steps, the sliced Wasserstein distance is that of two exact samples, all targets give the same samples to
1e-6, and the fitted order of a flow agrees with its theoretical order to 0.3.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.sampling.likelihood import log_prob
from raysde.sampling.method import Method
from raysde.sampling.sampler import sample
from raysde.sde import SDE
from raysde.sde.parameterisation import TARGETS, convert_target, marginal_for
from tests.support.oracles import BIAS, FLOWS, SDES, SETTINGS, Mixture, fitted_order, gaussian, mixture

COUNT = 3000


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Return the root mean square over directions of the 2-Wasserstein distance of projections; equal sample sizes."""
    g = torch.Generator().manual_seed(0)
    lines = torch.randn(a.shape[1], directions, generator=g, dtype=a.dtype)
    lines = lines / lines.norm(dim=0)
    gaps = (a @ lines).sort(dim=0).values - (b @ lines).sort(dim=0).values
    return gaps.square().mean().sqrt().item()


def through(target: str, score, sde: SDE):
    """Return the score computed from a network that predicts ``target`` exactly."""

    def answer(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = marginal_for(sde, t, x)
        value = convert_target(score(x, t), x, alpha, sigma, "score", target, 0.5)
        return convert_target(value, x, alpha, sigma, target, "score", 0.5)

    return answer


def draw(score, sde: SDE, case: str, count: int, seed: int) -> tuple[Tensor, int]:
    """Return samples [count, 2] and number of evaluations of one case."""
    settings = SETTINGS[case]
    grid = {} if settings["solver"] in ("edm", "rk45") else {"grid": "log_snr"}
    g = torch.Generator().manual_seed(seed)
    out = sample(score, sde, (count, 2), generator=g, dtype=torch.float64, **{**grid, **settings})
    return out.x, out.nfe


def excess(x: Tensor, data: Mixture) -> tuple[float, float]:
    """Return the largest errors of mean and covariance minus four standard errors: the remaining bias."""
    centred = x - data.mean
    mean = centred.mean(dim=0).abs() - 4.0 * x.std(dim=0) / len(x) ** 0.5
    products = torch.einsum("bi,bj->bij", centred, centred)
    spread = (products.mean(dim=0) - data.covariance).abs() - 4.0 * products.std(dim=0) / len(x) ** 0.5
    return max(mean.max().item(), 0.0), max(spread.max().item(), 0.0)


@dataclass
class Row:
    """One row of the table, with the checks that it missed."""

    cells: list[str]
    missed: list[str] = field(default_factory=list)

    def check(self, name: str, good: bool) -> None:
        if not good:
            self.missed.append(name)


def sampler_row(name: str, case: str) -> Row | None:
    """Return the row of one SDE and solver; None where the corrector is undefined."""
    sde = SDES[name]
    if Method(**SETTINGS[case]).correction is not None and not sde.diffuses:
        return None
    row, bias = Row([name, case]), BIAS.get(case, 0.01)
    nfe = 0
    for data, allowed in ((gaussian(), bias), (mixture(), 2 * bias)):
        x, nfe = draw(data.score(sde), sde, case, COUNT, seed=1)
        mean, spread = excess(x, data)
        exact = [data.sample(COUNT, torch.Generator().manual_seed(seed)) for seed in (10, 11)]
        distance, floor = sliced_wasserstein(x, exact[0]), sliced_wasserstein(exact[1], exact[0])
        row.cells += [f"{mean:.3f}", f"{spread:.3f}", f"{distance:.3f} ({floor:.3f})"]
        row.check("moments", mean <= allowed and spread <= allowed)
        row.check("distance", distance <= 2.5 * floor + 2 * allowed)
    base, _ = draw(mixture().score(sde), sde, case, 8, seed=2)
    worst = 0.0
    for target in TARGETS:
        other, _ = draw(through(target, mixture().score(sde), sde), sde, case, 8, seed=2)
        worst = max(worst, (other - base).abs().max().item())
    row.check("targets", worst < 1e-6)
    row.cells += [f"{worst:.0e}", str(nfe)]
    row.cells.append("")
    if case in FLOWS:
        order = fitted_order(sde, case)
        row.check("order", abs(order - FLOWS[case]) <= 0.3)
        row.cells[-1] = f"{order:.2f} ({FLOWS[case]})"
    return row


def likelihood_row(name: str, divergence: str) -> Row:
    """Return the row of one SDE and divergence, on data around 0, so that the prior's error is below 1e-4 nats."""
    sde, row = SDES[name], Row([name, divergence])
    for make in (gaussian, mixture):
        data = make()
        data = Mixture(data.weights, data.means - data.mean, data.covariances)
        x = data.sample(24, torch.Generator().manual_seed(0))
        found = log_prob(
            data.score(sde), x, sde, divergence=divergence, probes=8, generator=torch.Generator().manual_seed(1)
        )
        off = found.value - data.log_prob(x, torch.full((len(x),), sde.train_floor, dtype=torch.float64), sde)
        together = (found.standard_error.square().sum().sqrt() / len(x)).item()
        if divergence == "exact":
            row.cells.append(f"{(off.abs().max() / 2).item():.1e} largest")
            row.check("log p", (off.abs() / 2).max().item() <= 1e-3)
        else:
            row.cells.append(f"{off.mean().item():+.4f} ± {together:.4f}")
            row.check("log p", abs(off.mean().item()) <= 3 * together + 1e-3)
    row.cells.append(str(found.nfe))
    return row


SAMPLERS = [
    "SDE", "solver", "mean", "covariance", "sliced W (two exact samples)", "mean", "covariance",
    "sliced W (two exact samples)", "targets differ by", "nfe", "order (theory)",
]  # fmt: skip
LIKELIHOODS = ["SDE", "divergence", "Gaussian, nats/dim or nats", "mixture, nats/dim or nats", "nfe"]


def table(head: list[str], rows: list[Row]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join([*head, ""]) + " |", "|" + "---|" * (len(head) + 1)]
    for row in rows:
        verdict = "missed: " + ", ".join(row.missed) if row.missed else ""
        lines.append("| " + " | ".join([*row.cells, verdict]) + " |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", default="docs/conformance.md")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    begin, samplers, likelihoods = time.perf_counter(), [], []
    for name in SDES:
        for case in SETTINGS:
            if (row := sampler_row(name, case)) is not None:
                samplers.append(row)
                print(*row.cells, *row.missed, sep="  ", flush=True)
        for divergence in ("exact", "rademacher", "gaussian"):
            likelihoods.append(likelihood_row(name, divergence))
            print(*likelihoods[-1].cells, *likelihoods[-1].missed, sep="  ", flush=True)
    missed = [row for row in samplers + likelihoods if row.missed]
    text = f"""# Conformance

This page compares {len(samplers)} pairs of SDE and solver, each with {len(TARGETS)} training targets, and
{len(likelihoods)} likelihoods with exact scores and densities. {len(missed)} missed the closed form.
`make conformance` computes it again.

## Samplers

Each row draws {COUNT} samples of a correlated Gaussian (first three columns of numbers), then of a mixture of three
Gaussians. "mean" and "covariance" are the largest error beyond four standard errors, so 0.000 is agreement.
"sliced W" is the sliced Wasserstein distance to exact samples, and in parentheses that between two exact
samples. "targets differ by" compares
the samples of the six training targets. "order" is fitted on the mixture, with the theoretical order in parentheses.

{table(SAMPLERS, samplers)}

## Likelihoods

Each row has 24 points. With the exact divergence, the error is the largest in nats per dimension. With Hutchinson's
estimate by 8 probes, it is the mean error in nats with its reported standard error.

{table(LIKELIHOODS, likelihoods)}
"""
    Path(given.out).write_text(text)
    print(f"{len(missed)} missed, {time.perf_counter() - begin:.0f} s, {given.out}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
