"""The loop on several ranks with gloo: the same numbers as one process, and decisions taken by all ranks together."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint
from raysde.conditioning.text import PretrainedText
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shards import distinct_captions
from raysde.distributed import agreement
from raysde.distributed.world import World, current_world
from raysde.runs import sources
from raysde.runs.build import make_objective, make_schedule, new_state, sample_captions
from raysde.runs.hooks import RunHooks
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training import clock
from raysde.training.loop import fit
from tests.support.ranks import on_ranks, train
from tests.support.training import same_tensors


class Losses:
    """A sink that appends the loss of each step to a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def metrics(self, step, values) -> None:
        if "train/loss" in values:
            with open(self.path, "a") as out:
                out.write(json.dumps([step, values["train/loss"]]) + "\n")

    def image(self, *_) -> None:
        pass


def train_and_note(rank: int, tree: dict, path: str) -> None:
    train_here(open_run(loading.parse_recipe(tree)), Losses(path) if rank == 0 else None)


def train_and_crash(rank: int, tree: dict, at: int) -> None:
    """Train; rank 0 dies after step ``at`` as by SIGKILL, and the others end with the broken connection."""

    class Dying:
        def metrics(self, step, values) -> None:
            if step == at:
                os._exit(17)

        def image(self, *_) -> None:
            pass

    train_here(open_run(loading.parse_recipe(tree)), Dying() if rank == 0 else None)


def tensors_at(tree: dict, step: int) -> dict:
    folder = Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(step)
    return {
        f"{path.name}/{key}": value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()
    }


def test_two_ranks_are_one_process_on_the_joined_batch(recipe, tmp_path):
    """Microbatches, rows and noise are equal: weights agree to summation order after three steps."""
    shared = {"train__microbatch": 4, "train__length__steps": 3, "validation__rows": 24, "validation__every": 3}
    one = recipe(**shared, storage=str(tmp_path / "one"))
    two = recipe(**shared, storage=str(tmp_path / "two"), resources__workers=2)
    train_here(open_run(loading.parse_recipe(one)), None)
    on_ranks(2, train, two)
    first, second = tensors_at(one, 3), tensors_at(two, 3)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=2e-6, msg=key)
    states = [
        json.loads((Path(t["storage"]) / "small" / checkpoint.checkpoint_name(3) / "checkpoint.json").read_text())[
            "state"
        ]
        for t in (one, two)
    ]
    assert states[0]["best"] == pytest.approx(states[1]["best"], rel=1e-5)


def test_three_ranks_resume_to_the_bit(recipe, tmp_path):
    """DDP rebuilds its buckets after the first backward pass; with three ranks another layout gives another sum."""
    shared = {"train__batch": 12, "resources__workers": 3, "train__length__steps": 6, "checkpoint_every": 3}
    whole = recipe(**shared, storage=str(tmp_path / "whole"))
    broken = recipe(**shared, storage=str(tmp_path / "broken"))
    on_ranks(3, train, whole)
    with pytest.raises(mp.ProcessExitedException):
        on_ranks(3, train_and_crash, broken, 5)
    assert checkpoint.find_newest_checkpoint(tmp_path / "broken" / "small").name == checkpoint.checkpoint_name(3)
    on_ranks(3, train, broken)
    assert same_tensors(tensors_at(whole, 6), tensors_at(broken, 6))


def stop_on_one(rank: int, tree: dict, out: str) -> None:
    """Train; only rank 1 is asked to stop, and the ranks compare notes after each step."""
    agreement.SECONDS = 0.0
    run = open_run(loading.parse_recipe(tree))
    dist.init_process_group("gloo")
    world = current_world()
    state = new_state(run, world.device)
    batches = read_batches(run.feed, Reader(run.manifest), 0, run.steps, world.rank, world.size)
    hooks = RunHooks(run, None, lambda state: None, lambda: rank == 1 and state.step >= 2)
    fit(state, batches, make_objective(run), make_schedule(run), hooks, world)
    Path(out, f"{rank}").write_text(str(state.step))


def test_all_ranks_stop_together(recipe, tmp_path):
    on_ranks(2, stop_on_one, recipe(resources__workers=2, train__length__steps=6), str(tmp_path))
    assert [Path(tmp_path, str(rank)).read_text() for rank in (0, 1)] == ["3", "3"]


def agree(rank: int, out: str) -> None:
    """Count steps until the ranks agree to stop, which rank 1 wants after step 150; ranks differ in speed."""
    dist.init_process_group("gloo")
    agreed = agreement.Agreement(current_world())
    for step in range(1, 1000):
        time.sleep(0.002 * (1 + rank + step % 3))
        if agreed.any(rank == 1 and step >= 150):
            break
    Path(out, f"{rank}").write_text(f"{step} {agreed.count}")


def test_ranks_agree_on_the_step_with_few_exchanges(tmp_path):
    """They exchange at most twice a second, and at least every hundred steps."""
    on_ranks(2, agree, str(tmp_path))
    first, second = (Path(tmp_path, str(rank)).read_text() for rank in (0, 1))
    assert first == second
    step, count = map(int, first.split())
    assert 150 < step <= 150 + agreement.MOST + 2
    assert count <= step / 10


def save_by_time(rank: int, tree: dict, out: str) -> None:
    """Train with a clock of 4 s a step on rank 0 and of 100 s on rank 1, and write down the steps of checkpoints."""
    run = open_run(loading.parse_recipe(tree))
    dist.init_process_group("gloo")
    world = current_world()
    state, saved = new_state(run, world.device), []
    seconds = 100.0 if rank else 4.0
    clock.time = SimpleNamespace(monotonic=lambda: seconds * state.step, perf_counter=time.perf_counter)
    batches = read_batches(run.feed, Reader(run.manifest), 0, run.steps, world.rank, world.size)
    hooks = RunHooks(run, None, lambda state: saved.append(state.step))
    fit(state, batches, make_objective(run), make_schedule(run), hooks, world)
    Path(out, f"{rank}").write_text(json.dumps(saved))


