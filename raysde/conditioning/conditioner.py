"""Conditions of the score network: captions, class labels and numbers, dropped at random in training.

A dropped condition is the empty caption, the class "none" and unknown numbers. One network therefore learns the
conditional and the unconditional score, which classifier-free guidance combines (Ho and Salimans 2022, arXiv
2207.12598).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysde.conditioning.numbers import embed_numbers
from raysde.conditioning.prompt_cache import Prompts
from raysde.conditioning.text import TextEncoder, Tokenizer

CLASS_WIDTH = 128


@dataclass(frozen=True)
class Condition:
    """A batch of conditions.

    Attributes:
        ids, mask: tokens, int64 [B, L], and bool [B, L], True where a token is real; None without captions.
        labels: class numbers, int64 [B], -1 for none; None without classes.
        context: precomputed caption vectors [B, L, D], which replace ``ids``.
        attributes: numeric attributes, float32 [B, A], NaN for unknown; None without attributes.
        image: planes of an image condition [B, E, H, W], see :mod:`raysde.conditioning.images`; None without one.
    """

    ids: Tensor | None = None
    mask: Tensor | None = None
    labels: Tensor | None = None
    context: Tensor | None = None
    attributes: Tensor | None = None
    image: Tensor | None = None

    def to(self, device: torch.device) -> "Condition":
        """Return the condition with its tensors on a device; copies from pinned memory do not block."""
        return self.map(lambda value: value.to(device, non_blocking=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """Return the condition with ``function`` applied to each tensor that is present."""
        values = (self.ids, self.mask, self.labels, self.context, self.attributes, self.image)
        return Condition(*(None if value is None else function(value) for value in values))

    @property
    def is_empty(self) -> bool:
        """True if no kind of condition is there."""
        return all(value is None for value in (self.ids, self.labels, self.context, self.attributes, self.image))

    def drop_rows(self, drop: Tensor, null: Self) -> "Condition":
        """Replace the rows where ``drop`` (bool [B]) is True by ``null``, of batch size 1."""
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
        if self.attributes is not None:
            assert null.attributes is not None
            result = replace(result, attributes=torch.where(drop[:, None], null.attributes, self.attributes))
        if self.image is not None:
            result = replace(result, image=torch.where(drop[:, None, None, None], 0.0, self.image))
        return result

    def drop_attributes(self, drop: Tensor) -> Self:
        """Make the attributes unknown where ``drop`` (bool [B, A]) is True."""
        assert self.attributes is not None
        return replace(self, attributes=self.attributes.masked_fill(drop, math.nan))


def _fit_width(row: Tensor, width: int) -> Tensor:
    """Cut or zero-pad [N, L] to [N, width]; only padding, which the mask hides, is cut or added."""
    return F.pad(row, (0, max(0, width - row.shape[1])))[:, :width]


@dataclass(frozen=True)
class Encoded:
    """Conditioning vectors: pooled [B, D], context [B, L, D] and its mask [B, L], each None where absent.

    ``image`` has the planes of an image condition [B, E, H, W], None where there are none.
    """

    pooled: Tensor | None = None
    context: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None

    def rows(self, index: Tensor) -> "Encoded":
        """Return the rows ``index`` [N] of each tensor."""
        values = (self.pooled, self.context, self.mask, self.image)
        return Encoded(*(None if value is None else value[index] for value in values))

    def pad_tokens(self, length: int) -> "Encoded":
        """Return the vectors padded to ``length`` tokens; the mask hides the added ones."""
        if self.context is None or self.mask is None:
            return self
        more = (0, length - self.mask.shape[1])
        return replace(self, context=F.pad(self.context, (0, 0, *more)), mask=F.pad(self.mask, more))

    def join_rows(self, other: "Encoded") -> "Encoded":
        """Concatenate two batches of conditioning vectors along the batch dimension."""
        assert (self.image is None) == (other.image is None)
        length = max(0 if mask is None else mask.shape[1] for mask in (self.mask, other.mask))
        first, second = self.pad_tokens(length), other.pad_tokens(length)
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        return Encoded(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))


class Conditioner(nn.Module):
    """A module that turns captions and labels into conditions, and conditions into conditioning vectors.

    Args:
        tokenizer, encoder: tokenizer and text encoder of captions, or both None.
        classes: number of class labels, 0 for none.
        class_width: width of the embeddings of classes and numbers if there is no text encoder.
        ranges: range (low, high) of each numeric attribute; empty without attributes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        encoder: TextEncoder | None,
        classes: int,
        class_width: int = CLASS_WIDTH,
        ranges: Sequence[tuple[float, float]] = (),
    ) -> None:
        super().__init__()
        assert (tokenizer is None) == (encoder is None)
        self.tokenizer, self.encoder, self.classes = tokenizer, encoder, classes
        self.prompts = None if tokenizer is None or encoder is None else Prompts(tokenizer, encoder)
        own = class_width if classes or ranges else None
        self.width: int | None = encoder.width if encoder is not None else own
        self.attributes = len(ranges)
        # the extra row is the class "none", at index -1
        self.class_embedding = nn.Embedding(classes + 1, self.width) if classes and self.width else None
        self.number_embeddings = embed_numbers(ranges, self.width) if self.width and ranges else None

    @property
    def text_parameters(self) -> list[nn.Parameter]:
        """Parameters of the text encoder; empty without one."""
        return [] if self.encoder is None else list(self.encoder.parameters())

    def condition(
        self,
        captions: Sequence[str] | None,
        labels: Sequence[int] | Tensor | None,
        count: int,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        attributes: Tensor | None = None,
    ) -> Condition:
        """Return a condition of batch size ``count``; missing captions, labels and attributes are null.

        Args:
            captions, labels: ``count`` captions and class numbers (-1 for none), or None.
            context, mask: precomputed caption vectors [B, L, D], which replace ``captions``, and their mask [B, L].
            attributes: numeric attributes, float32 [count, A], NaN for unknown, or None.

        Raises:
            ValueError: if the model takes no captions, labels or attributes but some are given, or a label is out of
                range.
        """
        if captions is not None and self.tokenizer is None:
            raise ValueError("a prompt was given, but the model has no text encoder; leave the prompts out")
        if labels is not None and not self.classes:
            raise ValueError("a class label was given, but the model has no classes; leave the labels out")
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
        if attributes is not None and not self.attributes:
            raise ValueError("a numeric attribute was given, but the model has none; leave the attributes out")
        if self.attributes:
            unknown = torch.full((count, self.attributes), math.nan)
            condition = replace(condition, attributes=unknown if attributes is None else attributes)
        return condition

    def encode(
        self,
        captions: Sequence[str] | None,
        labels: Sequence[int] | None,
        count: int,
        attributes: Tensor | None = None,
    ) -> Encoded:
        """Encode captions, labels and attributes for sampling, on the device of the weights.

        Each caption is encoded once while the weights stay the same. A caption that is too long causes a warning.

        Args:
            captions, labels: ``count`` captions and class numbers (-1 for none); None for none of them.
            count: number of images.
            attributes: numeric attributes, float32 [count, A], NaN for unknown; None for none of them.

        Raises:
            ValueError: as :meth:`condition`.
        """
        if self.width is None or self.prompts is None:
            condition = self.condition(captions, labels, count, attributes=attributes)
        else:
            context, mask = self.prompts([""] * count if captions is None else captions)
            condition = self.condition(None, labels, count, context=context, mask=mask, attributes=attributes)
        return Encoded() if self.width is None else self(condition.to(next(self.parameters()).device))

    def null(self) -> Condition:
        """Return the null condition, of batch size 1: the empty caption, the class "none" and unknown numbers."""
        return self.condition(None, None, 1)

    def forward(self, condition: Condition) -> Encoded:
        """Encode a batch of B conditions on the device of the weights, as vectors [B, width] and [B, L, width].

        The first is the sum of the pooled caption and the class vector, the second the caption's tokens; see
        :class:`Encoded`.
        """
        pooled = context = None
        if self.encoder is not None:
            assert condition.mask is not None
            context = self._context(self.encoder, condition)
            pooled = self.encoder.pool_tokens(context, condition.mask)
        if self.class_embedding is not None:
            assert condition.labels is not None
            classes = self.class_embedding(condition.labels % (self.classes + 1))
            pooled = classes if pooled is None else pooled + classes
        if self.number_embeddings is not None:
            assert condition.attributes is not None
            for embedding, values in zip(self.number_embeddings, condition.attributes.unbind(dim=1), strict=True):
                numbers = embedding(values)
                pooled = numbers if pooled is None else pooled + numbers
        return Encoded(pooled, context, condition.mask, condition.image)

    @staticmethod
    def _context(encoder: TextEncoder, condition: Condition) -> Tensor:
        """Return the precomputed caption vectors in the encoder's dtype, or the encoder's output: [B, L, D]."""
        if condition.context is not None:
            return condition.context.to(next(encoder.parameters()).dtype)
        assert condition.ids is not None
        assert condition.mask is not None
        return encoder(condition.ids, condition.mask)
