"""LPIPS against torchmetrics with the same weights, closed forms, and weights that are absent or wrong."""

import dataclasses
import json
from urllib.error import URLError

import pytest
import torch
import torchmetrics.functional.image.lpips as theirs
from safetensors.torch import save_file
from torch import nn

from raysde.cli import main
from raysde.data.dataset.manifest import write_manifest
from raysde.evaluation.metrics.lpips import SMALLEST, URL, open_lpips
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.models import UNET


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Return random weights with torchvision's names of AlexNet, including a classifier."""
    g = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    found = {"classifier.1.bias": torch.zeros(3)}
    for number, shape in shapes.items():
        fan = shape[1] * shape[2] * shape[3]
        found[f"features.{number}.weight"] = torch.randn(shape, generator=g) * (2.0 / fan) ** 0.5
        found[f"features.{number}.bias"] = 0.1 * torch.randn(shape[0], generator=g)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(found, path)
    return str(path)


def pictures(seed: int, channels: int = 3, size: tuple[int, int] = (64, 48), count: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, *size), generator=g, dtype=torch.uint8)


def published(name: str, pretrained: bool = False) -> nn.Sequential:
    """Return AlexNet's convolutions and pools as in the table of torchvision's documentation."""
    assert name == "alexnet"
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride, padding, pool in [
        (3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False),
        (384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True)]:  # fmt: skip
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride, padding),
            nn.ReLU(),
            *([nn.MaxPool2d(3, 2)] if pool else []),
        ]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("channels", "size"), [(3, (64, 48)), (1, (32, 32)), (3, (SMALLEST, 100))])
def test_the_distance_is_torchmetrics(weights, monkeypatch, channels, size):
    """Compare with torchmetrics' network, heads and sums around the same convolutions, on images in [-1, 1]."""

    def features(name: str, pretrained: bool = False) -> nn.Sequential:
        found = published(name)
        kept = torch.load(weights, weights_only=True)
        found.load_state_dict({key[9:]: value for key, value in kept.items() if key.startswith("features.")})
        return found

    monkeypatch.setattr(theirs, "_get_tv_model_features", features)
    first, second = pictures(1, channels, size), pictures(2, channels, size)
    one, two = ((images.float() / 127.5 - 1.0).expand(-1, 3, -1, -1) for images in (first, second))
    expected = theirs.learned_perceptual_image_patch_similarity(one, two, net_type="alex", reduction="none")
    found = open_lpips(weights)(first, second)
    assert found.min() > 0.0
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-6)


def test_equal_images_are_at_no_distance_and_order_does_not_matter(weights):
    distance, first, second = open_lpips(weights), pictures(1), pictures(2)
    assert torch.equal(distance(first, first), torch.zeros(4, dtype=torch.float64))
    assert torch.equal(distance(first, second), distance(second, first))
    near = first.clone()
    near[..., :4] = second[..., :4]
    assert (distance(first, near) < distance(first, second)).all()


def test_both_kinds_of_file_are_read_and_others_weights_have_another_hash(weights, tmp_path):
    kept = torch.load(weights, weights_only=True)
    save_file(kept, tmp_path / "w.safetensors")
    found = open_lpips(str(tmp_path / "w.safetensors"))
    assert found.hash == open_lpips(weights).hash
    kept["features.0.bias"] += 1.0
    save_file(kept, tmp_path / "w.safetensors")
    assert open_lpips(str(tmp_path / "w.safetensors")).hash != found.hash
    with pytest.raises(ValueError, match="of LPIPS takes 3 channels, the images have 2"):
        found(pictures(1, 2), pictures(2, 2))


def test_weights_that_are_absent_or_none_are_named(weights, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no file 'nowhere\.pth' of weights for LPIPS"):
        open_lpips("nowhere.pth")
    kept = torch.load(weights, weights_only=True)
    for wrong in (
        {"a": torch.ones(2)},
        {**kept, "features.0.bias": torch.ones(3)},
        {**kept, "features.12.bias": torch.ones(3)},
    ):
        torch.save(wrong, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"w\.pth does not hold the weights of torchvision's AlexNet"):
            open_lpips(str(tmp_path / "w.pth"))
    torch.save({"network": nn.ReLU()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        open_lpips(str(tmp_path / "w.pth"))

    def unreachable(url, **settings):
        assert url == URL
        assert settings["check_hash"]
        assert settings["weights_only"]
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match=r"alexnet.*cannot be fetched .*no route.*: give a file of them by --lpips"):
        open_lpips("alexnet")


def test_the_command_measures_it(weights, tmp_path, capsys):
    """Little noise leaves an image as it is; an untrained model's inpainting does not. Both give the network's hash."""
    manifest = write_digit_shards(tmp_path / "shards", 40, 20)
    shards = (manifest.shards[0], dataclasses.replace(manifest.shards[1], split="validation"))
    write_manifest(dataclasses.replace(manifest, shards=shards))
    network = dataclasses.replace(UNET, attention=(16,))
    model = write_model(tmp_path / "model", text=None, image=(1, 32, 32), network=network)
    given = ["evaluate", model, "--data", manifest.path, "--metrics", "denoised_lpips,inpainted_lpips", "--rows", "4",
             "--t", "0.002", "--solver", "ddim", "--steps", "4", "--output", str(tmp_path / "report.json"), "--cache", str(tmp_path)]  # fmt: skip
    assert "'nowhere.pth' of weights for LPIPS" in refused(capsys, *given, "--lpips", "nowhere.pth")
    assert main([*given, "--lpips", weights]) == 0
    denoised, inpainted = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert 0.0 <= denoised["value"] < 0.1 * inpainted["value"]
    for each in (denoised, inpainted):
        assert each["network"] == open_lpips(weights).hash
        assert each["best"] == "lower"
        assert each["low"] < each["value"] < each["high"]
