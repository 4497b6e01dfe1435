"""Captions to tokens and tokens to vectors, through transformers.

Two kinds of encoder: ``pretrained`` loads any Hugging Face text encoder by name or folder; ``scratch`` trains a small
BERT, and its tokenizer from the data set's own captions, jointly with the score network, so nothing is downloaded.
A mask is True where a token is real, at training and at sampling alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers  # its classes are loaded on first use, which takes seconds
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor, nn

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, kw_only=True)
class ScratchText:
    """A small BERT trained with the score network.

    Attributes:
        width, layers, heads: size of the encoder.
        vocabulary: largest number of word pieces.
        max_tokens: captions are cut to this many tokens, special tokens included.
    """

    kind: Literal["scratch"] = "scratch"
    width: int = 64
    layers: int = 2
    heads: int = 4
    vocabulary: int = 4096
    max_tokens: int = 77

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "heads", "vocabulary", "max_tokens")
        if self.vocabulary < 2 * len(SPECIAL):
            raise ValueError(f"vocabulary must be at least {2 * len(SPECIAL)}, got {self.vocabulary}")
        if self.width % self.heads:
            raise ValueError(f"width must be divisible by heads, got {self.width} and {self.heads}")


@dataclass(frozen=True, kw_only=True)
class PretrainedText:
    """Any text encoder that transformers loads.

    Attributes:
        path: a model name or a folder.
        trainable: whether its weights are trained too; frozen by default.
        max_tokens: captions are cut to this many tokens, special tokens included.
    """

    kind: Literal["pretrained"] = "pretrained"
    path: str
    trainable: bool = False
    max_tokens: int = 77

    def __post_init__(self) -> None:
        _positive(self, "max_tokens")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


class Tokenizer:
    """Captions to (ids, mask), remembering captions it has seen.

    Rows are padded to the longest caption rounded up to a multiple of 8, so that lengths repeat.
    """

    REMEMBERED = 100_000

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.seen: dict[str, list[int]] = {}

    def encode(self, caption: str) -> list[int]:
        ids = self.seen.get(caption)
        if ids is None:
            if len(self.seen) >= self.REMEMBERED:
                self.seen.clear()
            # A tokenizer without special tokens makes nothing of "": one padding token stands for it,
            # because attention over no token at all is undefined.
            ids = self.tokenizer(caption, truncation=True, max_length=self.max_tokens)["input_ids"] or [self.pad]
            self.seen[caption] = ids
        return ids

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids int64 [B, L] and mask bool [B, L], True where a token is real."""
        rows = [self.encode(caption) for caption in captions]
        length = min(self.max_tokens, -(-max(map(len, rows)) // 8) * 8)
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(length)[None, :] < lengths[:, None]
        return ids, mask

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as JSON and text files."""
        self.tokenizer.save_pretrained(str(folder))


def word_pieces(captions: Iterable[str], size: int) -> list[str]:
    """The special tokens, every character (also as a continuation), then words by falling frequency.

    The same captions give the same list in any order and in any process; the trainers of the tokenizers library break
    ties by hash order and do not.
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
    """A lower-casing WordPiece tokenizer with BERT's special tokens, its words taken from ``captions``."""
    ids = {piece: number for number, piece in enumerate(word_pieces(captions, vocabulary))}
    core = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    core.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    pad, unk, cls, sep, mask = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token=unk, sep_token=sep, pad_token=pad, cls_token=cls, mask_token=mask
    )


class TextEncoder(nn.Module):
    """Tokens to vectors: ids [B, L], mask [B, L] -> [B, L, width]."""

    def __init__(self, encoder: nn.Module, *, trainable: bool) -> None:
        super().__init__()
        self.encoder, self.trainable = encoder, trainable
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]  # its output is not used, so its weights would never get a gradient
        self.width = width_of(encoder.config)
        encoder.requires_grad_(trainable)
        self.train(self.training)

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode and self.trainable)
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return self.encoder(input_ids=ids, attention_mask=mask.to(torch.int64)).last_hidden_state


def width_of(config: Any) -> int:
    """The width of an encoder's vectors."""
    return int(getattr(config, "hidden_size", None) or config.d_model)


def scratch_encoder(text: ScratchText, tokens: int) -> TextEncoder:
    """An untrained BERT for a vocabulary of ``tokens``."""
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


def pretrained_encoder(text: PretrainedText) -> TextEncoder:
    """The encoder at ``text.path``, safetensors weights only.

    Raises:
        ValueError: if it cannot be loaded, or has fewer positions than ``max_tokens``.
    """
    config = check_pretrained(text)
    try:
        encoder = transformers.AutoModelForTextEncoding.from_pretrained(
            text.path, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"text.path {text.path!r}: no text encoder can be loaded: {_first_line(error)}") from error
    return TextEncoder(encoder, trainable=text.trainable)


def check_pretrained(text: PretrainedText) -> Any:
    """The configuration of the encoder at ``text.path``, after looking for its tokenizer too; no weights are read.

    Raises:
        ValueError: if there is none, or it has fewer positions than ``max_tokens``.
    """
    pretrained_tokenizer(text.path)
    try:
        config = _text_config(transformers.AutoConfig.from_pretrained(text.path, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise ValueError(f"text.path {text.path!r}: no text encoder can be loaded: {_first_line(error)}") from error
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and text.max_tokens > positions:
        raise ValueError(f"text.max_tokens={text.max_tokens} exceeds the {positions} positions of {text.path!r}")
    return config


def pretrained_tokenizer(path: str) -> Any:
    """The tokenizer beside a pretrained encoder; no code from its folder is run.

    Raises:
        ValueError: if there is none.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"text.path {path!r}: no tokenizer can be loaded: {_first_line(error)}") from error


def restored_encoder(folder: Path, *, trainable: bool) -> TextEncoder:
    """An encoder with the architecture in ``folder/config.json`` and no weights yet."""
    config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    encoder = transformers.AutoModelForTextEncoding.from_config(config, trust_remote_code=False)
    return TextEncoder(encoder, trainable=trainable)


def _text_config(config: Any) -> Any:
    """The text half of an image-and-text model such as CLIP."""
    return getattr(config, "text_config", config)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
