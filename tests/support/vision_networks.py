"""Tiny CLIP and DINOv2 networks with random weights, in the Hugging Face format."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from raysde.conditioning.text import train_tokenizer

CAPTIONS = ["a handwritten seven", "the digit 7", "seven, in pencil on rough paper", "lucky number"]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def clip(folder: Path, seed: int = 0, captions=CAPTIONS, side: int = 16, **text) -> str:
    """Save a CLIP of images of 16 x 16 pixels and captions of up to 24 tokens, and return its folder."""
    tokenizer = train_tokenizer(captions, 1000)
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": tokenizer.cls_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, **SIZE, **ends, **text}
    vision = {**SIZE, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=6))
    with (
        torch.no_grad()
    ):  # the random weights of transformers are small, and would tell images and captions apart little
        for value in model.parameters():
            value.mul_(4.0) if value.ndim > 1 else value
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    return str(folder)


def dinov2(folder: Path, seed: int = 0) -> str:
    """Save a DINOv2 with features of 8 numbers, and return its folder."""
    torch.manual_seed(seed)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
    model = Dinov2Model(Dinov2Config(**size, image_size=56, patch_size=28))
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(8.0) if value.ndim > 1 else value
    model.save_pretrained(folder)
    return str(folder)
