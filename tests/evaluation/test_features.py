"""Feature networks: which sources open, which need permission, and a comparison with the published Inception."""

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from raysde.evaluation.features.inception import Inception, Mixed, network_of_arrays
from raysde.evaluation.features.networks import FeatureNetwork, open_network, read_weights, wrap_as_network
from raysde.io.hashing import weights_hash
from tests.support.feature_networks import Grey
from tests.support.real import real


def pictures(count=3, channels=3, size=12):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=g, dtype=torch.uint8)


class Mean(nn.Module):
    """A network whose features are the means of the channels, and whose logits are their negatives."""

    def forward(self, images):
        features = images.float().mean(dim=(2, 3))
        return features, -features


class Picture(nn.Module):
    def forward(self, images):
        return images.float()


def not_a_network():
    return 3


def test_grey_images_are_repeated_and_other_channels_refused():
    features, logits = wrap_as_network("mean", Mean())(pictures(channels=1))
    assert torch.equal(features, pictures(channels=1).float().mean(dim=(2, 3)).expand(-1, 3))
    assert torch.equal(logits, -features)
    with pytest.raises(ValueError, match="takes 1 channels, the images have 3"):
        wrap_as_network("grey", Grey())(pictures())


def test_what_a_network_sees_does_not_depend_on_how_many_images_it_is_given(monkeypatch):
    sizes = []

    class Watched(Mean):
        def forward(self, images):
            sizes.append(len(images))
            return super().forward(images)

    images = pictures(150)
    assert torch.equal(wrap_as_network("watched", Watched())(images)[0], images.float().mean(dim=(2, 3)))
    assert sizes == [64, 64, 22]


def test_features_that_are_no_matrix_are_refused():
    with pytest.raises(ValueError, match=r"gives features of shape \[3, 3, 12, 12\]"):
        wrap_as_network("picture", Picture())(pictures())


def test_code_needs_permission(tmp_path):
    name = f"{__name__}:Mean"
    with pytest.raises(ValueError, match="names code: add --allow-code"):
        open_network(name)
    assert isinstance(open_network(name, allow_code=True).module, Mean)
    script = tmp_path / "mean.pt"
    torch.jit.script(Mean()).save(script)
    with pytest.raises(ValueError, match="TorchScript, which runs code: add --allow-code"):
        open_network(str(script))
    assert torch.equal(open_network(str(script), allow_code=True)(pictures())[0], Mean()(pictures())[0])


