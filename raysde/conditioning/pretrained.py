"""Pretrained text encoders of transformers, from a folder or by name: safetensors and JSON, no code and no pickle."""

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
"""Keys that a config.json must not have."""
UNREADABLE = (*UNFIT, StrictDataclassError)
"""Exceptions that transformers raises for folders that it cannot load."""
TEXT = "text.path"
"""Recipe key of a model's text encoder, which error messages name."""
INPUTS = ("input_ids", "attention_mask")
"""Arguments that an encoder must accept."""


def pretrained_encoder(text: PretrainedText) -> TextEncoder:
    """Load the encoder at ``text.path``, from safetensors weights only.

    Raises:
        ValueError: if it cannot be loaded completely, or has fewer positions than ``max_tokens``.
    """
    config = check_pretrained(text)
    check_weights(text.path)
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
    check_complete(text.path, encoder, found)
    return TextEncoder(encoder, trainable=text.trainable)


def check_pretrained(text: PretrainedText) -> Any:
    """Check the encoder and tokenizer at ``text.path`` without reading weights; return the encoder's configuration.

    Raises:
        ValueError: if there is no encoder, its configuration names code to run, it reads no tokens, a folder has no
            weights in safetensors format, or it has fewer positions than ``max_tokens``.
    """
    check_no_code(text.path)
    pretrained_tokenizer(text.path)
    try:
        config = _text_config(transformers.AutoConfig.from_pretrained(text.path, trust_remote_code=False))
        encoder = _build_without_weights(config)
    except UNREADABLE as error:
        raise ValueError(f"text.path {text.path!r}: no text encoder can be loaded: {error_line(error)}") from error
    if lacks := [name for name in INPUTS if name not in inspect.signature(encoder.forward).parameters]:
        raise ValueError(
            f"text.path {text.path!r} is not a text encoder: {type(encoder).__name__} takes no {lacks[0]}; name "
            "another model, such as openai/clip-vit-base-patch32"
        )
    if os.path.isdir(text.path):  # for a model on the hub this would download the weights
        check_weights(text.path)
    positions = _count_positions(encoder)
    if positions is not None and text.max_tokens > positions:
        raise ValueError(
            f"text.max_tokens={text.max_tokens} exceeds the {positions} positions of {text.path!r}; lower it"
        )
    return config


def pretrained_tokenizer(path: str, key: str = TEXT) -> Any:
    """Load the tokenizer beside a pretrained encoder, without running code from its folder.

    Args:
        key: the recipe key or option that gave ``path``, for the message.

    Raises:
        ValueError: if there is none.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except UNREADABLE as error:
        raise ValueError(f"{key} {path!r}: no tokenizer can be loaded: {error_line(error)}") from error


def build_empty_encoder(folder: Path, *, trainable: bool) -> TextEncoder:
    """Return an encoder with the architecture of ``folder/config.json`` and untrained weights."""
    config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    return TextEncoder(_choose_auto_class(config).from_config(config, trust_remote_code=False), trainable=trainable)


def _choose_auto_class(config: Any) -> Any:
    """Return the class that loads an encoder: transformers' choice for text, or the plain model of other kinds."""
    known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    return transformers.AutoModelForTextEncoding if known else transformers.AutoModel


def _text_config(config: Any) -> Any:
    """Return the text configuration of an image-and-text model such as CLIP, or the configuration itself."""
    return getattr(config, "text_config", config)


def _build_without_weights(config: Any) -> Any:
    with torch.device("meta"):
        return _choose_auto_class(config).from_config(config, trust_remote_code=False)


def _count_positions(encoder: nn.Module) -> int | None:
    """Return the largest number of tokens that an encoder takes, None if its positions are relative."""
    tables = [
        module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2].startswith("position_embedding")
    ]
    # RoBERTa and similar models start positions after the padding token's number
    sizes = (table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables)
    return min(sizes, default=None)


def check_no_code(path: str, key: str = TEXT) -> None:
    """Check that a folder's configuration needs no code or files other than transformers' own.

    A missing folder is left to the loaders, whose message names it.

    Args:
        key: the recipe key or option that gave ``path``, for the message.

    Raises:
        ValueError: if it names code or a weights file of its own, or cannot be read.
    """
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    def config_dict(path: str) -> dict[str, Any]:
        return transformers.PreTrainedConfig.get_config_dict(path)[0]

    for file, read in (("config.json", config_dict), ("tokenizer_config.json", get_tokenizer_config)):
        try:
            content = read(path)
            named = [key for key in REFUSED if content.get(key)]
        except UNREADABLE as error:
            raise ValueError(f"{key} {path!r}: its {file} cannot be read: {error_line(error)}") from error
        if named:
            raise ValueError(f"{key} {path!r}: {file} names {REFUSED[named[0]]} ({named[0]})")


def check_weights(path: str, key: str = TEXT) -> None:
    """Check that a folder holds weights in safetensors format.

    Args:
        key: the recipe key or option that gave ``path``, for the message.

    Raises:
        ValueError: if it holds none.
    """
    if not weight_files(path):
        raise ValueError(
            f"{key} {path!r} holds no weights in safetensors format; pytorch_model.bin is a pickle, which is "
            "never loaded: convert it with transformers' save_pretrained"
        )


def check_complete(path: str, encoder: nn.Module, found: Mapping[str, Any], key: str = TEXT) -> None:
    """Check that the weights are those of the configuration beside them.

    transformers initialises missing weights at random and ignores layers beyond the configured ones. The pooler is not
    used. Weights outside the encoder are allowed: a task's head, a decoder, the image half of CLIP.

    Args:
        found: loading information of ``from_pretrained``.
        key: the recipe key or option that gave ``path``, for the message.

    Raises:
        ValueError: naming one weight that is missing, of another shape, or of a layer too many.
    """
    kind = type(encoder).__name__
    if lost := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
        raise ValueError(f"{key} {path!r} lacks {len(lost)} weights of {kind}: {lost[0]}; copy the whole model")
    if others := sorted(mismatch[0] for mismatch in found["mismatched_keys"]):
        raise ValueError(
            f"{key} {path!r}: {len(others)} weights of {kind} have other shapes than its config.json says: {others[0]}"
        )
    own = {_strip_layer_number(name) for name in encoder.state_dict()}
    if over := sorted(name for name in found["unexpected_keys"] if _strip_layer_number(name) in own):
        raise ValueError(f"{key} {path!r} has {len(over)} weights of more layers than its config.json says: {over[0]}")


def _strip_layer_number(name: str) -> str:
    """Return a weight's name with the number of its layer replaced by #."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
