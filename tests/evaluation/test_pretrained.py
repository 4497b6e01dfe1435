"""CLIPScore, FD-DINOv2 and CMMD against torchmetrics, transformers and numpy; weights that are absent or wrong."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import BertConfig, CLIPModel, CLIPProcessor, Dinov2Model

from raysde.cli import main
from raysde.data.ingest.digits import load_digits
from raysde.evaluation import compute
from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.features.networks import open_network
from raysde.evaluation.features.pretrained import open_clip, open_pretrained
from raysde.evaluation.generated import Drawer
from raysde.evaluation.metrics import frechet
from raysde.evaluation.real import Reference, merge_drawn, merge_reference
from raysde.evaluation.report import read_report
from raysde.evaluation.selection import ImageConditions
from raysde.registry import load
from tests.support import vision_networks
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.vision_networks import CAPTIONS

LONG = "seven " * 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {"clip": vision_networks.clip(folder / "clip"), "dinov2": vision_networks.dinov2(folder / "dinov2")}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"captions": write_model(folder / "captions"), "labels": write_model(folder / "l", text=None, classes=10)}


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (20, 28)) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def digits_from(first: int, count: int) -> torch.Tensor:
    return torch.from_numpy(load_digits()[0][first : first + count]).unsqueeze(1)


class Plain(torch.nn.Module):
    """CLIP as torchmetrics 1.9 expects it: its methods return embeddings themselves."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.clip = CLIPModel.from_pretrained(folder).eval()
        self.config = self.clip.config

    @torch.no_grad()
    def get_image_features(self, pixels):
        return self.clip.get_image_features(pixels).pooler_output

    @torch.no_grad()
    def get_text_features(self, ids, mask):
        return self.clip.get_text_features(ids, mask).pooler_output


def test_clip_score_is_torchmetrics(folders):
    """Images wider than high, captions of several lengths in several batches, to the rounding of float32."""
    images, captions = pictures(70), [CAPTIONS[number % 3] + " 7" * (number % 5) for number in range(70)]
    theirs = CLIPScore(lambda: (Plain(folders["clip"]), CLIPProcessor.from_pretrained(folders["clip"])))
    for start in (0, 50):
        theirs.update(list(images[start : start + 50]), captions[start : start + 50])
    clip = open_clip(folders["clip"])
    scores = clip.scores(clip.images(images)[0], captions)
    assert scores.std() > 5.0
    found = compute.clip_score(scores, 3, clip.hash)
    assert found.value == pytest.approx(theirs.compute().item(), abs=1e-3)
    assert (found.samples, found.seed, found.features, found.entry()["best"]) == (70, 3, clip.hash, "higher")
    error = scores.std().item() / 70**0.5
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=1e-3)


def test_a_caption_is_embedded_alike_beside_others_and_cut_before_its_end(folders):
    """A caption of too many tokens keeps its end token, from which CLIP reads the caption."""
    clip = open_clip(folders["clip"])
    together = clip.captions([*CAPTIONS, LONG, CAPTIONS[0]])
    assert torch.equal(together[0], together[5])
    for caption, found in zip((*CAPTIONS, LONG), together, strict=False):
        torch.testing.assert_close(clip.captions([caption])[0], found, rtol=1e-5, atol=1e-6)
    ends = clip.tokenizer.sep_token_id
    ids = [clip.tokenizer.cls_token_id, *clip.tokenizer(LONG, add_special_tokens=False)["input_ids"][:22], ends]
    expected = Plain(folders["clip"]).get_text_features(torch.tensor([ids]), torch.ones(1, 24, dtype=torch.int64))
    torch.testing.assert_close(together[4], expected[0], rtol=1e-5, atol=1e-6)


def test_a_mean_score_below_nothing_is_nothing():
    found = compute.clip_score(torch.tensor([-20.0, -10.0, -15.0]), 0, "net")
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    found = compute.clip_score(torch.tensor([-20.0, 19.0, 0.0]), 0, "net")
    assert found.value == found.low == 0.0 < found.high


