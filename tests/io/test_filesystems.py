"""Files and folders by path or URI: names, hashes, and atomic writes."""

import hashlib
import json
import re
from pathlib import Path
from unittest import mock

import pyarrow.fs as pafs
import pytest
import torch

from raysde import interop
from raysde.checkpoints import ema_snapshots
from raysde.config import loading
from raysde.data.dataset.precomputed import write_column
from raysde.data.ingest.digits import write_digits
from raysde.distributed.world import World
from raysde.images.tensors import save_png, to_pil
from raysde.inference.samples import Drawn, DrawnPath
from raysde.io import filesystems
from raysde.io.atomic import is_partial, save_tensors
from raysde.io.filesystems import (
    absolute_location,
    check_writable,
    child_path,
    exists,
    open_filesystem,
    read_bytes,
    sha256_of,
    write_bytes,
    write_json,
)
from raysde.runs.build import new_state
from raysde.runs.history import History
from raysde.runs.hooks import RunHooks, save_checkpoint
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.tracking.spool import Spool
from tests.support.diffusers_models import ddpm
from tests.support.digits import write_digit_shards
from tests.support.full_disk import small_files


@pytest.mark.parametrize(
    ("path", "names", "wanted"),
    [
        ("/a/b", ("c",), "/a/b/c"),
        ("/a/b/", ("c", "d"), "/a/b/c/d"),
        ("/what?/b", ("c",), "/what?/b/c"),
        ("s3://bucket/b", ("c",), "s3://bucket/b/c"),
        ("s3://bucket/b/?region=x", ("c",), "s3://bucket/b/c?region=x"),
        ("s3://b/?endpoint_override=http://h:1", ("c",), "s3://b/c?endpoint_override=http://h:1"),
    ],
)
def test_what_lies_below_keeps_the_options_at_its_end(path, names, wanted):
    assert child_path(path, *names) == wanted


def test_places_are_absolute_or_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute_location("a/b") == str(tmp_path / "a" / "b")
    assert absolute_location("~/b") == "/home/somebody/b"
    assert absolute_location("s3://bucket/b/") == "s3://bucket/b"
    assert open_filesystem("a")[1] == str(tmp_path / "a")
    with pytest.raises(ValueError, match="'magic://x' cannot be opened"):
        open_filesystem("magic://x")


def test_a_file_is_what_was_written_last(tmp_path):
    """Folders are created as needed; the hash is that of all bytes, also beyond one chunk."""
    content = bytes(range(256)) * 8200  # two chunks of 2^20 bytes and a shorter one
    place = tmp_path / "a" / "b" / "file"
    assert not exists(str(place))
    write_bytes(str(place), b"old, and longer than what comes")
    write_bytes(str(place), b"new")
    assert (read_bytes(str(place)), exists(str(place)), exists(str(place.parent))) == (b"new", True, True)
    write_bytes(str(place), content)
    assert sha256_of(str(place)) == hashlib.sha256(content).hexdigest()
    write_json(str(place), {"ä": [1, 2.5, None]})
    assert json.loads(place.read_text(encoding="utf-8")) == {"ä": [1, 2.5, None]}
    assert [path.name for path in place.parent.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        read_bytes(str(place) + ".other")


def test_who_is_killed_while_writing_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """A partial file beside it is recognised as partial."""
    write_bytes(str(tmp_path / "file"), b"old")
    for name in ("write_bytes", "replace"):
        plain = getattr(Path, name)

        def cut(self, given, name=name, plain=plain):
            if name == "write_bytes":
                plain(self, given[:1])
            raise KeyboardInterrupt

        with monkeypatch.context() as context:
            context.setattr(Path, name, cut)
            with pytest.raises(KeyboardInterrupt):
                write_bytes(str(tmp_path / "file"), b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
    left = [path.name for path in tmp_path.iterdir() if path.name != "file"]
    assert len(left) == 2
    assert all(is_partial(name) for name in left)
    assert not any(is_partial(name) for name in ("file", "file.part", ".file", "part-00000.parquet"))


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable(str(tmp_path / "new" / "report.json"), "--output")
    assert (tmp_path / "new").is_dir()
    check_writable(str(tmp_path / "file"), "--output")
    with pytest.raises(ValueError, match=r"--output .* is a folder: give the name of a file"):
        check_writable(str(tmp_path), "--output")
    with pytest.raises(ValueError, match=r"--output .*/file/report\.json cannot be written"):
        check_writable(str(tmp_path / "file" / "report.json"), "--output")


# a full disk


def write_a_checkpoint(folder: Path, recipe) -> None:
    run = open_run(loading.parse_recipe(recipe(text=None)))
    state = new_state(run, torch.device("cpu"))
    with small_files():
        save_checkpoint(run, state, folder, World())


def write_averages(folder: Path, recipe) -> None:
    run = open_run(loading.parse_recipe(recipe(text=None, storage=str(folder), train__ema__profiles=[0.1])))
    state = new_state(run, torch.device("cpu"))
    with small_files():
        RunHooks(run, None, lambda state: None).snapshot(state)


def write_json_bytes(folder: Path, recipe) -> None:
    with small_files():
        write_bytes(f"{folder}/a.json", bytes(9000))


def write_pictures(folder: Path, recipe) -> None:
    with small_files():
        save_png(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), folder, ["a"])


def write_shards(folder: Path, recipe) -> None:
    with small_files():
        write_digit_shards(folder)


def write_metrics(folder: Path, recipe) -> None:
    spool = Spool(folder / "spool.jsonl")
    spool.take_over()
    with small_files():
        spool.add_metrics(1, {f"m{number}": 0.0 for number in range(500)})


def take_metrics_over(folder: Path, recipe) -> None:
    with small_files():
        Spool(folder / "spool.jsonl").take_over([{"step": step} for step in range(500)])


def write_an_averaged_model(folder: Path, recipe) -> None:
    """The disk is full once the copy of the checkpoint exists."""
    tree = recipe(text=None, train__ema__profiles=[0.05, 0.1], train__length__steps=2)
    train_here(open_run(loading.parse_recipe(tree)), None)
    plain = ema_snapshots.save_file

    def limited(*given):
        with small_files():
            plain(*given)

    with mock.patch.object(ema_snapshots, "save_file", limited):
        ema_snapshots.export_average(f"{tree['storage']}/small", folder / "averaged", 0.1)


def copy_a_model(folder: Path, recipe) -> None:
    tree = recipe(text=None, train__ema__profiles=[0.05, 0.1], train__length__steps=2)
    train_here(open_run(loading.parse_recipe(tree)), None)
    with small_files():
        ema_snapshots.export_average(f"{tree['storage']}/small", folder / "averaged", 0.1)


def import_a_pipeline(folder: Path, recipe) -> None:
    pipeline = ddpm(folder.with_name("pipeline"))
    with small_files():
        interop.convert(pipeline, folder / "imported")


def export_a_pipeline(folder: Path, recipe) -> None:
    model = interop.load(ddpm(folder.with_name("pipeline"))).model
    with small_files():
        interop.export(model, folder / "exported")


def write_measurements(folder: Path, recipe) -> None:
    with small_files():
        save_tensors(folder / "cache" / "a.safetensors", {"a": torch.zeros(5000)}, {})


def write_a_history(folder: Path, recipe) -> None:
    history = History(folder, 0)
    history.metrics(1, {"a": 0.0})
    with small_files():
        history.metrics(2, {f"m{number}": 0.0 for number in range(500)})


def open_a_history(folder: Path, recipe) -> None:
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(500)))
    with small_files():
        History(folder, 500).metrics(501, {"a": 0.0})


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def write_a_picture_of_a_history(folder: Path, recipe) -> None:
    with small_files():
        History(folder, 0).image(1, "grid", to_pil(noise(1, 100, 100)))


