"""Hashes of models, encoders and files that depend only on their content, not on names and places."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from raysde.io.errors import UNFIT, error_line

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 hash of a local file's bytes, in hexadecimal."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Return a hash (16 hexadecimal digits) of a module's class and its weights' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(type(module).__qualname__.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_hash(description: Mapping[str, Any], module: nn.Module) -> str:
    """Return a hash (16 hexadecimal digits) of a model's description, as JSON values, and of its weights."""
    said = json.dumps(description, sort_keys=True) + weights_hash(module)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def hash_pretrained(path: str, *, tokenizer: bool, key: str) -> str:
    """Return the SHA-256 of a pretrained model's configuration, safetensors weights and, if asked, tokenizer.

    Args:
        path: local folder, or name on the Hugging Face hub.
        key: the recipe key or option that gave ``path``, for the message.

    Raises:
        ValueError: if the configuration or the safetensors weights are missing.
    """
    config, weights = _find_file(path, "config.json"), weight_files(path)
    if config is None or not weights:
        lacks = "config.json" if config is None else "weights in safetensors format"
        raise ValueError(f"{key} {path!r}: found no {lacks}")
    others = [_find_file(path, name) for name in TOKENIZER] if tokenizer else []
    return _hash_files([config, *weights, *(name for name in others if name is not None)])


def weight_files(path: str) -> list[str]:
    """Return the safetensors files at a folder or hub name: one file or all parts of an index; empty if any is missing.

    Raises:
        ValueError: if the index is invalid.
    """
    for name in WEIGHTS:
        if whole := _find_file(path, name):
            return [whole]
        if index := _find_file(path, f"{name}.index.json"):
            found = [_find_file(path, part) if part.endswith(".safetensors") else None for part in _list_parts(index)]
            return [part for part in found if part is not None] if None not in found else []
    return []


def _list_parts(index: str) -> list[str]:
    """Return the files that a weights index lists."""
    try:
        with open(index) as source:
            return sorted(set(map(str, json.load(source)["weight_map"].values())))
    except UNFIT as error:
        raise ValueError(f"{index} is not a valid weights index: {error_line(error)}") from error


def _find_file(path: str, name: str) -> str | None:
    """Return the local path of a file in a folder or hub repository (downloaded if needed); None if missing."""
    from transformers.utils import hub  # data tasks hash nothing and do without transformers

    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
    try:
        return hub.cached_file(path, name, **quiet)
    except OSError:
        return None


def _hash_files(files: Iterable[str]) -> str:
    parts = [[os.path.basename(file), remembered_hash(file)] for file in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def remembered_hash(path: str | os.PathLike[str]) -> str:
    """Return :func:`file_hash`, cached in this process until the file's size or time changes."""
    about = os.stat(path)
    return _hash_unchanged_file(os.path.abspath(path), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_unchanged_file(file: str, size: int, changed: int) -> str:
    """Return the hash of a file; size and time are keys of the cache."""
    return file_hash(file)
