"""CLIP (Radford et al. 2021) and DINOv2 (Oquab et al. 2023) of transformers, from a local folder of weights.

A folder is one that ``save_pretrained`` writes: safetensors and JSON, no code and no pickle. Images are resized by
Pillow, as in the networks' own programs, whether or not torchvision is installed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers  # its classes are loaded on first use, which takes seconds
from torch import Tensor, nn

from raysde.conditioning.pretrained import (
    UNREADABLE,
    check_complete,
    check_no_code,
    check_weights,
    pretrained_tokenizer,
)
from raysde.evaluation.features.networks import BATCH, CLIP, DINOV2, PRETRAINED, FeatureNetwork
from raysde.io.errors import error_line
from raysde.io.hashing import weights_hash

SIDE = 224
"""Side in pixels to which images are resized for DINOv2, in both directions and without a crop."""
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Mean and standard deviation of ImageNet's colours in [0, 1], which DINOv2 was trained with."""


class PretrainedVision(nn.Module):
    """A module from uint8 images [B, 3, H, W] to features [B, D], float32.

    CLIP gives its projected image embeddings, not normalised; DINOv2 the class token behind the last normalisation.

    Args:
        model: CLIPModel or Dinov2Model.
        processor: image processor of transformers that resizes and normalises the images.
    """

    channels = 3

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model, processor

    def forward(self, images: Tensor) -> Tensor:
        given = self.processor(images=list(images.cpu()), return_tensors="pt", input_data_format="channels_first")
        pixels = given["pixel_values"].to(images.device)
        embed = self.model.get_image_features if self.model.config.model_type == CLIP else self.model
        features: Tensor = embed(pixel_values=pixels).pooler_output
        return features


@dataclass(frozen=True)
class Clip:
    """CLIP's two halves, which share a space of embeddings.

    Attributes:
        images: network from images to embeddings [B, D].
        tokenizer: tokenizer of the captions.
        positions: largest number of tokens of a caption; longer captions are cut before their end token.
        hash: hash of the weights, of the image processor and of the tokenizer.
    """

    images: FeatureNetwork
    tokenizer: Any
    positions: int
    hash: str

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Return the embeddings of captions, float32 [N, D] on the CPU; equal captions are embedded once."""
        vision = self.images.module
        assert isinstance(vision, PretrainedVision)
        model, different = vision.model, list(dict.fromkeys(captions))
        found: dict[str, Tensor] = {}
        for start in range(0, len(different), BATCH):
            part = different[start : start + BATCH]
            # every caption has the same length, so that its rounding does not depend on the others
            tokens = self.tokenizer(
                part, padding="max_length", truncation=True, max_length=self.positions, return_tensors="pt"
            ).to(model.device)
            embedded = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
            found.update(zip(part, embedded.float().cpu(), strict=True))
        return torch.stack([found[caption] for caption in captions])

    def scores(self, seen: Tensor, captions: Sequence[str]) -> Tensor:
        """Return 100 cos(image, caption) of each pair, float64 [B], from the embeddings of the images, [B, D]."""
        return 100.0 * torch.cosine_similarity(seen.double(), self.captions(captions).double(), dim=1)


def open_pretrained(
    folder: str, option: str, kinds: Sequence[str] = tuple(PRETRAINED), device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Return the CLIP or DINOv2 in a folder as a feature network, in evaluation mode.

    Args:
        option: option that gave the folder, for messages.
        kinds: kinds that are allowed, from PRETRAINED.

    Raises:
        ValueError: if the folder is missing, incomplete, or of another kind.
    """
    place = Path(folder).expanduser()
    config = _read_config(folder, place, option, kinds)
    check_no_code(str(place), option)
    check_weights(str(place), option)
    try:
        model, found = getattr(transformers, PRETRAINED[config["model_type"]]).from_pretrained(
            str(place),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise ValueError(f"{option} {folder!r}: no weights can be loaded: {error_line(error)}") from error
    check_complete(folder, model, found, option)
    processor = _open_processor(folder, place, option, config["model_type"])
    module = PretrainedVision(model, processor).to(device).eval().requires_grad_(False)
    return FeatureNetwork(folder, _hash_of(weights_hash(module), processor.to_dict()), module, module.channels)


def open_clip(folder: str, device: torch.device | str = "cpu") -> Clip:
    """Return the CLIP in a folder, with its tokenizer.

    Raises:
        ValueError: if the folder is missing, incomplete, or of another network.
    """
    images = open_pretrained(folder, "--clip", (CLIP,), device)
    tokenizer = pretrained_tokenizer(str(Path(folder).expanduser()), "--clip")
    vision = images.module
    assert isinstance(vision, PretrainedVision)
    positions = vision.model.config.text_config.max_position_embeddings
    return Clip(images, tokenizer, positions, _hash_of(images.hash, tokenizer.get_vocab()))


def _read_config(folder: str, place: Path, option: str, kinds: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of a folder, after checking that it is of one of the kinds."""
    wanted = " or ".join(PRETRAINED[kind] for kind in kinds)
    if not (place / "config.json").is_file():
        what = "has no config.json" if place.is_dir() else "is no folder"
        raise ValueError(
            f"{option} {folder!r} {what}; give a folder with the weights of transformers' {wanted}, as save_pretrained "
            "writes it"
        )
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{option} {folder!r}: its config.json cannot be read: {error_line(error)}") from error
    if kind not in kinds:
        raise ValueError(f"{option} {folder!r} holds weights of model_type {kind!r}; give those of {wanted}")
    found: dict[str, Any] = config
    return found


def _open_processor(folder: str, place: Path, option: str, kind: str) -> Any:
    """Return the image processor: the folder's own for CLIP, as torchmetrics; that of Stein et al. 2023 for DINOv2."""
    if kind == DINOV2:
        from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

        size = {"height": SIDE, "width": SIDE}
        return BitImageProcessorPil(size=size, do_center_crop=False, image_mean=MEAN, image_std=DEVIATION)
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    try:
        return CLIPImageProcessorPil.from_pretrained(str(place), local_files_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{option} {folder!r}: no image processor can be loaded: {error_line(error)}") from error


def _hash_of(weights: str, settings: dict[str, Any]) -> str:
    words = json.dumps([weights, settings], sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:16]
