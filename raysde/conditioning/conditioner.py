"""What the score network is told beside x and t: captions and class labels, dropped at random in training.

A dropped condition is the empty caption and the class "none", so that one network learns the conditional and the
unconditional score and classifier-free guidance can mix them (Ho and Salimans 2022, arXiv 2207.12598).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.conditioning.prompt_cache import Prompts
from raysde.conditioning.text import TextEncoder, Tokenizer

CLASS_WIDTH = 128


@dataclass(frozen=True)
class Condition:
    """A batch of conditions.

    Attributes:
        ids, mask: tokens [B, L] and which are real, or None without captions.
        labels: class numbers [B], -1 for none, or None without classes.
        context: vectors [B, L, D] of the captions where they were precomputed; tokens are then absent.
    """

    ids: Tensor | None = None
    mask: Tensor | None = None
    labels: Tensor | None = None
    context: Tensor | None = None

    def to(self, device: torch.device) -> "Condition":
        return self.map(lambda value: value.to(device, non_blocking=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """Applies ``function`` to each tensor that is present."""
        values = (self.ids, self.mask, self.labels, self.context)
        return Condition(*(None if value is None else function(value) for value in values))

    @property
    def is_empty(self) -> bool:
        return self.ids is None and self.labels is None and self.context is None

    def drop_rows(self, drop: Tensor, null: Self) -> "Condition":
        """Rows where ``drop`` [B] is True become the row of ``null``, a condition of batch size 1."""
        result = self
        if self.mask is not None:
            assert null.mask is not None
            mask = _fit_width(null.mask, self.mask.shape[1])
            result = replace(result, mask=torch.where(drop[:, None], mask, self.mask))
        if self.ids is not None:
            assert null.ids is not None
            result = replace(result, ids=torch.where(drop[:, None], _fit_width(null.ids, self.ids.shape[1]), self.ids))
        if self.context is not None:
            assert null.context is not None
            nothing = _fit_width(null.context[0].T, self.context.shape[1]).T
            result = replace(result, context=torch.where(drop[:, None, None], nothing, self.context))
        if self.labels is not None:
            assert null.labels is not None
            result = replace(result, labels=torch.where(drop, null.labels, self.labels))
        return result


def _fit_width(row: Tensor, width: int) -> Tensor:
    """Cuts or zero-pads [N, L] to [N, width]; what is cut or added is padding, masked out."""
    return F.pad(row, (0, max(0, width - row.shape[1])))[:, :width]


@dataclass(frozen=True)
class Encoded:
    """Conditioning vectors: pooled [B, D], context [B, L, D] and its mask [B, L], each None where absent."""

    pooled: Tensor | None = None
    context: Tensor | None = None
    mask: Tensor | None = None

    def rows(self, index: Tensor) -> "Encoded":
        """Those of the rows ``index`` [N]."""
        values = (self.pooled, self.context, self.mask)
        return Encoded(*(None if value is None else value[index] for value in values))

    def pad_tokens(self, length: int) -> "Encoded":
        """With ``length`` tokens, those that are added masked out."""
        if self.context is None or self.mask is None:
            return self
        more = (0, length - self.mask.shape[1])
        return Encoded(self.pooled, F.pad(self.context, (0, 0, *more)), F.pad(self.mask, more))

    def join_rows(self, other: "Encoded") -> "Encoded":
        """Those of ``self`` and below them those of ``other``."""
        length = max(0 if mask is None else mask.shape[1] for mask in (self.mask, other.mask))
        first, second = self.pad_tokens(length), other.pad_tokens(length)
        pairs = ((first.pooled, second.pooled), (first.context, second.context), (first.mask, second.mask))
        return Encoded(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))


class Conditioner(nn.Module):
    """Makes conditions from captions and labels, and conditioning vectors from conditions.

    Args:
        tokenizer, encoder: for captions, or both None.
        classes: number of class labels, 0 for none.
        class_width: width of the class embedding when there is no text encoder.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, encoder: TextEncoder | None, classes: int, class_width: int = CLASS_WIDTH
    ) -> None:
        super().__init__()
        assert (tokenizer is None) == (encoder is None)
        self.tokenizer, self.encoder, self.classes = tokenizer, encoder, classes
        self.prompts = None if tokenizer is None or encoder is None else Prompts(tokenizer, encoder)
        self.width: int | None = encoder.width if encoder is not None else class_width if classes else None
        # the extra row is the class "none", at index -1
        self.class_embedding = nn.Embedding(classes + 1, self.width) if classes and self.width else None

    @property
    def text_parameters(self) -> list[nn.Parameter]:
        """The text encoder's parameters; none without one."""
        return [] if self.encoder is None else list(self.encoder.parameters())

    def condition(
        self,
        captions: Sequence[str] | None,
        labels: Sequence[int] | Tensor | None,
        count: int,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Condition:
        """A condition of batch size ``count``; what is not given is null.

        Args:
            context, mask: vectors of the captions, which are then not needed, and which of them are real.

        Raises:
            ValueError: if captions or labels are given that the model cannot take, or a label is out of range.
        """
        if captions is not None and self.tokenizer is None:
            raise ValueError("a prompt was given, but the model has no text encoder")
        if labels is not None and not self.classes:
            raise ValueError("a class label was given, but the model has no classes")
        condition = Condition()
        if self.tokenizer is not None and context is not None:
            condition = replace(condition, context=context, mask=mask)
        elif self.tokenizer is not None:
            ids, mask = self.tokenizer(captions if captions is not None else [""] * count)
            condition = replace(condition, ids=ids, mask=mask)
        if self.classes:
            numbers = torch.full((count,), -1) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
            if len(numbers) and not (int(numbers.min()) >= -1 and int(numbers.max()) < self.classes):
                raise ValueError(f"class labels must lie in 0..{self.classes - 1}, got {sorted(set(numbers.tolist()))}")
            condition = replace(condition, labels=numbers)
        return condition

    def encode(self, captions: Sequence[str] | None, labels: Sequence[int] | None, count: int) -> Encoded:
        """The conditioning vectors of :meth:`condition`, where the weights are, for sampling: each caption is encoded
        once for as long as the weights are the same, and one that is too long is warned of.

        Raises:
            ValueError: as :meth:`condition`.
        """
        if self.width is None or self.prompts is None:
            condition = self.condition(captions, labels, count)
        else:
            context, mask = self.prompts([""] * count if captions is None else captions)
            condition = self.condition(None, labels, count, context=context, mask=mask)
        return Encoded() if self.width is None else self(condition.to(next(self.parameters()).device))

    def null(self) -> Condition:
        """The empty condition, of batch size 1."""
        return self.condition(None, None, 1)

    def forward(self, condition: Condition) -> Encoded:
        pooled = context = None
        if self.encoder is not None:
            assert condition.mask is not None
            context = self._context(self.encoder, condition)
            pooled = self.encoder.pool_tokens(context, condition.mask)
        if self.class_embedding is not None:
            assert condition.labels is not None
            classes = self.class_embedding(condition.labels % (self.classes + 1))
            pooled = classes if pooled is None else pooled + classes
        return Encoded(pooled, context, condition.mask)

    @staticmethod
    def _context(encoder: TextEncoder, condition: Condition) -> Tensor:
        """The captions' vectors: those precomputed, in the type that the encoder would give, or the encoder's."""
        if condition.context is not None:
            return condition.context.to(next(encoder.parameters()).dtype)
        assert condition.ids is not None
        assert condition.mask is not None
        return encoder(condition.ids, condition.mask)
