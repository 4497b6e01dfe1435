"""Sharded training (FSDP2) on ranks with gloo: the losses of one process, and checkpoints that any number of ranks
reads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from raysde.checkpoints import checkpoint, storage, writing
from raysde.checkpoints.loading import DamagedCheckpointError, open_verified
from raysde.checkpoints.sharded_tensors import Stored, open_local
from raysde.checkpoints.staging import HostCopies, stage_whole
from raysde.checkpoints.tensor_files import TensorFile, write_file
from raysde.config import loading
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.reader import Reader
from raysde.distributed import fsdp
from raysde.distributed.world import current_world
from raysde.io.hashing import file_hash
from raysde.runs import build
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.hooks import describe_run
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.training import optimizers
from raysde.training.loop import train_step
from raysde.training.objective import microbatch_loss
from tests.support.counted_store import folder_store
from tests.support.ranks import on_ranks
from tests.support.training import Recorded, same_tensors, small_recipe

STEPS, HALF = 6, 3
KINDS = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.PROFILES)


def at(tree: dict, step: int) -> Path:
    return Path(tree["storage"]) / "small" / checkpoint.checkpoint_name(step)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint, unsharded."""
    files = checkpoint.verify_checkpoint(folder).files
    found = {f"ema/{name}": value for name, value in load_file(folder / "ema.safetensors").items()}
    for kind in KINDS:
        parts = Stored(open_local(folder / name) for name in files if name.startswith(kind))
        found |= {f"{kind}/{name}": parts.tensor(name) for name in parts.pieces}
    return found


def state_of(folder: Path) -> dict:
    return checkpoint.read_description(folder).state