def test_all_ranks_save_by_the_clock_of_the_first(recipe, tmp_path):
    """Every 10 s of rank 0's clock and at the end, at steps whose metrics are logged."""
    tree = recipe(resources__workers=2, train__length__steps=10, log_every=2, checkpoint_every="10s", text=None)
    on_ranks(2, save_by_time, tree, str(tmp_path))
    assert [json.loads(Path(tmp_path, str(rank)).read_text()) for rank in (0, 1)] == [[4, 8, 10]] * 2


def fail_on_one(rank: int, tree: dict, out: str) -> None:
    """Train with a damaged image of rank 1 in step 1, and write down the error of each rank."""
    run = open_run(loading.parse_recipe(tree))
    dist.init_process_group("gloo")
    world = current_world()
    state = new_state(run, world.device)
    batches = list(read_batches(run.feed, Reader(run.manifest), 0, run.steps, world.rank, world.size))
    if rank == 1:
        object.__setattr__(batches[1][0], "images", torch.full((8, 1, 8, 8), float("nan")))
    hooks = RunHooks(run, None, lambda state: None)
    try:
        fit(state, iter(batches), make_objective(run), make_schedule(run), hooks, world)
    except FloatingPointError as error:
        Path(out, f"{rank}").write_text(str(error))


def test_a_bad_loss_on_one_rank_ends_all(recipe, tmp_path):
    on_ranks(2, fail_on_one, recipe(resources__workers=2, train__length__steps=4, log_every=4), str(tmp_path))
    messages = [Path(tmp_path, str(rank)).read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "at step 2" in messages[0]


def note_captions(rank: int, tree: dict, out: str) -> None:
    """Write down how often this rank read the captions of the data set, and which it has."""
    run, reads = open_run(loading.parse_recipe(tree)), []
    sources.distinct_captions = lambda *arguments: reads.append(rank) or distinct_captions(*arguments)
    dist.init_process_group("gloo")
    Path(out, f"{rank}").write_text(json.dumps([len(reads), sample_captions(run, current_world()), len(reads)]))


def test_one_rank_reads_the_captions_and_all_have_them(recipe, digits, tmp_path):
    """Each rank trains the tokenizer on the same captions; with a tokenizer that is trained already, no other reads."""
    tree = recipe(resources__workers=3, train__batch=24, text={"kind": "scratch"})
    on_ranks(3, note_captions, tree, str(tmp_path))
    expected = distinct_captions(digits, 1000)
    assert len(expected) > 10
    found = [json.loads(Path(tmp_path, str(rank)).read_text()) for rank in range(3)]
    assert found == [[0, expected, 1], [0, expected, 0], [0, expected, 0]]
    run = open_run(loading.parse_recipe(tree))
    trained = SimpleNamespace(spec=SimpleNamespace(text=PretrainedText(path="anything")), sources=run.sources)
    assert sample_captions(trained, World(rank=1, size=2)) == []
    assert sample_captions(trained, World(rank=0, size=2)) == expected


def count_exchanges(rank: int, tree: dict, out: str) -> None:
    """Count the gradient all-reduces of one step with four microbatches per rank."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from raysde.distributed.world import wrap_module
    from raysde.training.loop import train_step

    run = open_run(loading.parse_recipe(tree))
    dist.init_process_group("gloo")
    world = current_world()
    state = new_state(run, world.device)
    forward = wrap_module(state.model, world)
    calls = []

    def counting(group, bucket):
        calls.append(bucket.index())
        return allreduce_hook(group, bucket)

    forward.register_comm_hook(None, counting)
    batches = next(read_batches(run.feed, Reader(run.manifest), 0, 1, world.rank, world.size))
    train_step(state, forward, batches, make_objective(run), make_schedule(run), world)
    Path(out, f"{rank}").write_text(f"{len(batches)} {calls.count(0)}")


def test_accumulation_exchanges_gradients_once(recipe, tmp_path):
    on_ranks(2, count_exchanges, recipe(resources__workers=2, train__microbatch=2), str(tmp_path))
    assert {Path(tmp_path, str(rank)).read_text() for rank in (0, 1)} == {"4 1"}


def test_the_world_may_change_at_every_restart(recipe, tmp_path):
    """With 1, 2, 4 and 2 ranks in turn, the losses of 24 steps equal those of one process to 1e-5, and the rows are
    equal."""
    shared = {"train__microbatch": 4, "train__warmup": 3, "train__lr": 3e-3, "checkpoint_every": 100}
    one = recipe(**shared, storage=str(tmp_path / "one"), train__length__steps=24)
    train_and_note(0, one, str(tmp_path / "one.jsonl"))
    for world, steps in ((1, 5), (2, 11), (4, 18), (2, 24)):
        tree = recipe(**shared, storage=str(tmp_path / "many"), train__length__steps=steps, resources__workers=world)
        if world == 1:
            train_and_note(0, tree, str(tmp_path / "many.jsonl"))
        else:
            on_ranks(world, train_and_note, tree, str(tmp_path / "many.jsonl"))
    expected, found = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in ("one", "many")
    )
    assert [step for step, _ in found] == [step for step, _ in expected] == list(range(1, 25))
    first, last = (sum(loss for _, loss in part) for part in (expected[:6], expected[-6:]))
    assert last < 0.9 * first
    for (step, loss), (_, other) in zip(expected, found, strict=True):
        assert other == pytest.approx(loss, rel=1e-5), step
