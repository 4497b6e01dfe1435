"""`raysde inspect`, `raysde plan` and `raysde ui`: their output agrees with the data and the training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysde.cli import main
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.world import World
from raysde.runs.build import new_state
from raysde.runs.hooks import save_checkpoint
from raysde.runs.run import open_run
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.sources import write_images

CELL, HIGH, GAP = 112, 112 + 26, 4


def shown(path: Path, count: int, columns: int) -> list[bytes]:
    """Return the digits on a contact sheet, where each pixel is 14 x 14 pixels of the sheet."""
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (-(-count // columns) * (HIGH + GAP) + GAP, columns * (CELL + GAP) + GAP, 3)
    found = []
    for place in range(count):
        row, column = divmod(place, columns)
        top, left = GAP + row * (HIGH + GAP), GAP + column * (CELL + GAP)
        cell = sheet[top : top + CELL, left : left + CELL]
        small = cell[::14, ::14]
        assert np.array_equal(small.repeat(14, 0).repeat(14, 1), cell)
        found.append(small[..., 0].tobytes())
        assert (sheet[top + CELL : top + HIGH, left : left + CELL] < 128).any()  # the caption
    return found


def test_a_contact_sheet_holds_images_of_the_data_set(digits, tmp_path, capsys):
    """The number of images is -n or all, without repeats except twins, in row order, selected by the seed."""
    images = [image[..., 0].tobytes() for image in Reader(digits).read(np.arange(digits.rows)).images]
    sheets = {}
    for name, count, seed in (("a", 12, 0), ("b", 12, 0), ("c", 12, 1), ("few", 3, 0)):
        path = str(tmp_path / f"{name}.png")
        assert main(["inspect", digits.path, "--sheet", path, "-n", str(count), "--seed", str(seed)]) == 0
        sheets[name] = shown(path, count, min(8, count))
    assert sheets["a"] == sheets["b"]
    assert sheets["a"] != sheets["c"]
    for sheet in sheets.values():
        rows = [images.index(image) for image in sheet]
        assert rows == sorted(rows)
        assert len(set(rows)) == len(rows)
    said = capsys.readouterr().out
    assert "200 for training, 0 for validation, 0 skipped" in said
    assert "shards         2 of" in said
    assert "images         8 x 8, grey" in said
    assert "checked        sizes, columns and hashes of all shards" in said


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "words"])
def test_somebodys_picture_is_not_written_over(digits, tmp_path, capsys, kind):
    """Refused before the shards are read, and no byte is changed; a sheet of raysde's own is written again."""
    mine, own = tmp_path / "mine.png", tmp_path / "own.png"
    if kind == "words":
        mine.write_text(kind)
    else:
        Image.new("RGB", (8, 8), "red").save(mine, format=kind)
    before = mine.read_bytes()
    said = refused(capsys, "inspect", digits.path, "--sheet", str(mine))
    assert f"--sheet {mine} exists" in said
    assert "move it away or name another file" in said
    assert mine.read_bytes() == before
    assert "is a folder" in refused(capsys, "inspect", digits.path, "--sheet", str(tmp_path))
    sizes = []
    for count in ("1", "9"):
        assert main(["inspect", digits.path, "--sheet", str(own), "-n", count, "--fast"]) == 0
        sizes.append(Image.open(own).size)
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("name", ["sheet.xyz", "sheet"])
def test_a_format_that_no_picture_is_written_in_is_refused_before_the_shards_are_read(tmp_path, capsys, name):
    said = refused(capsys, "inspect", str(tmp_path / "missing"), "--sheet", str(tmp_path / name))
    assert f"--sheet {tmp_path / name}: no picture is written in this format; name a .png file" in said


def test_a_contact_sheet_in_a_folder_that_is_not_there(digits, tmp_path, capsys):
    """The folder is made; what cannot be a folder is refused before the shards are read."""
    target = tmp_path / "new" / "sheets" / "sheet.png"
    assert main(["inspect", digits.path, "--sheet", str(target), "-n", "4", "--fast"]) == 0
    assert Image.open(target).format == "PNG"
    (tmp_path / "file").write_text("x")
    assert f"--sheet {tmp_path / 'file' / 'a.png'} cannot be written" in refused(
        capsys, "inspect", str(tmp_path / "missing"), "--sheet", str(tmp_path / "file" / "a.png")
    )


