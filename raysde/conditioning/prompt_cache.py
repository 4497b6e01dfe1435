"""A cache of prompt vectors for sampling: each prompt is encoded once, whatever the number of images and batches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raysde.conditioning.text import TextEncoder, Tokenizer


class Prompts:
    """A cache of prompt vectors under a text encoder, which evicts the least recently used.

    A prompt is encoded alone, so that its vectors do not depend on other prompts. The cache is emptied when the
    encoder's weights have changed or moved, and in each call while the encoder is being trained.
    """

    REMEMBERED = 1000

    def __init__(self, tokenizer: Tokenizer, encoder: TextEncoder) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.known: dict[str, Tensor] = {}
        self.weights: list[tuple[torch.device, torch.dtype, int]] = []

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return vectors [B, L, width] and mask bool [B, L], True where a token is real, on the encoder's device."""
        parameters = list(self.encoder.parameters())
        weights = [(each.device, each.dtype, each._version) for each in parameters]
        # a fused optimizer changes parameters without a new version
        if weights != self.weights or any(each.requires_grad for each in parameters):
            self.known, self.weights = {}, weights
        found = {prompt: self._vectors(prompt) for prompt in dict.fromkeys(prompts)}
        length = self.tokenizer.padded_length(max(map(len, found.values())))
        context = torch.stack([F.pad(found[prompt], (0, 0, 0, length - len(found[prompt]))) for prompt in prompts])
        tokens = torch.tensor([len(found[prompt]) for prompt in prompts], device=context.device)
        return context, torch.arange(length, device=context.device)[None, :] < tokens[:, None]

    def _vectors(self, prompt: str) -> Tensor:
        """Return the vectors of a prompt's real tokens, [tokens, width]."""
        vectors = self.known.pop(prompt, None)
        if vectors is None:
            self.tokenizer.warn_if_cut(prompt)
            ids, mask = (value.to(self.weights[0][0]) for value in self.tokenizer([prompt]))
            vectors = self.encoder(ids, mask)[mask]
        if len(self.known) >= self.REMEMBERED:
            del self.known[next(iter(self.known))]
        self.known[prompt] = vectors  # at the end: the first is the least recently used
        return vectors
