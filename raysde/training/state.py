"""The complete training state, and its two serialised forms: tensors and plain values."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raysde.models.score import ScoreModel
from raysde.training.bad_steps import BadSteps
from raysde.training.beside import KEY, OpenMeasurements
from raysde.training.ema import Ema
from raysde.training.muon import Muon
from raysde.training.posthoc_ema import PowerEma

NUMBER = ":number"
"""Suffix of optimizer state that is a plain number."""


@dataclass
class TrainState:
    """Model, averages, optimizer and counters of a training run.

    Attributes:
        model, ema: the network that is trained, and the moving average of its weights.
        step: number of global batches seen, without those that were passed over.
        num_images: number of images seen.
        updates: number of optimizer updates, without bad steps and steps that the gradient scaler skipped.
        rows_digest: hash over this rank's row numbers in training order.
        pending: (loss, gradient norm, learning rate) of steps that are not yet logged.
        best, stale: lowest cost, see :class:`raysde.training.ranking.Ranking`, and number of measurements since then,
            for early stopping.
        stopped: True if the run ended early.
        profiles: averages for post-hoc EMA.
        bad: record of the bad steps.
        beside: measurements beside training that decisions have not used yet.
        measured: step of the last measurement of the averaged weights, and its metrics.
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
    bad: BadSteps = field(default_factory=BadSteps)
    beside: OpenMeasurements = field(default_factory=OpenMeasurements)
    measured: tuple[int, dict[str, float | None]] = (-1, {})

    @property
    def position(self) -> int:
        """Plan position of the next global batch, which is the data cursor."""
        return self.bad.position(self.step)

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics of the averaged weights at this step; empty if they were not measured here."""
        return self.measured[1] if self.measured[0] == self.step else {}

    def note_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record metrics of the averaged weights at this step, which its checkpoint stores; JSON has no infinity."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.measured = (self.step, {**self.metrics, **finite})

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def note_rows(self, rows: np.ndarray) -> None:
        """Add the row numbers of a microbatch, int64 [B], to the digest of all rows so far."""
        words = np.ascontiguousarray(rows, dtype="<i8").tobytes()
        self.rows_digest = hashlib.blake2b(self.rows_digest.encode() + words, digest_size=16).hexdigest()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as tensors named ``exp_avg/NAME`` and so on; empty before the first update.

        A moment has the shape of the weight NAME, a counter is a scalar.

        Raises:
            ValueError: if a user-written optimizer keeps state other than tensors and numbers.
        """
        result = {}
        for name, parameter in self.trained.items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, int | float):
                    kind = torch.float64 if isinstance(value, float) else torch.int64
                    result[f"{moment}{NUMBER}/{name}"] = torch.tensor(value, dtype=kind)
                elif isinstance(value, Tensor):
                    result[f"{moment}/{name}"] = value
                elif value is not None:
                    raise ValueError(
                        f"train.optimizer: its state {moment!r} is a {type(value).__name__}, which a checkpoint "
                        "cannot store; use tensors or numbers"
                    )
        return result

    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Restore the optimizer's state from the tensors, and shapes, of :meth:`optimizer_tensors`.

        Names without a weight are ignored.
        """
        on_device = {
            parameter: bool(group.get("fused") or group.get("capturable"))
            for group in self.optimizer.param_groups
            for parameter in group["params"]
        }
        for key, value in tensors.items():
            moment, _, name = key.partition("/")
            parameter = self.trained.get(name)
            if parameter is None:
                continue
            if moment.endswith(NUMBER):
                self.optimizer.state[parameter][moment.removesuffix(NUMBER)] = value.item()
                continue
            # kernels need moments in the parameter's memory layout; step counters are on its device for fused kernels
            # and on the CPU for others
            device = parameter.device if moment != "step" or on_device[parameter] else torch.device("cpu")
            is_alike = moment != "step" and value.shape == parameter.shape
            place = torch.empty_like(parameter if is_alike else value, dtype=value.dtype, device=device)
            self.optimizer.state[parameter][moment] = place.detach().copy_(value)

    def group_numbers(self) -> list[dict[str, float]]:
        """Return the numbers of the optimizer's parameter groups, without the learning rate, which each update sets."""
        return [
            {key: value for key, value in group.items() if key != "lr" and isinstance(value, int | float)}
            for group in self.optimizer.param_groups
        ]

    def profile_tensors(self) -> dict[str, Tensor]:
        """Return the averaged weights of each of ``profiles``, named ``STD/NAME``.

        STD is the profile's relative standard deviation, NAME a trainable weight; each tensor has the weight's shape.
        """
        return {f"{profile.std}/{name}": value for profile in self.profiles for name, value in profile.state().items()}

    def load_profiles(self, tensors: dict[str, Tensor]) -> None:
        """Restore the averaged weights from the tensors, and shapes, of :meth:`profile_tensors`.

        Raises:
            ValueError: if a profile lacks weights, because the standard deviations or the model's weights are others.
        """
        for profile in self.profiles:
            prefix = f"{profile.std}/"
            profile.load({name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)})

    def values(self) -> dict[str, Any]:
        """Return the counters as JSON values."""
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
            "bad_steps": self.bad.values(),
            **({"metrics": self.metrics} if self.metrics else {}),
            **({KEY: beside} if (beside := self.beside.values()) else {}),
            # a user-written optimizer may keep counters in its groups
            **({} if type(self.optimizer) in (torch.optim.AdamW, Muon) else {"groups": self.group_numbers()}),
        }

    def load_values(self, values: dict[str, Any]) -> None:
        """Restore the result of :meth:`values`."""
        self.step, self.num_images, self.updates = values["step"], values["num_images"], values["updates"]
        self.rows_digest = values["rows_digest"]
        self.pending = [(loss, norm, lr) for loss, norm, lr in values["pending"]]
        self.best = float("inf") if values["best"] is None else values["best"]
        self.stale, self.stopped = values["stale"], values["stopped"]
        self.bad = BadSteps.from_values(values.get("bad_steps"))
        self.beside = OpenMeasurements.from_values(values.get(KEY))
        self.measured = (self.step, dict(values.get("metrics", {})))
        for group, numbers in zip(self.optimizer.param_groups, values.get("groups", ()), strict=False):
            group.update(numbers)
        if values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
