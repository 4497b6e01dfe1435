"""What `raysde precompute` makes of a data set: jobs in units of one shard, each done by whoever holds the encoder.

A unit's bytes depend on the job and its number alone, not on who does it or in which order.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
import torch

from raysde.captions import PretrainedText, check_pretrained, width_of
from raysde.data.derived import (
    NUMBERS,
    Derived,
    Dtype,
    File,
    Kind,
    TextEmbeddings,
    folder_of,
    identity_of,
    write_column,
    write_empty,
)
from raysde.data.filesystems import filesystem
from raysde.data.shards import Manifest
from raysde.embeddings import Embedder, encoder_hash

Work = Callable[[int], File]


class Job(Protocol):
    """A folder to be made beside a data set."""

    @property
    def kind(self) -> Kind: ...

    @property
    def out(self) -> str:
        """The folder."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that the bytes depend on."""

    @property
    def fingerprint(self) -> str:
        """Of the data set."""

    def units(self, manifest: Manifest) -> int:
        """The number of units."""

    def work(self, manifest: Manifest) -> Work:
        """Loads the encoder; what is returned makes the file of a unit."""

    def derived(self, files: list[File]) -> Derived:
        """The manifest for the files of all units."""


@dataclass(frozen=True, kw_only=True)
class TextJob:
    """Embeds all captions, and the empty one in a unit after those of the shards.

    Attributes:
        shards, fingerprint: the data set.
        encoder, sha256, width, max_tokens: the text encoder.
        dtype: of the stored numbers.
        batch_size: captions of one forward pass.
    """

    shards: str
    fingerprint: str
    encoder: str
    sha256: str
    width: int
    max_tokens: int
    dtype: Dtype
    batch_size: int

    @classmethod
    def of(cls, manifest: Manifest, encoder: str, *, max_tokens: int, dtype: Dtype, batch_size: int) -> "TextJob":
        """The job for an encoder.

        Raises:
            ValueError: if there is no such encoder, it has too few positions, or the data set has no captions.
        """
        if not manifest.captions:
            raise ValueError(f"the shards at {manifest.path} hold no captions for --text")
        width = width_of(check_pretrained(PretrainedText(path=encoder, max_tokens=max_tokens)))
        return cls(
            shards=manifest.path,
            fingerprint=manifest.fingerprint,
            encoder=encoder,
            sha256=encoder_hash(encoder),
            width=width,
            max_tokens=max_tokens,
            dtype=dtype,
            batch_size=batch_size,
        )

    @property
    def kind(self) -> Kind:
        return "text"

    @property
    def out(self) -> str:
        return folder_of("text", self.shards, identity_of(self.sha256, self.max_tokens, self.dtype))

    @property
    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("shards", "encoder")}

    def units(self, manifest: Manifest) -> int:
        return len(manifest.shards) + 1

    def work(self, manifest: Manifest) -> Work:
        check_same(self.encoder, self.sha256, encoder_hash(self.encoder))
        embed = Embedder(self.encoder, self.max_tokens, self.batch_size, device())

        def write(unit: int) -> File:
            if unit == len(manifest.shards):
                return write_empty(self.out, raw(embed([""])[0], self.dtype))
            groups = (self._embedded(embed, captions) for captions in caption_groups(manifest, unit))
            return write_column(self.out, "text", manifest.shards[unit].file, groups)

        return write

    def _embedded(self, embed: Embedder, rows: list[list[str]]) -> list[list[bytes]]:
        """The vectors of each row's captions."""
        vectors = iter(embed([caption for captions in rows for caption in captions]))
        return [[raw(next(vectors), self.dtype) for _ in captions] for captions in rows]

    def derived(self, files: list[File]) -> TextEmbeddings:
        return TextEmbeddings(
            path=self.out,
            encoder=self.encoder,
            sha256=self.sha256,
            width=self.width,
            max_tokens=self.max_tokens,
            dtype=self.dtype,
            fingerprint=self.fingerprint,
            files=tuple(files[:-1]),
            empty=files[-1],
        )


def device() -> torch.device:
    """Where encoders run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_same(path: str, expected: str, found: str) -> None:
    """An encoder by path may be another one on another node.

    Raises:
        ValueError: if it is.
    """
    if found != expected:
        raise ValueError(f"the encoder {path!r} has sha256 {found[:12]} here, but {expected[:12]} where the job began")


def raw(values: np.ndarray, dtype: Dtype) -> bytes:
    """Numbers as they are stored.

    Raises:
        ValueError: if one is not finite, or too large for the type.
    """
    with np.errstate(over="ignore"):
        stored = values.astype(NUMBERS[dtype])
    if not np.isfinite(stored).all():
        largest = float(np.abs(values).max())
        raise ValueError(f"the encoder gives numbers up to {largest:.3g}, which {dtype} cannot hold; use --dtype fp32")
    return stored.tobytes()


def caption_groups(manifest: Manifest, shard: int) -> Iterator[list[list[str]]]:
    """Captions of each row, a row group of a shard at a time."""
    system, inside = filesystem(manifest.file(shard))
    with system.open_input_file(inside) as source, pq.ParquetFile(source) as opened:
        for group in range(opened.num_row_groups):
            yield opened.read_row_group(group, columns=["captions"]).column("captions").to_pylist()
