"""User-written losses, optimizers and learning-rate schedules, named in the recipe."""

import inspect
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from raysde.io.own_code import External, OwnCodeError
from raysde.training.losses import ElementLoss
from raysde.training.optimizers import Rule


@dataclass(frozen=True, kw_only=True)
class ExternalLoss(External):
    """A loss of your own: a function that returns loss(error, log_snr), the loss of each value.

    ``error`` [B, C, H, W] is the error of the predicted noise, eps_hat - eps, and ``log_snr`` [B, 1, 1, 1] the log-SNR
    of each image. The result [B, C, H, W] is the loss of each value, to which ``train.reduction`` and the correction of
    ``train.times`` apply.
    """

    key: ClassVar[str] = "train.weighting"

    def build(self) -> ElementLoss:
        """Import and call the factory; raise ValueError if that fails, or later if the loss raises an exception."""
        return self.make_function()


@dataclass(frozen=True, kw_only=True)
class ExternalOptimizer(External):
    """An optimizer of your own: a torch.optim.Optimizer class, or a function that returns one.

    It is called with ``kwargs`` and, where its signature has them, ``params`` (the parameter groups), ``lr`` and
    ``weight_decay``. Checkpoints keep tensors and numbers of its state, and numbers of its groups.
    """

    key: ClassVar[str] = "train.optimizer"

    def build(self, groups: Iterable[dict[str, Any]], *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """Import and call the factory.

        Raises:
            ValueError: if the name cannot be imported, or the result is not an optimizer whose step needs no closure.
        """
        optimizer = self.make_object(params=list(groups), lr=lr, weight_decay=weight_decay)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise OwnCodeError(f"{self.name} made a {type(optimizer).__name__}, not a torch.optim.Optimizer")
        try:
            inspect.signature(optimizer.step).bind()
        except TypeError as error:
            raise OwnCodeError(
                f"{self.name} made a {type(optimizer).__name__} whose step cannot be called without arguments "
                f"({error}); choose an optimizer that needs no closure"
            ) from error
        optimizer.step = self.guard(optimizer.step)  # type: ignore[method-assign]
        return optimizer


@dataclass(frozen=True, kw_only=True)
class ExternalSchedule(External):
    """A learning-rate schedule of your own: a function that returns factor(progress, updates).

    ``progress`` is the finished fraction of the run, from 0 to 1, and ``updates`` the number of updates so far. The
    factor multiplies the learning rate after its warm-up.
    """

    key: ClassVar[str] = "train.decay"

    def build(self) -> Rule:
        """Import and call the factory.

        Raises:
            ValueError: if that fails; and from the schedule, if it raises an exception or returns no finite number.
        """
        rule = self.make_function()

        def factor(progress: float, updates: int) -> float:
            value = rule(progress, updates)
            try:
                found = math.nan if isinstance(value, str | bytes) else float(value)
            except (TypeError, ValueError, RuntimeError):
                found = math.nan
            if not math.isfinite(found):
                raise OwnCodeError(
                    f"{self.name} gave {reprlib.repr(value)} at progress {progress:g} after {updates} updates, "
                    "expected a finite number"
                )
            return found

        return factor
