"""safetensors files of tensors sharded in rows over ranks: written in pieces or whole, read by any number of ranks.

weights.safetensors                   whole tensors
weights/00001-of-00002.safetensors    the rows of the first of two ranks, and so on

The header of a file of pieces gives each piece's first row, as in safetensors files of torch.distributed.checkpoint, so
its HuggingFaceStorageReader can read such a folder too. Its other formats keep their index as a pickle.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raysde.distributed.fsdp import gather_tensor, is_sharded, local_rows

HEADER = "DCP_SHARDING_INFO"
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_pieces(path: Path, tensors: Mapping[str, Tensor], rank: int) -> None:
    """Write the rows that this rank holds; rank 0 also writes the tensors that are not sharded."""
    mine: dict[str, Tensor] = {}
    starts: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.items():
        start, stop = local_rows(tensor) if is_sharded(tensor) else (0, int(rank == 0))
        if start < stop:
            local = (tensor.to_local() if is_sharded(tensor) else tensor).detach()
            mine[name] = local.cpu().contiguous()
            starts[name] = {"saved_offsets": [start, *(0 for _ in local.shape[1:])][: local.ndim]}
    save_file(mine, path, {HEADER: json.dumps(starts)})


def write_whole_tensors(
    path: Path | None, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write whole tensors, one in memory at a time. Every rank must call it if they are sharded.

    Args:
        path: path of the file; None on ranks that only send their rows.
        metadata: text values for the file's header.
    """
    # descending element size keeps each tensor aligned to its dtype
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    if path is None:
        for name in names:
            gather_tensor(tensors[name].detach())
        return
    with path.open("wb") as out:
        out.write(build_header([(name, tensors[name]) for name in names], metadata or {}))
        for name in names:
            value = gather_tensor(tensors[name].detach()).cpu().contiguous()
            out.write(value.reshape(-1).view(torch.uint8).numpy().data)


def build_header(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file: a length of 8 bytes, and JSON padded to a multiple of 8 bytes."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, tensor in tensors:
        end = place + tensor.numel() * tensor.element_size()
        content[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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
        paths: one file of whole tensors, or all files of pieces that were written together.

    Raises:
        ValueError: naming a file that cannot be read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.pieces: dict[str, list[Piece]] = {}
        for path in paths:
            try:
                source: Any = safe_open(path, "pt")
                starts = json.loads((source.metadata() or {}).get(HEADER, "{}"))
            except (SafetensorError, OSError, ValueError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
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
        """Return rows [start, stop) of a tensor.

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
        """Return a whole tensor."""
        shape = self.shape(name)
        if not shape:
            scalar: Tensor = self.pieces[name][0].source.get_tensor(name)
            return scalar
        return self.rows(name, 0, shape[0])

    def like(self, name: str, target: Tensor | None) -> Tensor:
        """Return a tensor sharded as ``target``; if both have the same shape, only this rank's rows are read."""
        if target is None or not is_sharded(target) or self.shape(name) != tuple(target.shape):
            return self.tensor(name)
        from torch.distributed.tensor import DTensor

        local = self.rows(name, *local_rows(target)).to(target.device)
        place = (target.device_mesh, target.placements)
        return DTensor.from_local(local, *place, run_check=False, shape=target.shape, stride=target.stride())

    def all_like(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every tensor, sharded as the target of its name, or of the part of its name after the last slash."""
        return {name: self.like(name, targets.get(name.rpartition("/")[2])) for name in self.pieces}
