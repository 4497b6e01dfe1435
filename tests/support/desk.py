"""A desk where commands of the README and of the docs run as they stand: what they expect to find, and a shell.

There are folders of captioned pictures, one of them with a table, an image to edit with its mask, a file of prompts,
and in the caches of Hugging Face and torch small or random networks under the names that the commands give. What is
added to a command makes it shorter: fewer images, steps, trials, and a smaller network.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from raysde.cluster.connection import find_free_port
from raysde.evaluation.features.inception import URL, Inception
from tests.support.encoders import text_encoder
from tests.support.paths import ROOT

SMALL = "network.channels=8 network.head_channels=8 network.multipliers='[1,1,1]' train.batch=8 sampling.count=2"
SHORT = "sampling.steps=2 train.length.steps=4 validation.every=2 checkpoint_every=2"
ADDED = {
    "ingest": "--validation 0.2",
    "inspect": "",
    "plan": "",
    "precompute": "",
    "train": f"{SMALL} {SHORT} sampling.every=4",
    "tune": f"{SMALL} {SHORT} data.stream=worker --trials 2",
    "sample": "--steps 2",
    "edit": "--steps 2",
    "tune-sampler": "solver=unipc steps=1,2 guidance=1,2 --samples 8 --rounds 1 --reference 8",
    "evaluate": "--samples 8 --reference 8 --allow-few",
    "promote": "",
    "register": "",
    "models": "",
    "ema": "",
    "export": "",
    "import": "",
    "config": "",
    "recipes": "",
    "ui": "",
}
"""Options that make each command fast, by its name."""
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
PICTURES = 40


def added(command: str) -> str:
    """Return the options that the test adds to a command, without keys that the command itself gives."""
    words = shlex.split(command, comments=True)
    assert words[0] == "raysde", f"the line is no command of raysde: {command}"
    more = shlex.split(ADDED[words[1]])
    if words[1] == "sample" and "--prompts-file" not in words:
        more += ["-n", "2"]
    if "--times" in words:
        more = more[2:]
    given = {word.partition("=")[0] for word in words if "=" in word}
    return shlex.join(word for word in more if "=" not in word or word.partition("=")[0] not in given)


def draw_pictures(folder: Path, numbers: range = range(PICTURES)) -> None:
    """Photographs of a kind: a coloured disc or box on a noisy ground, as JPEG files with a caption beside each."""
    folder.mkdir()
    for number in numbers:
        random = np.random.default_rng(number)
        picture = Image.fromarray(random.integers(150, 255, (72, 96, 3), dtype=np.uint8))
        colour, shape = list(COLOURS)[number % 3], ("disc", "box")[number % 2]
        x, y = (int(v) for v in random.integers(5, 30, 2))
        draw = ImageDraw.Draw(picture)
        (draw.ellipse if shape == "disc" else draw.rectangle)((x, y, x + 40, y + 40), fill=COLOURS[colour])
        picture.save(folder / f"{number:03d}.jpg")
        (folder / f"{number:03d}.txt").write_text(f"a {colour} {shape}")


def draw_catalogue(folder: Path) -> None:
    """Pictures with a table: every second one is wide, and every third one is in German."""
    folder.mkdir()
    rows = []
    for number in range(PICTURES):
        random = np.random.default_rng(1000 + number)
        size = (72, 256 if number % 2 else 96, 3)
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{number}.jpg")
        language = "en" if number % 3 else "de"
        row = {"file_name": f"{number}.jpg", "text": "noise", "aesthetic": 4 + number / 10, "language": language}
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def place_encoder(hub: Path, name: str) -> None:
    """A small text encoder with random weights where Hugging Face's hub keeps what it has fetched."""
    place, commit = hub / f"models--{name.replace('/', '--')}", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    captions = ["a red bicycle", *(f"a {colour} {shape}" for colour in COLOURS for shape in ("disc", "box"))]
    text_encoder(place / "snapshots" / commit, captions=captions, positions=77)


def place_inception(home: Path) -> None:
    """The FID Inception with random weights where torch.hub keeps what it has fetched."""
    torch.manual_seed(0)
    place = home / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(Inception().state_dict(), place / URL.rpartition("/")[2])


def lay_desk(here: Path) -> None:
    """Put the README's .gitignore and what commands expect into a folder, and the caches into ``home`` beside it."""
    (here / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    draw_pictures(here / "PHOTOS")
    draw_pictures(here / "MORE_PHOTOS", range(PICTURES, PICTURES + 10))
    draw_catalogue(here / "CATALOGUE")
    keep = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(keep).rectangle((16, 16, 47, 47), fill=0)
    keep.save(here / "keep.png")
    Image.open(here / "PHOTOS" / "000.jpg").crop((0, 0, 64, 64)).save(here / "a.png")
    (here / "prompts.txt").write_text("a red disc\na blue box\n")
    home = here.parent / "home"
    place_encoder(home / "huggingface" / "hub", "sentence-transformers/all-MiniLM-L6-v2")
    place_inception(home / "torch")


def environment(desk: Path) -> dict[str, str]:
    """A shell of somebody who has just activated .venv, and whose home is beside the folder."""
    home = desk.parent / "home"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    caches = {"HF_HOME": str(home / "huggingface"), "HF_HUB_OFFLINE": "1", "TORCH_HOME": str(home / "torch")}
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), **caches}


def shell(desk: Path, line: str) -> subprocess.CompletedProcess[str]:
    """A line as bash runs it, which must succeed."""
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", line], cwd=desk, env=environment(desk), capture_output=True, text=True, timeout=300
    )
    print(f"{time.monotonic() - began:5.1f} s  {line}\n{done.stdout}{done.stderr}", flush=True)
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done


def strip_comment(line: str) -> str:
    """A line without the comment at its end, so that something can be added to it."""
    return re.sub(r"\s+#\s.*$", "", line)


def serve(desk: Path, line: str) -> None:
    """A line that serves until it is stopped."""
    port = find_free_port()
    process = subprocess.Popen(["bash", "-c", f"exec {line} --port {port}"], cwd=desk, env=environment(desk))
    try:
        for _ in range(240):
            assert process.poll() is None, f"{line} ended with status {process.returncode}"
            try:
                answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        assert answer.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
