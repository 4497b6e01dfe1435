"""Everything that training changes, in one object, and its two forms: tensors and plain values."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raysde.models.score import ScoreModel
from raysde.training.ema import Ema
from raysde.training.posthoc_ema import PowerEma

MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")


@dataclass
class TrainState:
    """Model, average, optimiser and counters.

    Attributes:
        step: global batches seen; the data cursor.
        num_images: images seen.
        updates: optimiser updates made (steps that the scaler skipped are not counted).
        rows_digest: a hash over the row numbers that this rank has trained on, in order: equal digests, equal rows.
        pending: (loss, gradient norm, learning rate) of steps that are not yet logged.
        best, stale: lowest validation loss, and validations since then, for early stopping.
        stopped: whether early stopping ended the run.
        profiles: further averages, from which one of any length is put together afterwards.
    """

    model: ScoreModel
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    num_images: int = 0
    updates: int = 0
    rows_digest: str = ""
    pending: list[tuple[Any, Any, float]] = field(default_factory=list)
    best: float = float("inf")
    stale: int = 0
    stopped: bool = False
    profiles: list[PowerEma] = field(default_factory=list)

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def saw(self, rows: np.ndarray) -> None:
        """Takes the rows of a microbatch into the digest."""
        words = np.ascontiguousarray(rows, dtype="<i8").tobytes()
        self.rows_digest = hashlib.blake2b(self.rows_digest.encode() + words, digest_size=16).hexdigest()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments as ``exp_avg/NAME`` and so on; empty before the first update."""
        result = {}
        for name, parameter in self.trained.items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                result[f"{moment}/{name}"] = value
        return result

    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Restores what :meth:`optimizer_tensors` gave."""
        for name, parameter in self.trained.items():
            found = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS if f"{moment}/{name}" in tensors}
            for moment, value in found.items():
                # the fused kernel wants moments laid out as the parameter is, and its step counter beside them
                place = torch.empty((), device=parameter.device) if moment == "step" else torch.empty_like(parameter)
                self.optimizer.state[parameter][moment] = place.detach().copy_(value)

    def profile_tensors(self) -> dict[str, Tensor]:
        """The averages of ``profiles`` as ``STD/NAME``."""
        return {f"{profile.std}/{name}": value for profile in self.profiles for name, value in profile.state().items()}

    def load_profiles(self, tensors: dict[str, Tensor]) -> None:
        """Restores what :meth:`profile_tensors` gave; stds, names and shapes must agree."""
        for profile in self.profiles:
            prefix = f"{profile.std}/"
            profile.load({name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)})

    def values(self) -> dict[str, Any]:
        """The counters as JSON values."""
        return {
            "step": self.step,
            "num_images": self.num_images,
            "updates": self.updates,
            "rows_digest": self.rows_digest,
            "pending": [[float(loss), float(norm), lr] for loss, norm, lr in self.pending],
            "best": self.best if self.best < float("inf") else None,
            "stale": self.stale,
            "stopped": self.stopped,
            "scaler": self.scaler.state_dict(),
        }

    def load_values(self, values: dict[str, Any]) -> None:
        """Restores what :meth:`values` gave."""
        self.step, self.num_images, self.updates = values["step"], values["num_images"], values["updates"]
        self.rows_digest = values["rows_digest"]
        self.pending = [(loss, norm, lr) for loss, norm, lr in values["pending"]]
        self.best = float("inf") if values["best"] is None else values["best"]
        self.stale, self.stopped = values["stale"], values["stopped"]
        if values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
