"""Captions to tokens and tokens to vectors, through transformers.

There are two kinds of encoder. ``pretrained`` loads any Hugging Face text encoder by name or folder
(:mod:`raysde.conditioning.pretrained`). ``scratch`` trains a small BERT jointly with the score network, and its
tokenizer from the data set's captions, so nothing is downloaded. A mask is True where a token is real.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tokenizers
import torch
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor, nn

from raysde.sde.setting import setting

if TYPE_CHECKING:
    import transformers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENDS = ("clip_text_model",)
"""Encoders, by transformers' ``model_type``, whose last real token represents the caption."""
CUT = "maximum number of tokens in a caption, including special tokens; longer captions are cut"


@dataclass(frozen=True, kw_only=True)
class _SmallBert:
    """The size of a small BERT."""

    width: int = setting(64, "width of the encoder's vectors, a multiple of heads")
    layers: int = setting(2, "transformer layers of the encoder")
    heads: int = setting(4, "attention heads in each layer")
    vocabulary: int = setting(4096, "largest number of word pieces")
    max_tokens: int = setting(77, CUT)

    def __post_init__(self) -> None:
        _check_positive(self, "width", "layers", "heads", "vocabulary", "max_tokens")
        if self.vocabulary < 2 * len(SPECIAL):
            raise ValueError(f"vocabulary must be at least {2 * len(SPECIAL)}, got {self.vocabulary}")
        if self.width % self.heads:
            raise ValueError(f"width must be divisible by heads, got {self.width} and {self.heads}")


@dataclass(frozen=True, kw_only=True)
class ScratchText(_SmallBert):
    """A small BERT trained with the score network."""

    kind: Literal["scratch"] = "scratch"


@dataclass(frozen=True, kw_only=True)
class AutoText(_SmallBert):
    """The frozen encoder whose vectors are stored with the data, else a small BERT, or none without captions."""

    kind: Literal["auto"] = "auto"

    def scratch(self) -> ScratchText:
        """Return the settings of a small BERT of this size."""
        sizes = {each.name: getattr(self, each.name) for each in fields(_SmallBert)}
        return ScratchText(**sizes)


@dataclass(frozen=True, kw_only=True)
class PretrainedText:
    """A pretrained text encoder that transformers loads."""

    kind: Literal["pretrained"] = "pretrained"
    path: str = field(metadata={"description": "model name on the Hugging Face hub, or folder"})
    trainable: bool = setting(False, "train the encoder's weights too; frozen by default")
    max_tokens: int = setting(77, CUT)

    def __post_init__(self) -> None:
        _check_positive(self, "max_tokens")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


