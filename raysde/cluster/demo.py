"""The demo: train, register and evaluate a model of scikit-learn's digits on this machine."""

import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from raysde import registry
from raysde.cluster.ingest import ingest
from raysde.cluster.job import train_job
from raysde.config import loading
from raysde.data.ingest.digits import WORDS, DigitJudge, make_caption, write_digits
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
from raysde.images.tensors import save_picture
from raysde.io.amounts import amount
from raysde.io.errors import Interrupted
from raysde.tracking import connect_client, read_tags

JUDGED = 500


def demo_job(recipe: str, out: Path, overrides: Sequence[str], *, started: float) -> None:
    """Ingest the digits, train and register a model, and evaluate samples from it; all output goes to ``out``.

    Args:
        started: time.time() when the command began, in seconds.

    Raises:
        ValueError: naming the key or path at fault.
        OSError: if ``out`` cannot be written.
        RuntimeError: if the workers fail.
        Interrupted: on Ctrl-C or SIGTERM during training.
    """
    uri = f"sqlite:///{out / 'mlflow.db'}"
    places = [f"data.path={out / 'shards'}", f"storage={out / 'runs'}", f"tracking.uri={uri}"]
    settings = loading.load_recipe(recipe, [*places, *overrides])
    clear_demo(out)
    count = write_digits(out / "images")
    print(f"1. wrote {count} scanned digits with captions to {out / 'images'}")
    source = open_source(str(out / "images"))
    manifest = ingest(source, str(out / "shards"), choose_rules(source), name="scikit-learn's digits")
    print(f"2. ingested {amount(manifest.rows, 'image')} into {out / 'shards'}")
    print(f"3. training {settings.sde.kind} on {settings.resources.workers} worker(s)")
    try:
        done = train_job(settings, started=started)
    except Interrupted as error:
        # training could resume, but the same command replaces an earlier demo
        raise Interrupted("the demo was interrupted; the same command starts it again") from error.__cause__
    loop = float(read_tags(connect_client(uri), done.run_id)["raysde.seconds.loop"])
    end_ray()
    print(f"4. registered {done.model} as {settings.model_name}@{settings.tracking.alias}")
    accuracy, memorised = judge_model(f"models:/{settings.model_name}@{settings.tracking.alias}", uri, out)
    print(f"\nprompts and images   {out / 'grid.png'}")
    print(f"all samples          {out / 'samples'}")
    print(f"MLflow UI            raysde ui --tracking-uri {uri}")
    print(
        f"draw more            raysde sample models:/{settings.model_name}@{settings.tracking.alias} "
        f"--tracking-uri {uri} --prompt 'a handwritten seven' -n 16"
    )
    print(f"in all               {time.time() - started:.0f} s\n")
    print(f"prompt accuracy {accuracy:.3f} ({JUDGED} samples)")
    print(f"memorised {memorised:.3f}")
    print(f"training loop {loop:.1f} s")


def end_ray() -> None:
    """Disconnect from Ray, and keep Python's handler of SIGTERM."""
    ray.shutdown()
    # Ray 2.60 puts the system's handler back, which would end the process without a message
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def clear_demo(out: Path) -> None:
    """Delete the output of an earlier demo in ``out``, and nothing else."""
    for name in ("images", "shards", "runs", "samples", "artifacts"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("mlflow.db", "grid.png"):
        (out / name).unlink(missing_ok=True)


def judge_model(model_name: str, uri: str, out: Path) -> tuple[float, float]:
    """Sample prompted digits from the registered model; return the judge's accuracy and the memorised fraction.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    model, reader = registry.load(model_name, tracking_uri=uri), DigitJudge()
    asked = np.arange(JUDGED) % len(WORDS)
    prompts = [make_caption(int(label), index // len(WORDS)) for index, label in enumerate(asked)]
    drawn = model.sample(prompts=prompts, seed=1, solver="heun", steps=10, guidance=2.0, batch_size=125)
    drawn.save(out / "samples")
    shown = replace(drawn, images=drawn.images[:80], prompts=prompts[:80])
    save_picture(shown.grid(len(WORDS)), out / "grid.png")
    pixels = drawn.images[:, 0].numpy()
    print(f"5. drew {JUDGED} samples; the judge reads {reader.held_out:.1%} of held-out real digits right")
    return reader.accuracy(pixels, asked), reader.memorised_share(pixels)