def test_more_images_than_there_are(tmp_path):
    manifest = write_digit_shards(tmp_path / "shards", rows=5, shard_rows=3)
    assert main(["inspect", manifest.path, "--sheet", str(tmp_path / "all.png")]) == 0
    images = [image[..., 0].tobytes() for image in Reader(manifest).read(np.arange(5)).images]
    assert shown(tmp_path / "all.png", 5, 5) == images


def test_a_fast_look_does_not_read_everything(tmp_path, capsys):
    """A changed byte within a shard is found only by its hash."""
    manifest = write_digit_shards(tmp_path / "shards", rows=20, shard_rows=10)
    path = Path(manifest.file(1))
    whole = bytearray(path.read_bytes())
    whole[40] ^= 1
    path.write_bytes(bytes(whole))
    other = next(seed for seed in range(99) if np.random.default_rng(seed).choice(20, 1, replace=False)[0] < 10)
    order = ["inspect", manifest.path, "--sheet", str(tmp_path / "sheet.png"), "--seed", str(other), "-n", "1"]
    assert "train-00001.parquet" in refused(capsys, *order)
    assert main([*order, "--fast"]) == 0
    assert "sizes and columns of all shards" in capsys.readouterr().out
    assert "-n must be at least 1, got 0" in refused(capsys, *order[:-1], "0")


def test_the_plan_of_a_step_is_what_it_is_trained_on(recipe, tmp_path, capsys):
    """The output has rows, keys, labels and captions of each microbatch in order, also across the end of an epoch."""
    tree = recipe(train__microbatch=4, train__length__steps=30, validation__rows=24)
    path = tmp_path / "recipe.yaml"
    path.write_text(loading.dump_yaml(tree))
    run = open_run(loading.parse_recipe(tree))
    reader = Reader(run.manifest)
    for step, epoch in ((0, "0.000"), (10, "0.909"), (11, "1.000"), (29, "2.636")):  # 16 of 176 rows per step
        assert main(["plan", str(path), "--step", str(step)]) == 0
        first, head, *lines = capsys.readouterr().out.splitlines()
        assert first == f"# step {step} of 30, epoch {epoch}, 16 rows"
        assert head.split()[1:] == ["microbatch", "row", "shard", "key", "label", "captions"]
        found = [line.split("\t") for line in lines]
        (batches,) = read_batches(run.feed, reader, step, step + 1)
        assert [(int(index), int(row)) for index, row, *_ in found] == [
            (batch.index, row) for batch in batches for row in batch.rows.tolist()
        ]
        captions = [caption for batch in batches for caption in batch.captions]
        assert [said for *_, said in found] == captions
        for _, row, shard, key, label, _ in found:
            about = reader.about(int(row))
            assert (shard, key, label) == (about["shard"], about["key"], about["label"])
    for step in ("-1", "30"):
        assert f"--step must be from 0 to 29, got {step}" in refused(capsys, "plan", str(path), f"--step={step}")


def test_the_plan_of_a_run_passes_over_what_the_run_does(recipe, tmp_path, capsys):
    """A step of a run that returned to a checkpoint has the rows of the later plan position that it reads."""
    tree = recipe(train__length__steps=30, text=None)
    path = tmp_path / "recipe.yaml"
    path.write_text(loading.dump_yaml(tree))
    run = open_run(loading.parse_recipe(tree))
    state = new_state(run, torch.device("cpu"))
    state.step, state.bad.left_out = 6, [(4, 7)]
    save_checkpoint(run, state, Path(tree["storage"]) / "small", World())
    for step, position, shown in ((3, 3, ""), (4, 7, ", plan position 7"), (20, 23, ", plan position 23")):
        assert main(["plan", str(path), "--step", str(step)]) == 0
        first, _, *lines = capsys.readouterr().out.splitlines()
        assert first == f"# step {step} of 30{shown}, epoch {position * 16 / 200:.3f}, 16 rows"
        assert [int(line.split("\t")[1]) for line in lines] == run.feed.rows[run.plan.rows_of(position, 0)].tolist()


@pytest.mark.parametrize("out", [".", "shards", "a/b"])
def test_shards_among_the_images_are_refused(tmp_path, capsys, out):
    """With shards in it, the folder would hold files of several kinds, and would no longer be a valid source."""
    folder = write_images(tmp_path / "photos")
    before = sorted(folder.rglob("*"))
    assert "would mix shards with images: name another folder" in refused(
        capsys, "ingest", str(folder), str(folder / out)
    )
    assert sorted(folder.rglob("*")) == before
