"""Mistakes in raysde/distributed/."""

from tools.mutants.mutant import Mutant

GLOO = "tests/multiprocess/test_gloo.py"
SHARDED = "tests/multiprocess/test_sharded.py"

MUTANTS = [
    Mutant("gradients exchanged with every microbatch", "raysde.distributed.fsdp:exchange_gradients", "forward.set_requires_gradient_sync(last)", "forward.set_requires_gradient_sync(True)", SHARDED + " -k 'rows_alone'"),
    Mutant("the last gradients left at home", "raysde.distributed.fsdp:exchange_gradients", "forward.set_requires_gradient_sync(last)", "forward.set_requires_gradient_sync(not last)", SHARDED + " -k 'losses_are'"),
    Mutant("the whole network gathered at once", "raysde.distributed.fsdp:list_units", "blocks = network.blocks() if isinstance(network, Repeating) else []", "blocks: list[nn.Module] = []", SHARDED + " -k 'rows_alone'"),
    Mutant("rows dealt out by the floor", "raysde.distributed.fsdp:local_rows", "each = -(-rows // mesh.size())", "each = max(1, rows // mesh.size())", SHARDED + " -k 'any_number or moments'"),
    Mutant("weights gathered in float32 always", "raysde.distributed.fsdp:shard_model", "param_dtype=None if dtype == torch.float32 else dtype", "param_dtype=None", SHARDED + " -k 'bf16'"),
    Mutant("a scalar sharded", "raysde.distributed.fsdp:check_units", "if parameter.ndim == 0:", "if parameter.ndim < 0:", SHARDED + " -k 'cannot_be_sharded'"),
    Mutant("a rank that leaves without the others", "raysde.distributed.agreement:Agreement.any", "            if agreed:", "            if flag:", GLOO + " -k 'agree'"),
    Mutant("an exchange at every step", "raysde.distributed.agreement:Agreement.any", "min(MOST, math.floor(SECONDS / seconds))", "0", GLOO + " -k 'agree'"),
]  # fmt: skip
