"""Precompute jobs: text embeddings and image latents of a data set, in units of one shard.

The bytes of a unit depend only on the job and the unit's number, not on the worker or the order of the units.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raysde.conditioning.embedder import Embedder, encoder_hash
from raysde.conditioning.text import PretrainedText, width_of
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import (
    NUMBERS,
    WHOLE,
    Derived,
    Dtype,
    Latents,
    LatentViews,
    PrecomputedFile,
    PrecomputedKind,
    TextEmbeddings,
    derived_folder,
    hash_identity,
    write_column,
    write_empty,
)
from raysde.data.dataset.reader import Reader
from raysde.io.filesystems import open_filesystem, resolve_folder_or_name
from raysde.models.autoencoder import LatentSpec, encode_moments, latent_spec, load_vae, vae_hash

Work = Callable[[int], PrecomputedFile]
"""A function that writes the file of a unit, by number, and describes it."""


class Job(Protocol):
    """A job that writes one folder of precomputed data beside a data set."""

    @property
    def kind(self) -> PrecomputedKind: ...

    @property
    def out(self) -> str:
        """URI of the folder."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that determine the bytes of the files."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data set."""

    def units(self, manifest: Manifest) -> int:
        """Return the number of units of work, which are numbered from 0."""

    def work(self, manifest: Manifest) -> Work:
        """Load the encoder and return the function that writes the file of a unit."""

    def derived(self, files: list[PrecomputedFile]) -> Derived:
        """Return the manifest of the folder, given the files of all units in order."""


@dataclass(frozen=True, kw_only=True)
class TextJob:
    """A job that embeds all captions, with a unit of work for each shard and a last one for the empty caption.

    Attributes:
        shards, fingerprint, version: URI, fingerprint and version of the data set.
        encoder, sha256: path or name of the text encoder, and the hash of its files.
        width, max_tokens: length of an embedding vector, and maximum number of tokens of a caption.
        dtype: number type of the stored vectors.
        batch_size: number of captions in a forward pass.
    """

    shards: str
    fingerprint: str
    version: int = 1
    encoder: str
    sha256: str
    width: int
    max_tokens: int
    dtype: Dtype
    batch_size: int

    @classmethod
    def of(cls, manifest: Manifest, encoder: str, *, max_tokens: int, dtype: Dtype, batch_size: int) -> "TextJob":
        """Return the job for a data set and an encoder.

        Raises:
            ValueError: if there is no such encoder, it takes fewer than ``max_tokens`` tokens, or the data set has no
                captions.
        """
        from raysde.conditioning.pretrained import check_pretrained  # loads transformers

        if not manifest.captions:
            raise ValueError(f"--text: the data set {manifest.path} has no captions; ingest it with captions first")
        encoder = resolve_folder_or_name(encoder)
        width = width_of(check_pretrained(PretrainedText(path=encoder, max_tokens=max_tokens)))
        return cls(
            shards=manifest.path,
            fingerprint=manifest.fingerprint,
            version=manifest.version,
            encoder=encoder,
            sha256=encoder_hash(encoder),
            width=width,
            max_tokens=max_tokens,
            dtype=dtype,
            batch_size=batch_size,
        )

    @property
    def kind(self) -> PrecomputedKind:
        return "text"

    @property
    def out(self) -> str:
        settings = (self.max_tokens, self.dtype, *_own_name(self.fingerprint, self.version))
        return derived_folder("text", self.shards, hash_identity(self.sha256, *settings))

    @property
    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("shards", "version", "encoder")}

    def units(self, manifest: Manifest) -> int:
        return len(manifest.shards) + 1

    def work(self, manifest: Manifest) -> Work:
        check_same_encoder(self.encoder, self.sha256, encoder_hash(self.encoder))
        embed = Embedder(self.encoder, self.max_tokens, self.batch_size, choose_device())

        def write(unit: int) -> PrecomputedFile:
            if unit == len(manifest.shards):
                return write_empty(self.out, pack_numbers(embed([""])[0], self.dtype))
            groups = (self._embed_captions(embed, captions) for captions in caption_groups(manifest, unit))
            return write_column(self.out, "text", manifest.shards[unit].file, groups)

        return write

    def _embed_captions(self, embed: Embedder, rows: list[list[str]]) -> list[list[bytes]]:
        """Return the packed vectors of each caption of each row."""
        vectors = iter(embed([caption for captions in rows for caption in captions]))
        return [[pack_numbers(next(vectors), self.dtype) for _ in captions] for captions in rows]

    def derived(self, files: list[PrecomputedFile]) -> TextEmbeddings:
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


@dataclass(frozen=True, kw_only=True)
class LatentsJob:
    """A job that encodes all images to the mean and log-variance of their latents.

    Attributes:
        shards, fingerprint, version: URI, fingerprint and version of the data set.
        latent: the autoencoder and its latent space.
        dtype: number type of the stored moments.
        batch_size: number of images in a forward pass.
        views: views of each image.
    """

    shards: str
    fingerprint: str
    version: int = 1
    latent: LatentSpec
    dtype: Dtype
    batch_size: int
    views: LatentViews = WHOLE

    @classmethod
    def of(
        cls, manifest: Manifest, vae: str, *, dtype: Dtype, batch_size: int, views: LatentViews = WHOLE
    ) -> "LatentsJob":
        """Return the job for a data set and an autoencoder.

        Raises:
            ValueError: if there is no such autoencoder, or the images do not fit it or have several sizes.
        """
        if len(manifest.shapes) > 1:
            raise ValueError(
                f"--vae: the data set {manifest.path} has images of several sizes; ingest it with one --size"
            )
        latent = latent_spec(resolve_folder_or_name(vae), manifest.image)
        return cls(
            shards=manifest.path,
            fingerprint=manifest.fingerprint,
            version=manifest.version,
            latent=latent,
            dtype=dtype,
            batch_size=batch_size,
            views=views,
        )

    @property
    def kind(self) -> PrecomputedKind:
        return "latents"

    @property
    def out(self) -> str:
        settings = (self.dtype, *_own_name(self.fingerprint, self.version), *self._views)
        return derived_folder("latents", self.shards, hash_identity(self.latent.sha256, *settings))

    @property
    def _views(self) -> list[Any]:
        """Settings of the views as JSON values; none for the whole image alone, as before there were views."""
        return [] if self.views.count == 1 else [self.views.flip, self.views.crops, *self.views.scale]

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "sha256": self.latent.sha256,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            **({"views": self._views} if self._views else {}),
        }

    def units(self, manifest: Manifest) -> int:
        return len(manifest.shards)

    def work(self, manifest: Manifest) -> Work:
        path, place = self.latent.vae, choose_device()
        check_same_encoder(path, self.latent.sha256, vae_hash(path))
        vae, reader = load_vae(path).to(place), Reader(manifest)

        def encode_rows(rows: range) -> list[bytes]:
            moments = [
                encode_moments(vae, images.to(place)).cpu().numpy() for images in show_views(reader, rows, self.views)
            ]
            return [pack_numbers(np.stack(each), self.dtype) for each in zip(*moments, strict=True)]

        def groups(unit: int) -> Iterator[list[bytes]]:
            first, last = manifest.starts[unit : unit + 2].tolist()
            for start in range(first, last, manifest.row_group):
                rows = range(start, min(start + manifest.row_group, last))
                parts = (rows[place : place + self.batch_size] for place in range(0, len(rows), self.batch_size))
                yield [each for part in parts for each in encode_rows(part)]

        return lambda unit: write_column(self.out, "latents", manifest.shards[unit].file, groups(unit))

    def derived(self, files: list[PrecomputedFile]) -> Latents:
        return Latents(
            path=self.out,
            encoder=self.latent.vae,
            sha256=self.latent.sha256,
            scaling_factor=self.latent.scaling_factor,
            shift_factor=self.latent.shift_factor,
            shape=self.latent.shape,
            pixels=self.latent.pixels,
            dtype=self.dtype,
            fingerprint=self.fingerprint,
            files=tuple(files),
            views=self.views,
        )


def _own_name(fingerprint: str, version: int) -> tuple[str, ...]:
    """Return the setting that gives later versions of a data set folders of their own; none for the first."""
    return () if version == 1 else (fingerprint,)


def show_views(reader: Reader, rows: range, views: LatentViews) -> Iterator[torch.Tensor]:
    """Yield each view of some rows' images, uint8 [B, C, H, W]; the crops of a row depend on its number alone."""
    for crop in range(1 + views.crops):
        view = views.cut(0, crop)[0]
        draws = np.stack([views.cut(row, crop)[1] for row in rows])
        images = torch.from_numpy(reader.read(np.array(rows), view, draws).images).permute(0, 3, 1, 2).contiguous()
        yield images
        if views.flip:
            yield images.flip(-1)


