"""Random access to what was computed from rows beforehand: captions' vectors, and latents."""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import (
    COLUMN,
    EMPTY,
    NUMBERS,
    Derived,
    Latents,
    TextEmbeddings,
)
from raysde.data.dataset.row_groups import RowGroups
from raysde.io.filesystems import child_path, read_bytes

CACHE = 1 << 30


class Vectors:
    """The rows of a folder by their numbers in the data set.

    Args:
        derived: the folder.
        manifest: of the data set.
        cache_bytes: row groups are kept up to this size.
    """

    def __init__(self, derived: Derived, manifest: Manifest, *, cache_bytes: int = CACHE) -> None:
        self.derived = derived
        self.groups: RowGroups[pa.Array] = RowGroups(
            manifest,
            derived.path,
            pa.schema([COLUMN[derived.kind]]),
            lambda table: table.column(0).combine_chunks(),
            budget=cache_bytes,
        )

    def read_stored(self, rows: np.ndarray) -> list[Any]:
        """The values of rows, in the order given.

        Raises:
            ValueError: naming the file that is missing or damaged.
        """
        result: list[Any] = [None] * len(rows)
        for place, group, inside in self.groups.holding(rows):
            result[place] = group[inside]
        return result


class Contexts(Vectors):
    """The vectors of captions."""

    derived: TextEmbeddings

    def read(self, rows: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [B, L, width] and how many are real, int64 [B], of one caption of each row.

        Args:
            draws: numbers in [0, 1) that choose the captions, as they do for the reader of the rows.
        """
        found = [self._vectors(each, draw) for each, draw in zip(self.read_stored(rows), draws.tolist(), strict=True)]
        tokens = np.array([len(each) for each in found], dtype=np.int64)
        return pad_vectors(found, padded_length(int(tokens.max()), self.derived.max_tokens)), tokens

    @cached_property
    def empty(self) -> np.ndarray:
        """Vectors [tokens, width] of the empty caption."""
        return self._numbers(read_bytes(child_path(self.derived.path, EMPTY)))

    def _vectors(self, stored: Any, draw: float) -> np.ndarray:
        captions = stored.values
        if not len(captions):
            return self.empty
        return self._numbers(captions[choose_caption(len(captions), draw)].as_buffer())

    def _numbers(self, content: Any) -> np.ndarray:
        return np.frombuffer(content, NUMBERS[self.derived.dtype]).reshape(-1, self.derived.width)


class LatentMoments(Vectors):
    """The posteriors of latents."""

    derived: Latents

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Mean and log-variance of each row's latent, [B, 2 C, height, width]."""
        channels, height, width = self.derived.shape
        result = np.empty((len(rows), 2 * channels, height, width), NUMBERS[self.derived.dtype])
        for place, each in enumerate(self.read_stored(rows)):
            result[place] = np.frombuffer(each.as_buffer(), result.dtype).reshape(result.shape[1:])
        return result


def choose_caption(count: int, draw: float) -> int:
    """Which of ``count`` captions a draw in [0, 1) chooses."""
    return int(draw * count)


def padded_length(tokens: int, most: int) -> int:
    """The length to which rows are padded, as the tokenizer pads: a multiple of 8, so that lengths repeat."""
    return min(most, -(-tokens // 8) * 8)


def pad_vectors(found: list[np.ndarray], length: int) -> np.ndarray:
    """Vectors [tokens, width] of several captions as [B, length, width], with zeros after the real ones."""
    result = np.zeros((len(found), length, found[0].shape[1]), found[0].dtype)
    for place, each in enumerate(found):
        result[place, : len(each)] = each
    return result
