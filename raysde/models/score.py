"""A score network with the SDE, target and conditions that define its output."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from raysde.conditioning.conditioner import Condition, Conditioner, Encoded
from raysde.io.own_code import External
from raysde.io.shapes import of_shape, place_of
from raysde.networks.uncertainty import Uncertainty
from raysde.sde import SDE
from raysde.sde.parameterisation import Preconditioning, Target, convert_target, marginal_for


class ScoreModel(nn.Module):
    """A score network, its conditioner, its SDE and its target.

    With an image condition, x has its planes after the channels of the images, and as many of the network's output
    channels are ignored.

    Args:
        network: called as ``network(x, t, pooled, context, mask)`` (x and t alone without captions, labels and
            attributes).
        conditioner: module that maps captions, labels and numeric attributes to vectors.
        sde: the forward process.
        target: the quantity that the network predicts.
        data_std: standard deviation of a pixel in the data range.
        preconditioning: scaling of the network's inputs and output.
        uncertainty: learned log-variance of the loss over log-SNR, if any.
        own: the recipe's or checkpoint's node that names the network, if it is user-written.
        planes: number of planes of the image condition, 0 without one.
    """

    def __init__(
        self,
        network: nn.Module,
        conditioner: Conditioner,
        sde: SDE,
        target: Target,
        data_std: float,
        preconditioning: Preconditioning | None = None,
        uncertainty: Uncertainty | None = None,
        own: External | None = None,
        planes: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.conditioner = network, conditioner
        self.sde, self.target, self.data_std = sde, target, data_std
        self.preconditioning = preconditioning or Preconditioning()
        self.uncertainty, self.own, self.planes = uncertainty, own, planes

    @property
    def is_conditional(self) -> bool:
        """True if the model takes conditions of any kind."""
        return self.conditioner.width is not None or self.planes > 0

    def predict(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """Return the network's output for x_t [B, C, H, W] at t [B], with the shape and dtype of x_t.

        Raises:
            ValueError: if the output has another shape, or a user-written network raises an exception.
        """
        alpha, sigma = marginal_for(self.sde, t, x_t)
        seen = self.preconditioning.network_input(x_t, alpha, sigma, self.data_std)
        time = self.preconditioning.network_time(self.sde, t)
        conditions = () if self.conditioner.width is None else (encoded.pooled, encoded.context, encoded.mask)
        with nullcontext() if self.own is None else self.own.name_errors():
            output = self.network(self._with_planes(seen, encoded), time, *conditions)
        shape = (len(x_t), x_t.shape[1] + self.planes, *x_t.shape[2:])
        return of_shape(output, shape, f"network {place_of(self.network)}")[:, : x_t.shape[1]].to(x_t.dtype)

    def _with_planes(self, seen: Tensor, encoded: Encoded) -> Tensor:
        """Return the network's input [B, C, H, W] with the planes of the image condition, zeros without one."""
        if not self.planes:
            return seen
        planes = encoded.image
        if planes is None:
            planes = seen.new_zeros(len(seen), self.planes, *seen.shape[2:])
        return torch.cat([seen, planes.to(seen.dtype)], dim=1)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Return the network's output for x_t [B, C, H, W] at t [B], and the learned log-variance [B] or None.

        Raises:
            ValueError: as :meth:`predict`.
        """
        log_variance = None if self.uncertainty is None else self.uncertainty(self.sde.log_snr(t))
        return self.predict(x_t, t, self.conditioner(condition)), log_variance

    def value(self, x_t: Tensor, t: Tensor, encoded: Encoded, target: Target) -> Tensor:
        """Return the value of ``target`` that the network's output implies for x_t [B, C, H, W] at times t [B], of
        the shape of x_t.

        Raises:
            ValueError: as :meth:`predict`, or if ``target`` is not one of TARGETS.
        """
        alpha, sigma = marginal_for(self.sde, t, x_t)
        own = self.predict(x_t, t, encoded) * self.preconditioning.output_scale(self.target, alpha, sigma)
        return convert_target(own, x_t, alpha, sigma, self.target, target, self.data_std)

    def eps_hat(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """Return the predicted noise in x_t [B, C, H, W] at times t [B], of the shape of x_t."""
        return self.value(x_t, t, encoded, "noise")

    def x0_hat(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """Return the predicted clean images for x_t [B, C, H, W] at times t [B], of the shape of x_t."""
        return self.value(x_t, t, encoded, "x0")

    def score(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """Return the score grad log p_t(x_t) of x_t [B, C, H, W] at times t [B], of the shape of x_t."""
        return self.value(x_t, t, encoded, "score")
