"""Fully sharded data parallelism (FSDP2): each rank holds its rows of all weights, gradients, moments and averages.

Each block of the network is gathered for its forward and its backward pass, and sharded again afterwards (Zhao et al.
2023, arXiv 2304.11277). Every rank computes the same losses as under DistributedDataParallel.
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
    """Shard the parameters of ``model`` over the ranks in place, and move it to the rank's device unit by unit.

    All ranks start from the same weights, which stay float32; gradients are averaged in float32.

    Args:
        dtype: dtype in which weights are gathered. Weights that autocast would cast are cast before the transfer,
            without a second copy beyond their block; weights that autocast keeps in float32 are rounded too.

    Raises:
        ValueError: naming a parameter that cannot be sharded.
    """
    # torch.distributed.tensor takes a second to import, which unsharded runs and commands avoid
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    parts = list_units(model)
    check_units(model, parts)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)  # fully_shard moves parameters there
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for unit in parts:
        # validation calls units by themselves, and they must be sharded again afterwards
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def list_units(model: ScoreModel) -> list[nn.Module]:
    """Return the modules to gather one at a time, inner ones first: all that are called alone, and the model."""
    network = model.network
    blocks = network.blocks() if isinstance(network, Repeating) else []
    others = [*model.conditioner.children(), *([] if model.uncertainty is None else [model.uncertainty])]
    return [*(block for block in blocks if block is not network), network, *others, model]


def check_units(model: ScoreModel, parts: list[nn.Module]) -> None:
    """Raise ValueError for a scalar parameter, or one that two units share."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    owners: dict[nn.Parameter, nn.Module] = {}
    claimed: set[nn.Module] = set()
    for unit in parts:
        mine = set(unit.modules()) - claimed
        claimed |= mine
        for parameter in (each for module in mine for each in module.parameters(recurse=False)):
            refused = f"resources.strategy=fsdp cannot shard {names[parameter]}"
            if owners.setdefault(parameter, unit) is not unit:
                raise ValueError(f"{refused}: several of the network's blocks share it; set resources.strategy=ddp")
            if parameter.ndim == 0:
                raise ValueError(f"{refused}: it is a scalar; give it the shape (1,)")


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return True if the rows of a tensor, of any shape, are distributed over ranks."""
    return hasattr(tensor, "placements")


def has_shards(module: nn.Module) -> bool:
    """Return True if the parameters of a module are sharded; either all of them are or none."""
    first = next(module.parameters(), None)
    return first is not None and is_sharded(first)


def local_rows(tensor: "DTensor") -> tuple[int, int]:
    """Return this rank's rows [start, stop) of a sharded tensor: equal shares, the last ones shorter or empty."""
    mesh, rows = tensor.device_mesh, tensor.shape[0]
    each = -(-rows // mesh.size())
    start = min(mesh.get_local_rank() * each, rows)
    return start, start + tensor.to_local().shape[0]


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, of its global shape, on every rank. All ranks must call it if the tensor is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def exchange_gradients(forward: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context whose backward pass averages gradients over ranks if it is the ``last`` of a step."""
    if isinstance(forward, DistributedDataParallel):
        return contextlib.nullcontext() if last else forward.no_sync()
    if has_shards(forward):
        forward.set_requires_gradient_sync(last)  # type: ignore[operator]
    return contextlib.nullcontext()


def autocast_evaluation(model: nn.Module, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Return autocast to ``dtype`` for a sharded model whose weights are gathered in it; else a null context."""
    if dtype == torch.float32 or not has_shards(model):
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype)
