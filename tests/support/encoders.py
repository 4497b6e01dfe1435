"""Tiny text encoders and autoencoders with random weights, in the Hugging Face format."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, T5Config, T5EncoderModel

from raysde.conditioning.text import train_tokenizer

CAPTIONS = [
    "a handwritten seven",
    "the digit 7",
    "seven, in pencil on rough paper, slanted to the left",
    "lucky number",
]


def text_encoder(folder: Path, kind: str = "bert", seed: int = 0, captions=CAPTIONS, positions: int = 32) -> str:
    """Save a text encoder of up to 32 tokens or ``positions`` with a tokenizer of ``captions``, and return its
    folder."""
    tokenizer = train_tokenizer(captions, 1000)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    text = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": positions, **text}
    if kind == "bert":
        model = BertModel(BertConfig(**words))
    elif kind == "t5":
        model = T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
    else:
        vision = {**text, "image_size": 8, "patch_size": 4}
        model = CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    return str(folder)


def autoencoder(folder: Path, seed: int = 0, channels: int = 1, **changes) -> str:
    """Save an autoencoder from 8 x 8 pixels to latents [2, 4, 4], and return its folder."""
    torch.manual_seed(seed)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 2, "sample_size": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    scale = {"scaling_factor": 0.5, "shift_factor": 0.25, **changes}
    AutoencoderKL(in_channels=channels, out_channels=channels, **sizes, **blocks, **scale).save_pretrained(folder)
    return str(folder)
