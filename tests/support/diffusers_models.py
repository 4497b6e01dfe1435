"""Tiny networks and pipelines of diffusers."""

from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from raysde.conditioning.text import ScratchText
from raysde.models.spec import ModelSpec
from raysde.networks import DiffusersConfig
from raysde.sde.parameterisation import Preconditioning
from tests.support.models import spec_with

UNET = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "add_attention": False,
    "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
}  # fmt: skip
DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
TEXT = ScratchText(width=16, layers=1, heads=2)
RAW = Preconditioning(input="none", output="none")
FOURIER = {**UNET, "time_embedding_type": "fourier"}
DDPM = {**UNET, "sample_size": 8, "freq_shift": 1, "flip_sin_to_cos": False}


def diffusers_spec(architecture="UNet2DModel", network=UNET, **changes) -> ModelSpec:
    """Return the description of a digits model with a diffusers network that predicts v."""
    return spec_with(
        **{"target": "v", "network": DiffusersConfig(architecture=architecture, config=network), **changes}
    )


def unet_with(**config) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**config).eval()


def ddpm(folder: Path, kind=DDIMPipeline, scheduler=DDIMScheduler, network=DDPM, **config) -> Path:
    """Save a pipeline of an untrained U-Net in a folder, and return the folder."""
    kind(unet=unet_with(**network), scheduler=scheduler(clip_sample=False, **config)).save_pretrained(folder)
    return folder
