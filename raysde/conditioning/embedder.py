"""Precomputed caption vectors of a frozen encoder, which save its forward pass at every step."""

from collections.abc import Sequence

import numpy as np
import torch

from raysde.conditioning.text import PretrainedText, Tokenizer
from raysde.io.hashing import hash_pretrained


def encoder_hash(path: str) -> str:
    """Return the sha256 over an encoder's configuration, weights and tokenizer, as a hexadecimal string.

    Raises:
        ValueError: if there is no such encoder.
    """
    return hash_pretrained(path, tokenizer=True, key="text.path")


class Embedder:
    """A frozen text encoder on a device.

    Args:
        path, max_tokens: see :class:`raysde.conditioning.text.PretrainedText`.
        batch_size: number of captions per forward pass.

    Raises:
        ValueError: if the encoder cannot be loaded, or reads fewer than ``max_tokens`` tokens.
    """

    def __init__(self, path: str, max_tokens: int, batch_size: int, device: torch.device | str = "cpu") -> None:
        from raysde.conditioning.pretrained import pretrained_encoder, pretrained_tokenizer  # loads transformers

        text = PretrainedText(path=path, max_tokens=max_tokens)
        self.tokenizer = Tokenizer(pretrained_tokenizer(path), max_tokens)
        self.encoder = pretrained_encoder(text).eval().to(device)
        self.batch_size, self.device = batch_size, device

    @property
    def width(self) -> int:
        return self.encoder.width

    def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Return the vectors of each caption's real tokens, float32 [tokens, width].

        A repeated caption is encoded once. Captions of similar length share a batch, in any order of ``captions``.
        """
        lengths = {caption: len(self.tokenizer.encode(caption)) for caption in captions}
        different = sorted(lengths, key=lambda caption: (lengths[caption], caption))
        known: dict[str, np.ndarray] = {}
        for start in range(0, len(different), self.batch_size):
            part = different[start : start + self.batch_size]
            known.update(zip(part, self._encode_captions(part), strict=True))
        return [known[caption] for caption in captions]

    @torch.no_grad()
    def _encode_captions(self, captions: Sequence[str]) -> list[np.ndarray]:
        ids, mask = self.tokenizer(captions)
        hidden = self.encoder(ids.to(self.device), mask.to(self.device)).float().cpu().numpy()
        return [vectors[:count] for vectors, count in zip(hidden, mask.sum(dim=1).tolist(), strict=True)]
