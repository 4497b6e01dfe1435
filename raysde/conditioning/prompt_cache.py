"""Prompts at sampling: each is encoded once, however many images and batches ask for it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raysde.conditioning.text import TextEncoder, Tokenizer


class Prompts:
    """Vectors of prompts under a text encoder, with those used last kept.

    A prompt is encoded alone, so that its vectors depend on nothing that was asked for beside it or before it. They
    are computed anew when the encoder's weights have changed or moved, and in each call while it is being trained.
    """

    REMEMBERED = 1000

    def __init__(self, tokenizer: Tokenizer, encoder: TextEncoder) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.known: dict[str, Tensor] = {}
        self.weights: list[tuple[torch.device, torch.dtype, int]] = []

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors [B, L, width] and mask [B, L], True where a token is real, on the encoder's device."""
        parameters = list(self.encoder.parameters())
        weights = [(each.device, each.dtype, each._version) for each in parameters]
        # a fused optimiser changes parameters without a new version
        if weights != self.weights or any(each.requires_grad for each in parameters):
            self.known, self.weights = {}, weights
        found = {prompt: self._vectors(prompt) for prompt in dict.fromkeys(prompts)}
        length = self.tokenizer.padded_length(max(map(len, found.values())))
        context = torch.stack([F.pad(found[prompt], (0, 0, 0, length - len(found[prompt]))) for prompt in prompts])
        tokens = torch.tensor([len(found[prompt]) for prompt in prompts], device=context.device)
        return context, torch.arange(length, device=context.device)[None, :] < tokens[:, None]

    def _vectors(self, prompt: str) -> Tensor:
        """[tokens, width]"""
        vectors = self.known.pop(prompt, None)
        if vectors is None:
            self.tokenizer.warn_if_cut(prompt)
            ids, mask = (value.to(self.weights[0][0]) for value in self.tokenizer([prompt]))
            vectors = self.encoder(ids, mask)[mask]
        if len(self.known) >= self.REMEMBERED:
            del self.known[next(iter(self.known))]
        self.known[prompt] = vectors  # last, so that the first is the one not used for longest
        return vectors