class Noted(Recorded):
    """A sink that writes metrics and the last image to disk as they come."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def metrics(self, step, values) -> None:
        with self.path.open("a") as out:
            out.write(json.dumps([step, values]) + "\n")

    def image(self, step, name, image: Image.Image) -> None:
        image.save(self.path.with_suffix(".png"))


def noted(path: Path, key: str) -> dict[int, float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {step: values[key] for step, values in lines if key in values}


def train(tree: dict, path: str) -> None:
    train_here(open_run(loading.parse_recipe(tree)), Noted(path) if current_world().is_first else None)


def steps(tree: dict, count: int) -> dict:
    changed = json.loads(json.dumps(tree))
    loading.set_path(changed, ["train", "length", "steps"], count)
    return changed


def sharded(tree: dict, workers: int = 2) -> dict:
    changed = json.loads(json.dumps(tree))
    loading.set_path(changed, ["resources"], {"workers": workers, "strategy": "fsdp"})
    return changed


def named(tree: dict, folder: Path) -> dict:
    return {**tree, "storage": str(folder)}


def two_ranks(rank: int, tree: dict, out: str) -> None:
    """Run the cases: a whole run, a run begun by one process, the exchanges of a step, fp16, and gathering in bf16."""
    dist.init_process_group("gloo")
    folder = Path(out)
    train(sharded(named(tree, folder / "two")), str(folder / "two.jsonl"))
    train(sharded(named(tree, folder / "one_two")), str(folder / "one_two.jsonl"))
    facts = {**share(sharded(tree)), "stepped": overflow(sharded(tree)), **gathered_in_bf16(sharded(tree))}
    facts |= {"muon": orthogonalised(sharded(tree)), "muon_stepped": overflow(with_muon(sharded(tree)))}
    (folder / f"facts{rank}.json").write_text(json.dumps(facts))


def share(tree: dict) -> dict:
    """Return the number of gradient exchanges in a step of two microbatches, and of values of each kind on the rank."""
    run, world = open_run(loading.parse_recipe(tree)), current_world()
    state, calls, plain = new_state(run, world.device), [], dist.reduce_scatter_single

    def counting(*args, **kwargs):
        calls.append(1)
        return plain(*args, **kwargs)

    batches = next(read_batches(run.feed, Reader(run.manifest), 0, 1, world.rank, world.size))
    dist.reduce_scatter_single = counting
    try:
        train_step(state, state.model, batches, make_objective(run), make_schedule(run), world)
    finally:
        dist.reduce_scatter_single = plain
    tensors = {"weights": state.trained, "moments": state.optimizer_tensors(), "ema": state.ema.state()}
    held = {
        kind: sum(value.detach().to_local().numel() for value in found.values() if fsdp.is_sharded(value))
        for kind, found in tensors.items()
    }
    units = [unit for unit in fsdp.list_units(state.model) if unit is not state.model]
    return {"microbatches": len(batches), "exchanges": len(calls), "units": len(units), **held}


def overflow(tree: dict) -> list[bool]:
    """Return [with, without]: True if the optimizer steps with or without an infinite gradient on the second rank."""
    loading.set_path(tree, ["train", "precision"], "fp16")
    world = current_world()
    state, stepped = new_state(open_run(loading.parse_recipe(tree)), world.device), []
    parameters = list(state.trained.values())
    for spoiled in (True, False):
        state.scaler.scale(torch.ones(()))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        if spoiled and world.rank == 1:
            parameters[0].grad.to_local().fill_(float("inf"))
        stepped.append(optimizers.update_parameters(state.optimizer, state.scaler, parameters, 1.0, 1e-3)[1])
    return stepped


def with_muon(tree: dict) -> dict:
    network = {"kind": "dit", "channels": 36, "blocks": 1, "heads": 2, "patch": 2}
    return {**tree, "network": network, "text": None, "train": {**tree["train"], "optimizer": "muon"}}


def orthogonalised(tree: dict) -> dict:
    """Return the distance that two Muon steps move the weights, and the distance of sharded from unsharded results."""
    ends, begins = [], {}
    for strategy in ("ddp", "fsdp"):
        tree["resources"]["strategy"] = strategy
        state = new_state(open_run(loading.parse_recipe(with_muon(tree))), current_world().device)
        begins = {name: fsdp.gather_tensor(p.detach()).clone() for name, p in state.trained.items()}
        for seed in (0, 1):
            for parameter in state.trained.values():
                parameter.grad = torch.zeros_like(parameter)
                add_noise(parameter.grad.detach(), 1.0, seed)
            optimizers.update_parameters(state.optimizer, state.scaler, list(state.trained.values()), 0.0, 1e-2)
        ends.append({name: fsdp.gather_tensor(p.detach()) for name, p in state.trained.items()})
    held = sum(value.to_local().numel() for key, value in state.optimizer_tensors().items() if "momentum" in key)
    return {
        "momentum": held,
        "moved": [(ends[0][name] - begins[name]).norm().item() for name in ends[0]],
        "apart": [(ends[0][name] - ends[1][name]).norm().item() for name in ends[0]],
    }


def gathered_in_bf16(tree: dict) -> dict:
    """Return training and validation loss of a microbatch in bf16, with weights gathered in bf16 and unsharded."""
    network = {"kind": "dit", "channels": 32, "blocks": 2, "heads": 2, "patch": 2}
    tree = {**tree, "network": network, "text": None}
    loading.set_path(tree, ["train", "precision"], "bf16")
    build.gathered_dtype = lambda run, device: torch.bfloat16  # as on a GPU
    found: dict = {}
    for strategy in ("ddp", "fsdp"):
        loading.set_path(tree, ["resources", "strategy"], strategy)
        run, world = open_run(loading.parse_recipe(tree)), current_world()
        batch = next(read_batches(run.feed, Reader(run.manifest), 0, 1))[0]
        model = stirred(new_state(run, world.device).model)
        seen = []
        model.network.blocks()[0].widen.register_forward_pre_hook(
            lambda module, _, seen=seen: seen.append(str(module.weight.dtype))
        )
        loss = microbatch_loss(model, model, batch, make_objective(run), world.device)
        loss.backward()
        norm = fsdp.gather_tensor(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
        with torch.no_grad():
            validated = make_validator(run, world)(model)["val/loss"]
        found[strategy] = {"loss": loss.item(), "norm": norm.item(), "val": validated, "type": seen[0]}
    return {"bf16": found}


def stirred(model: nn.Module) -> nn.Module:
    """Add the same noise to a model's weights, sharded or not, since gates that are zero would hide its blocks."""
    for parameter in model.parameters():
        add_noise(parameter.detach(), 0.05, parameter.numel())
    return model