def write_a_grid(folder: Path, recipe) -> None:
    with small_files():
        Drawn(noise(100, 1, 8, 8), None, 0, 1).save(folder)


def write_a_strip(folder: Path, recipe) -> None:
    few, none = noise(1, 1, 8, 8), torch.zeros(0)
    frames = noise(1, 2, 60, 1, 8, 8)
    path = DrawnPath(few, None, 0, 1, times=none, log_snr=none, x=none, x0_hat=none, frames=frames)
    with small_files():
        path.save(folder)


def write_images_of_digits(folder: Path, recipe) -> None:
    with small_files():
        write_digits(folder)


def write_a_column(folder: Path, recipe) -> None:
    with small_files():
        write_column(str(folder), "latents", "a.parquet", [[bytes(range(256)) * 40]])


@pytest.mark.parametrize(
    "write",
    [
        write_a_checkpoint, write_averages, write_json_bytes, write_pictures, write_shards, write_metrics,
        take_metrics_over, write_an_averaged_model, copy_a_model, import_a_pipeline, export_a_pipeline,
        write_measurements, write_a_history, open_a_history, write_a_picture_of_a_history, write_a_grid, write_a_strip,
        write_images_of_digits, write_a_column,
    ],
)  # fmt: skip
def test_a_full_disk_is_named(tmp_path, recipe, write):
    """The error names the full place, whichever library wrote; on a disk with room the same write succeeds."""
    folder = tmp_path / "full"
    folder.mkdir()
    with pytest.raises(OSError, match=re.escape(str(folder))) as caught:
        write(folder, recipe)
    assert "File too large" in str(caught.value)
    assert "cannot be written to" in str(caught.value)


def test_a_process_makes_one_client_for_a_bucket(monkeypatch):
    """Another bucket, other options and other credentials need another client; the paths are pyarrow's own."""
    made, real = [], filesystems._open_uri
    monkeypatch.setattr(filesystems, "_open_uri", lambda uri: made.append(uri) or real(uri))
    filesystems._open_bucket.cache_clear()
    options = "?endpoint_override=http://127.0.0.1:9&region=us-east-1"
    names = ("", "/", "/a", "/a/", "/a%20b/c", "/a+b", "/a=1,2;x:y@z", "/a//b")
    for name in names:
        found = filesystems.open_filesystem(f"s3://bucket{name}{options}")
        assert found[1] == pafs.FileSystem.from_uri(f"s3://bucket{name}{options}")[1]
    assert made == [f"s3://bucket{options}"]
    filesystems.open_filesystem(f"s3://other/a{options}")
    filesystems.open_filesystem(f"s3://bucket/a{options}&scheme=http")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    filesystems.open_filesystem(f"s3://bucket/a{options}")
    for _ in range(2):
        assert filesystems.open_filesystem(f"s3://key:secret@bucket/a{options}")[1] == "bucket/a"
    assert len(made) == 5
    with pytest.raises(ValueError, match="cannot be opened"):
        filesystems.open_filesystem("s3://bucket/a b")
