"""Compare methods of inpainting and upscaling digits; print the table of docs/editing.md and draw its picture.

    python benchmarks/editing.py MODEL [--tracking-uri URI] [--picture docs/editing.png]

MODEL is the model that `make demo` registers. Each of 80 real digits is restored three times without a prompt. "Read as
before" is the fraction of results that a classifier of real digits assigns to the original's class. The energy score is
the mean distance to the truth minus half the mean distance among the results, on the unknown pixels in [0, 1]; the true
conditional distribution has the lowest score (Gneiting and Raftery 2007).
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.data.ingest.digits import DigitJudge, load_digits
from raysde.images.tensors import make_grid
from raysde.registry import load

COUNT, EACH = 80, 3
HEUN, UNIPC, ANCESTRAL = {"solver": "heun", "steps": 20}, {"solver": "unipc", "steps": 12}, {"solver": "ancestral"}
REPLACEMENT = {"method": "replacement"}
WAYS = {
    "`replacement`": (REPLACEMENT, HEUN),
    "`replacement`, unipc, 12 steps": (REPLACEMENT, UNIPC),
    "`replacement`, ancestral, 100 steps": (REPLACEMENT, {**ANCESTRAL, "steps": 100}),
    "`replacement`, ancestral, 25 steps, `resample=4`": ({**REPLACEMENT, "resample": 4}, {**ANCESTRAL, "steps": 25}),
    "`replacement`, pc, 50 steps": (REPLACEMENT, {"solver": "pc", "steps": 50, "target_snr": 0.05}),
    "`moment_matching`, unipc, 12 steps, `iterations=1`": ({"iterations": 1}, UNIPC),
    "`moment_matching`, unipc, 12 steps, `iterations=2`": ({"iterations": 2}, UNIPC),
    "`moment_matching`, unipc, 12 steps, `iterations=3`": ({"iterations": 3}, UNIPC),
    "`moment_matching`, unipc, 12 steps, `iterations=6`": ({"iterations": 6}, UNIPC),
    "`moment_matching`, heun, 20 steps, `iterations=3`": ({"iterations": 3}, HEUN),
}


def energy_score(results: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the energy score of results [N, M, D] for truths [N, D], with unbiased pairs."""
    far = (results - truth[:, None]).norm(dim=2).mean()
    apart = torch.cdist(results, results).sum(dim=(1, 2)) / (results.shape[1] * (results.shape[1] - 1))
    return (far - 0.5 * apart.mean()).item()


def tasks(model):
    """Yield each task on real digits: name, restoring function, and mask of the pixels that count."""
    half = torch.zeros(8, 8, dtype=torch.bool)
    half[4:] = True
    scattered = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.25
    everything = torch.zeros(8, 8, dtype=torch.bool)
    return {
        "upper half missing": (lambda images, **o: model.inpaint(images, half, **o), half),
        "a quarter of the pixels known": (lambda images, **o: model.inpaint(images, scattered, **o), scattered),
        "enlarged twice": (
            lambda images, **o: model.upscale(torch.nn.functional.avg_pool2d(images.float(), 2).round().byte(), 2, **o),
            everything,
        ),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("--tracking-uri")
    arguments.add_argument("--picture", default="docs/editing.png")
    arguments.add_argument("--only", default="", help="only methods whose name contains this")
    arguments.add_argument("--task", default="", help="only tasks whose name contains this")
    given = arguments.parse_args()
    model, judge = load(given.model, tracking_uri=given.tracking_uri), DigitJudge()
    pixels, labels = load_digits()
    chosen = np.random.default_rng(0).permutation(len(pixels))[:COUNT]
    truth = torch.from_numpy(pixels[chosen])[:, None]
    images = truth.repeat_interleave(EACH, dim=0)
    print("| task | way | read as before | energy score | ms an image |\n|---|---|---|---|---|")
    for task, (restore, known) in tasks(model).items():
        for way, (options, settings) in WAYS.items():
            if given.only not in way or given.task not in task:
                continue
            begin = time.perf_counter()
            made = restore(images, seed=1, **options, **settings).images
            seconds = time.perf_counter() - begin
            accuracy = judge.accuracy(made[:, 0].numpy(), labels[chosen].repeat(EACH))
            results = made[:, 0, ~known].float().unflatten(0, (COUNT, EACH)) / 255.0
            score = energy_score(results, truth[:, 0, ~known].float() / 255.0)
            print(f"| {task} | {way} | {accuracy:.3f} | {score:.3f} | {1e3 * seconds / len(images):.1f} |", flush=True)
    picture(model, truth[[3, 8, 12, 17, 30]]).save(given.picture)


def picture(model, images: torch.Tensor):
    """Return rows of digits: truth, known pixels, three results by moment matching, three by replacement."""
    half = torch.zeros(8, 8, dtype=torch.bool)
    half[4:] = True
    small = torch.nn.functional.avg_pool2d(images[3:].float(), 2).round().byte()
    shown = torch.cat(
        [
            images[:3].where(half, images.new_tensor(128)),
            small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3),
        ]
    )
    columns = [images, shown]
    for method, settings in (("moment_matching", {"solver": "heun"}), ("replacement", {"solver": "heun"})):
        for seed in range(3):
            filled = model.inpaint(images[:3], half, method=method, seed=seed, **settings).images
            enlarged = model.upscale(small, 2, method=method, seed=seed, **settings).images
            columns.append(torch.cat([filled, enlarged]))
    return make_grid(torch.stack(columns, dim=1).flatten(0, 1), columns=len(columns), cell=48)


if __name__ == "__main__":
    main()
