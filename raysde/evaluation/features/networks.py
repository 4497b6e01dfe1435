"""Networks that turn images into features: the FID Inception, TorchScript, or the user's own module."""

import hashlib
import importlib
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError  # raised by torch.load(weights_only=True), which unpickles nothing else

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raysde.evaluation.features.inception import URL, Inception, network_with_weights
from raysde.io.hashing import file_hash, weights_hash

SOURCES = (
    "inception (torchmetrics' weights, fetched once by torch.hub), a file of such weights (.safetensors, .pth), "
    "a folder of transformers' CLIPModel or Dinov2Model, or, with --allow-code, a TorchScript file or module:name"
)

CLIP, DINOV2 = "clip", "dinov2"
"""Names of the pretrained networks of :mod:`raysde.evaluation.features.pretrained`."""
PRETRAINED = {CLIP: "CLIPModel", DINOV2: "Dinov2Model"}
"""Class of transformers of each pretrained network; its name is the ``model_type`` of the network's config.json."""
BATCH = 64
"""Batch size of every network call, so that rounding does not depend on the number of images given."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A feature network and its identity.

    Attributes:
        name: name that the user gave.
        hash: hash of its weights and kind, or of its code; metrics of different hashes cannot be compared.
        module: module from uint8 [B, channels, H, W] to features [B, D], or to a pair of features and logits [B, K].
        channels: number of channels that it takes; grey images are repeated to that number.
    """

    name: str
    hash: str
    module: nn.Module
    channels: int = 3

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features [B, D] and logits [B, K] or None, float32 on the CPU, of uint8 images [B, C, H, W].

        Raises:
            ValueError: if the images' channels do not fit the network, or its output is no matrix of features.
        """
        parts = [self._batch(batch) for batch in fit_channels(images, self.channels, self.name).split(BATCH)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), None if logits[0] is None else torch.cat(logits)

    def _batch(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        device = next((each.device for each in self.module.parameters()), torch.device("cpu"))
        given = self.module(images.to(device))
        features, logits = given if isinstance(given, tuple) else (given, None)
        for what, value in (("features", features), ("logits", logits)):
            if value is not None and (value.ndim != 2 or len(value) != len(images)):
                raise ValueError(
                    f"the feature network {self.name} gives {what} of shape {list(value.shape)}, not [B, D]"
                )
        return features.float().cpu(), None if logits is None else logits.float().cpu()


def fit_channels(images: Tensor, channels: int, name: str) -> Tensor:
    """Return uint8 images [B, C, H, W] with the channels that a network takes; grey images are repeated.

    Raises:
        ValueError: if the images are not grey and have another number of channels.
    """
    assert images.dtype == torch.uint8
    if images.shape[1] not in (1, channels):
        raise ValueError(f"the feature network {name} takes {channels} channels, the images have {images.shape[1]}")
    return images.expand(-1, channels, -1, -1) if images.shape[1] != channels else images


def open_network(source: str, *, allow_code: bool = False, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Return the feature network that ``source`` names (SOURCES lists the forms), in evaluation mode.

    Raises:
        ValueError: if there is no such network, or it would run code and ``allow_code`` is False.
    """
    file = Path(source).expanduser()
    if source == "inception":
        return wrap_as_network("inception", network_with_weights(fetch_weights(URL, "--features"), source), device)
    if file.is_dir():
        from raysde.evaluation.features.pretrained import open_pretrained  # imports transformers

        return open_pretrained(source, "--features", device=device)
    if file.is_file():
        if is_torchscript(file):
            if holds_inception(file):
                raise ValueError(
                    f"--features {source} is the FID Inception as TorchScript; inputs and outputs differ among copies: "
                    f"convert it with `python benchmarks/inception_weights.py {source} inception.safetensors`, "
                    "and give --features inception.safetensors"
                )
            check_code_allowed(allow_code, f"{source} is TorchScript, which runs code")
            found = torch.jit.load(str(file), map_location=device).eval()
            return FeatureNetwork(source, f"torchscript-{file_hash(file)[:16]}", found, channels_of(found))
        return wrap_as_network(source, network_with_weights(read_weights(file), source), device)
    if ":" in source and "/" not in source:
        check_code_allowed(allow_code, f"{source} names code")
        found = wrap_as_network(source, import_network(source), device)
        return replace(found, hash=code_hash(found))
    raise ValueError(f"there is no feature network {source!r}: give {SOURCES}")


def wrap_as_network(name: str, module: nn.Module, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Wrap a module as a feature network; it takes as many channels as its attribute ``channels`` says, or 3."""
    module = module.to(device).eval().requires_grad_(False)
    return FeatureNetwork(name, weights_hash(module), module, channels_of(module))


def channels_of(module: nn.Module) -> int:
    """Return a module's attribute ``channels``, or 3 if it has none."""
    return int(getattr(module, "channels", 3))


def check_code_allowed(allow_code: bool, what: str) -> None:
    """Check that code may run; ``what`` begins the error, such as "FILE is TorchScript, which runs code".

    Raises:
        ValueError: if ``allow_code`` is False.
    """
    if not allow_code:
        raise ValueError(f"--features {what}: add --allow-code if you trust it")


def import_network(name: str) -> nn.Module:
    """Import ``package.module:name``; call it first if it is no module but makes one.

    Raises:
        ValueError: if there is no such module.
    """
    where, _, what = name.partition(":")
    try:
        found = getattr(importlib.import_module(where), what)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--features {name}: {error}") from None
    made = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(made, nn.Module):
        raise ValueError(f"--features {name} must be a torch.nn.Module, got {type(made).__name__}")
    return made


def is_torchscript(file: Path) -> bool:
    """Return True if a file is an archive that contains code."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def holds_inception(file: Path) -> bool:
    """Return True if a TorchScript archive stores tensors of the sizes of the FID Inception's convolutions.

    The sizes come from the archive's listing, in 16 or 32 bits, so that no code of the file runs.
    """
    with zipfile.ZipFile(file) as archive:
        stored = Counter(entry.file_size for entry in archive.infolist() if "/code/" not in entry.filename)
    with torch.device("meta"):
        network = Inception(classifier=False)
    numbers = Counter(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(Counter({size * count: times for size, times in numbers.items()}) <= stored for count in (2, 4))


def fetch_weights(url: str, option: str) -> dict[str, Tensor]:
    """Return published weights in their stored shapes; torch.hub downloads them once and checks the hash in their name.

    Raises:
        ValueError: if they cannot be fetched, naming the ``option`` that takes a file instead.
    """
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as error:
        raise ValueError(f"the weights at {url} cannot be fetched ({error}): give a file of them by {option}") from None


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file in their stored shapes, the latter read by ``weights_only``.

    Raises:
        ValueError: if it is neither.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError(f"{file} holds more than tensors, and is not loaded") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read as weights: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{file} does not hold tensors by name")
    return weights


def code_hash(network: FeatureNetwork) -> str:
    """Return a hash of a network from the user's code: name, weights, and the files of the name and the class.

    Modules that these files import are not part of the hash.
    """
    modules = (network.name.partition(":")[0], type(network.module).__module__)
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    known = [network.name, network.hash, *(file_hash(file)[:16] for file in files if file)]
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:16]
