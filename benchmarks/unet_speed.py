"""Compare a training step of raysde's U-Net with diffusers' UNet2DModel of equally many weights at the same resolution.

    pip install diffusers
    python benchmarks/unet_speed.py [--repeats 5] [--only 32 64 28] [--threads 2]

A step is forward, backward and fused AdamW on a batch, in float32 and under bfloat16 autocast, without compilation. The
diffusers network has the same levels and attention, its default of two blocks per level, and the width that brings its
number of weights nearest to ours. Ours has most of its blocks at low resolution, and at 28 pixels, as in the
Fashion-MNIST recipe, works on patches of 2 x 2; theirs supports neither. Rates are medians over repeats, in turn.
FLOP/s are counted operations per time, shown beside those of a large matrix product on the same cores. The last lines
show our step's time by kind of operation. Aim: 1.5 times theirs, never below 1.0. Run it alone: one core that is busy
elsewhere delays all threads of a step.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.networks import UNetConfig

AIM, MATRIX = 1.5, 2048
KINDS = {
    "convolution": ("convolution",),
    "group norm": ("group_norm",),
    "attention and linear": ("scaled_dot_product", "addmm", "aten::mm", "bmm", "softmax"),
    "copies and casts": ("copy_", "aten::cat", "fill_", "zero_"),
    "optimiser": ("adamw",),
}


@dataclass(frozen=True)
class Case:
    """A U-Net for square images of ``height`` pixels and ``channels``, and the batch size."""

    size: UNetConfig
    height: int
    channels: int
    batch: int


CASES = {
    32: Case(UNetConfig(channels=64, multipliers=(1, 2, 2), blocks=(1, 2, 4), attention=(8,)), 32, 3, 32),
    64: Case(UNetConfig(channels=64, multipliers=(1, 2, 3, 4), blocks=(1, 2, 3, 4), attention=(8,)), 64, 3, 8),
    28: Case(UNetConfig(channels=64, multipliers=(1, 2), blocks=1, attention=(7,), patch=2), 28, 1, 64),
}


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def peer(case: Case, width: int) -> UNet2DModel:
    """Return diffusers' network with the levels, blocks and attention of ``case``."""
    size = case.size
    attends = [case.height // 2**level in size.attention for level in range(len(size.multipliers))]
    return UNet2DModel(
        sample_size=case.height,
        in_channels=case.channels,
        out_channels=case.channels,
        layers_per_block=2,
        block_out_channels=tuple(width * multiplier for multiplier in size.multipliers),
        down_block_types=tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        up_block_types=tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)),
        attention_head_dim=size.head_channels,
        norm_num_groups=8,
    )


def nearest(case: Case, wanted: int) -> UNet2DModel:
    """Return the peer with the number of weights nearest to ``wanted``."""

    def away(width: int) -> int:
        with torch.device("meta"):
            return abs(weights(peer(case, width)) - wanted)

    step = case.size.head_channels
    return peer(case, min(range(step, 5 * case.size.channels, step // 4), key=away))


@dataclass(frozen=True)
class Trained:
    """A network with its optimizer, and the function that calls it."""

    network: nn.Module
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer

    def loss(self, x: Tensor, t: Tensor, half: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            out = self.call(self.network, x, t)
        return (out.float() - x).square().mean()

    def step(self, x: Tensor, t: Tensor, half: bool) -> None:
        self.loss(x, t, half).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def trained(network: nn.Module, call: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Trained:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return Trained(network, call, optimizer)


def operations(pair: Trained, x: Tensor, t: Tensor) -> int:
    """Return the floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        pair.loss(x, t, False).backward()
    pair.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def product_rate(dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product."""
    a = torch.randn(MATRIX, MATRIX).to(dtype)
    return 2 * MATRIX**3 / statistics.median(seconds(lambda: a @ a) for _ in range(7))


def shares(pair: Trained, x: Tensor, t: Tensor, half: bool) -> str:
    """Return the time of a step by kind of operation, in per cent."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        pair.step(x, t, half)
    spent: Counter[str] = Counter()
    for event in seen.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "pointwise, other")
        spent[kind] += event.self_cpu_time_total
    return ", ".join(f"{kind} {100 * each / spent.total():.0f}%" for kind, each in spent.most_common())


def timed(pairs: dict[str, Trained], x: Tensor, t: Tensor, half: bool, repeats: int) -> list[dict[str, float]]:
    """Return the seconds per step of each network, in turn, after a warm-up step."""
    for pair in pairs.values():
        pair.step(x, t, half)
    steps = {name: partial(pair.step, x, t, half) for name, pair in pairs.items()}
    return [{name: seconds(step) for name, step in steps.items()} for _ in range(repeats)]


def compare(case: Case, repeats: int) -> None:
    """Print the rates of both networks in both precisions."""
    shape = (case.channels, case.height, case.height)
    ours = case.size.build(shape, None)
    theirs = nearest(case, weights(ours))
    pairs = {
        "raysde": trained(ours, lambda network, x, t: network(x, t)),
        "diffusers": trained(theirs, lambda network, x, t: network(x, 999.0 * t).sample),
    }
    x, t = torch.randn(case.batch, *shape), torch.rand(case.batch)
    counted = {name: operations(pair, x, t) for name, pair in pairs.items()}
    print(f"\n{case.height} x {case.height}, batch {case.batch}")
    for name, pair in pairs.items():
        print(f"  {name:10}{weights(pair.network):12,} weights  {counted[name] / case.batch / 1e9:6.2f} GFLOP an image")
    for half, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        times = timed(pairs, x, t, half, repeats)
        for name in pairs:
            each = statistics.median(found[name] for found in times)
            rates = f"{case.batch / each:7.1f} images/s {counted[name] / each / 1e9:6.0f} GFLOP/s"
            print(f"  {dtype!s:15} {name:10} {rates}")
        ratios = [found["diffusers"] / found["raysde"] for found in times]
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"  {dtype!s:15} raysde / diffusers {statistics.median(ratios):.2f} (aim {AIM}; repeats {shown})")
        print(f"  {dtype!s:15} matrix product {product_rate(dtype) / 1e9:.0f} GFLOP/s")
        print(f"  {dtype!s:15} our step: {shares(pairs['raysde'], x, t, half)}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--only", type=int, nargs="+", choices=CASES, default=list(CASES))
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.threads} threads, torch {torch.__version__}")
    for height in given.only:
        compare(CASES[height], given.repeats)


if __name__ == "__main__":
    main()