def choose_device() -> torch.device:
    """Return the device for encoders: a GPU if PyTorch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_same_encoder(path: str, expected: str, found: str) -> None:
    """Check that a path holds the same encoder on this node as on the node where the job began.

    Raises:
        ValueError: if the sha256 ``found`` here differs from ``expected``.
    """
    if found != expected:
        raise ValueError(
            f"the encoder {path!r} has sha256 {found[:12]} on this node, but {expected[:12]} where the job began; "
            "put the same files on every node"
        )


def pack_numbers(values: np.ndarray, dtype: Dtype) -> bytes:
    """Return an array of any shape as raw little-endian bytes of ``dtype``, in C order.

    Raises:
        ValueError: if a number is not finite, or too large for ``dtype``.
    """
    with np.errstate(over="ignore"):
        stored = values.astype(NUMBERS[dtype])
    if not np.isfinite(stored).all():
        largest = float(np.abs(values).max())
        raise ValueError(f"the encoder gives numbers up to {largest:.3g}, which {dtype} cannot hold; use --dtype fp32")
    return stored.tobytes()


def caption_groups(manifest: Manifest, shard: int) -> Iterator[list[list[str]]]:
    """Yield the captions of each row for one row group of a shard after another.

    Raises:
        ValueError: naming the shard, if it is damaged.
    """
    system, inside = open_filesystem(manifest.file(shard))
    try:
        with (
            system.open_input_file(inside) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as opened,
        ):
            for group in range(opened.num_row_groups):
                yield opened.read_row_group(group, columns=["captions"]).column("captions").to_pylist()
    except (pa.ArrowException, OSError) as error:
        where = f"shard {manifest.shards[shard].file} of {manifest.path}"
        raise ValueError(f"{where} is damaged: {' '.join(str(error).split())}") from error
