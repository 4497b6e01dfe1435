"""The optimizer Muon: matrices of the network move along orthogonalised momentum, all other parameters by AdamW."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from raysde.distributed.fsdp import gather_tensor, is_sharded, local_rows

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic polynomial that drives singular values towards 1 (Jordan et al. 2024, see below)."""
ITERATIONS = 5
MOMENTUM = 0.95
LEAST = 32
"""Smallest number of rows and columns of a matrix; smaller ones gain less than the step costs."""
TOGETHER = 1 << 24
"""Maximum number of matrix elements orthogonalised in one call."""
LIKE_ADAMW = 0.2
"""Root mean square of an AdamW update's elements, in units of its learning rate (Liu et al. 2025)."""


class Muon(torch.optim.AdamW):
    """AdamW with a different update of matrices W [R, C], to which convolutions [R, ...] are flattened.

        M <- momentum M + (1 - momentum) G,    W <- (1 - lr decay) W - 0.2 lr sqrt(max(R, C)) orthogonal(N)

    G is the gradient and N = momentum M + (1 - momentum) G looks one step ahead (Nesterov). The orthogonalisation is
    that of Jordan et al. 2024 (kellerjordan.github.io/posts/muon). The scale follows Liu et al. 2025 (arXiv 2502.16982,
    eq. 4), so that AdamW's learning rate and weight decay suit these steps too.

    Matrices sharded in rows are gathered for the orthogonalisation, which every rank repeats.

    Args:
        matrices: parameters with Muon's update, see :func:`find_matrices`.
        groups: parameter groups of all other parameters.
        lr, betas, weight_decay: settings of AdamW; ``lr`` and ``weight_decay`` apply to matrices too.
        momentum: momentum of the matrices.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        momentum: float = MOMENTUM,
    ) -> None:
        chosen: dict[str, Any] = {"params": list(matrices), "momentum": momentum}
        super().__init__([chosen, *groups], lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        # fused kernels skip steps with overflowing gradients themselves, which the matrices' update does not
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update all parameters; gradients of matrices are cleared on the way."""
        for group in self.param_groups:
            if "momentum" in group:
                for alike in batch_parameters([p for p in group["params"] if p.grad is not None]):
                    self.turn(alike, group["momentum"], group["lr"], group["weight_decay"])
        super().step()

    def turn(self, alike: list[nn.Parameter], momentum: float, lr: float, decay: float) -> None:
        """Update matrices of one shape in place, and clear their gradients.

        Args:
            alike: matrices and convolution kernels of one shape, with all dimensions but the first flattened.
            momentum: factor on the old momentum, from 0 to 1.
            lr: learning rate on AdamW's scale.
            decay: decoupled weight decay; weights shrink by lr * decay.
        """
        ahead = torch.stack([self.ahead(parameter, momentum).flatten(1) for parameter in alike])
        rate = lr * LIKE_ADAMW * math.sqrt(max(ahead.shape[1:]))
        for parameter, direction in zip(alike, orthogonalise(ahead), strict=True):
            update, mine = direction.to(parameter.dtype).view(parameter.shape), parameter.detach()
            if is_sharded(parameter):
                mine, update = parameter.to_local(), update[slice(*local_rows(parameter))]
            mine.mul_(1.0 - lr * decay).add_(update, alpha=-rate)
            parameter.grad = None  # makes AdamW skip the parameter

    def ahead(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Update a matrix's momentum, and return the gradient with Nesterov's momentum, gathered from all ranks.

        Args:
            momentum: factor on the old momentum, from 0 to 1.

        Returns:
            A tensor of the full parameter's shape.
        """
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(gradient, 1.0 - momentum)
        return gather_tensor(gradient.lerp(state["momentum_buffer"], momentum))


def batch_parameters(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group parameters of equal flattened shape, at most ``TOGETHER`` elements per group.

    One call for many small matrices is cheaper, and sharded parameters are never gathered all at once.
    """
    result: list[list[nn.Parameter]] = []
    last: dict[tuple[int, int], list[nn.Parameter]] = {}
    for parameter in parameters:
        shape = (parameter.shape[0], parameter.numel() // parameter.shape[0])
        if shape not in last or (len(last[shape]) + 1) * parameter.numel() > TOGETHER:
            last[shape] = []
            result.append(last[shape])
        last[shape].append(parameter)
    return result


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return about U V^T of each matrix U S V^T in [N, R, C], in bfloat16.

    Singular values become 0.6 to 1.25, except for those below a five-hundredth of the norm, which grow up to 485-fold.
    The Newton-Schulz iteration uses a polynomial that is steep at 0, since exact singular values are not worth more
    steps (Jordan et al. 2024). A zero matrix stays zero.
    """
    a, b, c = COEFFICIENTS
    is_wide = matrix.shape[1] <= matrix.shape[2]
    wide = matrix.bfloat16() if is_wide else matrix.bfloat16().mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if is_wide else wide.mT


def find_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return the trained weights of a network that are large matrices, or convolutions over all channels.

    Embeddings and grouped convolutions are excluded, since they do not map vectors to vectors. First and last layers
    are included if they are large enough: those of patches may be, those of RGB pixels are not.
    """
    found: dict[nn.Parameter, None] = {}
    for module in network.modules():
        if isinstance(module, nn.Embedding) or getattr(module, "groups", 1) != 1:
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter.ndim >= 2:
                rows, columns = parameter.shape[0], math.prod(parameter.shape[1:])
                if min(rows, columns) >= LEAST:
                    found[parameter] = None
    return list(found)
