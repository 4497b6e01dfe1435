"""The README's path from a folder of pictures to a champion, every line of it as it stands there.

The test makes what the lines expect: a folder of captioned pictures, an image to edit with its mask, a file of prompts,
and in the caches of Hugging Face and torch small or random networks under the names that the lines give. What it adds to
a line makes it shorter: fewer images, steps, trials, and a smaller network.
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
from raysde.registry import list_aliases
from raysde.tracking import connect_client
from tests.support.encoders import text_encoder
from tests.support.paths import ROOT

pytestmark = [pytest.mark.readme, pytest.mark.timeout(900)]

SMALL = "network.channels=8 network.head_channels=8 network.multipliers='[1,1,1]' train.batch=8 sampling.count=2"
SHORT = "sampling.steps=2 train.length.steps=4 validation.every=2 checkpoint_every=2"
ADDED = {
    "ingest": "--validation 0.2",
    "inspect": "",
    "precompute": "",
    "train": f"{SMALL} {SHORT} sampling.every=4",
    "tune": f"{SMALL} {SHORT} data.stream=worker --trials 2",
    "sample -n": "-n 2 --steps 2",
    "sample --prompts-file": "--steps 2",
    "edit": "--steps 2",
    "tune-sampler": "solver=unipc steps=1,2 guidance=1,2 --samples 8 --rounds 1 --reference 8",
    "evaluate": "--samples 8 --reference 8 --allow-few",
    "promote": "",
    "ui": "",
}
"""What makes each command short, by its name and, where there are two of a name, an option of it."""
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
PICTURES = 40
FEWER = {"* 16": "* 2", "steps=10": "steps=2", "20).x": "4).x"}
"""The same for the lines of Python."""


def section() -> str:
    """The part of the README about one's own images."""
    return (ROOT / "README.md").read_text().partition("## Your own images\n")[2].partition("\n## ")[0]


def blocks() -> tuple[list[str], str]:
    """The commands and the Python of the section, each as a reader would copy it."""
    code = "\n".join(line[4:] for line in section().splitlines() if line.startswith("    ") or not line)
    commands, _, python = code.partition("import raysde")
    lines = commands.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()], f"import raysde{python}"


def added(command: str) -> str:
    """What the test adds to a command."""
    words = shlex.split(command, comments=True)
    assert words[0] == "raysde", f"the README's line is no command of raysde: {command}"
    (key,) = [key for key in ADDED if key.split()[0] == words[1] and set(key.split()[1:]) <= set(words)]
    return ADDED[key]


def draw_pictures(folder: Path) -> None:
    """Photographs of a kind: a coloured disc or box on a noisy ground, as JPEG files with a caption beside each."""
    folder.mkdir()
    for number in range(PICTURES):
        random = np.random.default_rng(number)
        picture = Image.fromarray(random.integers(150, 255, (72, 96, 3), dtype=np.uint8))
        colour, shape = list(COLOURS)[number % 3], ("disc", "box")[number % 2]
        x, y = (int(v) for v in random.integers(5, 30, 2))
        draw = ImageDraw.Draw(picture)
        (draw.ellipse if shape == "disc" else draw.rectangle)((x, y, x + 40, y + 40), fill=COLOURS[colour])
        picture.save(folder / f"{number:03d}.jpg")
        (folder / f"{number:03d}.txt").write_text(f"a {colour} {shape}")


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


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with the README's .gitignore and with what the section expects in it."""
    here = tmp_path_factory.mktemp("desk")
    (here / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    draw_pictures(here / "PHOTOS")
    keep = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(keep).rectangle((16, 16, 47, 47), fill=0)
    keep.save(here / "keep.png")
    Image.open(here / "PHOTOS" / "000.jpg").crop((0, 0, 64, 64)).save(here / "a.png")
    (here / "prompts.txt").write_text("a red disc\na blue box\n")
    home = here.parent / "home"
    place_encoder(home / "huggingface" / "hub", "sentence-transformers/all-MiniLM-L6-v2")
    place_inception(home / "torch")
    return here


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


def test_every_command_is_lengthened_by_what_the_test_says():
    """No line of the section is left out, and nothing is added to a line that is not there."""
    commands, python = blocks()
    assert len(commands) == len(ADDED)
    for command in commands:
        added(command)
    assert all(old in python for old in FEWER)


def serve(desk: Path, line: str) -> None:
    """A line that serves until it is told to end."""
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


def test_own_images_from_a_folder_to_a_champion(desk):
    commands, python = blocks()
    subprocess.run(["git", "init", "--quiet"], cwd=desk, check=True)
    for command in commands:
        line = f"{strip_comment(command)} {added(command)}".strip()
        if line == "raysde ui":
            serve(desk, line)
        else:
            shell(desk, line)
    home = desk.parent / "home"
    client = connect_client(f"sqlite:///{home / 'raysde' / 'mlflow.db'}")
    assert list_aliases(client, "photos") == {"candidate": "2", "champion": "2"}
    recipe = json.loads((home / "raysde/runs/photos/step_000000004/checkpoint.json").read_text())["recipe"]
    assert recipe["text.path"] == "sentence-transformers/all-MiniLM-L6-v2"
    for old, new in FEWER.items():
        python = python.replace(old, new)
    (desk.parent / "lines.py").write_text(python)
    shell(desk, f"{sys.executable} {desk.parent / 'lines.py'}")
    assert len(list((desk / "many").rglob("*.parquet"))) == 1
    found = subprocess.run(["git", "status", "--porcelain"], cwd=desk, capture_output=True, text=True, check=True)
    ours = {".gitignore", "PHOTOS/", "a.png", "keep.png", "prompts.txt"}
    assert {line[3:] for line in found.stdout.splitlines()} == ours, "what the commands write is not in .gitignore"
