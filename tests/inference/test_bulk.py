"""`raysde sample --prompts-file` in one process: the images of `raysde sample`, restarts, and errors."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raysde.cli import main
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
from raysde.images.codec import decode_image
from raysde.inference.bulk import PLAN, draw_all, draw_here
from raysde.inference.image_files import image_schema
from raysde.inference.prompt_file import read_requests
from raysde.registry import load
from tests.support.bulk import bulk, files_of
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.models import CAPTIONS
from tests.support.paths import ROOT
from tests.support.pictures import open_image

FAST = ["--solver", "ddim", "--steps", "2"]
ROWS = [{"prompt": "zwei"}, {"prompt": "three, \u7d05", "seed": 8}, {"prompt": "two", "negative": "blue"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "captions": write_model(folder / "captions"),
        "labels": write_model(folder / "labels", text=None, classes=10),
        "plain": write_model(folder / "plain", text=None),
        "colour": write_model(folder / "colour", text=None, classes=10, image=(3, 8, 8)),
    }


def drawn(out: Path) -> torch.Tensor:
    """Return the images of all Parquet parts in order, and check their numbers."""
    table = pq.read_table(sorted(out.glob("part-*.parquet")))
    assert table.column("number").to_pylist() == list(range(table.num_rows))
    files = table.column("image").combine_chunks().field("bytes")
    return torch.stack([torch.from_numpy(decode_image(file.as_py(), 1)).permute(2, 0, 1) for file in files])


def file_of(out: Path, number: int) -> bytes:
    """Return the PNG file of an image, from a Parquet part or a folder."""
    for part in sorted(out.glob("part-*.parquet")):
        table = pq.read_table(part)
        if number in (numbers := table.column("number").to_pylist()):
            return table.column("image")[numbers.index(number)].as_py()["bytes"]
    (path,) = out.rglob(f"{number:08d}.png")
    return path.read_bytes()


def test_images_are_those_of_raysde_sample(models, tmp_path, capsys):
    """Three parts with a short last batch are bit-equal to one call with the same prompts, seed, guidance, batches."""
    count, batch = 2 * 240 + 20, 60
    seven = [*CAPTIONS, *CAPTIONS[1:]]  # does not divide a part, which would then begin as the first does
    prompts = [seven[row % 7] for row in range(count)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    how = [*FAST, "--seed", "4", "--batch-size", str(batch), "--guidance", "1.5", "--negative", "blue"]
    given = ["--prompts-file", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "bulk")]
    assert main(["sample", models["captions"], *how, *given]) == 0
    assert f"{count} images in 3 parts" in capsys.readouterr().out
    turns = [word for caption in seven for word in ("--prompt", caption)]
    assert main(["sample", models["captions"], *how, *turns, "-n", str(count), "--out", str(tmp_path / "one")]) == 0
    found = drawn(tmp_path / "bulk")
    assert len(found) == count
    for number, image in enumerate(found):
        assert torch.equal(image, open_image(tmp_path / "one" / f"image-{number:03d}.png")), number
    table = pq.read_table(sorted((tmp_path / "bulk").glob("*.parquet")), schema=image_schema(()))
    assert table.column("prompt").to_pylist() == prompts
    assert set(table.column("seed").to_pylist()) == {4}
    assert set(table.column("negative").to_pylist()) == {"blue"}
    assert set(table.column("label").to_pylist()) == {None}


def test_a_row_may_have_a_seed_and_a_negative_prompt_of_its_own(models, tmp_path):
    """Each row gives the image that is sampled alone with its seed and negative prompt, up to one grey level."""
    rows = [{"prompt": CAPTIONS[n % 3], **({"seed": 70 * (n - 1)} if n % 2 else {}), **({"negative": CAPTIONS[3]} if n % 3 else {})}
            for n in range(7)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--prompts-file", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), "--seed", "5"]
    assert main(["sample", models["captions"], *FAST, *given]) == 0
    model, found = load(models["captions"]), drawn(tmp_path / "out")
    for number, row in enumerate(rows):
        seed, negative = row.get("seed", 5), row.get("negative")
        alone = model.sample(
            prompts=[row["prompt"]], seed=seed, negative=negative, first=number, guidance=2.0, solver="ddim", steps=2
        )
        assert (alone.images[0].int() - found[number].int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in found}) == 7


@pytest.mark.parametrize("form", ["parquet", "png"])
def test_an_image_of_a_prompt_file_says_what_it_was_drawn_with(models, tmp_path, form):
    """Each of the three images carries its own prompt, seed and negative prompt, and the settings of them all, also
    in the second part."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    requests, model = read_requests(str(tmp_path / "rows.jsonl")), load(models["captions"])
    draw_all(bulk(model, tmp_path / "out", requests=requests, form=form, seed=5, batch=2, part=2))
    for number, row in enumerate(ROWS):
        info = Image.open(io.BytesIO(file_of(tmp_path / "out", number))).info
        assert (info["Software"], info["number"], info["prompt"]) == ("raysde", str(number), row["prompt"])
        assert (info["seed"], info["negative"]) == (str(row.get("seed", 5)), row.get("negative", ""))
        assert (info["solver"], info["steps"], info["guidance"], info["model"]) == ("ddim", "2", "2.0", model.weights)
    assert str(tmp_path).encode() not in file_of(tmp_path / "out", 0)


