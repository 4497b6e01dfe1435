"""Tiny real networks and encoders with random weights, data for them, and what precompute jobs make without Ray."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, T5Config, T5EncoderModel

from raysde.conditioning.text import train_tokenizer
from raysde.data.dataset.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from raysde.data.dataset.precomputed import Derived, write_derived
from raysde.data.dataset.shards import write_shard
from raysde.models.spec import ModelSpec
from raysde.networks import UNetConfig
from raysde.precompute.jobs import Job, LatentsJob, TextJob
from raysde.sde import VP
from tests.conftest import small_recipe, write_digit_shards

CAPTIONS = [
    "a handwritten seven",
    "the digit 7",
    "seven, in pencil on rough paper, slanted to the left",
    "lucky number",
]
UNET = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)


def spec_with(**changes) -> ModelSpec:
    """The description of a model of digits without conditions."""
    values = {"image": (1, 8, 8), "data_range": (-1.0, 1.0), "data_std": 0.5, "sde": VP(), "network": UNET,
              "target": "noise", "text": None, "classes": 0}  # fmt: skip
    return ModelSpec(**{**values, **changes})


def text_encoder(folder: Path, kind: str = "bert", seed: int = 0, captions=CAPTIONS, positions: int = 32) -> str:
    """An encoder of up to 32 tokens or ``positions``, with a tokenizer for some captions, saved as Hugging Face saves them."""
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
    """An autoencoder of 8 x 8 pixels to 2 x 4 x 4."""
    torch.manual_seed(seed)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 2, "sample_size": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    scale = {"scaling_factor": 0.5, "shift_factor": 0.25, **changes}
    AutoencoderKL(in_channels=channels, out_channels=channels, **sizes, **blocks, **scale).save_pretrained(folder)
    return str(folder)


def embed(manifest: Manifest, encoder: str, dtype="fp32", max_tokens: int = 32, batch_size: int = 3):
    """The embeddings of a data set's captions."""
    job = TextJob.of(manifest, encoder, max_tokens=max_tokens, dtype=dtype, batch_size=batch_size)
    return done(job, manifest)


def encode(manifest: Manifest, vae: str, dtype="fp32", batch_size: int = 7):
    """The latents of a data set's images."""
    return done(LatentsJob.of(manifest, vae, dtype=dtype, batch_size=batch_size), manifest)


def done(job: Job, manifest: Manifest) -> Derived:
    """What a job makes, its units done here and in reverse order."""
    work, units = job.work(manifest), job.units(manifest)
    Path(job.out).mkdir()
    files = {unit: work(unit) for unit in reversed(range(units))}
    derived = job.derived([files[unit] for unit in range(units)])
    write_derived(derived)
    return derived


def many_captions(folder: Path, rows: int = 60, shard_rows: int = 25, row_group: int = 10) -> Manifest:
    """Digits with none, one, two or three captions each, in shards whose last row group is shorter."""
    write_digit_shards(folder, rows, shard_rows, row_group)
    manifest, shards = read_manifest(str(folder)), []
    for number, shard in enumerate(manifest.shards):
        table = pq.read_table(manifest.file(number))
        first = manifest.starts[number]
        captions = [[CAPTIONS[(row + k) % 4] for k in range(row % 4)] for row in range(first, first + len(table))]
        table = table.set_column(1, SCHEMA.field("captions"), pa.array(captions, SCHEMA.field("captions").type))
        shards.append(write_shard(table, str(folder), shard.file, row_group=row_group, image=(8, 8)))
    changed = dataclasses.replace(manifest, shards=tuple(shards))
    write_manifest(changed)
    return read_manifest(str(folder))


def text_recipe(manifest: Manifest, encoder: str, runs: Path, **changes) -> dict:
    """A recipe that conditions on captions through a frozen encoder."""
    tree = small_recipe(manifest, runs, **{"train__microbatch": 8, "train__condition_dropout": 0.3, **changes})
    tree["text"] = {"kind": "pretrained", "path": encoder, "max_tokens": 32}
    return tree
