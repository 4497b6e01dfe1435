"""safetensors files of tensors sharded in rows over ranks, read by any number of ranks.

weights.safetensors                   whole tensors
weights/00001-of-00002.safetensors    the rows of the first of two ranks, and so on

The header of a file of pieces gives each piece's first row.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from raysde.checkpoints.staging import STARTS
from raysde.distributed.fsdp import is_sharded, local_rows


def open_local(path: Path) -> Any:
    """Return an open safetensors file.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a tensor in an open file; a scalar counts as one row.

    Attributes:
        source: the open safetensors file.
        shape: shape of the whole tensor.
    """

    source: Any
    start: int
    stop: int
    shape: tuple[int, ...]


class Stored:
    """The tensors in safetensors files, read on access.

    Args:
        sources: one open file of whole tensors, or all files of pieces that were written together; see
            :func:`open_local` and :class:`raysde.checkpoints.ranges.RangedTensors`.
        threads: number of tensors that may be read at once.
    """

    def __init__(self, sources: Iterable[Any], threads: int = 1) -> None:
        self.pieces: dict[str, list[Piece]] = {}
        self.threads = threads
        for source in sources:
            starts = json.loads((source.metadata() or {}).get(STARTS, "{}"))
            for name in source.keys():  # noqa: SIM118
                shape = tuple(source.get_slice(name).get_shape())
                start = starts[name]["saved_offsets"][0] if name in starts and shape else 0
                piece = Piece(source, start, start + (shape[0] if shape else 1), shape)
                self.pieces.setdefault(name, []).append(piece)
        for pieces in self.pieces.values():
            pieces.sort(key=lambda piece: piece.start)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the whole tensor."""
        pieces = self.pieces[name]
        return (pieces[-1].stop, *pieces[0].shape[1:]) if pieces[0].shape else ()

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` of a tensor, [stop - start, ...], in host memory.

        Raises:
            ValueError: if the files lack one of the rows.
        """
        found, place = [], start
        for piece in self.pieces[name]:
            low, high = max(place, piece.start), min(stop, piece.stop)
            if low < high and low == place:
                found.append(piece.source.get_slice(name)[low - piece.start : high - piece.start])
                place = high
        if place < stop:
            raise ValueError(f"the files lack row {place} of {name}")
        if not found:
            first = self.pieces[name][0]
            return first.source.get_slice(name)[:0]
        return found[0] if len(found) == 1 else torch.cat(found)

    def tensor(self, name: str) -> Tensor:
        """Return a whole tensor in host memory, of the shape that :meth:`shape` returns.

        Raises:
            ValueError: if the files lack one of its rows.
        """
        shape = self.shape(name)
        if not shape:
            scalar: Tensor = self.pieces[name][0].source.get_tensor(name)
            return scalar
        return self.rows(name, 0, shape[0])

    def all_like(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every tensor, sharded as the target of its name, or of the part of its name after the last slash.

        Each has the global shape that :meth:`shape` returns. If its target has the same shape, only this rank's rows
        are read.

        Raises:
            ValueError: if the files lack a row that this rank needs.
        """
        names = {name: targets.get(name.rpartition("/")[2]) for name in self.pieces}
        if self.threads == 1:
            return {name: _shard(self._rows_like(name, target), target) for name, target in names.items()}
        with ThreadPoolExecutor(self.threads) as pool:
            read = pool.map(self._rows_like, names, names.values())
            return {name: _shard(rows, target) for (name, target), rows in zip(names.items(), read, strict=True)}

    def _rows_like(self, name: str, target: Tensor | None) -> tuple[Tensor, bool]:
        """Return the rows of a tensor for this rank, and True if there may be others."""
        if target is None or not is_sharded(target) or self.shape(name) != tuple(target.shape):
            return self.tensor(name), False
        return self.rows(name, *local_rows(target)), True


def _shard(read: tuple[Tensor, bool], target: Tensor | None) -> Tensor:
    rows, partial = read
    if not partial or target is None or not is_sharded(target):
        return rows
    from torch.distributed.tensor import DTensor

    place = (target.device_mesh, target.placements)
    return DTensor.from_local(
        rows.to(target.device), *place, run_check=False, shape=target.shape, stride=target.stride()
    )
