"""Measure the cost of Ray and of the training loop, as ratios of images per second from interleaved repeats.

    python benchmarks/throughput.py [--repeats 3] [--steps 100] [--cases short,long] [--shares 10]

The bare loop, and the same recipe through Ray Train and the stream, run in separate processes, one after the other; the
bare loop runs without Ray. In one further process, raysde's training step alternates with the step of a twenty-line
script. Rates are medians over logging windows after a warm-up; ratios are medians over repeats. Run it alone: a second
busy process slows all of them.

The long case trains with two workers, once on Ray Data's stream and once with ``data.stream=worker``. It ends when the
blocks of the stream have filled Ray Data's share of the object store ten times, since Ray Data throttles only when its
share is full. To reach that in minutes, the object store and its blocks are small, and rows are large: colour images of
32 x 32 with precomputed captions of 384 numbers per token. Windows count once the share was full.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

WINDOW, WARMUP = 10, 3
IMAGES, SIZE, WORDS, WIDTH = 1911, 32, 40, 384
"""Long case: number of images, their height and width, words per caption, embedding width per token."""
STORE = 200_000_000
"""Bytes of the object store in the long case; Ray Data takes half of it."""
PHASES = ("imports", "ray", "worker_group", "first_batch")


def overrides(folder: Path, name: str, steps: int, threads: int) -> list[str]:
    """Return overrides of the digits recipe: no validation, sample grids or intermediate checkpoints."""
    return [
        f"name={name}",
        f"data.path={folder / 'shards'}",
        f"storage={folder / 'runs'}",
        f"tracking.uri=sqlite:///{folder / (name + '.db')}",
        f"train.length.steps={steps}",
        f"resources.cpus_per_worker={threads}",
        f"log_every={WINDOW}",
        "validation.rows=0",
        "sampling.every=0",
        "checkpoint_every=0",
    ]


def bare(settings: list[str], threads: int) -> dict[str, float]:
    """Run the bare loop in this process, and return its median rate in images/s."""
    import torch

    from raysde.config import loading
    from raysde.runs.local import train_here
    from raysde.runs.run import open_run

    class Rates:
        def __init__(self) -> None:
            self.rates: list[float] = []

        def metrics(self, step: int, values: dict[str, float]) -> None:
            self.rates.append(values["train/images_per_second"])

        def image(self, *_: object) -> None: ...

    torch.set_num_threads(threads)
    rates = Rates()
    train_here(open_run(loading.load_recipe("digits", settings)), rates)
    return {"rate": statistics.median(rates.rates[WARMUP:])}


def through_ray(settings: list[str], threads: int) -> dict[str, float]:
    """Run the recipe through Ray Train; return its rate in images/s, and its start-up times in seconds."""
    started = time.time()
    from raysde import tracking
    from raysde.cluster.job import train_job
    from raysde.config import loading

    recipe = loading.load_recipe("digits", settings)
    done = train_job(recipe, started=started)
    client = tracking.connect_client(done.tracking_uri)
    history = sorted(client.get_metric_history(done.run_id, "train/images_per_second"), key=lambda metric: metric.step)
    noted = tracking.read_tags(client, done.run_id)
    stamps = {key: float(value) for key, value in noted.items() if key.startswith("raysde.startup.")}
    return {"rate": statistics.median(metric.value for metric in history[WARMUP:]), **stamps}


def loop_and_script(settings: list[str], threads: int) -> dict[str, float]:
    """Return images/s of raysde's training step, and its ratio to a script's step that alternates with it."""
    import torch

    from raysde.config import loading
    from raysde.data.batches.microbatch import read_batches
    from raysde.data.batches.prefetch import prefetch_to_device
    from raysde.data.dataset.reader import Reader
    from raysde.distributed.world import World
    from raysde.runs.build import make_objective, make_schedule, new_state
    from raysde.runs.run import open_run
    from raysde.training.loop import train_step

    torch.set_num_threads(threads)
    run, cpu = open_run(loading.load_recipe("digits", settings)), torch.device("cpu")
    state, task, plan = new_state(run, cpu), make_objective(run), make_schedule(run)
    batches = prefetch_to_device(read_batches(run.feed, Reader(run.manifest), 0, run.steps), cpu)
    model, batch = new_state(run, cpu).model, run.plan.batch
    columns = Reader(run.manifest).read(run.feed.rows[run.plan.rows_of(0, 0)])
    x0 = torch.from_numpy(columns.images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0
    condition = model.conditioner.condition(list(columns.captions), None, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def ours() -> None:
        train_step(state, state.model, next(batches), task, plan, World())

    def script() -> None:
        t = torch.rand(batch) * (1.0 - 1e-5) + 1e-5
        eps = torch.randn_like(x0)
        alpha, sigma = (value[:, None, None, None] for value in model.sde.marginal(t))
        loss = (model(alpha * x0 + sigma * eps, t, condition)[0] - (alpha * eps - sigma * x0)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def seconds(step: Callable[[], None]) -> float:
        begin = time.perf_counter()
        for _ in range(5):
            step()
        return time.perf_counter() - begin

    pairs = [(seconds(ours), seconds(script)) for _ in range(run.steps // 5)][1:]
    return {
        "rate": 5 * batch / statistics.median(a for a, _ in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def long_overrides(folder: Path, name: str, stream: str) -> list[str]:
    """Return overrides of the Fashion-MNIST recipe in colour with captions, without validation and sample grids."""
    text = f"{{kind: pretrained, path: {folder / 'encoder'}, trainable: false, max_tokens: {WORDS + 8}}}"
    return [
        *(f"name={name}", f"data.path={folder / 'captions'}", f"storage={folder / 'runs'}", f"data.stream={stream}"),
        *(f"tracking.uri=sqlite:///{folder / (name + '.db')}", "data.precomputed=require", f"text={text}"),
        *("class_conditional=false", "sampling.labels=[]", "sampling.guidance=1.0", "sampling.every=0"),
        *("network.attention=[8]", "resources.workers=2", "resources.cpus_per_worker=1", f"log_every={WINDOW}"),
        *("validation.rows=0", "checkpoint_every=0"),
        "data.block_megabytes=4",
    ]


def long(settings: list[str], shares: float) -> dict[str, float]:
    """Return images/s of the long case on one stream, once Ray Data's share is full, and the steps."""
    from raysde import tracking
    from raysde.cluster.job import train_job
    from raysde.cluster.stream import row_bytes
    from raysde.config import loading
    from raysde.runs.run import open_run

    run = open_run(loading.load_recipe("fashion-mnist", settings))
    full = STORE / 2 / (row_bytes(run) * run.plan.batch)  # steps
    steps = max(round(shares * full), WINDOW * (WARMUP + 2))
    done = train_job(loading.load_recipe("fashion-mnist", [*settings, f"train.length.steps={steps}"]))
    client = tracking.connect_client(done.tracking_uri)
    history = client.get_metric_history(done.run_id, "train/images_per_second")
    after = max(full if shares > 1 else 0, WINDOW * WARMUP)
    return {"rate": statistics.median(each.value for each in history if each.step > after), "steps": steps}