@torch.no_grad()
def dinov2_features(folder: str, images: torch.Tensor) -> np.ndarray:
    """The features as Stein et al. 2023 describe them: 224 x 224 by Pillow's bicubic, ImageNet's colours, class token."""
    colours = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    large = [np.asarray(Image.fromarray(each).resize((224, 224), Image.Resampling.BICUBIC)) for each in colours]
    pixels = (np.stack(large) / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    states = Dinov2Model.from_pretrained(folder).eval()(torch.tensor(pixels).permute(0, 3, 1, 2).float())
    return states.last_hidden_state[:, 0].double().numpy()


def test_fd_dinov2_is_that_of_numpy(folders):
    """Grey images that are higher than wide, not cropped."""
    real, drawn = digits_from(0, 40), (digits_from(300, 30).float() * 0.8).to(torch.uint8)
    real, drawn = (torch.cat([each, each.flip(2)], dim=2) for each in (real, drawn))
    network = open_pretrained(folders["dinov2"], "--dinov2", ("dinov2",))
    given = [network(images)[0] for images in (real, drawn)]
    a, b = (dinov2_features(folders["dinov2"], images) for images in (real, drawn))
    for ours, theirs in zip(given, (a, b), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    shift, first, second = a.mean(axis=0) - b.mean(axis=0), np.cov(a.T), np.cov(b.T)
    expected = shift @ shift + np.trace(first + second - 2.0 * sqrtm(first @ second).real)
    references = [Reference(frechet.Moments.of(each), each) for each in given]
    found = compute.fd_dinov2(*references, 5, network.hash, allow_few=True)
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert (found.samples, found.reference, found.entry()["best"]) == (30, 40, "lower")
    with pytest.raises(ValueError, match="fd_dinov2 of 30 drawn images says little"):
        compute.fd_dinov2(*references, 5, network.hash)


def test_fd_dinov2_of_gaussians_is_the_closed_form():
    """Scaled diagonal covariances: |mu|^2 + sum of (sqrt a - sqrt b)^2."""
    spread, count = torch.arange(1.0, 9.0, dtype=torch.float64), 1_000_000
    zeros = torch.zeros(8, dtype=torch.float64)
    real = frechet.Moments(count, zeros, (count - 1) * spread.diag())
    outer = (count - 1) * (4.0 * spread).diag() + count * torch.outer(spread, spread)
    drawn = frechet.Moments(count, count * spread, outer)
    few = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    found = compute.fd_dinov2(Reference(real, few), Reference(drawn, few), 0, "net")
    assert found.value == pytest.approx((spread.square() + spread).sum().item(), rel=1e-9)
    assert found.samples == count


def test_parts_of_any_sizes_give_the_same_metrics_and_bounded_memory(monkeypatch):
    """FD to 1e-6, and CMMD and CLIPScore bit for bit; of features only those of the first images remain."""
    monkeypatch.setattr("raysde.evaluation.real.KEPT", 50)
    g = torch.Generator().manual_seed(0)
    drawn, real = torch.randn(90, 6, generator=g) + 0.2, torch.randn(80, 6, generator=g)
    scores = torch.rand(90, generator=g, dtype=torch.float64)
    reference = merge_reference([MeasuredRange(0, {"features": real})])
    found = []
    for borders in ((0, 90), (0, 10, 90), (0, 49, 51, 70, 90)):
        ranges = pairwise(borders)
        parts = [
            MeasuredRange(a, {"clip": drawn[a:b], "clip_score": scores[a:b], "mirrored": drawn[a:b]}) for a, b in ranges
        ]
        values, references = merge_drawn(parts, ("clip",), ("mirrored", "features"))
        assert len(values["mirrored"]) == len(references["clip"].features) == 50
        assert set(values) == {"clip_score", "mirrored"}
        one = references["clip"]
        found.append(
            (
                compute.fd_dinov2(reference, one, 0, "", allow_few=True),
                compute.cmmd(reference.features, one.features, 0, ""),
                compute.clip_score(values["clip_score"], 0, ""),
            )
        )
    for fd, kernel, score in found[1:]:
        assert (fd.value, fd.low) == pytest.approx((found[0][0].value, found[0][0].low), abs=1e-6)
        assert (fd.samples, kernel.samples) == (90, 50)
        assert (kernel, score) == found[0][1:]


def test_drawn_images_are_scored_with_their_own_prompts(folders, models):
    clip = open_clip(folders["clip"])
    conditions = ImageConditions(captions=(tuple(CAPTIONS),))
    drawer = Drawer(load(models["captions"]), conditions, 5, {"solver": "ddim", "steps": 2}, clip=clip)
    part = drawer.part(3, 6)
    seen = clip.images(drawer.images(3, 6))[0]
    expected = clip.scores(seen, [CAPTIONS[number % 4] for number in range(3, 9)])
    assert torch.equal(part.values["clip_score"], expected)
    assert set(part.values) == {"clip_score"}


def test_the_command_measures_them(folders, models, digits, tmp_path):
    given = ["evaluate", models["captions"], "--data", digits.path, "--solver", "ddim", "--steps", "2"]
    given += ["--metrics", "cmmd,clip_score,fd_dinov2", "--samples", "20", "--reference", "30", "--allow-few"]
    given += ["--clip", folders["clip"], "--dinov2", folders["dinov2"], "--cache", str(tmp_path / "cache")]
    assert main([*given, "--output", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    figures = read_report(tmp_path / "report.json")
    assert list(figures) == ["cmmd", "clip_score", "fd_dinov2"]
    clip, dinov2 = open_clip(folders["clip"]), open_pretrained(folders["dinov2"], "--dinov2")
    hashes = [clip.images.hash, clip.hash, dinov2.hash]
    assert [figure.features for figure in figures.values()] == hashes
    assert report["pretrained"]["clip"] == {"name": folders["clip"], "hash": clip.images.hash}
    assert report["features"] is None
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high
        assert figure.samples == 20
    assert [each["reference"] for each in report["figures"]] == [30, 0, 30]
    before = {path.name for path in (tmp_path / "cache").iterdir()}
    assert main([*given, "--output", str(tmp_path / "again.json")]) == 0
    assert read_report(tmp_path / "again.json") == figures
    assert {path.name for path in (tmp_path / "cache").iterdir()} == before


def test_a_folder_is_a_feature_network(folders):
    """--features takes a folder of either network, and gives its features."""
    images = pictures(3)
    for name in ("clip", "dinov2"):
        found = open_network(folders[name])
        assert found.hash == open_pretrained(folders[name], f"--{name}").hash
        assert torch.equal(found(images)[0], open_pretrained(folders[name], f"--{name}")(images)[0])


def test_networks_of_other_weights_or_settings_have_other_hashes(folders, tmp_path):
    other = vision_networks.clip(tmp_path / "other", seed=1)
    larger = vision_networks.clip(tmp_path / "larger", side=24)
    assert len({open_clip(folder).hash for folder in (folders["clip"], other, larger)}) == 3
    resized = Path(shutil.copytree(folders["clip"], tmp_path / "resized"))
    settings = json.loads((resized / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.5, 0.5, 0.5]
    (resized / "preprocessor_config.json").write_text(json.dumps(settings))
    assert open_clip(str(resized)).images.hash != open_clip(folders["clip"]).images.hash


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        (
            "captions",
            ["--metrics", "clip_score"],
            "clip_score: needs weights of CLIPModel; give their folder by --clip",
        ),
        ("captions", ["--metrics", "fd_dinov2", "--clip", "{clip}"], "give their folder by --dinov2"),
        ("captions", ["--metrics", "cmmd", "--clip", "nowhere"], "--clip 'nowhere' is no folder"),
        ("captions", ["--metrics", "cmmd", "--clip", "{dinov2}"], "weights of model_type 'dinov2'; give those of CLIP"),
        ("captions", ["--metrics", "fd_dinov2", "--allow-few", "--dinov2", "{clip}"], "give those of Dinov2Model"),
        ("captions", ["--metrics", "kid", "--features", "{bert}"], "give those of CLIPModel or Dinov2Model"),
        ("captions", ["--metrics", "cmmd", "--clip", "{bare}"], "holds no weights in safetensors format"),
        ("labels", ["--metrics", "clip_score", "--clip", "{clip}"], "clip_score: needs a model that takes captions"),
        ("captions", ["--metrics", "fd_dinov2", "--dinov2", "{dinov2}"], "fd_dinov2 of 200 real images"),
        ("captions", ["--metrics", "cmmd", "--clip", "{clip}", "--reference", "3"], "cmmd: 3 real images are too few"),
    ],
)
def test_mistakes_are_one_sentence(folders, models, digits, tmp_path, capsys, kind, more, said):
    BertConfig().save_pretrained(tmp_path / "bert")
    (tmp_path / "bare").mkdir()
    shutil.copy(Path(folders["clip"]) / "config.json", tmp_path / "bare")
    places = {**folders, "bert": tmp_path / "bert", "bare": tmp_path / "bare"}
    given = ["evaluate", models[kind], "--data", digits.path, "--cache", str(tmp_path), *more]
    found = refused(capsys, *(word.format(**places) for word in given), "--output", str(tmp_path / "report.json"))
    assert said in found
    assert not (tmp_path / "report.json").exists()


def test_weights_that_do_not_fit_their_configuration_are_named(folders, tmp_path):
    """Missing weights, others' shapes, and a folder without an image processor, are refused before they are used."""
    for change, said in (
        (lambda kept: kept.pop("visual_projection.weight"), "lacks 1 weights of CLIPModel: visual_projection.weight"),
        (lambda kept: kept.update({"visual_projection.weight": torch.ones(2, 2)}), "1 weights of CLIPModel have other"),
    ):
        broken = Path(shutil.copytree(folders["clip"], tmp_path / "broken"))
        kept = load_file(broken / "model.safetensors")
        change(kept)
        save_file(kept, broken / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=said):
            open_clip(str(broken))
        shutil.rmtree(broken)
    broken = Path(shutil.copytree(folders["clip"], tmp_path / "broken"))
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"--clip .*: no image processor can be loaded"):
        open_clip(str(broken))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(ValueError, match=r"--clip .* names code of its own"):
        open_clip(str(broken))
