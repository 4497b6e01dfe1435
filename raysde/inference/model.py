"""A trained model in use: images for prompts and class labels, edits, likelihoods and latents."""

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
    """A score model with its description; its methods are functions of the modules beside this one.

    Image i of a call depends on the seed, i and its own conditions, not on the batch that it is drawn in. Images that
    are given are uint8, or floats in the data range, such as those that ``dtype=torch.float32`` makes.

    Attributes:
        origin: the pipeline that it was imported from, None if there was none.
        weights: sha256 of the file that the weights were read from, None if there was none.
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
        """Float values of black and white, of a latent model those that its autoencoder knows."""
        return space.pixel_range(self.spec)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
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