def add_noise(tensor: torch.Tensor, scale: float, seed: int) -> None:
    """Add the same noise to a tensor, sharded or not."""
    noise = scale * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    held = slice(*fsdp.local_rows(tensor)) if fsdp.is_sharded(tensor) else slice(None)
    local = tensor.to_local() if fsdp.is_sharded(tensor) else tensor
    local.add_(noise[held])


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """Return runs of one process, of two ranks, and of one process resumed on two ranks."""
    folder = tmp_path_factory.mktemp("sharded")
    tree = small_recipe(
        digits,
        folder,
        train__batch=12,
        train__microbatch=2,
        train__length__steps=STEPS,
        train__ema__profiles=[0.1],
        validation__rows=6,  # three microbatches: two on one rank, one on the other
        validation__every=HALF,
        checkpoint_every=HALF,
        sampling__every=STEPS,
        sampling__count=4,
        sampling__steps=3,
    )
    train(named(tree, folder / "one"), str(folder / "one.jsonl"))
    train(named(steps(tree, HALF), folder / "one_two"), str(folder / "one_two.jsonl"))
    on_ranks(2, two_ranks, tree, str(folder))
    return tree, folder


def same_losses(folder: Path, name: str) -> None:
    for key in ("train/loss", "train/grad_norm", "val/loss"):
        expected, found = noted(folder / "one.jsonl", key), noted(folder / f"{name}.jsonl", key)
        assert found.keys() == expected.keys()
        for step in found:
            assert found[step] == pytest.approx(expected[step], rel=1e-5), (key, step)


def test_losses_are_those_of_one_process(runs):
    """Losses, gradient norms and (with unequal shares of held-out rows) validation metrics agree to 1e-5."""
    _, folder = runs
    same_losses(folder, "two")
    losses = noted(folder / "one.jsonl", "train/loss")
    assert len(losses) == STEPS
    assert len(set(losses.values())) == STEPS


def test_weights_moments_and_averages_are_those_of_one_process(runs):
    tree, folder = runs
    first, second = (stored(at(named(tree, folder / name), STEPS)) for name in ("one", "two"))
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-3, atol=1e-5, msg=key)


def test_all_ranks_draw_the_picture_of_one_process(runs):
    _, folder = runs
    one, two = (np.asarray(Image.open(folder / f"{name}.png")).astype(int) for name in ("one", "two"))
    assert one.std() > 0
    assert np.abs(one - two).max() <= 1


def test_a_run_of_one_process_goes_on_sharded(runs):
    """From 1 to 2 ranks, the losses of the whole run agree to 1e-5."""
    _, folder = runs
    same_losses(folder, "one_two")


def test_a_sharded_run_goes_on_in_one_process(runs, tmp_path):
    """From 2 ranks to 1, where fsdp has nothing to shard, the losses of the whole run agree to 1e-5."""
    tree, folder = runs
    again = sharded(named(tree, tmp_path), workers=1)
    at(again, HALF).parent.mkdir(parents=True)
    shutil.copytree(at(named(tree, folder / "two"), HALF), at(again, HALF))
    train(again, str(tmp_path / "again.jsonl"))
    for key in ("train/loss", "train/grad_norm", "val/loss"):
        expected, found = noted(folder / "one.jsonl", key), noted(tmp_path / "again.jsonl", key)
        assert found
        for step in found:
            assert step > HALF
            assert found[step] == pytest.approx(expected[step], rel=1e-5), (key, step)


def test_an_infinite_gradient_on_one_rank_stops_all(runs):
    """The fp16 gradient scaler skips the step on every rank, so that all ranks keep the same weights."""
    _, folder = runs
    assert [json.loads((folder / f"facts{rank}.json").read_text())["stepped"] for rank in (0, 1)] == [[False, True]] * 2


