"""Storage of checkpoints: the newest whole one in a folder and in an object store, and pruning."""

import shutil
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from raysde.checkpoints import checkpoint, storage
from raysde.checkpoints.retention import Retention
from raysde.io.filesystems import open_filesystem
from raysde.training.ranking import Ranking
from tests.support.checkpoints import description_of, write_model


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


@pytest.fixture
def run(tmp_path) -> Path:
    """Return a run's folder with whole checkpoints at steps 9, 10 and 100, and an incomplete one at 101."""
    folder = tmp_path / "bucket" / "runs" / "digits"
    folder.mkdir(parents=True)
    for step in (9, 100, 10):
        write_model(folder / checkpoint.checkpoint_name(step), step, text=None)
    torn = folder / checkpoint.checkpoint_name(101)
    torn.mkdir()
    (torn / "ema.safetensors").write_bytes(b"torn")
    (folder / "profiles").mkdir()
    return folder


@pytest.fixture
def remote(tmp_path, monkeypatch) -> str:
    """Return the URI of the same folder through a file system that is not the local one."""
    system = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())

    def reached(path: str):
        return (system, path.removeprefix("fake://")) if path.startswith("fake://") else open_filesystem(path)

    monkeypatch.setattr(storage, "open_filesystem", reached)
    return "fake://runs"


def test_the_newest_whole_checkpoint(run, remote):
    """Since 9 < 10 < 100, step 100 is newest; the damaged one is passed over, and remote files are copied."""
    near = storage.fetch_newest_checkpoint(str(run.parent), "digits")
    far = storage.fetch_newest_checkpoint(remote, "digits")
    assert near == run / checkpoint.checkpoint_name(100)
    assert far.name == near.name
    assert run not in far.parents
    files = [{path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()} for place in (near, far)]
    assert files[0] == files[1]
    for place in (str(run.parent), remote):
        assert storage.fetch_newest_checkpoint(place, "letters") is None


@pytest.mark.parametrize("harm", ["tensor", "size", "description"])
def test_copies_of_damaged_checkpoints_do_not_stay(run, remote, tmp_path, monkeypatch, harm):
    """Only the copy of the checkpoint that is resumed from stays in the temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for step in (10, 100):
        damage(run / checkpoint.checkpoint_name(step), harm)
    found = storage.fetch_newest_checkpoint(remote, "digits")
    assert found.name == checkpoint.checkpoint_name(9)
    assert list((tmp_path / "temporary").iterdir()) == [found.parent]


def test_a_process_that_was_killed_while_it_saved_first_left_no_checkpoint(run, remote):
    """Remote files arrive one by one, checkpoint.json last: without it the run starts anew, with a part of it the run
    stops."""
    for step in (9, 10, 100):
        shutil.rmtree(run / checkpoint.checkpoint_name(step))
    assert storage.fetch_newest_checkpoint(remote, "digits") is None
    (run / checkpoint.checkpoint_name(101) / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match=r"no checkpoint in fake://runs/digits is whole: .*step_000000101"):
        storage.fetch_newest_checkpoint(remote, "digits")


@pytest.mark.parametrize("lost", [(9, 10, 100), (10, 100), (100,)])
def test_many_checkpoints_without_their_description_are_no_beginning(run, remote, lost):
    """A run saves again only after a whole checkpoint, so several folders without descriptions never start at step
    0."""
    for step in {9, 10, 100} - set(lost):
        shutil.rmtree(run / checkpoint.checkpoint_name(step))
    for step in lost:
        (run / checkpoint.checkpoint_name(step) / "checkpoint.json").unlink()
    with pytest.raises(
        ValueError,
        match=r"no checkpoint in fake://runs/digits is whole: .*To train from the beginning, choose another name",
    ):
        storage.fetch_newest_checkpoint(remote, "digits")


def test_a_folder_is_local_and_a_uri_is_not():
    assert [storage.is_local(place) for place in ("runs", "/a/b", "s3://bucket/runs", "gs://b")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("keep", "left"), [(1, [100]), (2, [10, 100]), (9, [9, 10, 100])])
@pytest.mark.parametrize("far", [False, True])
def test_the_newest_checkpoints_are_kept(run, remote, keep, left, far):
    """The newest checkpoints by step and files that are no checkpoints stay.

    Damaged checkpoints stay and are not counted; in an object store, folders without checkpoint.json are deleted.
    """
    damage(Path(shutil.copytree(run / checkpoint.checkpoint_name(9), run / checkpoint.checkpoint_name(50))), "size")
    (run / checkpoint.checkpoint_name(60)).mkdir()
    (run / checkpoint.checkpoint_name(60) / "checkpoint.json").write_text("{")
    storage.prune_checkpoints(f"{remote}/digits" if far else run, Retention(keep), 100)
    assert steps_in(run) == sorted([*left, 50, 60, *([] if far else [101])])
    assert (run / "profiles").is_dir()


@pytest.mark.parametrize(("keep", "left"), [(1, [10]), (2, [9, 10])])
@pytest.mark.parametrize("harm", ["tensor", "size", "description"])
def test_the_checkpoint_that_was_saved_just_now_is_kept(run, remote, keep, left, harm):
    """A run that resumed from step 9, since 100 is damaged, and saved at 10 leaves 100 unchanged for repair."""
    damage(run / checkpoint.checkpoint_name(100), harm)
    before = {path: path.read_bytes() for path in (run / checkpoint.checkpoint_name(100)).rglob("*") if path.is_file()}
    storage.prune_checkpoints(f"{remote}/digits", Retention(keep), 10)
    assert steps_in(run) == [*left, 100]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert storage.fetch_newest_checkpoint(remote, "digits").name == checkpoint.checkpoint_name(10)


@pytest.mark.parametrize("far", [False, True], ids=["folder", "uri"])
def test_the_best_stay_in_a_folder_and_in_an_object_store(run: Path, remote, far):
    """Step 9 is the best by its checkpoint.json, so it stays beside the newest one; step 10 goes."""
    for step, value in ((9, 1.0), (10, 3.0), (100, 2.0)):
        with description_of(run / checkpoint.checkpoint_name(step)) as content:
            content["state"]["metrics"] = {"val/loss": value}
    storage.prune_checkpoints(f"{remote}/digits" if far else run, Retention(1, best=1), 100)
    assert [step for step in steps_in(run) if step != 101] == [9, 100]
    best = storage.fetch_best_checkpoint(remote if far else str(run.parent), "digits", Ranking())
    assert best.name == checkpoint.checkpoint_name(9)
    assert (best == run / best.name) is not far
    assert storage.fetch_best_checkpoint(str(run.parent), "digits", Ranking("val/fid")) is None


def damage(folder: Path, harm: str) -> None:
    if harm == "description":
        (folder / "checkpoint.json").write_text("{")
        return
    content = bytearray((folder / "ema.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "ema.safetensors").write_bytes(content[: None if harm == "tensor" else -1])
