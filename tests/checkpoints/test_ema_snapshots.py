"""Snapshots of averages: under crashes, pruning and remote storage, and the averages that the command makes of them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint, ema_snapshots
from raysde.checkpoints.tensor_files import TensorFile
from raysde.cli import main
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.world import World
from raysde.io.filesystems import open_filesystem
from raysde.runs.build import make_objective, make_schedule, new_state
from raysde.runs.hooks import RunHooks
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training.loop import keep_checkpoint, train_step
from raysde.training.posthoc_ema import (
    PowerEma,
    profile_exponent,
    reconstruct_average,
)
from tests.support.training import STDS, Recorded, same_tensors, small_recipe

CPU = torch.device("cpu")


# --------------------------------------------------------------------------------------------------- in training


@pytest.fixture
def kept_recipe(recipe):
    """Return a short recipe that stores averages."""
    return lambda **changes: recipe(text=None, train__ema__profiles=list(STDS), **changes)


def trained(tree, sink=None):
    return train_here(open_run(loading.parse_recipe(tree)), sink)


def files_of(storage: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path(storage) / "small" / "profiles").iterdir()}


def steps_of(storage: str) -> list[int]:
    return [int(name.removeprefix("step_").removesuffix(".safetensors")) for name in sorted(files_of(storage))]


class CrashAt(Recorded):
    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, step, values) -> None:
        if step == self.step:
            raise KeyboardInterrupt


def test_resume_is_bitwise(kept_recipe, tmp_path):
    """10 steps equal 8 steps, a crash, and a resume from step 5: averages in memory, in checkpoints and in
    snapshots."""
    whole_tree, broken_tree = (
        kept_recipe(storage=str(tmp_path / name), train__ema__snapshots_every=2) for name in ("a", "b")
    )
    whole = trained(whole_tree)
    with pytest.raises(KeyboardInterrupt):
        trained(broken_tree, CrashAt(8))
    assert steps_of(broken_tree["storage"]) == [2, 4, 5, 6]
    resumed = trained(broken_tree)
    assert whole.profile_tensors().keys() == {f"{std}/{name}" for std in STDS for name in whole.trained}
    assert same_tensors(whole.profile_tensors(), resumed.profile_tensors())
    last = [
        load_file(tmp_path / name / "small" / checkpoint.checkpoint_name(10) / "profiles.safetensors") for name in "ab"
    ]
    assert same_tensors(*last)
    assert same_tensors(last[0], whole.profile_tensors())
    assert steps_of(whole_tree["storage"]) == [2, 4, 5, 6, 8, 10]
    assert files_of(whole_tree["storage"]) == files_of(broken_tree["storage"])


def test_averages_are_of_the_path_of_training(kept_recipe):
    """Snapshots at every step hold the sums over the weights of the checkpoints of every step."""
    tree = kept_recipe(train__length__steps=4, checkpoint_every=1, keep_checkpoints=9)
    trained(tree)
    folder = Path(tree["storage"]) / "small"
    path = [load_file(folder / checkpoint.checkpoint_name(step) / "weights.safetensors") for step in range(1, 5)]
    kept = ema_snapshots.read_snapshots(folder / "profiles")
    assert [(each.step, each.images) for each in kept] == [(1, 16), (2, 32), (3, 48), (4, 64)]
    for each in kept:
        for average in each.averages:
            mass = np.diff((np.arange(each.step + 1) / each.step) ** (profile_exponent(average.std) + 1))
            for name, value in average.tensors.items():
                expected = sum(factor * w[name].double() for factor, w in zip(mass, path[: each.step], strict=True))
                torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)


def test_steps_without_an_update_count(kept_recipe):
    """A step whose fp16 gradients overflow keeps the weights, and the profile counts its images."""
    run = open_run(loading.parse_recipe(kept_recipe(train__precision="fp16", train__lr=1e-2)))
    state, task = new_state(run, CPU), make_objective(run)
    path = []
    for step, batches in enumerate(read_batches(run.feed, Reader(run.manifest), 0, 3)):
        scale = 2.0**126 if step == 2 else 1024.0
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
        train_step(state, state.model, batches, task, make_schedule(run), World())
        path.append({name: value.detach().clone() for name, value in state.trained.items()})
    assert state.updates == 2
    for average in state.profiles:
        mass = np.diff((np.arange(4) / 3) ** (average.exponent + 1))
        for name, value in average.state().items():
            expected = sum(factor * w[name].double() for factor, w in zip(mass, path, strict=True))
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)


def test_snapshots_outlive_their_checkpoints(kept_recipe):
    tree = kept_recipe(checkpoint_every=2, keep_checkpoints=1)
    trained(tree)
    assert [path.name for path in (Path(tree["storage"]) / "small").glob("step_*")] == [checkpoint.checkpoint_name(10)]
    assert steps_of(tree["storage"]) == [2, 4, 6, 8, 10]


def test_no_snapshot_is_lost_behind_a_checkpoint(kept_recipe, monkeypatch):
    """After a crash right after the checkpoint of step 5 its snapshot exists, since the resumed run skips step 5."""
    tree = kept_recipe()

    def die(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("raysde.checkpoints.storage.prune_checkpoints", die)
        with pytest.raises(KeyboardInterrupt):
            trained(tree)
    assert checkpoint.find_newest_checkpoint(Path(tree["storage"]) / "small").name == checkpoint.checkpoint_name(5)
    trained(tree)
    assert steps_of(tree["storage"]) == [5, 10]


class Calls:
    """Hooks that record the names of their calls."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def snapshot(self, state) -> None:
        self.names.append("snapshot")

    def save(self, state) -> None:
        self.names.append("save")


