"""A variance-exploding scheduler with the contract of diffusers' ``ScoreSdeVeScheduler``, for code written against it.

It drives ``ScoreSdeVePipeline`` and loops written by hand, and gives the same numbers from the same generators.
:func:`raysde.sampling.sampler.sample` is the sampler to prefer elsewhere. Where the contract departs from it, it holds
here:

* A step goes from entry k of ``discrete_sigmas`` to entry k - 1 with k = floor(t (N - 1)), and from the first entry
  to noise 0, where ``sample`` ends at the SDE's floor. With N - 1 > 1 / sampling_eps, some entries come twice.
* ``discrete_sigmas`` and the differences of their squares are float32, which moves a step by up to 1e-5 sigma.
* The corrector takes the batch means of both norms and the norm of the noise it drew, as Song et al.'s code does;
  :func:`raysde.sampling.solvers.correctors.langevin` takes sqrt(d) for the latter.
* The corrector runs before the predictor, at the noise level that the predictor is about to leave.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from raysde.sampling.solvers.correctors import mean_norm
from raysde.sde import VE, expand

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class VeConfig(Mapping[str, float]):
    """What the scheduler was made with, as attributes and as a mapping.

    Attributes:
        num_train_timesteps: length of the grid until ``set_timesteps``.
        snr: the corrector's r (Song et al. 2021, algorithm 4).
        sigma_min, sigma_max: of the SDE.
        sampling_eps: the last time of the grid.
        correct_steps: corrector steps that a pipeline takes at each time.
    """

    num_train_timesteps: int = 2000
    snr: float = 0.15
    sigma_min: float = 0.01
    sigma_max: float = 1348.0
    sampling_eps: float = 1e-5
    correct_steps: int = 1

    def __post_init__(self) -> None:
        checked_count("num_train_timesteps", self.num_train_timesteps)
        if not self.snr > 0.0:
            raise ValueError(f"snr must be positive, got {self.snr}")
        if self.correct_steps < 0:
            raise ValueError(f"correct_steps must not be negative, got {self.correct_steps}")
        checked_eps(self.sampling_eps)

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))


class VeOutput(NamedTuple):
    """The next sample, and the same without the noise that the step drew."""

    prev_sample: Tensor
    prev_sample_mean: Tensor


class VeScheduler:
    """Reverse diffusion and Langevin steps of the VE SDE (Song et al. 2021, eq. 46 and algorithm 4).

    Args:
        config: the fields of :class:`VeConfig`.

    Attributes:
        config: as given; it never changes.
        sde: the process of the present grid.
        timesteps: falling times in (0, 1], at first ``num_train_timesteps`` of them.
        sigmas: sigma(t) at each of ``timesteps``, what the network is told.
        discrete_sigmas: the same number of noise levels, rising geometrically from sigma_min to sigma_max.
        num_inference_steps: length of the grid, None until it is set.
        order: evaluations a step.

    Raises:
        ValueError: naming the field that is out of range.
    """

    order = 1

    def __init__(self, *args: Any, **config: Any) -> None:
        self.config = VeConfig(*args, **config)
        self.num_inference_steps: int | None = None
        self.sde = self._sde()
        self._lay(self.config.num_train_timesteps)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> Self:
        """A scheduler with another's configuration, diffusers' included, whose private keys are left out.

        Raises:
            ValueError: naming a key that this scheduler does not have.
        """
        given = {name: value for name, value in config.items() if not name.startswith("_")} | changes
        unknown = sorted(given.keys() - set(VeConfig()))
        if unknown:
            raise ValueError(f"VeScheduler has no {', '.join(unknown)}: it takes {', '.join(VeConfig())}")
        return cls(**given)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first sample."""
        return self.sde.sigma_max

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample as it is: the network of a VE model scales its own input."""
        return sample

    def set_timesteps(
        self, num_inference_steps: int, sampling_eps: float | None = None, device: str | torch.device | None = None
    ) -> None:
        """Lays a grid of times falling uniformly from 1 to ``sampling_eps``, and the noise levels that belong to it.

        Raises:
            ValueError: if there are fewer than two steps, or ``sampling_eps`` is not between 0 and 1.
        """
        checked_count("num_inference_steps", num_inference_steps)
        eps = self.config.sampling_eps if sampling_eps is None else sampling_eps
        self.sde = self._sde(self.sde.sigma_min, self.sde.sigma_max, eps)
        self.num_inference_steps = num_inference_steps
        self._lay(num_inference_steps, device)

    def set_sigmas(
        self,
        num_inference_steps: int,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sampling_eps: float | None = None,
    ) -> None:
        """Sets the noise levels; a value left out is the configuration's, ``sampling_eps`` the present grid's.

        It may come before or after :meth:`set_timesteps`: the grid always has ``num_inference_steps`` times.

        Raises:
            ValueError: if there are fewer than two steps, or a value is out of range.
        """
        checked_count("num_inference_steps", num_inference_steps)
        eps = self.sde.sample_floor if sampling_eps is None else sampling_eps
        self.sde = self._sde(sigma_min, sigma_max, eps)
        self.num_inference_steps = num_inference_steps
        self._lay(num_inference_steps, self.timesteps.device)

    def step_pred(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> VeOutput | tuple[Tensor, Tensor]:
        """x + b^2 score + b z with b^2 = sigma_k^2 - sigma_(k-1)^2 (Song et al. 2021, eq. 46; section 3 for the SDE).

        Args:
            model_output: the score at ``sample``.
            timestep: a time of ``timesteps``, one for all rows or one a row. Integers too are times here, 0 or 1.
            sample: x_t [B, ...].
            generator: one for the batch, or one for each row.
            return_dict: False for a plain tuple.

        Raises:
            ValueError: before :meth:`set_timesteps`, for a time outside [0, 1] or tensors of different shapes.
        """
        self._check(model_output, sample)
        times = torch.as_tensor(timestep).to("cpu", torch.float32)
        checked_rows("timestep", times, sample)
        checked_times("timestep", times)
        index = (times * (len(self.timesteps) - 1)).long()
        below = torch.where(index > 0, self.discrete_sigmas[(index - 1).clamp(min=0)], 0.0)
        b = (self.discrete_sigmas[index].square() - below.square()).sqrt().to(sample)
        mean = sample + expand(b.square(), sample) * model_output
        noised = mean + expand(b, sample) * normal(sample, generator, sample.dtype)
        return VeOutput(noised, mean) if return_dict else (noised, mean)

    def step_correct(
        self, model_output: Tensor, sample: Tensor, generator: Generators = None, return_dict: bool = True
    ) -> VeOutput | tuple[Tensor]:
        """x + eta score + sqrt(2 eta) z with eta = 2 (snr |z| / |score|)^2 (Song et al. 2021, algorithm 4).

        Both norms are batch means and z is the noise drawn, always in float32. The plain tuple has one member.

        Raises:
            ValueError: before :meth:`set_timesteps`, or for tensors of different shapes.
        """
        self._check(model_output, sample)
        noise = normal(sample, generator, torch.float32)
        eta = expand(2.0 * (self.config.snr * mean_norm(noise) / mean_norm(model_output)).square(), sample)
        mean = sample + eta * model_output
        noised = mean + (2.0 * eta).sqrt() * noise
        return VeOutput(noised, mean) if return_dict else (noised,)

    def add_noise(self, original_samples: Tensor, noise: Tensor | None, timesteps: Tensor) -> Tensor:
        """x0 + sigma z, the marginal of the VE SDE (Song et al. 2021, eq. 29).

        Args:
            original_samples: x0 [B, ...].
            noise: z of the same shape; None draws it.
            timesteps: one for all rows or one a row: times in [0, 1] if floating, otherwise indices into
                ``discrete_sigmas``, whose first is the least noise.

        Raises:
            ValueError: for an index or a time outside the grid, or a number of them that is neither 1 nor B.
        """
        times = torch.as_tensor(timesteps)
        checked_rows("timesteps", times, original_samples)
        if times.is_floating_point():
            checked_times("timesteps", times)
            sigma = self.sde.sigma(times.double())
        else:
            last = len(self.discrete_sigmas) - 1
            if times.lt(0).any() or times.gt(last).any():
                raise ValueError(f"timesteps as integers index discrete_sigmas, 0 to {last}, got {times.tolist()}")
            sigma = self.discrete_sigmas.to(times.device)[times.long()]
        z = torch.randn_like(original_samples) if noise is None else noise
        return original_samples + expand(sigma.to(original_samples), original_samples) * z

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def _sde(self, sigma_min: float | None = None, sigma_max: float | None = None, eps: float | None = None) -> VE:
        return VE(
            sigma_min=self.config.sigma_min if sigma_min is None else sigma_min,
            sigma_max=self.config.sigma_max if sigma_max is None else sigma_max,
            sample_floor=checked_eps(self.config.sampling_eps if eps is None else eps),
        )

    def _lay(self, steps: int, device: str | torch.device | None = None) -> None:
        sde = self.sde
        self.timesteps = torch.linspace(1.0, sde.sample_floor, steps, device=device)
        self.sigmas = sde.sigma(self.timesteps.cpu().double()).float()
        # logarithms and exponentials in float32: rounded otherwise, a step's b moves by 1e-5 sigma off the contract's
        self.discrete_sigmas = torch.linspace(math.log(sde.sigma_min), math.log(sde.sigma_max), steps).exp()

    def _check(self, model_output: Tensor, sample: Tensor) -> None:
        if self.num_inference_steps is None:
            raise ValueError("the scheduler has no grid to step on: call set_timesteps first")
        if model_output.shape != sample.shape:
            raise ValueError(
                f"model_output has shape {tuple(model_output.shape)}, but sample has {tuple(sample.shape)}"
            )


def normal(sample: Tensor, generator: Generators, dtype: torch.dtype) -> Tensor:
    """Noise of a sample's shape, drawn in ``dtype`` where the generator lives, from one for the batch or one a row."""
    if isinstance(generator, Sequence) and len(generator) == 1:
        generator = generator[0]
    if not isinstance(generator, Sequence):
        device = sample.device if generator is None else generator.device
        return torch.randn(sample.shape, generator=generator, device=device, dtype=dtype).to(sample)
    if len(generator) != len(sample):
        raise ValueError(f"generator lists {len(generator)} generators for {len(sample)} rows")
    rows = [torch.randn(sample.shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator]
    return torch.stack(rows).to(sample)


def checked_count(name: str, steps: int) -> None:
    """Raises ValueError unless there are two steps at least: one has no two noise levels to go between."""
    if steps < 2:
        raise ValueError(f"{name} must be at least 2, got {steps}")


def checked_eps(sampling_eps: float) -> float:
    """The last time of a grid; raises ValueError unless it lies between 0 and 1."""
    if not 0.0 < sampling_eps < 1.0:
        raise ValueError(f"sampling_eps must lie between 0 and 1, got {sampling_eps}")
    return sampling_eps


def checked_times(name: str, times: Tensor) -> None:
    """Raises ValueError unless all times lie in [0, 1]."""
    if not (times.ge(0.0) & times.le(1.0)).all():
        raise ValueError(f"{name} must lie between 0 and 1, as those of set_timesteps do, got {times.tolist()}")


def checked_rows(name: str, times: Tensor, sample: Tensor) -> None:
    """Raises ValueError unless there is one time, or one for each row."""
    if times.ndim > 1 or (times.ndim == 1 and len(times) not in (1, len(sample))):
        raise ValueError(
            f"{name} of shape {tuple(times.shape)} must be one value, or one for each of {len(sample)} rows"
        )
