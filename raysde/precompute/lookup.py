"""Find the precomputed embeddings and latents beside a data set that fit a run."""

from collections.abc import Iterable
from typing import Literal

from raysde.conditioning.embedder import encoder_hash
from raysde.conditioning.external import ExternalText
from raysde.conditioning.text import AutoText, PretrainedText, ScratchText
from raysde.data.dataset.manifest import Manifest
from raysde.data.dataset.precomputed import (
    WHOLE,
    Derived,
    Latents,
    LatentViews,
    PrecomputedKind,
    TextEmbeddings,
    find_derived,
)
from raysde.data.dataset.versions import read_versions
from raysde.images.sizes import format_size
from raysde.io.filesystems import resolve_folder_or_name
from raysde.models.autoencoder import LatentSpec, vae_hash

Mode = Literal["auto", "off", "require"]
Chosen = ScratchText | PretrainedText | ExternalText | None


def choose_text_encoder(manifest: Manifest, text: Chosen | AutoText, mode: Mode) -> Chosen:
    """Return the text encoder that ``text.kind=auto`` stands for; other kinds are returned unchanged.

    "auto" selects the encoder of the embeddings beside the data set, else a small one to be trained, and none for a
    data set without captions.

    Args:
        mode: the recipe's ``data.precomputed``.

    Raises:
        ValueError: if the embeddings come from several encoders or from other data, or are required and absent.
    """
    if not isinstance(text, AutoText):
        return text
    if not manifest.captions:
        return None
    folders = [] if mode == "off" else _list_embeddings(manifest)
    for each in folders:
        if each.fingerprint != manifest.fingerprint:
            raise ValueError(
                f"{each.path} was made from data {each.fingerprint}, but data.path {manifest.path} has "
                f"{manifest.fingerprint}; remove the folder, then run "
                f"{_precompute_command(manifest, each.encoder, each.max_tokens)}, "
                "or set data.precomputed=off"
            )
    encoders = {(each.sha256, each.max_tokens): each for each in folders}
    if len(encoders) > 1:
        known = [f"text.path={each.encoder} text.max_tokens={each.max_tokens}" for each in encoders.values()]
        raise ValueError(
            f"text.kind=auto: {manifest.path} has embeddings of {len(encoders)} encoders; select one by "
            f"text.kind=pretrained {', or '.join(known)}"
        )
    if folders:
        return PretrainedText(path=folders[0].encoder, max_tokens=folders[0].max_tokens)
    if mode == "require":
        raise ValueError(f"data.precomputed=require, but {manifest.path} has no embeddings; run raysde precompute")
    return text.scratch()


def describe_unused(manifest: Manifest, used: Iterable[Derived | None], mode: Mode) -> list[str]:
    """Return a sentence for each kind of precomputed data beside the shards that a run does not use.

    Args:
        used: manifests of the folders that the run reads; None entries are ignored.
        mode: the recipe's ``data.precomputed``; "off" gives no sentence about embeddings.

    Raises:
        ValueError: naming the manifest that is damaged or of another format.
    """
    kinds = {each.kind for each in used if each is not None}
    said = []
    if "text" not in kinds and mode != "off" and (folders := _list_embeddings(manifest)):
        said.append(
            f"{folders[0].path} is not used: text.kind=auto, or text.kind=pretrained text.path={folders[0].encoder} "
            f"text.max_tokens={folders[0].max_tokens}, trains on these embeddings; data.precomputed=off ignores them"
        )
    if "latents" not in kinds and (latents := _list_own("latents", manifest)):
        said.append(f"{latents[0].path} is not used: latent.vae={latents[0].encoder} trains on these latents")
    return said


def _list_embeddings(manifest: Manifest) -> list[TextEmbeddings]:
    return [each for each in _list_own("text", manifest) if isinstance(each, TextEmbeddings)]


def _list_own(kind: PrecomputedKind, manifest: Manifest) -> list[Derived]:
    """Return the precomputed folders beside a data set, without those of its other versions."""
    others = {each.fingerprint for each in read_versions(manifest.path)} - {manifest.fingerprint}
    return [each for each in find_derived(kind, manifest.path) if each.fingerprint not in others]


def _precompute_command(manifest: Manifest, encoder: str, max_tokens: int) -> str:
    return f"`raysde precompute {manifest.path} --text {encoder} --max-tokens {max_tokens}`"