def test_png_parts_are_image_folders(models, tmp_path):
    """Parquet and PNG hold the same images, and both can be ingested with their labels."""
    model = load(models["labels"])
    draw_all(bulk(model, tmp_path / "parquet"))
    draw_all(bulk(model, tmp_path / "png", form="png"))
    found = drawn(tmp_path / "parquet")
    for number, image in enumerate(found):
        assert torch.equal(open_image(tmp_path / "png" / f"part-{number // 8:05d}" / f"{number:08d}.png"), image)
    for form in ("parquet", "png"):
        samples = [each for part in open_source(str(tmp_path / form)).parts for each in part.read()]
        assert sorted(each.label for each in samples) == sorted(str(row % 10) for row in range(20))
    assert choose_rules(open_source(str(tmp_path / "parquet"))).size == 8


@pytest.mark.parametrize("form", ["parquet", "png"])
def test_finished_parts_are_not_drawn_again(models, tmp_path, form, monkeypatch):
    """After a stop in part three of five and damage to a finished part, both are sampled again to the same bytes."""
    whole, broken = (bulk(load(models["labels"]), tmp_path / name, rows=33, form=form) for name in ("whole", "broken"))
    draw_all(whole)
    monkeypatch.setattr("raysde.inference.bulk.encode_image", interrupt(after=19))
    with pytest.raises(KeyboardInterrupt):
        draw_all(broken)
    monkeypatch.undo()
    assert [broken.is_done(part) for part in range(5)] == [True, True, False, False, False]
    spoiled = tmp_path / "broken" / ("part-00001.parquet" if form == "parquet" else "part-00001/00000009.png")
    spoiled.write_bytes(b"")
    seen = []

    def draw(bulk, parts, progress):
        seen.extend(parts)
        yield from draw_here(bulk, parts, progress)

    said = []
    assert draw_all(broken, draw, lambda done, total: said.append((done, total))) == 8
    assert seen == [1, 2, 3, 4]
    assert said[0] == (8, 33)
    assert said[-1] == (33, 33)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")
    assert draw_all(broken, draw) == 33
    assert seen == [1, 2, 3, 4]


def interrupt(after):
    """Return an encode_image that raises KeyboardInterrupt after a number of images."""
    from raysde.images.codec import encode_image

    left = iter(range(after))

    def encode(picture, **how):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode_image(picture, **how)

    return encode


def test_a_killed_job_goes_on(models, tmp_path):
    """After SIGKILL, the second command keeps the finished part and ends with the files of an uninterrupted job."""
    (tmp_path / "rows.csv").write_text("label\n" + "".join(f"{row % 10}\n" for row in range(600)))
    given = ["sample", models["labels"], "--prompts-file", str(tmp_path / "rows.csv"), "--steps", "8"]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "raysde.cli", *given, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (out / "part-00000.parquet").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 1 <= len(before) < 3
    assert main([*given, "--out", str(out)]) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert len(drawn(out)) == 600


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"seed": 4}, "seed"),
        ({"guidance": 3.0}, "guidance"),
        ({"steps": 3}, "steps"),
        ({"batch": 2}, "batch_size"),
        ({"form": "png"}, "form"),
        ({"rows": 21}, "prompts"),
        ({"kind": "colour"}, "model"),
    ],
)
def test_what_was_begun_otherwise_is_refused_by_its_key(models, tmp_path, changed, key):
    first = bulk(load(models["labels"]), tmp_path / "out")
    draw_all(first)
    before = files_of(tmp_path / "out")
    other = bulk(load(models[changed.pop("kind", "labels")]), tmp_path / "out", **changed)
    with pytest.raises(ValueError, match=f"out holds images of another {key} "):
        draw_all(other)
    assert files_of(tmp_path / "out") == before


