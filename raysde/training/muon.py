"""Muon: the matrices of a network step along their orthogonalised momentum, all other parameters as AdamW's."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from raysde.distributed.fsdp import gather_tensor, is_sharded, local_rows

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that drives singular values towards 1 (Jordan et al. 2024, below)."""
ITERATIONS = 5
MOMENTUM = 0.95
LEAST = 32
"""Rows and columns that a matrix has at least; steps of smaller ones cost more than they gain."""
TOGETHER = 1 << 24
"""Elements of matrices that are orthogonalised in one call."""
LIKE_ADAMW = 0.2
"""The root mean square of the elements of an update of AdamW, in units of its learning rate (Liu et al. 2025)."""


class Muon(torch.optim.AdamW):
    """AdamW, but for matrices W [R, C], to which convolutions [R, ...] are flattened:

        M <- momentum M + (1 - momentum) G,    W <- (1 - lr decay) W - 0.2 lr sqrt(max(R, C)) orthogonal(N)

    where G is the gradient and N = momentum M + (1 - momentum) G looks one step ahead (Nesterov). Orthogonalised by
    Jordan et al. 2024 (kellerjordan.github.io/posts/muon), and scaled after Liu et al. 2025 (arXiv 2502.16982, eq. 4),
    so that a learning rate and a decay that suit AdamW suit these steps too.

    Matrices that are sharded in rows are gathered to be orthogonalised, on every rank alike.

    Args:
        matrices: what steps so, see :func:`find_matrices`.
        groups: the parameter groups of everything else.
        lr, betas, weight_decay: AdamW's; the first and the last also the matrices'.
        momentum: of the matrices.
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
        # fused kernels leave out a step of overflown gradients by themselves, and matrices have none
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update; gradients of matrices are cleared on the way."""
        for group in self.param_groups:
            if "momentum" in group:
                for alike in batch_parameters([p for p in group["params"] if p.grad is not None]):
                    self.turn(alike, group["momentum"], group["lr"], group["weight_decay"])
        super().step()

    def turn(self, alike: list[nn.Parameter], momentum: float, lr: float, decay: float) -> None:
        """The update of matrices of one shape."""
        ahead = torch.stack([self.ahead(parameter, momentum).flatten(1) for parameter in alike])
        rate = lr * LIKE_ADAMW * math.sqrt(max(ahead.shape[1:]))
        for parameter, direction in zip(alike, orthogonalise(ahead), strict=True):
            update, mine = direction.to(parameter.dtype).view(parameter.shape), parameter.detach()
            if is_sharded(parameter):
                mine, update = parameter.to_local(), update[slice(*local_rows(parameter))]
            mine.mul_(1.0 - lr * decay).add_(update, alpha=-rate)
            parameter.grad = None  # which is how AdamW knows to leave it alone

    def ahead(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """The whole of a matrix's gradient, averaged up to one step ahead."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(gradient, 1.0 - momentum)
        return gather_tensor(gradient.lerp(state["momentum_buffer"], momentum))


def batch_parameters(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters of one flattened shape together, as many as make ``TOGETHER`` elements: small products of matrices
    cost less in one call, and what is sharded is never gathered all at once."""
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
    """About U V^T of each matrix U S V^T in [N, R, C], in bfloat16: singular values become 0.6 to 1.25, but
    for those below a five-hundredth of the norm, which grow up to 485-fold.

    The iteration of Newton and Schulz with a polynomial that is steep at 0: exact ones are not worth more steps
    (Jordan et al. 2024). A matrix of zeros stays one.
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
    """The trained weights of a network that are matrices of some size, or convolutions over all channels.

    Embeddings and convolutions of channels apart map no vectors to vectors. First and last layers are among them where
    they are large enough: those of RGB pixels are not, those of patches may be.
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
