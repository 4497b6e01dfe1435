"""What tells two encoders apart: a hash of their files, whatever they are called and wherever they lie."""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import lru_cache

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


def hash_of(path: str, *, tokenizer: bool, key: str) -> str:
    """sha256 over the configuration, the safetensors weights and, if asked, the tokenizer at a folder or hub name.

    Args:
        key: what the user called ``path``, for the message.

    Raises:
        ValueError: if there is no configuration or there are no safetensors weights.
    """
    config, weights = _found(path, "config.json"), weight_files(path)
    if config is None or not weights:
        lacks = "config.json" if config is None else "weights in safetensors format"
        raise ValueError(f"{key} {path!r}: found no {lacks}")
    others = [_found(path, name) for name in TOKENIZER] if tokenizer else []
    return _joined([config, *weights, *(name for name in others if name is not None)])


def weight_files(path: str) -> list[str]:
    """The safetensors weights at a folder or hub name: one file, or the parts that an index lists; empty if not all
    are there."""
    for name in WEIGHTS:
        if whole := _found(path, name):
            return [whole]
        if index := _found(path, f"{name}.index.json"):
            with open(index) as source:
                parts = sorted(set(json.load(source)["weight_map"].values()))
            found = [_found(path, part) if part.endswith(".safetensors") else None for part in parts]
            return [part for part in found if part is not None] if None not in found else []
    return []


def _found(path: str, name: str) -> str | None:
    """A file of a folder, or of a repository on the hub (fetched if it is not here yet)."""
    from transformers.utils import hub  # data tasks, which hash nothing, do without transformers

    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
    try:
        return hub.cached_file(path, name, **quiet)
    except OSError:
        return None


def _joined(files: Iterable[str]) -> str:
    parts = []
    for file in files:
        about = os.stat(file)
        parts.append([os.path.basename(file), _digest(file, about.st_size, about.st_mtime_ns)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@lru_cache(maxsize=256)
def _digest(file: str, size: int, changed: int) -> str:
    """The hash of a file's content, remembered until it is changed."""
    with open(file, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
