"""Fully sharded data parallelism: each rank holds its rows of every weight, gradient, moment and average (FSDP2).

A block of the network is gathered when it runs, forward and backward, and let go again (Zhao et al. 2023, arXiv
2304.11277). What a rank computes, and so every loss, is what it computes under DistributedDataParallel.
"""

import contextlib
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raysde.distributed.world import World
from raysde.models.score import ScoreModel
from raysde.networks.protocol import Repeating

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard_model(model: ScoreModel, world: World, dtype: torch.dtype = torch.float32) -> None:
    """Shards the parameters of ``model`` over the ranks, in place, and moves it to the rank's device unit by unit.

    Every rank comes with the same weights, which stay float32; gradients are averaged in float32.

    Args:
        dtype: in which weights are gathered. What autocast would cast is cast before it travels, and no second copy
            outlives its block; weights that autocast leaves in float32 are rounded too.

    Raises:
        ValueError: naming a parameter that cannot be sharded.
    """
    # torch.distributed.tensor takes a second to import, which unsharded runs and commands do without
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    parts = list_units(model)
    check_units(model, parts)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)  # where fully_shard moves what it shards
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for unit in parts:
        # also what is called by itself, in validation, is to be sharded again after it
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def list_units(model: ScoreModel) -> list[nn.Module]:
    """What is gathered at a time, inner modules first: everything that is called by itself is one, and the model."""
    network = model.network
    blocks = network.blocks() if isinstance(network, Repeating) else []
    others = [*model.conditioner.children(), *([] if model.uncertainty is None else [model.uncertainty])]
    return [*(block for block in blocks if block is not network), network, *others, model]


def check_units(model: ScoreModel, parts: list[nn.Module]) -> None:
    """Raises ValueError for a parameter without rows, or one that two units share."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    owners: dict[nn.Parameter, nn.Module] = {}
    claimed: set[nn.Module] = set()
    for unit in parts:
        mine = set(unit.modules()) - claimed
        claimed |= mine
        for parameter in (each for module in mine for each in module.parameters(recurse=False)):
            refused = f"resources.strategy=fsdp cannot shard {names[parameter]}"
            if owners.setdefault(parameter, unit) is not unit:
                raise ValueError(f"{refused}: several of the network's blocks share it")
            if parameter.ndim == 0:
                raise ValueError(f"{refused}: it is a scalar; give it the shape (1,)")


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether several ranks hold a tensor in rows."""
    return hasattr(tensor, "placements")


def has_shards(module: nn.Module) -> bool:
    """Whether the parameters of a module are sharded: all of them are, or none."""
    first = next(module.parameters(), None)
    return first is not None and is_sharded(first)


def local_rows(tensor: "DTensor") -> tuple[int, int]:
    """The rows [start, stop) of a sharded tensor that this rank holds: equal shares, the last ones shorter or empty."""
    mesh, rows = tensor.device_mesh, tensor.shape[0]
    each = -(-rows // mesh.size())
    start = min(mesh.get_local_rank() * each, rows)
    return start, start + tensor.to_local().shape[0]


def gather_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor on every rank; called by all of them if it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def exchange_gradients(forward: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Within the context, a backward pass averages gradients over ranks if it is the ``last`` of a step."""
    if isinstance(forward, DistributedDataParallel):
        return contextlib.nullcontext() if last else forward.no_sync()
    if has_shards(forward):
        forward.set_requires_gradient_sync(last)  # type: ignore[operator]
    return contextlib.nullcontext()


def autocast_evaluation(model: nn.Module, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Autocast to ``dtype`` around the evaluation of a model whose weights are gathered in it; else nothing."""
    if dtype == torch.float32 or not has_shards(model):
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype)
