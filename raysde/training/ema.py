"""Moving averages of the weights, with lengths counted in images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def ema_decay(batch: int, num_images: int, half_life: float, rampup: float) -> float:
    """Return the factor on the old average in the update after ``batch`` more images.

    The half-life is at most ``rampup`` times the images seen so far, so that early averages forget the initial weights
    (Karras et al. 2022, training loop, rampup 0.05).

    Args:
        batch: number of images in the update.
        num_images: number of images seen so far, with these.
        half_life: number of images after which a weight's share in the average has halved.
        rampup: fraction of ``num_images``; 0 for a constant half-life.
    """
    length = min(half_life, rampup * num_images) if rampup > 0.0 else half_life
    share: float = 0.5 ** (batch / max(length, 1e-8))
    return share


class Average(ABC):
    """The base class of moving averages of a module's trainable weights; a subclass defines the decay factor.

    Args:
        module: module whose trainable parameters are averaged, each in its own shape and dtype.
    """

    def __init__(self, module: nn.Module) -> None:
        self.live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    @abstractmethod
    def decay_factor(self, batch: int, num_images: int) -> float:
        """Return the factor d on the old average after a step on ``batch`` images, ``num_images`` in all."""

    @torch.no_grad()
    def update(self, batch: int, num_images: int) -> None:
        """Set average <- d average + (1 - d) weights after a step on ``batch`` images, ``num_images`` in all."""
        weight = 1.0 - self.decay_factor(batch, num_images)
        torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), weight)

    @contextmanager
    def swap_weights(self) -> Iterator[None]:
        """Return a context in which the module holds the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Return the averaged weights by name, each of its weight's shape."""
        return dict(self.average)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the averaged weights from the tensors of :meth:`state`, each of its weight's shape.

        Raises:
            ValueError: if the tensors' names differ from the weights'.
        """
        if set(tensors) != set(self.average):
            raise ValueError(f"EMA weights do not fit the model: {sorted(set(tensors) ^ set(self.average))[:3]} ...")
        for name, value in tensors.items():
            self.average[name].copy_(value)


class Ema(Average):
    """The exponential moving average.

    Args:
        module: see :class:`Average`.
        half_life: number of images after which an old weight's contribution has halved.
        rampup: see :func:`ema_decay`.
    """

    def __init__(self, module: nn.Module, *, half_life: float, rampup: float) -> None:
        super().__init__(module)
        self.half_life, self.rampup = half_life, rampup

    def decay_factor(self, batch: int, num_images: int) -> float:
        return ema_decay(batch, num_images, self.half_life, self.rampup)
