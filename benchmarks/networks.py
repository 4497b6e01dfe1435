"""Count weights and activations of the published networks, also with activation checkpointing.

    python benchmarks/networks.py

Prints the table of docs/networks.md. Nothing is computed: the networks live on the meta device, where tensors have only
shapes. Activations are the bytes that the forward pass saves for the backward pass, for one image in float32.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.networks import PRESETS


def image_of(name: str) -> tuple[int, int, int]:
    """Return the (channels, height, width) of a published network's images or latents."""
    if name.startswith("dit"):
        return 4, 32, 32
    return (3, 256, 256) if name.endswith("256") else (3, 32, 32)


def kept(network: torch.nn.Module, image: tuple[int, int, int]) -> int:
    """Return the bytes of activations that a forward pass of one image saves; each tensor counts once."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept_alive: list[torch.Tensor] = []  # an address identifies a tensor only while the tensor lives
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept_alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(1, *image, device="meta", requires_grad=True), torch.empty(1, device="meta"))
    return sum(storages.values())


def main() -> None:
    print("| preset | image | weights | kept for an image | with checkpointing |\n|---|---|---|---|---|")
    for name, size in PRESETS.items():
        image = image_of(name)
        with torch.device("meta"):
            plain, saving = (replace(size, checkpointing=wanted).build(image, None) for wanted in (False, True))
        weights = sum(parameter.numel() for parameter in plain.parameters())
        shape = " x ".join(map(str, image))
        whole, little = (f"{kept(network, image) / 1e6:.0f} MB" for network in (plain, saving))
        print(f"| `{name}` | {shape} | {weights:,} | {whole} | {little} |")


if __name__ == "__main__":
    main()
