"""The trained model: sampling for prompts and class labels, editing, likelihoods and latents."""

from dataclasses import dataclass, field
from typing import Self, final

import torch

from raysde.inference import edit as editing
from raysde.inference import flow
from raysde.inference import pixels as space
from raysde.inference import sample as sampling
from raysde.models.origin import Origin
from raysde.models.score import ScoreModel
from raysde.models.spec import ModelSpec
from raysde.sde import SDE


@final
@dataclass(frozen=True)
class Model:
    """A score model with its description; its methods are functions of this package's other modules.

    Image i of a call depends on the seed, i and its own conditions, not on the batch that it is sampled in. Methods
    take images as uint8, or as floats in the data range, such as samples of ``dtype=torch.float32``.

    Attributes:
        score_model: network, SDE and text encoder.
        spec: the description in a checkpoint.
        origin: the diffusers pipeline that the model was imported from; None for a model of raysde's own.
        weights: sha256 of the file that the weights were read from; None if they were not read from a file.
    """

    score_model: ScoreModel
    spec: ModelSpec
    origin: Origin | None = field(default=None, compare=False)
    weights: str | None = field(default=None, compare=False)

    @property
    def sde(self) -> SDE:
        return self.score_model.sde

    @property
    def device(self) -> torch.device:
        return space.device_of(self)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Float values of black and white; for a latent model those of its autoencoder's images."""
        return space.pixel_range(self.spec)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device and return the model."""
        self.score_model.to(device)
        return self

    pixels = space.to_pixels
    floats = space.to_floats
    frames = space.to_frames
    need_pixels = space.need_pixels

    sample = sampling.sample
    sample_path = sampling.sample_path
    drawn = sampling.draw_batches
    conditioned = sampling.conditional_score
    guidance = sampling.make_guidance

    inpaint = editing.inpaint
    colorise = editing.colorise
    upscale = editing.upscale
    edit = editing.edit
    interpolate_prompts = editing.interpolate_prompts

    log_prob = flow.log_prob
    bits_per_dim = flow.bits_per_dim
    encode = flow.encode
    encode_counted = flow.encode_counted
    decode = flow.decode
    decode_counted = flow.decode_counted
    interpolate = flow.interpolate