def test_sharded_matrices_step_as_whole_ones(runs):
    """Muon gathers a matrix to orthogonalise it and keeps its own rows; an overflow skips the step on every rank."""
    _, folder = runs
    ranks = [json.loads((folder / f"facts{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["muon_stepped"] for rank in ranks] == [[False, True]] * 2
    for rank in ranks:
        assert max(rank["muon"]["moved"]) > 0.1
        assert max(rank["muon"]["apart"]) < 1e-6
    held = [rank["muon"]["momentum"] for rank in ranks]
    assert 0 < max(held) < 2 * sum(held) / 3


def test_each_rank_holds_its_rows_alone(runs):
    """The ranks' rows are all rows, and neither rank has two thirds of them; gradients are exchanged once per unit
    and step."""
    tree, folder = runs
    ranks = [json.loads((folder / f"facts{rank}.json").read_text()) for rank in (0, 1)]
    model = checkpoint.load_model(at(named(tree, folder / "one"), STEPS)).score_model
    total = sum(parameter.numel() for parameter in model.parameters())
    for kind, factor in (("weights", 1), ("moments", 2), ("ema", 1)):
        held = [rank[kind] for rank in ranks]
        assert sum(held) == factor * total
        assert max(held) < 2 * factor * total / 3
    assert ranks[0]["microbatches"] == 3
    assert ranks[0]["exchanges"] == ranks[0]["units"]
    assert ranks[0]["units"] > 5


def test_weights_are_gathered_in_bf16(runs):
    """Traffic is halved, and results equal those of autocast up to bfloat16 rounding; evaluation does the same."""
    _, folder = runs
    found = json.loads((folder / "facts0.json").read_text())["bf16"]
    assert [found[strategy]["type"] for strategy in ("ddp", "fsdp")] == ["torch.float32", "torch.bfloat16"]
    tolerance = 16 * torch.finfo(torch.bfloat16).eps
    for key in ("loss", "norm", "val"):
        assert found["fsdp"][key] == pytest.approx(found["ddp"][key], rel=tolerance), key


def reshard(rank: int, tree: dict, folder: str, out: str) -> None:
    """Read a checkpoint and write it again."""
    dist.init_process_group("gloo")
    run, world = open_run(loading.parse_recipe(tree)), current_world()
    state = new_state(run, world.device)
    checkpoint.restore_state(state, Path(folder))
    checkpoint.write_checkpoint(Path(out) / "again", state, *describe_run(run), world)


def test_any_number_of_ranks_reads_what_any_wrote(runs, tmp_path):
    """From 2 to 3 ranks, with rows that three does not divide and ranks without rows, the state is equal to the bit."""
    tree, folder = runs
    source = at(named(tree, folder / "two"), HALF)
    on_ranks(3, reshard, sharded(tree, 3), str(source), str(tmp_path))
    expected = stored(source)
    again = tmp_path / "again"
    assert len(list((again / "weights").iterdir())) == 3
    assert same_tensors(stored(again), expected)
    assert state_of(again) == state_of(source)


def reshard_from_afar(rank: int, tree: dict, place: str, out: str) -> None:
    """Read a checkpoint from an object store, write it again, and write down the bytes that this rank read."""
    dist.init_process_group("gloo")
    run, world = open_run(loading.parse_recipe(tree)), current_world()
    with folder_store(place) as store:
        state, kept = new_state(run, world.device), storage.find_newest_checkpoint(store.uri("runs"), "small")
        names = checkpoint.files_to_load(state, kept.description, kept.path)
        with open_verified(store.uri("runs"), kept, names, world, sharded=True) as files:
            checkpoint.load_state(state, files)
        gets = store.of("GET")
    read = {kind: sum(each.size for each in gets if f"/{kind}" in each.key) for kind in ("ema", *KINDS)}
    Path(out, f"read{rank}.json").write_text(json.dumps(read))
    checkpoint.write_checkpoint(Path(out) / "again", state, *describe_run(run), world)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_read_their_rows_from_an_object_store(runs, tmp_path, ranks):
    """The state is equal to the bit. As many ranks as wrote it read each piece once; others read their rows beside one
    reading of each file to verify it. No rank copies files to its disk."""
    tree, folder = runs
    source = at(named(tree, folder / "two"), HALF)
    shutil.copytree(source, tmp_path / "bucket" / "runs" / "small" / source.name)
    on_ranks(ranks, reshard_from_afar, sharded(tree, ranks), str(tmp_path / "bucket"), str(tmp_path))
    assert same_tensors(stored(tmp_path / "again"), stored(source))
    read = [json.loads((tmp_path / f"read{rank}.json").read_text()) for rank in range(ranks)]
    for kind in ("ema", *KINDS):
        pieces = [source / f"{kind}.safetensors"] if kind == "ema" else list((source / kind).iterdir())
        size = sum(path.stat().st_size for path in pieces)
        headers = ranks * sum(min(2**16, path.stat().st_size) for path in pieces)
        total = sum(each[kind] for each in read)
        if ranks == 2 and kind != "ema":
            assert size <= total <= size + headers  # a rank reads only the header of the other rank's piece
        else:
            counters = ranks * 2**13  # the optimizer's step counters are not sharded, so every rank reads them
            assert size < total <= 2 * size + headers + counters


def test_a_damaged_piece_in_an_object_store_ends_all_ranks(runs, tmp_path):
    """The rank that verifies the file names it, and the others stop with it."""
    tree, folder = runs
    source = at(named(tree, folder / "two"), HALF)
    copy = Path(shutil.copytree(source, tmp_path / "bucket" / "runs" / "small" / source.name))
    piece = copy / "optimizer" / "00002-of-00002.safetensors"
    content = bytearray(piece.read_bytes())
    content[-3] ^= 1
    piece.write_bytes(content)
    on_ranks(2, meet_damage, sharded(tree), str(tmp_path / "bucket"), str(tmp_path))
    faults = [(tmp_path / f"fault{rank}").read_text() for rank in (0, 1)]
    assert all(fault.startswith(f"checkpoint {source.name} is damaged: ") for fault in faults)
    assert "optimizer/00002-of-00002.safetensors" in faults[1]


def meet_damage(rank: int, tree: dict, place: str, out: str) -> None:
    """Write down the error of loading a damaged checkpoint."""
    try:
        reshard_from_afar(rank, tree, place, out)
    except DamagedCheckpointError as error:
        Path(out, f"fault{rank}").write_text(str(error))


def fail_to_write(rank: int, tree: dict, out: str) -> None:
    """Train; the disk of rank 1 is full at the second checkpoint. Write down the error of the run."""
    plain, step = writing.write_file, checkpoint.checkpoint_name(STEPS)

    def write(system, path, parts):
        if rank == 1 and step in path:
            raise OSError("No space left on device")
        return plain(system, path, parts)

    writing.write_file = write
    try:
        train(tree, str(Path(out) / "log.jsonl"))
    except (OSError, RuntimeError) as error:
        Path(out, f"error{rank}").write_text(str(error))


def test_a_rank_that_cannot_write_ends_all_and_its_checkpoint_is_not_seen(runs, tmp_path):
    """Each rank writes beside training, and none takes the checkpoint for whole; the one before stays the newest."""
    tree, _ = runs
    on_ranks(2, fail_to_write, sharded(named(tree, tmp_path)), str(tmp_path))
    errors = [(tmp_path / f"error{rank}").read_text() for rank in (0, 1)]
    assert "another worker could not write its part" in errors[0]
    assert "No space left on device" in errors[1]
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert names == {"profiles", checkpoint.checkpoint_name(HALF)}
    assert checkpoint.verify_checkpoint(tmp_path / "small" / checkpoint.checkpoint_name(HALF)).step == HALF


def test_torch_reads_the_pieces(runs):
    """torch.distributed.checkpoint's own reader finds the same tensors in the sharded folder."""
    import torch.distributed.checkpoint as dcp  # an import at the top would slow the processes of all other tests

    tree, folder = runs
    source = at(named(tree, folder / "two"), STEPS)
    for kind in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        ours = Stored(map(open_local, (source / kind).iterdir()))
        theirs = {name: torch.zeros(ours.shape(name)) for name in ours.pieces}
        dcp.load(theirs, storage_reader=dcp.HuggingFaceStorageReader(str(source / kind)), no_dist=True)
        assert same_tensors(theirs, {name: ours.tensor(name) for name in ours.pieces})


def test_a_sharded_checkpoint_is_a_model(runs, tmp_path):
    """The checkpoint loads and samples, alone and exported, and contains no pickle."""
    tree, folder = runs
    source = at(named(tree, folder / "two"), STEPS)
    assert {path.suffix for path in source.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".txt"}
    checkpoint.export_checkpoint(source, tmp_path / "export")
    assert not {path.name for path in (tmp_path / "export").iterdir()} & set(KINDS)
    checkpoint.verify_checkpoint(tmp_path / "export")
    drawn = [
        checkpoint.load_model(path)
        .sample(prompts=["a handwritten seven", "the digit one"], steps=3, seed=1)
        .images.int()
        for path in (source, tmp_path / "export", at(named(tree, folder / "one"), STEPS))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().max() <= 1


def test_snapshots_for_posthoc_ema_are_whole(runs):
    _, folder = runs
    one, two = (
        load_file(folder / name / "small" / "profiles" / f"{checkpoint.checkpoint_name(STEPS)}.safetensors")
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_or_damaged_piece_is_found(runs, tmp_path, kind):
    tree, folder = runs
    for harm, message in ((Path.unlink, "lacks"), (lambda path: path.write_bytes(b"\0" * 99), "sha256")):
        copy = tmp_path / message / checkpoint.checkpoint_name(STEPS)
        shutil.copytree(at(named(tree, folder / "two"), STEPS), copy)
        harm(copy / kind / "00002-of-00002.safetensors")
        with pytest.raises(ValueError, match=f"{message}.*{kind}/00002|{kind}/00002.*{message}"):
            checkpoint.verify_checkpoint(copy)
        with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
            checkpoint.find_newest_checkpoint(copy.parent)


def test_rows_that_no_file_holds_are_named(runs):
    tree, folder = runs
    pieces = at(named(tree, folder / "two"), STEPS) / "weights"
    second = Stored([open_local(pieces / "00002-of-00002.safetensors")])
    name = next(name for name in second.pieces if second.pieces[name][0].start)
    with pytest.raises(ValueError, match=f"lack row 0 of {name}"):
        second.tensor(name)


def test_whole_tensors_are_written_as_safetensors_has_them(tmp_path):
    """The library's own reader finds every dtype and shape, scalars and empty tensors, and the header's metadata."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{shape}/{dtype}": (100 * torch.rand(shape, generator=generator)).to(dtype)
        for shape in ((), (3,), (2, 5), (0, 4))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    }
    tensors["strided"] = torch.arange(6.0).reshape(2, 3).T
    path = tmp_path / "whole.safetensors"
    copies = HostCopies()
    content = TensorFile(stage_whole(tensors, True, copies), {"key": "value"})
    written = write_file(pafs.LocalFileSystem(), str(path), content.parts)
    assert written == (file_hash(path), path.stat().st_size)
    assert same_tensors(load_file(path), tensors)
    with safe_open(path, "pt") as source:
        assert source.metadata() == {"key": "value"}


class Scalar(nn.Module):
    """A network with a scalar parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))


class Tied(nn.Module):
    """A network whose blocks share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight

    def blocks(self) -> list[nn.Module]:
        return [self.first, self.second]


@pytest.mark.parametrize(("network", "culprit"), [(Scalar, "network.gain: it is a scalar"), (Tied, "share it")])
def test_what_cannot_be_sharded_is_named(recipe, network, culprit):
    model = new_state(open_run(loading.parse_recipe(recipe())), torch.device("cpu")).model
    model.network = network()
    with pytest.raises(ValueError, match=f"resources.strategy=fsdp cannot shard .*{culprit}"):
        fsdp.check_units(model, fsdp.list_units(model))


@pytest.mark.parametrize("workers", [[2, 4], [3, 4], [2, 3]])
def test_unequal_shares_are_refused(recipe, workers):
    """Ranks that gather weights together must run equally many microbatches, for any number of ranks."""
    uneven = recipe(train__batch=16, train__microbatch=4)
    uneven["resources"] = {"workers": workers, "strategy": "fsdp"}
    with pytest.raises(
        ValueError,
        match=r"train\.batch=16 makes 4 microbatches of 4, which 3 workers cannot share equally",
    ):
        loading.parse_recipe(uneven)
    assert loading.parse_recipe({**uneven, "resources": {"workers": workers}}).resources.strategy == "ddp"


def test_compiled_blocks_are_refused(recipe):
    tree = recipe(train__compile=True)
    assert loading.parse_recipe(tree).train.compile
    with pytest.raises(ValueError, match=r"train\.compile=true does not go with resources\.strategy=fsdp"):
        loading.parse_recipe({**tree, "resources": {"workers": 2, "strategy": "fsdp"}})
