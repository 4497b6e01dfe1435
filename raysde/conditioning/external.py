"""User-written text encoders: any nn.Module named in the recipe that tokenizes and encodes captions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raysde.conditioning.text import TextEncoder, Tokenizer
from raysde.io.own_code import External, OwnCodeError
from raysde.io.shapes import of_shape, place_of

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class ExternalText(External):
    """A text encoder of your own: an nn.Module class, or a function that returns one.

    The module has parameters, of which those that require a gradient are trained, and an integer attribute ``width``.
    Its ``tokenize(captions)`` returns ids, int64 [B, L], and a mask, bool [B, L], True where a token is real. Every
    caption has at least one token, the empty one no more than others. ``forward(ids, mask)`` returns [B, L, width].
    """

    key: ClassVar[str] = "text"

    def build(self) -> tuple[Tokenizer, TextEncoder]:
        """Import and call the factory; return tokenizer and encoder.

        Raises:
            ValueError: if the name cannot be imported, or the factory returns no such module.
        """
        module = self.make_object()
        made = f"{self.name} made a {type(module).__name__}"
        if not isinstance(module, nn.Module):
            raise OwnCodeError(f"{made}, not an nn.Module")
        tokenize = getattr(module, "tokenize", None)
        if not isinstance(getattr(module, "width", None), int) or not callable(tokenize):
            raise OwnCodeError(f"{made} without a whole number width and a method tokenize; see docs/own-code.md")
        if next(module.parameters(), None) is None:
            raise OwnCodeError(f"{made} without parameters; give it at least one")
        return OwnTokenizer(self.guard(tokenize), self.name), OwnEncoder(module, self)


class OwnTokenizer(Tokenizer):
    """The user's tokenizer, which decides itself how captions are cut."""

    def __init__(self, tokenize: Tokenize, name: str) -> None:
        self.tokenize, self.name = tokenize, name

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [B, L] and mask bool [B, L], True where a token is real.

        Raises:
            ValueError: if ids or mask have another shape or dtype, or a caption has no token.
        """
        ids, mask = self.tokenize(captions)
        if ids.shape != mask.shape or ids.ndim != 2 or len(ids) != len(captions) or mask.dtype != torch.bool:
            raise OwnCodeError(
                f"{self.name}: tokenize must return ids and a bool mask of shape [{len(captions)}, tokens], got "
                f"{list(ids.shape)} and {mask.dtype} {list(mask.shape)}"
            )
        if not bool(mask.any(dim=1).all()):
            raise OwnCodeError(f"{self.name}: tokenize returns no token for a caption; the empty caption needs one too")
        return ids, mask

    def padded_length(self, tokens: int) -> int:
        return tokens

    def warn_if_cut(self, prompt: str) -> None: ...

    def warn_of_cut(self, captions: Sequence[str]) -> None: ...

    def save(self, folder: Path) -> None: ...


class OwnEncoder(TextEncoder):
    """The user's module; the pooled vector of a caption is the mean over its tokens."""

    def __init__(self, encoder: Any, own: External) -> None:
        nn.Module.__init__(self)
        self.encoder, self.width, self.ends, self.own = encoder, encoder.width, False, own
        self.trainable = any(parameter.requires_grad for parameter in encoder.parameters())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the tokens' vectors [B, L, width].

        Raises:
            ValueError: if the result has another shape, or the user's module raises an exception.
        """
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()), self.own.name_errors():
            vectors = self.encoder(ids, mask)
        return of_shape(vectors, (*ids.shape, self.width), f"{self.own.name}: {place_of(self.encoder)}")