def test_only_the_first_rank_and_sound_weights_are_kept(kept_recipe):
    run = open_run(loading.parse_recipe(kept_recipe(train__ema__snapshots_every=2)))
    state, calls = new_state(run, CPU), Calls()
    for state.step, rank in ((2, 0), (2, 1), (3, 0), (5, 0), (5, 1)):
        calls.names.append(f"{state.step}/{rank}")
        keep_checkpoint(state, make_schedule(run), calls, World(rank))
    assert calls.names == ["2/0", "snapshot", "2/1", "3/0", "5/0", "snapshot", "save", "5/1", "save"]
    calls.names, state.step = [], 2
    state.pending = [(torch.tensor(float("nan")), torch.tensor(1.0), 1e-3)]
    with pytest.raises(FloatingPointError, match="at step 2"):
        keep_checkpoint(state, make_schedule(run), calls, World())
    assert calls.names == []


def test_a_torn_write_is_not_seen(kept_recipe, monkeypatch):
    """A process killed while it rewrites a snapshot leaves the old one; the next write cleans up."""
    run = open_run(loading.parse_recipe(kept_recipe()))
    state = new_state(run, CPU)
    hooks = RunHooks(run, None, lambda state: None)
    hooks.snapshot(state)
    before = files_of(run.config.storage)

    def half(content: TensorFile):
        yield b"torn"
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TensorFile, "parts", half)
        with pytest.raises(KeyboardInterrupt):
            hooks.snapshot(state)
    folder = Path(run.config.storage) / "small" / "profiles"
    assert [kept.step for kept in ema_snapshots.read_snapshots(folder)] == [0]
    assert {name: files_of(run.config.storage)[name] for name in before} == before
    hooks.snapshot(state)
    assert files_of(run.config.storage) == before


def test_a_run_without_averages_keeps_none(recipe):
    tree = recipe(text=None, train__length__steps=1)
    trained(tree)
    folder = Path(tree["storage"]) / "small"
    assert not (folder / "profiles").exists()
    assert not (folder / checkpoint.checkpoint_name(1) / "profiles.safetensors").exists()
    with pytest.raises(ValueError, match=r"train\.ema\.profiles=\[\], the recipe says \[0\.05, 0\.1\]"):
        trained({**tree, "train": {**tree["train"], "ema": {**tree["train"]["ema"], "profiles": list(STDS)}}})
    state = new_state(open_run(loading.parse_recipe(tree)), CPU)
    state.profiles = [PowerEma(state.model, std=0.1)]
    with pytest.raises(ValueError, match=r"without profiles\.safetensors"):
        checkpoint.restore_state(state, folder / checkpoint.checkpoint_name(1))


