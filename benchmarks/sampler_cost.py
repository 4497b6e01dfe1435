"""What the sampler adds to the network calls it makes, and how often a likelihood runs the network.

    python benchmarks/sampler_cost.py [--repeats 7]

Wall time of `sample` divided by nfe times the time of one bare network call, both measured in turns in one process on
the digits network; the median over repeats. Aim: at most 1.02.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.conditioning import Encoded
from raysde.guidance import Conditioned
from raysde.likelihood import log_prob
from raysde.model import ModelSpec, fresh_model
from raysde.networks import UNetConfig
from raysde.sampler import sample
from raysde.sde import VP

BATCH = 64


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=7)
    given = arguments.parse_args()
    spec = ModelSpec(
        image=(1, 8, 8),
        data_range=(-1.0, 1.0),
        data_std=0.5,
        sde=VP(),
        network=UNetConfig(channels=32, multipliers=(1, 2), attention=(8,)),
        target="v",
        text=None,
        classes=0,
    )
    model = fresh_model(spec, [], 0).eval().requires_grad_(False)
    score = Conditioned(model, Encoded())
    shape = (BATCH, *spec.image)
    x, t = torch.randn(shape), torch.full((BATCH,), 0.5)

    @torch.no_grad()
    def network() -> None:
        for _ in range(20):
            model.network(x, t)

    network()
    worst = 0.0
    for solver in ("unipc", "dpmpp_3m", "heun", "euler_maruyama", "pc"):
        ratios = []
        for _ in range(given.repeats):
            before, begin = seconds(network), time.perf_counter()
            nfe = sample(score, spec.sde, shape, solver=solver, steps=20).nfe
            spent = time.perf_counter() - begin
            bare = 0.5 * (before + seconds(network)) / 20
            ratios.append(spent / (nfe * bare))
        ratio = statistics.median(ratios)
        worst = max(worst, ratio)
        print(f"{solver:16} {ratio:.3f} of nfe network calls   (repeats {' '.join(f'{each:.3f}' for each in ratios)})")
    print(f"largest {worst:.3f} (aim 1.02); one call is {1e3 * bare:.1f} ms for {BATCH} images of 8x8")
    calls = []
    hook = model.network.register_forward_hook(lambda *_: calls.append(1))
    found = log_prob(score, x[:4], spec.sde, probes=2)
    hook.remove()
    print(f"likelihood: {len(calls)} network forwards for {found.nfe} evaluations")


if __name__ == "__main__":
    main()
