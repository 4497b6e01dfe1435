"""Fast solvers: exact in the linear part of the ODE, polynomial in the network's part.

They integrate over lambda = log(alpha / sigma), so they apply to every SDE. With h = lambda_s - lambda_t > 0, the flow
from t to s in terms of the predicted x0 is ``x_s = sigma_s / sigma_t x_t + sigma_s int e^lambda x0(lambda) dlambda``
(Lu et al. 2022b, arXiv 2211.01095, eq. 8). Each class keeps predictions of earlier steps and starts at lower orders. A
step costs one network evaluation. Steps map x [B, ...] and a time's index to x with their noise and without it, as
every ``Stepper``.
"""

import math
from collections import deque

import torch
from torch import Tensor

from raysde.sampling.solvers.trajectory import Walk

SHORT = 15
"""Number of steps below which the last ones have lower order, as Lu et al. advise for stability."""


class Ddim:
    """The DDIM step x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z with c = eta b sigma_s / sigma_t.

    eta = 0 is deterministic, eta = 1 the ancestral step (Song, Meng and Ermon 2021, arXiv 2010.02502, eq. 12 and 16).
    A call is a ``Stepper``: it maps x [B, ...] to x and its mean, both of the shape of x.
    """

    def __init__(self, walk: Walk, eta: float) -> None:
        self.walk, self.eta = walk, eta

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        walk, (_, b2) = self.walk, self.walk.transition(index)
        sigma, sigma_s = walk.sigma[index], walk.sigma[index + 1]
        eps = walk.eps(x, index)
        x0 = (x - sigma * eps) / walk.alpha[index]
        fresh = self.eta * math.sqrt(b2) * sigma_s / sigma
        mean = walk.alpha[index + 1] * x0 + math.sqrt(max(sigma_s**2 - fresh**2, 0.0)) * eps
        return (mean + fresh * walk.noise(x) if self.eta else mean), mean


class Multistep:
    """The base class of multistep solvers: past predictions with their lambdas, and the order of a step.

    A call is a ``Stepper``: it maps x [B, ...] to x and its mean, both of the shape of x.

    Args:
        order: the highest order used.
    """

    def __init__(self, walk: Walk, order: int) -> None:
        self.walk, self.order, self.steps = walk, order, len(walk.times) - 1
        self.past: deque[tuple[float, Tensor]] = deque(maxlen=order)

    def order_at(self, index: int) -> int:
        """Return the order of the step from time ``index``: rising from 1 at the start, falling to 1 at a short
        run's end."""
        left = self.steps - index if self.steps < SHORT else self.order
        return min(self.order, len(self.past), left)

    def remember(self, index: int, prediction: Tensor) -> None:
        """Keep the prediction at time ``index``, of the shape of x, in place of the oldest one."""
        self.past.appendleft((self.walk.half_log_snr[index], prediction))


class DpmPlusPlus(Multistep):
    """DPM-Solver++ of order 2 or 3 (2M, 3M), for the flow or for the reverse SDE (Lu et al. 2022b, section 5).

    Order 2 is their midpoint form; order 3 integrates the parabola through the last three predictions.

    Args:
        stochastic: True to solve the SDE, whose noise is exact and whose linear part has a further factor e^(-h).
    """

    def __init__(self, walk: Walk, order: int, stochastic: bool) -> None:
        super().__init__(walk, order)
        # the SDE has the flow's coefficients at twice the h
        self.pace = 2.0 if stochastic else 1.0

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        walk = self.walk
        self.remember(index, walk.x0(x, index))
        h = walk.half_log_snr[index + 1] - walk.half_log_snr[index]
        z = self.pace * h
        shrink, alpha = walk.sigma[index + 1] / walk.sigma[index] * math.exp(-(z - h)), walk.alpha[index + 1]
        mean = shrink * x - alpha * math.expm1(-z) * self.past[0][1]
        order = self.order_at(index)
        for weight, difference in zip(self.weights(z, order), self.differences(h, order), strict=False):
            mean = mean + alpha * weight * difference
        if self.pace == 1.0:
            return mean, mean
        return mean + walk.sigma[index + 1] * math.sqrt(-math.expm1(-z)) * walk.noise(x), mean

    def weights(self, z: float, order: int) -> tuple[float, float]:
        """Return the integrals of z e^(z (v - 1)) v and v^2 over [0, 1], for the linear and the quadratic part of x0.

        The second is twice the coefficient in Lu et al.'s code, whose multistep solver of order 3 converges at order 2.
        """
        if order <= 2:
            return -0.5 * math.expm1(-z), 0.0
        return math.expm1(-z) / z + 1.0, 1.0 - 2.0 * (math.expm1(-z) + z) / z**2

    def differences(self, h: float, order: int) -> list[Tensor]:
        """Return the coefficients of v and v^2 of the polynomial through the last predictions; v runs from 0 to 1.

        Args:
            h: width of the step in half the log-SNR.
            order: number of predictions, from 1 to 3; the list has one coefficient fewer, each of the shape of x.
        """
        if order == 1:
            return []
        (now, m0), (before, m1) = self.past[0], self.past[1]
        near = (now - before) / h
        first = (m0 - m1) / near
        if order == 2:
            return [first]
        far = (before - self.past[2][0]) / h
        second = (m1 - self.past[2][1]) / far
        bend = (first - second) / (near + far)
        return [first + near * bend, bend]