class Convolutions(torch.nn.Module):
    """The convolutions of the FID Inception in a network with other inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        found = [module for module in Inception(classifier=False).modules() if isinstance(module, torch.nn.Conv2d)]
        self.parts = torch.nn.ModuleList(found)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :8].float().softmax(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_torchscript_copy_of_the_inception_leads_to_the_tool_that_converts_it(tmp_path, dtype):
    """TorchScript copies give probabilities, or take other ranges, and would therefore give wrong metrics."""
    file = tmp_path / "inception.pt"
    torch.jit.script(Convolutions().to(dtype)).save(file)
    for allow in (False, True):
        with pytest.raises(ValueError, match=r"python benchmarks/inception_weights\.py .*inception\.pt"):
            open_network(str(file), allow_code=allow)


@pytest.mark.parametrize("name", ["nowhere.pth", "no_package:Name", f"{__name__}:Nothing", f"{__name__}:not_a_network"])
def test_what_is_no_network_is_named(name):
    with pytest.raises(ValueError, match=name.split(":")[0]):
        open_network(name, allow_code=True)


def test_a_file_with_more_than_tensors_is_not_loaded(tmp_path):
    torch.save({"weights": Grey()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        open_network(str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"w\.pth"):
        open_network(str(tmp_path / "w.pth"))
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not hold the weights of the FID Inception"):
        open_network(str(tmp_path / "w.pth"))


def test_the_inception_has_the_published_size():
    """Derive the size from torchvision's documented 27,161,264 parameters, less the auxiliary head's 3,326,696, for
    1,008 classes instead of 1,000."""
    with torch.device("meta"):
        count = sum(each.numel() for each in Inception().parameters())
    assert count == 27_161_264 - 3_326_696 + 8 * 2049


@pytest.mark.parametrize(("height", "width"), [(598, 897), (448, 299), (32, 100)])
def test_images_are_resized_by_a_triangle_as_wide_as_what_they_lose(height, width, monkeypatch):
    """Antialiased: level i of the result is a mean weighted by max(0, 1 - |x - center| / scale), scale at least 1.

    A center in float32 is wrong by its rounding, size x 2^-24, and its weights by as much; four of these on each axis.
    """
    monkeypatch.setattr(Inception, "features", lambda self, x: x)
    with torch.device("meta"):
        network = Inception(classifier=False)
    images = pictures(1, 3, 8)[:, :, :1, :1].new_empty(1, 3, height, width)
    images.random_(0, 256, generator=torch.Generator().manual_seed(0))
    found, _ = network(images)

    def weights(size):
        scale = size / 299
        center = (torch.arange(299, dtype=torch.float64)[:, None] + 0.5) * scale
        reach = max(scale, 1.0)
        near = (1.0 - (torch.arange(size, dtype=torch.float64) + 0.5 - center).abs() / reach).clamp_min(0.0)
        return near / near.sum(dim=1, keepdim=True)

    expected = (weights(height) @ images.double() @ weights(width).T - 128.0) / 128.0
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=4.0 * (height + width) * 2.0**-24 * 255 / 128)


def test_its_pools_are_tensorflows():
    """Average pools exclude the padding, so a constant stays one; only the last block pools by maximum."""
    with torch.device("meta"):
        network = Inception()
    blocks = {name: block for name, block in network.named_children() if isinstance(block, Mixed)}
    x = torch.rand(1, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    for name, block in blocks.items():
        if name in ("Mixed_6a", "Mixed_7a"):
            assert torch.equal(block.pool(x), F.max_pool2d(x, 3, 2))
        elif name == "Mixed_7c":
            assert torch.equal(block.pool(x), F.max_pool2d(x, 3, 1, 1))
        else:
            expected = F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(torch.ones_like(x), 3, 1, 1)
            torch.testing.assert_close(block.pool(x), expected)


def test_weights_are_read_from_both_kinds_of_file_with_and_without_a_classifier(tmp_path):
    torch.manual_seed(0)
    network = Inception().eval()
    weights = network.state_dict()
    torch.save(weights, tmp_path / "w.pth")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("fc") and "tracked" not in k}, tmp_path / "w.safetensors"
    )
    images = pictures(2, 1, 28)
    network.to(memory_format=torch.channels_last)  # the layout of networks from files, for the same rounding
    with torch.no_grad():
        features, _ = network(images.expand(-1, 3, -1, -1))
        biased = network.fc(features)
    found, bare = (open_network(str(tmp_path / name)) for name in ("w.pth", "w.safetensors"))
    assert torch.equal(found(images)[0], features)
    torch.testing.assert_close(found(images)[1], biased - network.fc.bias)
    assert torch.equal(bare(images)[0], features)
    assert bare(images)[1] is None
    assert found.hash != bare.hash


@pytest.mark.parametrize("content", ["abc", "hello world\n", "", "\x80\x04."])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"weights\.pth (cannot be read as weights|holds more than tensors)"):
        read_weights(file)


def test_a_hash_is_of_the_weights():
    torch.manual_seed(0)
    first, same, other = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
    same.load_state_dict(first.state_dict())
    assert weights_hash(first) == weights_hash(same) != weights_hash(other)
    assert isinstance(wrap_as_network("x", first), FeatureNetwork)


OWN = """
from torch import nn
class Own(nn.Module):
    def forward(self, images):
        return images.float().flatten(1) * {factor}
def flat():
    return nn.Flatten({first})
"""


STORED = """
from pathlib import Path
import torch
from torch import nn
class Stored(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(Path(__file__).with_suffix(".txt").read_text())))
    def forward(self, images):
        return images.float().flatten(1) * self.scale
"""


def test_a_hash_of_code_is_of_the_weights_that_it_reads(tmp_path, monkeypatch):
    """The same code with retrained weights gives other features, and so another hash."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stored_features.py").write_text(STORED)
    hashes = []
    for scale in ("1.0", "2.0", "1.0"):
        (tmp_path / "stored_features.txt").write_text(scale)
        hashes.append(open_network("stored_features:Stored", allow_code=True).hash)
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(("name", "other"), [("Own", {"factor": 3}), ("flat", {"first": 2})])
def test_a_hash_of_code_is_of_what_it_does(tmp_path, monkeypatch, name, other):
    """Two networks without weights and with the same name, but different code, have different hashes."""
    monkeypatch.syspath_prepend(tmp_path)

    def hashed(**given):
        (tmp_path / "own_features.py").write_text(OWN.format(**{"factor": 2, "first": 1, **given}))
        sys.modules.pop("own_features", None)
        importlib.invalidate_caches()
        return open_network(f"own_features:{name}", allow_code=True).hash

    first = hashed()
    assert hashed() == first
    assert hashed(**other) != first
    assert len(first) == 16


def test_the_inception_is_the_published_network(tmp_path):
    """Compare with an independent TorchScript implementation on the same weights, on images of 299 x 299 in [-1, 1]."""
    script = torch.jit.load(real("inception/fid_inception.torchscript.pt")).eval()
    network = network_of_arrays([value for _, value in script.state_dict().items()])
    x = 2.0 * torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0)) - 1.0
    with torch.no_grad():
        torch.testing.assert_close(network.features(x), script(x), rtol=1e-4, atol=1e-4)