class Tokenizer:
    """A tokenizer that maps captions to (ids, mask) and caches them.

    Rows are padded to the longest caption, rounded up to a multiple of 8, so that few different lengths occur.

    Args:
        tokenizer: a tokenizer of transformers.
        max_tokens: number of tokens, with special ones, after which a caption is cut.
    """

    REMEMBERED = 100_000

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.seen: dict[str, list[int]] = {}
        self.named: set[str] = set()

    def encode(self, caption: str) -> list[int]:
        """Return the token ids of a caption without padding: at least one, at most ``max_tokens``."""
        ids = self.seen.get(caption)
        if ids is None:
            if len(self.seen) >= self.REMEMBERED:
                self.seen.clear()
            # a tokenizer without special tokens returns no token for "": one padding token replaces it,
            # because attention over no tokens is undefined
            ids = self.tokenizer(caption, truncation=True, max_length=self.max_tokens)["input_ids"] or [self.pad]
            self.seen[caption] = ids
        return ids

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [B, L] and mask bool [B, L], True where a token is real."""
        rows = [self.encode(caption) for caption in captions]
        length = self.padded_length(max(map(len, rows)))
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(length)[None, :] < lengths[:, None]
        return ids, mask

    def padded_length(self, tokens: int) -> int:
        """Return the row length L of a batch whose longest caption has ``tokens`` tokens."""
        return min(self.max_tokens, -(-tokens // 8) * 8)

    def length(self, caption: str) -> int:
        """Return the number of tokens of a caption before cutting, including special tokens."""
        return len(self.tokenizer(caption, verbose=False)["input_ids"])

    def warn_if_cut(self, prompt: str) -> None:
        """Warn, once per prompt, if a prompt has more tokens than the encoder reads."""
        if prompt in self.named or (length := self.length(prompt)) <= self.max_tokens:
            return
        if len(self.named) >= self.REMEMBERED:
            self.named.clear()
        self.named.add(prompt)
        warnings.warn(
            f"the prompt {shorten_text(prompt)!r} has {length} tokens, the model reads the first {self.max_tokens}",
            stacklevel=2,
        )

    def warn_of_cut(self, captions: Sequence[str]) -> None:
        """Warn if captions of a data set have more tokens than the encoder reads, based on up to 5,000 of them.

        Args:
            captions: distinct captions, in any order.
        """
        lengths = [self.length(caption) for caption in captions[:: 1 + len(captions) // 5000]]
        if longer := sum(length > self.max_tokens for length in lengths):
            share = f"{100 * longer / len(lengths):.2g}%"
            warnings.warn(
                f"text.max_tokens={self.max_tokens} cuts the end off {share} of the captions; "
                f"the longest has {max(lengths)} tokens",
                stacklevel=2,
            )

    def save(self, folder: Path) -> None:
        """Write the tokenizer as JSON and text files."""
        self.tokenizer.save_pretrained(str(folder))


def shorten_text(text: str, most: int = 40) -> str:
    """Return the beginning of a text, at most ``most`` characters, for a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def word_pieces(captions: Iterable[str], size: int) -> list[str]:
    """Return up to ``size`` pieces: special tokens, every character (also as a continuation), then words by frequency.

    The same captions give the same list in any order and process; the tokenizers library breaks ties by hash order.
    """
    normaliser, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words: Counter[str] = Counter()
    for caption in captions:
        words.update(word for word, _ in splitter.pre_tokenize_str(normaliser.normalize_str(caption)))
    characters = sorted({character for word in words for character in word})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    by_frequency = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    return (pieces + by_frequency)[:size]


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> transformers.PreTrainedTokenizerFast:
    """Return a lower-casing WordPiece tokenizer with BERT's special tokens and the words of ``captions``.

    Args:
        vocabulary: largest number of tokens, special tokens included.
    """
    import transformers  # takes most of a second, and only models of captions need it

    ids = {piece: number for number, piece in enumerate(word_pieces(captions, vocabulary))}
    core = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    core.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    pad, unk, cls, sep, mask = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token=unk, sep_token=sep, pad_token=pad, cls_token=cls, mask_token=mask
    )


class TextEncoder(nn.Module):
    """A text encoder that maps ids [B, L] and mask [B, L] to vectors [B, L, width]."""

    def __init__(self, encoder: nn.Module, *, trainable: bool) -> None:
        super().__init__()
        self.encoder, self.trainable = encoder, trainable
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]  # its output is not used, so its weights would never get a gradient
        self.width = width_of(encoder.config)
        self.ends = str(encoder.config.model_type) in ENDS  # type: ignore[union-attr]
        encoder.requires_grad_(trainable)
        self.train(self.training)

    def train(self, mode: bool = True) -> TextEncoder:
        """Set training mode; an encoder that is not trained stays in evaluation mode, without dropout."""
        super().train(mode and self.trainable)
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vectors [B, L, width] of tokens [B, L]; a frozen encoder computes no gradient."""
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return self.encoder(input_ids=ids, attention_mask=mask.to(torch.int64)).last_hidden_state

    def pool_tokens(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per caption, [B, width], from token vectors [B, L, width]: CLIP's end token, else the mean.

        CLIP reads from left to right and is trained on the end token alone, the only one that attends to the whole
        caption (Radford et al. 2021, arXiv 2103.00020, section 2.4). Bidirectional encoders are averaged over their
        real tokens, as MiniLM and similar models are trained (Reimers and Gurevych 2019, arXiv 1908.10084).
        """
        if self.ends:
            last = mask.sum(dim=1) - 1
            return vectors[torch.arange(len(vectors), device=vectors.device), last]
        weight = mask.to(vectors.dtype)[:, :, None]
        return (vectors * weight).sum(dim=1) / weight.sum(dim=1)


def width_of(config: Any) -> int:
    """Return the width of an encoder's vectors."""
    return int(getattr(config, "hidden_size", None) or config.d_model)


def scratch_encoder(text: ScratchText, tokens: int) -> TextEncoder:
    """Return an untrained BERT for a vocabulary of ``tokens``."""
    import transformers  # takes most of a second, and only models of captions need it

    config = transformers.BertConfig(
        vocab_size=tokens,
        hidden_size=text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        intermediate_size=4 * text.width,
        max_position_embeddings=text.max_tokens,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return TextEncoder(transformers.BertModel(config), trainable=True)
