"""Random access to precomputed caption embeddings and latents."""

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
    """Random access to the rows of a precomputed folder by row number.

    Args:
        derived: manifest of the folder.
        manifest: manifest of the data set.
        cache_bytes: size of the cache of row groups in bytes.
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
        """Return the stored values of rows [B], one for each, in the given order.

        Raises:
            ValueError: naming the file that is missing or damaged.
        """
        result: list[Any] = [None] * len(rows)
        for place, group, inside in self.groups.holding(rows):
            result[place] = group[inside]
        return result


class Contexts(Vectors):
    """Random access to the embeddings of captions."""

    derived: TextEmbeddings

    def read(self, rows: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors [B, L, width] of one caption of each row, padded, and its number of tokens, int64 [B].

        Args:
            rows: row numbers, int64 [B].
            draws: numbers [B] in [0, 1) that select the same captions as in :class:`raysde.data.dataset.reader.Reader`.

        Raises:
            ValueError: naming the file that is missing or damaged.
        """
        found = [self._vectors(each, draw) for each, draw in zip(self.read_stored(rows), draws.tolist(), strict=True)]
        tokens = np.array([len(each) for each in found], dtype=np.int64)
        return pad_vectors(found, padded_length(int(tokens.max()), self.derived.max_tokens)), tokens

    @cached_property
    def empty(self) -> np.ndarray:
        """Vectors of the empty caption, [tokens, width].

        Raises:
            OSError: if the file is missing or cannot be read.
        """
        return self._numbers(read_bytes(child_path(self.derived.path, EMPTY)))

    def _vectors(self, stored: Any, draw: float) -> np.ndarray:
        captions = stored.values
        if not len(captions):
            return self.empty
        return self._numbers(captions[choose_caption(len(captions), draw)].as_buffer())

    def _numbers(self, content: Any) -> np.ndarray:
        return np.frombuffer(content, NUMBERS[self.derived.dtype]).reshape(-1, self.derived.width)


class LatentMoments(Vectors):
    """Random access to the posteriors of latents."""

    derived: Latents

    def read(self, rows: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
        """Return mean and log-variance of one view of the latents of rows [B], [B, 2 C, height, width].

        Args:
            rows: row numbers, int64 [B].
            draws: numbers [B] in [0, 1) that select a view of each row; the whole image if None.

        Raises:
            ValueError: naming the file that is missing or damaged.
        """
        channels, height, width = self.derived.shape
        count = self.derived.views.count
        views = [self.derived.views.choose(draw) for draw in (np.zeros(len(rows)) if draws is None else draws).tolist()]
        result = np.empty((len(rows), 2 * channels, height, width), NUMBERS[self.derived.dtype])
        for place, each in enumerate(self.read_stored(rows)):
            stored = np.frombuffer(each.as_buffer(), result.dtype).reshape(count, *result.shape[1:])
            result[place] = stored[views[place]]
        return result


def choose_caption(count: int, draw: float) -> int:
    """Return the index among ``count`` captions that a draw in [0, 1) selects."""
    return int(draw * count)


def padded_length(tokens: int, most: int) -> int:
    """Return the padded number of tokens, at most ``most``: a multiple of 8 as in the tokenizer, so lengths repeat."""
    return min(most, -(-tokens // 8) * 8)


def pad_vectors(found: list[np.ndarray], length: int) -> np.ndarray:
    """Stack vectors [tokens, width] of B captions to [B, length, width], padded with zeros."""
    result = np.zeros((len(found), length, found[0].shape[1]), found[0].dtype)
    for place, each in enumerate(found):
        result[place, : len(each)] = each
    return result
