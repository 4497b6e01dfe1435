"""Text encoders that transformers knows, from a folder or by name: safetensors and JSON, no code and no pickle."""

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers  # its classes are loaded on first use, which takes seconds
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from raysde.conditioning.text import PretrainedText, TextEncoder
from raysde.io.errors import UNFIT, error_line
from raysde.io.hashing import weight_files

REFUSED = {
    "auto_map": "code of its own, which is never run",
    "transformers_weights": "a weights file of its own, which is never read",
}
"""What a config.json may not name."""
UNREADABLE = (*UNFIT, StrictDataclassError)
"""What transformers raises of folders that it can make nothing of."""
INPUTS = ("input_ids", "attention_mask")
"""What an encoder is told."""


def pretrained_encoder(text: PretrainedText) -> TextEncoder:
    """The encoder at ``text.path``, safetensors weights only.

    Raises:
        ValueError: if it cannot be loaded whole, or has fewer positions than ``max_tokens``.
    """
    config = check_pretrained(text)
    _check_weights(text.path)
    try:
        encoder, found = _choose_auto_class(config).from_pretrained(
            text.path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise ValueError(f"text.path {text.path!r}: no text encoder can be loaded: {error_line(error)}") from error
    _check_complete(text.path, encoder, found)
    return TextEncoder(encoder, trainable=text.trainable)


def check_pretrained(text: PretrainedText) -> Any:
    """The configuration of the encoder at ``text.path``, after looking for its tokenizer too; no weights are read.

    Raises:
        ValueError: if there is none, it names code to run, it reads no tokens, a folder has no weights in safetensors
            format, or it has fewer positions than ``max_tokens``.
    """
    _check_code(text.path)
    pretrained_tokenizer(text.path)
    try:
        config = _text_config(transformers.AutoConfig.from_pretrained(text.path, trust_remote_code=False))
        encoder = _build_without_weights(config)
    except UNREADABLE as error:
        raise ValueError(f"text.path {text.path!r}: no text encoder can be loaded: {error_line(error)}") from error
    if lacks := [name for name in INPUTS if name not in inspect.signature(encoder.forward).parameters]:
        raise ValueError(f"text.path {text.path!r} is no text encoder: {type(encoder).__name__} takes no {lacks[0]}")
    if os.path.isdir(text.path):  # of a model on the hub, a look would fetch the weights
        _check_weights(text.path)
    positions = _count_positions(encoder)
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
    except UNREADABLE as error:
        raise ValueError(f"text.path {path!r}: no tokenizer can be loaded: {error_line(error)}") from error


def build_empty_encoder(folder: Path, *, trainable: bool) -> TextEncoder:
    """An encoder with the architecture in ``folder/config.json`` and no weights yet."""
    config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    return TextEncoder(_choose_auto_class(config).from_config(config, trust_remote_code=False), trainable=trainable)


def _choose_auto_class(config: Any) -> Any:
    """The class that builds an encoder: transformers' own choice for text, or the plain model of other kinds."""
    known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    return transformers.AutoModelForTextEncoding if known else transformers.AutoModel


def _text_config(config: Any) -> Any:
    """The text half of an image-and-text model such as CLIP."""
    return getattr(config, "text_config", config)


def _build_without_weights(config: Any) -> Any:
    with torch.device("meta"):
        return _choose_auto_class(config).from_config(config, trust_remote_code=False)


def _count_positions(encoder: nn.Module) -> int | None:
    """The most tokens that an encoder takes, None if its positions are relative."""
    tables = [
        module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2].startswith("position_embedding")
    ]
    # RoBERTa and its like count from the padding token's number on
    sizes = (table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables)
    return min(sizes, default=None)


def _check_code(path: str) -> None:
    """Refuses what would need code or files other than transformers' own; a missing folder is named by the loaders."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    def config_dict(path: str) -> dict[str, Any]:
        return transformers.PreTrainedConfig.get_config_dict(path)[0]

    for file, read in (("config.json", config_dict), ("tokenizer_config.json", get_tokenizer_config)):
        try:
            content = read(path)
            named = [key for key in REFUSED if content.get(key)]
        except UNREADABLE as error:
            raise ValueError(f"text.path {path!r}: its {file} cannot be read: {error_line(error)}") from error
        if named:
            raise ValueError(f"text.path {path!r}: {file} names {REFUSED[named[0]]} ({named[0]})")


def _check_weights(path: str) -> None:
    if not weight_files(path):
        raise ValueError(
            f"text.path {path!r} holds no weights in safetensors format; a pytorch_model.bin is a pickle, which is "
            "never loaded: save it again with transformers' save_pretrained"
        )


def _check_complete(path: str, encoder: nn.Module, found: Mapping[str, Any]) -> None:
    """Refuses weights that are not those of the configuration beside them.

    transformers draws at random what a file lacks, and passes over layers beyond those that are configured. The pooler
    is not used, and what a file holds besides the encoder may be there: a task's head, a decoder, the half for images.
    """
    kind = type(encoder).__name__
    if lost := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
        raise ValueError(f"text.path {path!r} lacks {len(lost)} weights of {kind}: {lost[0]}")
    if others := sorted(mismatch[0] for mismatch in found["mismatched_keys"]):
        raise ValueError(
            f"text.path {path!r}: {len(others)} weights of {kind} have other shapes than its config.json says: "
            f"{others[0]}"
        )
    own = {_strip_layer_number(name) for name in encoder.state_dict()}
    if over := sorted(name for name in found["unexpected_keys"] if _strip_layer_number(name) in own):
        raise ValueError(
            f"text.path {path!r} has {len(over)} weights of layers that its config.json does not count: {over[0]}"
        )


def _strip_layer_number(name: str) -> str:
    """A weight's name without the number of its layer."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