def find_embeddings(manifest: Manifest, text: Chosen, mode: Mode) -> TextEmbeddings | None:
    """Return the embeddings by a recipe's frozen text encoder, fp32 if both number types exist; None if there are none.

    Args:
        mode: the recipe's ``data.precomputed``.

    Raises:
        ValueError: if embeddings are required and absent, or those by the encoder's path have other weights or data.
    """
    frozen = isinstance(text, PretrainedText) and not text.trainable
    if mode == "off" or not isinstance(text, PretrainedText) or not frozen:
        if mode == "require":
            raise ValueError(
                "data.precomputed=require needs a frozen encoder; set text.kind=pretrained text.trainable=false"
            )
        return None
    folders = _list_embeddings(manifest)
    sha256 = encoder_hash(text.path) if folders else ""
    same = [each for each in folders if (each.sha256, each.fingerprint) == (sha256, manifest.fingerprint)]
    fitting = sorted((each for each in same if each.max_tokens == text.max_tokens), key=lambda each: each.dtype)
    if fitting:
        return fitting[-1]
    repeat = _precompute_command(manifest, text.path, text.max_tokens)
    for each in folders:
        if resolve_folder_or_name(each.encoder) == resolve_folder_or_name(text.path) and each not in same:
            raise ValueError(
                f"{each.path} was made by an encoder with sha256 {each.sha256[:12]} from data {each.fingerprint}, but "
                f"text.path {text.path!r} has {sha256[:12]} and data.path {manifest.fingerprint}; remove the folder, "
                f"then run {repeat}, or set data.precomputed=off"
            )
    if mode == "require":
        raise ValueError(
            f"data.precomputed=require, but {manifest.path} has no embeddings by text.path {text.path!r}; run {repeat}"
        )
    return None


def find_latents(manifest: Manifest, vae: str, shape: tuple[int, int] | None, views: LatentViews = WHOLE) -> Latents:
    """Return the latents by a recipe's autoencoder, fp32 if both number types exist.

    Args:
        vae: path or name of the autoencoder.
        shape: the recipe's image size (height, width); None for that of the stored images.
        views: the recipe's views of each image.

    Raises:
        ValueError: if there are no latents by these weights of these data in these views, or the latents have another
            image size.
    """
    sha256 = vae_hash(vae)
    folders = [each for each in _list_own("latents", manifest) if isinstance(each, Latents)]
    same = [each for each in folders if (each.sha256, each.fingerprint) == (sha256, manifest.fingerprint)]
    if not same:
        stale = [f"; {each.path} is of sha256 {each.sha256[:12]}, data {each.fingerprint}" for each in folders]
        raise ValueError(
            f"latent.vae {vae!r} (sha256 {sha256[:12]}) has no latents of data {manifest.fingerprint} beside its shards"
            f"{''.join(stale)}; run `raysde precompute {manifest.path} --vae {vae}{_view_options(views)}`"
        )
    fitting = [each for each in same if each.views == views]
    if not fitting:
        other = same[0].views
        raise ValueError(
            f"latent.flip={str(views.flip).lower()} latent.crops={views.crops} latent.scale={list(views.scale)}: "
            f"{same[0].path} has other views, flip={str(other.flip).lower()} crops={other.crops} "
            f"scale={list(other.scale)}; set these, or run `raysde precompute {manifest.path} --vae {vae}"
            f"{_view_options(views)}`"
        )
    found = max(fitting, key=lambda each: each.dtype)
    if shape is not None and shape != found.pixels[1:]:
        asked = shape[0] if shape[0] == shape[1] else format_size(shape)
        raise ValueError(
            f"data.image_size={asked}, but the latents are of images of size {format_size(found.pixels[1:])}; "
            "set data.image_size to that size, or to null"
        )
    return found


def _view_options(views: LatentViews) -> str:
    """Return the options of `raysde precompute` for these views."""
    flip = " --flip" if views.flip else ""
    return flip + (f" --crops {views.crops} --scale {views.scale[0]:g} {views.scale[1]:g}" if views.crops else "")


def latent_spec_of(latents: Latents, vae: str) -> LatentSpec:
    """Return the latent space of a model that is trained on these latents."""
    return LatentSpec(
        vae=vae,
        sha256=latents.sha256,
        scaling_factor=latents.scaling_factor,
        shift_factor=latents.shift_factor,
        shape=latents.shape,
        pixels=latents.pixels,
    )
