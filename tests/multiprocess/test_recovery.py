"""Bad steps of several ranks: all of them decide alike, also after a kill of one."""

import json
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed.fsdp import gather_tensor, has_shards
from raysde.distributed.world import current_world, wrap_module
from raysde.runs.build import make_objective, make_schedule, new_state
from raysde.runs.hooks import RunHooks
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training import loop
from raysde.training.objective import microbatch_loss
from raysde.training.state import TrainState
from tests.support.bad_steps import SETTINGS
from tests.support.ranks import on_ranks

BAD = {6: float("nan"), 13: 1e4}
"""Factors on the loss at plan positions, on one rank alone."""


def spoil(rank: int) -> None:
    """Spoil the losses of rank 1, in this process for good."""

    def spoiled(forward, model, batch, objective, device):
        loss = microbatch_loss(forward, model, batch, objective, device)
        return loss * BAD[batch.step] if rank == 1 and batch.step in BAD else loss

    loop.microbatch_loss = spoiled


def write_weights(state: TrainState, path: Path) -> None:
    tensors = {**state.trained, **{f"{name} ema": value for name, value in state.ema.average.items()}}
    tensors |= {key: value for key, value in state.optimizer_tensors().items() if not key.startswith("step")}
    save_file({name: gather_tensor(value.detach()).clone() for name, value in tensors.items()}, path)


def train_spoiled(rank: int, tree: dict, out: str, kill: int) -> None:
    """Train with the faults; rank 0 is killed after its ``kill``-th step, counting repeated ones; 0 for never."""
    spoil(rank)
    calls: list[int] = []

    def should_stop(self) -> bool:
        calls.append(1)
        if rank == 0 and len(calls) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    RunHooks.should_stop = should_stop
    warnings.simplefilter("ignore")
    state = train_here(open_run(loading.parse_recipe(tree)), None)
    write_weights(state, Path(out, f"weights-{rank}"))
    Path(out, f"{rank}").write_text(json.dumps(state.bad.values()))


def train_without(rank: int, tree: dict, out: str, positions: list[int], skipped: list[int]) -> None:
    """Train on plan positions in a bare loop, and take the steps ``skipped`` without an update."""
    run = open_run(loading.parse_recipe({**tree, "train": {**tree["train"], "on_bad_step": "stop"}}))
    dist.init_process_group("gloo")
    world = current_world()
    state, reader = new_state(run, world.device), Reader(run.manifest)
    forward = state.model if has_shards(state.model) else wrap_module(state.model, world)
    objective, primed = make_objective(run), False
    for position in positions:
        (batches,) = read_batches(run.feed, reader, position, position + 1, world.rank, world.size)
        if not primed:
            loop.warm_up(state, forward, batches[0], objective, world.device)
            primed = True
        if position not in skipped:
            loop.train_step(state, forward, batches, objective, make_schedule(run), world)
            continue
        state.step, state.num_images, state.bad.skipped = state.step + 1, state.num_images + 16, state.bad.skipped + 1
        for profile in state.profiles:
            profile.update(16, state.num_images)
    write_weights(state, Path(out, f"weights-{rank}"))


CASES = {
    "rollback": ([0, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 17], [], {"rollbacks": 2, "skipped": 0}),
    "skip": (list(range(12)), [6], {"rollbacks": 0, "skipped": 1}),
}
"""For each policy: plan positions trained on, those without an update, and the counts."""


@pytest.mark.parametrize(
    ("policy", "strategy", "kill"),
    [("rollback", "ddp", 7), ("skip", "ddp", 8), pytest.param("rollback", "fsdp", 10, marks=pytest.mark.slow)],
)
def test_two_ranks_leave_out_what_is_bad_on_one(recipe, tmp_path, policy, strategy, kill):
    """The weights are those of two ranks that never had the batches, or made no update on them, killed or not."""
    tree = {"train__on_bad_step": policy, "resources__workers": 2, "resources__strategy": strategy}
    trees = [recipe(**SETTINGS, **tree, storage=str(tmp_path / f"runs-{name}")) for name in "ab"]
    folders = [tmp_path / name for name in ("whole", "broken", "bare")]
    for folder in folders:
        folder.mkdir()
    positions, skipped, counts = CASES[policy]
    on_ranks(2, train_spoiled, trees[0], str(folders[0]), 0)
    with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
        on_ranks(2, train_spoiled, trees[1], str(folders[1]), kill)
    on_ranks(2, train_spoiled, trees[1], str(folders[1]), 0)
    on_ranks(2, train_without, trees[0], str(folders[2]), positions, skipped)
    found = [[load_file(folder / f"weights-{rank}") for rank in (0, 1)] for folder in folders]
    for tensors in [each for pair in found for each in pair]:
        assert tensors.keys() == found[2][0].keys()
        for name, value in tensors.items():
            assert torch.equal(value, found[2][0][name]), name
    records = [json.loads((folder / f"{rank}").read_text()) for folder in folders[:2] for rank in (0, 1)]
    assert all(record == records[0] for record in records)
    assert {name: records[0][name] for name in counts} == counts
    last = [checkpoint.find_newest_checkpoint(Path(tree["storage"]) / "small") for tree in trees]
    assert [checkpoint.read_description(folder).state["bad_steps"] for folder in last] == [records[0]] * 2
