"""Prediction targets of a score network, each of which determines the others.

With ``x_t = alpha x0 + sigma eps``, every target is a fixed mix ``a x0 + b eps``:

    noise   eps
    score   grad log p_t = -eps / sigma
    x0      the clean image
    v       alpha eps - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512), here for any alpha and sigma
    flow    eps - x0, the velocity of the straight path (Lipman et al. 2023, arXiv 2210.02747)
    edm     F of Karras et al. 2022 eq. 7, x0 = c_skip x_t / alpha + c_out F, here for any alpha and sigma

Therefore x_t and the value of one target give the value of any other. In every function x_t, x0 and eps have shape [B,
...], and alpha and sigma broadcast against them. ``data_std`` is the standard deviation of the data.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysde.sde import SDE, expand
from raysde.sde.setting import setting

Target = Literal["noise", "score", "x0", "v", "flow", "edm"]
TARGETS: tuple[Target, ...] = ("noise", "score", "x0", "v", "flow", "edm")
TimeInput = Literal["t", "999t", "step", "sigma", "log_sigma", "log_sigma/4"]


def target_coefficients(target: Target, alpha: Tensor, sigma: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
    """Return a and b of ``target = a x0 + b eps``, each with the shape of sigma.

    Args:
        alpha, sigma: coefficients of ``x_t = alpha x0 + sigma eps``, of one shape.
        data_std: standard deviation of the data, read by the target ``edm`` alone.

    Raises:
        ValueError: if ``target`` is not one of TARGETS.
    """
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    if target == "noise":
        return zero, one
    if target == "score":
        return zero, -1.0 / sigma
    if target == "x0":
        return one, zero
    if target == "v":
        return -sigma, alpha
    if target == "flow":
        return -one, one
    if target == "edm":
        size = data_std * torch.sqrt((alpha * data_std).square() + sigma.square())
        return sigma / size, -alpha * data_std**2 / size
    raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")


def convert_target(
    value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Target, target: Target, data_std: float
) -> Tensor:
    """Convert a prediction of ``source`` at x_t into the equivalent value of ``target``, [B, ...].

    Args:
        value, x_t: the prediction and the noisy images, both [B, ...].
        alpha, sigma: coefficients of ``x_t = alpha x0 + sigma eps``, shaped to broadcast against x_t.
        source, target: names in ``TARGETS``.
        data_std: standard deviation of the data, read by the target ``edm`` alone.

    Raises:
        ValueError: if ``source`` or ``target`` is not one of TARGETS.
    """
    if source == target:
        return value
    a, b = target_coefficients(source, alpha, sigma, data_std)
    wanted_a, wanted_b = target_coefficients(target, alpha, sigma, data_std)
    from_x = wanted_a * b - wanted_b * a
    from_value = wanted_b * alpha - wanted_a * sigma
    return (from_x * x_t + from_value * value) / (alpha * b - sigma * a)


def target_of(target: Target, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """Return the value of ``target`` for clean images x0 and noise eps, all [B, ...].

    Args:
        alpha, sigma: coefficients of ``x_t = alpha x0 + sigma eps``, shaped to broadcast against x0.
        data_std: standard deviation of the data, read by the target ``edm`` alone.

    Raises:
        ValueError: if ``target`` is not one of TARGETS.
    """
    a, b = target_coefficients(target, alpha, sigma, data_std)
    return a * x0 + b * eps


def noise_error_scale(target: Target, alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """Return d eps_hat / d value, the factor from an error in the target to the error in the implied noise.

    Args:
        alpha, sigma: coefficients of ``x_t = alpha x0 + sigma eps``, of one shape, which the result has.
        data_std: standard deviation of the data, read by the target ``edm`` alone.

    Raises:
        ValueError: if ``target`` is not one of TARGETS.
    """
    a, b = target_coefficients(target, alpha, sigma, data_std)
    return alpha / (alpha * b - sigma * a)


@dataclass(frozen=True, kw_only=True)
class Preconditioning:
    """The scaling of a network's inputs t and x_t, and of its output (Karras et al. 2022, section 5)."""

    time: TimeInput | None = setting(
        None,
        "time input of the network: t (our U-Net multiplies it by 999), 999t (Song et al.'s VP networks), step "
        "(N t - 1, the step number of a discrete model; N is the length of its table, or 1000), sigma, log_sigma "
        "(their VE networks) or log_sigma/4 (Karras et al.'s c_noise), where sigma means sigma / alpha; null selects "
        "the form that suits the SDE and the network",
    )
    input: Literal["unit", "none", "centred"] = setting(
        "unit",
        "scaling of x_t: unit divides it by its standard deviation (c_in of Karras et al.), none keeps it, centred "
        "computes 2 x_t - 1 (Song et al.'s VE networks, for data in [0, 1])",
    )
    output: Literal["unit", "none"] = setting(
        "unit",
        "scaling of the output: unit multiplies it by the target's magnitude, so that score = output / sigma (Song et "
        "al.); none uses the output as the target",
    )

    def network_time(self, sde: SDE, t: Tensor) -> Tensor:
        """Return the time that is passed to the network for t: both [B]."""
        kind = self.time or sde.network_time
        if kind == "t":
            return t
        if kind == "999t":
            return 999.0 * t
        if kind == "step":
            return sde.discrete_steps * t - 1.0
        log_sigma = -0.5 * sde.log_snr(t)
        if kind == "log_sigma/4":
            return 0.25 * log_sigma
        return log_sigma if kind == "log_sigma" else torch.exp(log_sigma)

    def network_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
        """Return the scaled x_t that is passed to the network, [B, ...].

        Args:
            alpha, sigma: coefficients of ``x_t = alpha x0 + sigma eps``, shaped to broadcast against x_t.
            data_std: standard deviation of the data, read by ``input="unit"`` alone.
        """
        if self.input == "unit":
            return x_t / torch.sqrt((alpha * data_std).square() + sigma.square())
        return x_t if self.input == "none" else 2.0 * x_t - 1.0

    def output_scale(self, target: Target, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the factor from the network's output to the target, with the shape of sigma.

        For ``output="unit"`` it is 1 / sigma for the score and sqrt(alpha^2 + sigma^2) for v (1 on VP); otherwise 1.
        """
        if self.output == "unit" and target == "score":
            return 1.0 / sigma
        if self.output == "unit" and target == "v":
            return torch.sqrt(alpha.square() + sigma.square())
        return torch.ones_like(sigma)


def marginal_for(sde: SDE, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at t [B], shaped to broadcast against x [B, ...]."""
    alpha, sigma = sde.marginal(t)
    return expand(alpha, x), expand(sigma, x)
