"""Hashes of models and encoders: they change with the smallest relevant change, and with nothing else."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from raysde.io.hashing import file_hash, hash_pretrained, model_hash, weights_hash

WORDS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
"""Vocabularies and settings of BPE, WordPiece and SentencePiece, as tokenizers of transformers read them."""


class Held(nn.Module):
    """A module with named weights."""

    def __init__(self, **weights) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name, value)


class Other(Held):
    pass


def test_a_hash_of_weights_sees_every_bit_name_type_and_shape():
    values = torch.arange(6, dtype=torch.float32)
    flipped = values.clone()
    flipped.view(torch.int32)[5] ^= 1
    found = [
        Held(a=values, b=values), Held(a=values, b=flipped), Held(a=flipped, b=values), Held(a=values, c=values),
        Held(a=values.reshape(2, 3), b=values), Held(a=values.reshape(3, 2), b=values), Held(a=values),
        Held(a=values.view(torch.int32), b=values), Other(a=values, b=values),
    ]  # fmt: skip
    assert len({weights_hash(each) for each in found}) == len(found)
    assert weights_hash(Held(b=values, a=values)) == weights_hash(found[0])
    wide = torch.stack([values, values], dim=1)[:, 0]
    assert not wide.is_contiguous()
    assert weights_hash(Held(a=wide, b=values)) == weights_hash(found[0])


def test_a_hash_of_a_model_sees_its_description_too():
    model, other = Held(a=torch.zeros(2)), Held(a=torch.ones(2))
    said = {"sde": {"kind": "vp", "beta_max": 20.0}, "classes": 3}
    changed = {**said, "sde": {"kind": "vp", "beta_max": 20.000000000000004}}
    assert len({model_hash(said, model), model_hash(changed, model), model_hash(said, other)}) == 3
    assert model_hash(dict(reversed(said.items())), model) == model_hash(said, model)


@pytest.fixture
def encoder(tmp_path) -> Path:
    """Return a folder with weights in two parts and every file that a tokenizer may have."""
    (tmp_path / "config.json").write_text("{}")
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", parts, strict=True))})
    )
    for name in (*parts, *WORDS, "README.md"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    return tmp_path


def test_a_hash_of_files_sees_a_byte_of_each_and_of_no_other(encoder):
    """This holds even if size and name stay; tokenizer files count only on request."""
    whole, bare = (hash_pretrained(str(encoder), tokenizer=counts, key="text.path") for counts in (True, False))
    assert whole != bare
    weights = sorted(path.name for path in encoder.glob("*.safetensors"))
    assert len(weights) == 2
    for name in ("config.json", *weights, *WORDS, "README.md"):
        path = encoder / name
        before, about = path.read_bytes(), path.stat()
        path.write_bytes(bytes([before[0] ^ 1, *before[1:]]))
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1_000_000))
        assert (hash_pretrained(str(encoder), tokenizer=True, key="x") != whole) == (name != "README.md"), name
        counts = name == "config.json" or name in weights
        assert (hash_pretrained(str(encoder), tokenizer=False, key="x") != bare) == counts, name
        path.write_bytes(before)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert hash_pretrained(str(encoder), tokenizer=True, key="x") == whole
    (encoder / "vocab.txt").rename(encoder / "vocab.other")
    assert hash_pretrained(str(encoder), tokenizer=True, key="x") != whole


@pytest.mark.parametrize(
    ("name", "said"),
    [("config.json", "found no config.json"), ("model-00002-of-00002.safetensors", "found no weights in safetensors")],
)
def test_what_lacks_a_part_has_no_hash(encoder, name, said):
    (encoder / name).unlink()
    with pytest.raises(ValueError, match=f"text.path .*{said}"):
        hash_pretrained(str(encoder), tokenizer=True, key="text.path")


def test_a_files_hash_is_sha256(tmp_path):
    """The hashes of the empty file and of "abc" are those in FIPS 180-4's examples."""
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_hash(tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