def measure_long(stream: str, folder: Path, repeat: int, shares: float) -> dict[str, float]:
    """Return the result of :func:`long` in a new process, whose cluster has a small object store."""
    name = f"long-{stream}-{repeat}"
    command = [sys.executable, __file__, "--only", "long", "--shares", str(shares)]
    environment = {**os.environ, "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(STORE)}
    return measured(name, [*command, *long_overrides(folder, name, stream)], environment)


KINDS = {"bare": bare, "ray": through_ray, "loop_and_script": loop_and_script}


def measure(kind: str, folder: Path, repeat: int, steps: int, threads: int) -> dict[str, float]:
    """Return the result of one of :data:`KINDS` in a new process."""
    name = f"{kind}-{threads}-{repeat}"
    settings = overrides(folder, name, steps, threads)
    command = [sys.executable, __file__, "--only", kind, "--threads", str(threads), *settings]
    return measured(name, command, {**os.environ, "OMP_NUM_THREADS": str(threads)})


def measured(name: str, command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command, and return the JSON object in the last line of its output."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=environment, check=False)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr[-3000:]}")
    result = json.loads(ended.stdout.strip().splitlines()[-1])
    print(f"  {name:20} {result['rate']:7.1f} images/s", flush=True)
    return dict(result)


def prepare(folder: Path) -> None:
    """Ingest the digits as shards."""
    command = [sys.executable, "-m", "raysde.cli", "ingest", "sklearn:digits", str(folder / "shards")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def prepare_long(folder: Path) -> None:
    """Write coloured images with captions as shards, and the captions' embeddings by an encoder with random weights."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import BertConfig, BertModel

    from raysde.conditioning.text import train_tokenizer

    random, words = np.random.default_rng(0), [f"word{number}" for number in range(200)]
    images, captions = folder / "images", [" ".join(random.choice(words, WORDS)) for _ in range(IMAGES)]
    images.mkdir()
    for number, caption in enumerate(captions):
        tiny = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        tiny.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(images / f"{number:04d}.png")
        (images / f"{number:04d}.txt").write_text(caption)
    tokenizer = train_tokenizer(captions, 1000)
    tokenizer.save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": WIDTH}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "encoder")
    raysde, shards = [sys.executable, "-m", "raysde.cli"], str(folder / "captions")
    encode = ["--text", str(folder / "encoder"), "--max-tokens", str(WORDS + 8)]
    for command in (["ingest", str(images), shards], ["precompute", shards, *encode]):
        ended = subprocess.run([*raysde, *command], capture_output=True, text=True, timeout=600, check=False)
        if ended.returncode:
            raise SystemExit(f"raysde {' '.join(command)} failed:\n{ended.stderr[-3000:]}")


def show_ratio(title: str, above: list[dict[str, float]], below: list[dict[str, float]], aim: float) -> None:
    """Print the median ratio of rates, and each repeat's."""
    each = [a["rate"] / b["rate"] for a, b in zip(above, below, strict=True)]
    shown = " ".join(f"{value:.3f}" for value in each)
    print(f"{title:48} {statistics.median(each):.3f}   (aim {aim}; repeats {shown})")


def report(results: dict[tuple[str, int], list[dict[str, float]]], cores: int) -> None:
    """Print the median ratios with those of each repeat, and the start-up times."""

    def ratio(title: str, above: tuple[str, int], below: tuple[str, int], aim: float) -> None:
        show_ratio(title, results[above], results[below], aim)

    ratio("Ray Train and stream / bare loop, 1 thread", ("ray", 1), ("bare", 1), 0.97)
    ratio(f"Ray Train and stream / bare loop, {cores} threads", ("ray", cores), ("bare", cores), 0.92)
    each = [run["ratio"] for run in results["loop_and_script", cores]]
    title = f"bare loop / twenty-line script, {cores} threads"
    print(
        f"{title:48} {statistics.median(each):.3f}   (aim 0.97; repeats {' '.join(f'{value:.3f}' for value in each)})"
    )
    runs = results["ray", 1] + results["ray", cores]
    stamps = [
        statistics.median(run[f"raysde.startup.{key}"] for run in runs)
        for key in ("imports", "ray", "worker_group", "first_batch")
    ]
    parts = [stamps[0], *(later - earlier for earlier, later in pairwise(stamps))]
    print(
        f"seconds from the command to the first step: {stamps[3]:.1f} = imports {parts[0]:.1f} + Ray {parts[1]:.1f} "
        f"+ worker group {parts[2]:.1f} + first batch {parts[3]:.1f}"
    )


def run_short(folder: Path, repeats: int, steps: int) -> None:
    """Measure the bare loop, the loop through Ray, and the script, on the digits."""
    cores = os.cpu_count() or 1
    prepare(folder)
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    for repeat in range(repeats):
        for kind, threads in (("bare", 1), ("ray", 1), ("loop_and_script", cores), ("bare", cores), ("ray", cores)):
            results.setdefault((kind, threads), []).append(measure(kind, folder, repeat, steps, threads))
    report(results, cores)


def run_long(folder: Path, repeats: int, shares: float) -> None:
    """Measure both streams until blocks have filled Ray Data's share of the object store ``shares`` times."""
    prepare_long(folder)
    results: dict[str, list[dict[str, float]]] = {"ray": [], "worker": []}
    for repeat in range(repeats):
        for stream, found in results.items():
            found.append(measure_long(stream, folder, repeat, shares))
    show_ratio(f"data.stream=ray / worker, {shares:g} shares of blocks", results["ray"], results["worker"], 0.97)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=100, help="steps of the short case")
    arguments.add_argument("--cases", default="short,long")
    arguments.add_argument("--shares", type=float, default=10.0, help="times to fill Ray Data's store, long case")
    arguments.add_argument("--only", choices=[*KINDS, "long"], help=argparse.SUPPRESS)
    arguments.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.only == "long":
        print(json.dumps(long(given.settings, given.shares)))
        return
    if given.only:
        print(json.dumps(KINDS[given.only](given.settings, given.threads)))
        return
    folder = Path(tempfile.mkdtemp(prefix="raysde-bench-"))
    cases = given.cases.split(",")
    if "short" in cases:
        run_short(folder, given.repeats, given.steps)
    if "long" in cases:
        run_long(folder, given.repeats, given.shares)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
