"""Measure the sampler's overhead over its network calls, and the network calls of a likelihood.

    python benchmarks/sampler_cost.py [--repeats 7]

The overhead is the wall time of `sample` divided by the time inside the network, for the digits network; the median
over repeats. Both times come from the same calls, so a machine with varying speed does not disturb the ratio. Aim: at
most 1.02.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.conditioning.conditioner import Encoded
from raysde.inference.guidance import Conditioned
from raysde.models.spec import ModelSpec, fresh_model
from raysde.networks import UNetConfig
from raysde.sampling.likelihood import log_prob
from raysde.sampling.sampler import sample
from raysde.sde import VP

BATCH = 64


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Stopwatch:
    """A stopwatch that adds up the time of a module's forward calls."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.reset()
        module.register_forward_pre_hook(self.start)
        module.register_forward_hook(self.stop)

    def reset(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def start(self, *_: object) -> None:
        self.begin = time.perf_counter()

    def stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.begin
        self.calls += 1


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
    inside = Stopwatch(model.network)
    worst = 0.0
    for solver in ("unipc", "dpmpp_3m", "heun", "euler_maruyama", "pc"):
        ratios = []
        for _ in range(given.repeats + 1):
            inside.reset()
            spent = seconds(lambda: sample(score, spec.sde, shape, solver=solver, steps=20))  # noqa: B023
            ratios.append(spent / inside.seconds)
        ratio = statistics.median(ratios[1:])  # the first repeat warms up
        worst = max(worst, ratio)
        shown = " ".join(f"{each:.3f}" for each in ratios[1:])
        print(f"{solver:16} {ratio:.3f} of its {inside.calls} network calls   (repeats {shown})")
    bare = inside.seconds / inside.calls
    x = torch.randn(shape)
    print(f"largest {worst:.3f} (aim 1.02); one call is {1e3 * bare:.1f} ms for {BATCH} images of 8x8")
    calls = []
    hook = model.network.register_forward_hook(lambda *_: calls.append(1))
    found = log_prob(score, x[:4], spec.sde, probes=2)
    hook.remove()
    print(f"likelihood: {len(calls)} network forwards for {found.nfe} evaluations")


if __name__ == "__main__":
    main()