@pytest.mark.parametrize(
    ("node", "culprit"),
    [
        ({"profiles": [0.05, 0.5]}, "train.ema: .*between 0 and 0.28, got 0.5"),
        ({"profiles": [0.0]}, "got 0.0"),
        ({"profiles": [0.1, 0.1]}, "profiles must differ"),
        ({"snapshots_every": 5}, "set profiles"),
    ],
)
def test_recipes_that_cannot_be_are_named(recipe, node, culprit):
    tree = recipe()
    tree["train"]["ema"].update(node)
    with pytest.raises(ValueError, match=culprit):
        loading.parse_recipe(tree)


# --------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """Return a run of ten steps: its last state and its folder, with five snapshots and the last checkpoint."""
    storage = tmp_path_factory.mktemp("runs")
    ema = {"half_life": 100, "profiles": list(STDS)}
    tree = small_recipe(digits, storage, train__ema=ema, train__lr=1e-2, checkpoint_every=2, keep_checkpoints=1)
    return trained(tree), storage / "small"


@pytest.mark.parametrize("std", STDS)
def test_the_command_gives_a_kept_average_back(finished, tmp_path, capsys, std):
    """The command's checkpoint describes itself, samples and cannot be resumed; all else is the last checkpoint's."""
    state, folder = finished
    out = tmp_path / "out"
    assert main(["ema", str(folder), "--std", str(std), "--out", str(out)]) == 0
    assert "step 10" in capsys.readouterr().out
    found, base = (
        load_file(out / "ema.safetensors"),
        load_file(folder / checkpoint.checkpoint_name(10) / "ema.safetensors"),
    )
    average = next(each for each in state.profiles if each.std == std).state()
    assert same_tensors(found, {**base, **average})
    assert not same_tensors(found, base)
    assert checkpoint.read_description(out).state == {"step": 10, "num_images": 160, "ema_std": std}
    drawn = checkpoint.load_model(out).sample(prompts=["two"] * 2, steps=2)
    assert drawn.images.shape == (2, 1, 8, 8)
    assert not (out / "profiles.safetensors").exists()
    with pytest.raises(ValueError, match="cannot be resumed"):
        checkpoint.restore_state(state, out)


def test_the_command_takes_another_step(finished, tmp_path):
    """At step 4 the later weights are not used although they exist and no checkpoint of step 4 is left."""
    _, folder = finished
    out = tmp_path / "out"
    assert main(["ema", str(folder), "--std", "0.07", "--step", "4", "--out", str(out)]) == 0
    kept = {each.step: each for each in ema_snapshots.read_snapshots(folder / "profiles")}
    expected = reconstruct_average([*kept[2].averages, *kept[4].averages], 64, 0.07)
    found = load_file(out / "ema.safetensors")
    assert same_tensors({name: found[name] for name in expected}, expected)
    assert checkpoint.read_description(out).step == 4


