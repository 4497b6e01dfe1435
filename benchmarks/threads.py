"""Compare how OpenMP threads wait: training steps/s of a small network, alone and beside a busy process.

    python benchmarks/threads.py [--repeats 3] [--seconds 4] [--threads 2]

torch's OpenMP (libgomp) lets a thread without work spin before it sleeps. If another process wants the core, the
spinning takes it from the threads that compute. Every measurement is a process of its own, since libgomp reads its
settings once, when it is loaded. In every repeat the policies take turns, first alone, then beside one busy process.
The last line names the policy that is fastest beside the busy process among those that keep 0.95 of the best rate
alone; `raysde.threads` sets it. Run it alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (300, 1000, 3000, 10_000, 30_000)},
}
KEEP = 0.95
"""Share of the best rate alone that a policy must keep."""
CASES = ("alone", "beside a busy process")


def measure_step_rate(seconds: float, threads: int) -> float:
    """Return the steps/s of the digits recipe's network and optimizer on random images, in this process."""
    import torch

    from raysde.config import loading

    torch.set_num_threads(threads)
    network = loading.load_recipe("digits", []).network.build((1, 8, 8), None)
    optimizer = torch.optim.AdamW(network.parameters())
    images, times = torch.randn(32, 1, 8, 8), torch.rand(32)
    done, start = 0, 0.0
    while True:
        network(images, times).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if not start:
            start = time.perf_counter()
            continue
        done += 1
        if (passed := time.perf_counter() - start) > seconds:
            return done / passed


def run_policy(settings: dict[str, str], seconds: float, threads: int) -> float:
    """Return the steps/s of a new process under a policy."""
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**clean, **settings, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--child", "--seconds", str(seconds), "--threads", str(threads)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare how OpenMP threads wait.")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each policy")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(measure_step_rate(args.seconds, args.threads))
        return
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.repeats):
        for case in CASES:
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if case != CASES[0] else []
            for policy, settings in POLICIES.items():
                rates.setdefault((policy, case), []).append(run_policy(settings, args.seconds, args.threads))
            for process in busy:
                process.kill()
                process.wait()
    medians = {key: statistics.median(found) for key, found in rates.items()}
    print(f"| policy | {CASES[0]}, steps/s | {CASES[1]}, steps/s | ratio |\n|---|---|---|---|")
    for policy in POLICIES:
        alone, beside = (medians[policy, case] for case in CASES)
        print(f"| {policy} | {alone:.1f} | {beside:.1f} | {beside / alone:.2f} |")
    best = max(medians[policy, CASES[0]] for policy in POLICIES)
    kept = [policy for policy in POLICIES if medians[policy, CASES[0]] >= KEEP * best]
    print(f"best: {max(kept, key=lambda policy: medians[policy, CASES[1]])}")


if __name__ == "__main__":
    main()