def test_other_weights_are_another_model(models, tmp_path):
    """A model with the same description and other weights, such as a later registered version, is refused."""
    model = load(models["labels"])
    draw_all(bulk(model, tmp_path / "out"))
    with torch.no_grad():
        next(model.score_model.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="out holds images of another model "):
        draw_all(bulk(model, tmp_path / "out"))


def test_a_part_with_fewer_rows_is_not_whole(models, tmp_path):
    first = bulk(load(models["labels"]), tmp_path / "out", rows=16)
    draw_all(first)
    before = (tmp_path / "out" / "part-00001.parquet").read_bytes()
    pq.write_table(
        pq.read_table(tmp_path / "out" / "part-00001.parquet").slice(0, 3), tmp_path / "out" / "part-00001.parquet"
    )
    assert draw_all(first) == 8
    assert (tmp_path / "out" / "part-00001.parquet").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(models, tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"somebody's")
    with pytest.raises(ValueError, match="holds other files"):
        draw_all(bulk(load(models["labels"]), tmp_path))
    assert files_of(tmp_path) == {"part-00000.parquet": b"somebody's"}


def test_a_kill_while_the_plan_is_written_does_not_block_the_job(models, tmp_path, monkeypatch):
    """A plan's leftover temporary file, whatever its name, does not block the job."""
    job = bulk(load(models["labels"]), tmp_path / "out")
    with monkeypatch.context() as context:
        context.setattr(Path, "replace", lambda self, target: killed())
        with pytest.raises(KeyboardInterrupt):
            draw_all(job)
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert draw_all(job) == 0
    assert (tmp_path / "out" / PLAN).exists()
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == len(job.parts)


def killed():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "rows", "more", "said"),
    [
        ("plain", "prompt\none\n", [], "rows.csv, row 1 has a prompt, but the model takes no prompts"),
        ("labels", "label\n3\n10\n", [], "rows.csv, row 2 has label 10, but the model's are 0 to 9"),
        ("captions", "id\n3\n", [], "neither a column prompt nor a column label: its columns are id"),
        ("labels", "label\n3\n", ["--label", "3"], "--label cannot be given with --prompts-file"),
        ("labels", "label\n3\n", ["-n", "3"], "-n cannot be given with --prompts-file"),
        ("labels", "label\n3\n", ["--batch-size", "0"], "batch_size must be at least 1"),
        ("labels", "label\n3\n", ["--workers", "-1"], "workers must be at least 1"),
        ("labels", "label\n3\n", ["--negative", "x"], "negative 'x' was given, but the model takes no prompts"),
        ("captions", "prompt,negative\na,b\n", ["--guidance", "1"], "negative, which has no effect at guidance 1"),
        ("labels", "label\n3\n", ["--solver", "magic"], "solver must be one of"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(models, tmp_path, capsys, monkeypatch, kind, rows, more, said):
    monkeypatch.setattr("raysde.cluster.sample.connect", lambda: pytest.fail("Ray was started"))
    (tmp_path / "rows.csv").write_text(rows)
    given = ["--prompts-file", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert said in refused(capsys, "sample", models[kind], *given, *more)
    assert not (tmp_path / "out").exists()


def test_workers_are_for_a_file(models, capsys):
    assert "--workers is for a --prompts-file" in refused(capsys, "sample", models["plain"], "--workers", "2")


def test_the_plan_says_all_that_the_images_depend_on(models, tmp_path):
    """Every keyword argument of ``sample`` that changes images is in the plan."""
    (tmp_path / "rows.csv").write_text("label\n3\n")
    given = [
        "--prompts-file",
        str(tmp_path / "rows.csv"),
        "--out",
        str(tmp_path / "out"),
        "--set",
        "eta=1",
        "--grid",
        "time",
    ]
    assert main(["sample", models["labels"], *FAST, *given]) == 0
    plan = json.loads((tmp_path / "out" / PLAN).read_text())
    assert plan["eta"] == 1
    assert plan["prompts"] == read_requests(str(tmp_path / "rows.csv")).labelled(10, ()).sha256
    assert set(plan) == {
        "format", "model", "prompts", "form", "images_per_part", "seed", "negative", "batch_size", "guidance",
        "guidance_interval", "autoguide", "solver", "steps", "grid", "eta",
    }  # fmt: skip