def test_the_command_names_what_is_wrong(finished, tmp_path, capsys):
    _, folder = finished
    (tmp_path / "taken").mkdir()
    (tmp_path / "bare" / "profiles").mkdir(parents=True)
    (tmp_path / "torn" / "profiles").mkdir(parents=True)
    (tmp_path / "torn" / "profiles" / "step_000000001.safetensors").write_bytes(b"x")
    some = folder / "profiles" / "step_000000010.safetensors"
    (tmp_path / "lonely" / "profiles").mkdir(parents=True)
    (tmp_path / "lonely" / "profiles" / some.name).write_bytes(some.read_bytes())
    for arguments, culprit in (
        ([str(tmp_path / "nowhere"), "--std", "0.07"], "nowhere holds no snapshots"),
        ([str(tmp_path / "bare"), "--std", "0.07"], "train.ema.profiles"),
        ([str(tmp_path / "torn"), "--std", "0.07"], "step_000000001.safetensors is not a snapshot"),
        ([str(tmp_path / "lonely"), "--std", "0.07"], "holds no whole checkpoint"),
        ([str(folder), "--std", "0.3"], "got 0.3"),
        ([str(folder), "--std", "0.01"], "std 0.01 at 160 images is not reachable"),
        ([str(folder), "--std", "0.07", "--step", "5"], "no snapshot of step 5; it has 2, 4, 6, 8, 10"),
    ):
        assert main(["ema", *arguments, "--out", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr().err.strip().splitlines()
        assert len(printed) == 1
        assert culprit in printed[0]
        assert not (tmp_path / "out").exists()
    assert main(["ema", str(folder), "--std", "0.07", "--out", str(tmp_path / "taken")]) == 2
    assert "taken exists already" in capsys.readouterr().err


def test_an_average_says_which_checkpoint_it_passes_over(finished, tmp_path, capsys):
    """The newest checkpoint that is whole to the last byte describes the model."""
    folder = Path(shutil.copytree(finished[1], tmp_path / "small"))
    newest = max(folder.glob("step_*"))
    older = Path(shutil.copytree(newest, folder / checkpoint.checkpoint_name(1)))
    weights = bytearray((newest / "ema.safetensors").read_bytes())
    weights[-5] ^= 1
    (newest / "ema.safetensors").write_bytes(weights)
    shutil.copytree(older, tmp_path / "kept")
    assert main(["ema", str(folder), "--std", "0.07", "--out", str(tmp_path / "averaged")]) == 0
    said = capsys.readouterr().err
    assert f"passed over a damaged checkpoint: ema.safetensors in checkpoint {newest}" in said
    assert f"the newest whole one is {older.name}" in said


def test_remote_storage(finished, tmp_path, monkeypatch):
    """Snapshots are written to and read from a remote file system as from the local one."""
    state, folder = finished
    root = tmp_path / "bucket"
    (root / "runs").mkdir(parents=True)
    remote = pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())

    def reached(path: str):
        return (remote, path.removeprefix("fake://")) if path.startswith("fake://") else open_filesystem(path)

    monkeypatch.setattr(ema_snapshots, "open_filesystem", reached)
    monkeypatch.setattr("raysde.checkpoints.storage.open_filesystem", reached)
    monkeypatch.setattr("raysde.io.filesystems.open_filesystem", reached)
    monkeypatch.setattr("raysde.checkpoints.tensor_files.open_filesystem", reached)
    with pytest.raises(ValueError, match="holds no snapshots"):
        ema_snapshots.export_average("fake://runs/small", tmp_path / "far", 0.07)
    ema_snapshots.write_snapshot("fake://runs/small", state)
    written = root / "runs" / "small" / "profiles"
    assert [path.name for path in written.iterdir()] == ["step_000000010.safetensors"]
    pafs.copy_files(str(folder), str(root / "runs" / "small"), pafs.LocalFileSystem(), pafs.LocalFileSystem())
    assert ema_snapshots.export_average("fake://runs/small", tmp_path / "far", 0.07) == 10
    assert ema_snapshots.export_average(str(folder), tmp_path / "near", 0.07) == 10
    far, near = (load_file(tmp_path / name / "ema.safetensors") for name in ("far", "near"))
    assert same_tensors(far, near)


def test_uris_of_local_folders(kept_recipe, tmp_path):
    """file:// is a URI too."""
    run = open_run(loading.parse_recipe(kept_recipe(storage=f"file://{tmp_path}/runs")))
    RunHooks(run, None, lambda state: None).snapshot(new_state(run, CPU))
    assert steps_of(str(tmp_path / "runs")) == [0]