class Deis(Multistep):
    """DEIS in log(sigma / alpha) (Zhang and Chen 2023, arXiv 2204.13902, "rho-AB" in log rho).

    A polynomial in lambda through the last predictions extrapolates the predicted noise and is integrated exactly.
    """

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        walk = self.walk
        self.remember(index, walk.eps(x, index))
        order = self.order_at(index)
        lambdas = torch.tensor([self.past[k][0] for k in range(order)], dtype=torch.float64)
        start = walk.half_log_snr[index]
        places, end = lambdas - start, walk.half_log_snr[index + 1] - start
        moments = torch.tensor(exponential_moments(end, order), dtype=torch.float64)
        shares = torch.linalg.solve(torch.vander(places, order, increasing=True).T, moments).tolist()
        rho = walk.sigma[index] / walk.alpha[index]
        y = x / walk.alpha[index]
        for share, (_, prediction) in zip(shares, self.past, strict=False):
            y = y - rho * share * prediction
        step = walk.alpha[index + 1] * y
        return step, step


def exponential_moments(end: float, count: int) -> list[float]:
    """Return the integrals of e^(-u) u^k over [0, end] for k below ``count``."""
    moments = [-math.expm1(-end)]
    for k in range(1, count):
        moments.append(k * moments[-1] - end**k * math.exp(-end))
    return moments


class UniPC(Multistep):
    """UniPC of order 3 or lower with B(h) = e^h - 1, in terms of x0 (Zhao et al. 2023, arXiv 2302.04867).

    The prediction at the start of a step first corrects the previous step: one more order at no evaluation.
    """

    def __init__(self, walk: Walk, order: int) -> None:
        super().__init__(walk, order)
        self.before: tuple[Tensor, int] | None = None

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        prediction = self.walk.x0(x, index)
        if self.before is not None:
            start, order = self.before
            x = self.move(start, index - 1, order, prediction)
        self.remember(index, prediction)
        order = self.order_at(index)
        self.before = (x, order)
        step = self.move(x, index, order, None)
        return step, step

    def move(self, x: Tensor, index: int, order: int, arrived: Tensor | None) -> Tensor:
        """Step from x [B, ...] at the grid's time ``index`` to ``index + 1``, and return x there.

        Args:
            order: order of the step, from 1.
            arrived: the prediction at ``index + 1``, of the shape of x, if it is known; the step is then the
                corrector's.
        """
        walk, (now, m0) = self.walk, self.past[0]
        h = walk.half_log_snr[index + 1] - walk.half_log_snr[index]
        places = [(self.past[k][0] - now) / h for k in range(1, order)] + [1.0]
        slopes = [(self.past[k][1] - m0) / places[k - 1] for k in range(1, order)]
        if arrived is not None:
            slopes.append(arrived - m0)
        result = walk.sigma[index + 1] / walk.sigma[index] * x - walk.alpha[index + 1] * math.expm1(-h) * m0
        for share, slope in zip(unipc_shares(h, places[: len(slopes)]), slopes, strict=True):
            result = result - walk.alpha[index + 1] * math.expm1(-h) * share * slope
        return result


def unipc_shares(h: float, places: list[float]) -> list[float]:
    """Return the weights of the slopes at ``places``, in units of B(h) = e^(-h) - 1.

    N weights make the step exact for polynomials of degree N (theorem 3.1); a single weight is 1/2, as in the paper.
    """
    if not places:
        return []
    if len(places) == 1:
        return [0.5]
    phi, factorial, wanted = math.expm1(-h) / -h - 1.0, 1.0, []
    for k in range(1, len(places) + 1):
        wanted.append(phi * factorial / math.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1.0 / factorial
    powers = torch.tensor([[place**k for place in places] for k in range(len(places))], dtype=torch.float64)
    solution: list[float] = torch.linalg.solve(powers, torch.tensor(wanted, dtype=torch.float64)).tolist()
    return solution
