"""Train every SDE with the demo's budget and print the prompt accuracy of 500 samples.

    python benchmarks/digits_sdes.py [vp sub_vp ve cosine]

Trains the digits recipe with the bare loop, one SDE after the other, and prints one line each. The judge is a
classifier of real digits only.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from raysde.checkpoints import checkpoint
from raysde.cluster.ingest import ingest
from raysde.config import loading
from raysde.data.ingest.digits import WORDS, DigitJudge, make_caption, write_digits
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
from raysde.runs.local import train_here
from raysde.runs.run import open_run

KINDS = {
    "vp": ["sde.kind=vp"],
    "sub_vp": ["sde.kind=sub_vp"],
    "ve": ["sde.kind=ve"],
    "cosine": ["sde.schedule=cosine"],
}


def shards(folder: Path) -> Path:
    """Ingest the digits, and return the folder of the shards."""
    import ray

    write_digits(folder / "images")
    source = open_source(str(folder / "images"))
    ingest(source, str(folder / "shards"), choose_rules(source), name="scikit-learn's digits")
    ray.shutdown()
    return folder / "shards"


def measure(name: str, overrides: list[str], data: Path, folder: Path, judge: DigitJudge) -> None:
    """Train one SDE, and print accuracy and memorised fraction of its samples."""
    places = [f"name={name}", f"data.path={data}", f"storage={folder}", "sampling.every=0", *overrides]
    begin = time.perf_counter()
    train_here(open_run(loading.load_recipe("digits", places)), None)
    seconds = time.perf_counter() - begin
    model = checkpoint.load_model(checkpoint.find_newest_checkpoint(folder / name))
    asked = np.arange(500) % 10
    prompts = [make_caption(int(label), index // len(WORDS)) for index, label in enumerate(asked)]
    for solver, steps in (("heun", 10), ("euler_maruyama", 200)):
        drawn = model.sample(prompts=prompts, seed=1, solver=solver, steps=steps, guidance=2.0, batch_size=250)
        pixels = drawn.images[:, 0].numpy()
        accuracy, memorised = judge.accuracy(pixels, asked), judge.memorised_share(pixels)
        result = f"{solver} {steps} steps: accuracy {accuracy:.3f}, memorised {memorised:.3f}"
        print(f"{name:8} trained {seconds:5.0f} s  {result}", flush=True)


def main() -> None:
    names = sys.argv[1:] or list(KINDS)
    folder = Path(tempfile.mkdtemp(prefix="raysde-bench-"))
    data, judge = shards(folder), DigitJudge()
    for name in names:
        measure(name, KINDS[name], data, folder / "runs", judge)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
