"""Editing by a model: inpainting, colorising, upscaling, redrawing and interpolation of prompts."""

import dataclasses
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from raysde.conditioning.conditioner import Encoded
from raysde.inference.edit import interpolate_conditions
from raysde.inference.model import Model
from raysde.models.autoencoder import LatentSpec
from raysde.sampling.inverse.operators import Mask
from raysde.sampling.inverse.restore import edit
from raysde.sde import VP
from tests.support.exact_models import KEPT, exact_model
from tests.support.models import CAPTIONS, caption_spec, filled_model


@pytest.fixture(scope="module")
def rgb() -> Model:
    return exact_model(3)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return torch.randint(70, 186, (3, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


QUICK = {"solver": "unipc", "steps": 8}
METHODS = ["moment_matching", "replacement"]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_inpaints(rgb, photos, method):
    drawn = rgb.inpaint(photos, KEPT, method=method, seed=3, **QUICK)
    assert torch.equal(drawn.images[:, :, KEPT], photos[:, :, KEPT])
    assert not torch.equal(drawn.images[:, :, ~KEPT], photos[:, :, ~KEPT])
    each = torch.stack([KEPT, ~KEPT, KEPT])[:, None]
    other = rgb.inpaint(photos, each, method=method, seed=3, **QUICK).images
    assert (other[[0, 2]].int() - drawn.images[[0, 2]].int()).abs().max() <= 1
    assert torch.equal(other[1][:, ~KEPT], photos[1][:, ~KEPT])
    alone = rgb.inpaint(photos[2:], KEPT, method=method, seed=3, first=2, **QUICK).images
    assert (alone[0].int() - drawn.images[2].int()).abs().max() <= 1


def test_a_model_knows_a_pixels_other_channels(rgb):
    """Channels differ by N(0, 0.1^2) each: if two are known as 0.5, the third is 0.48 on average, not 0.1."""
    grey = torch.full((400, 3, 4, 4), 191, dtype=torch.uint8)
    kept = torch.tensor([True, True, False])[:, None, None]
    projection = Mask(kept)
    score = rgb.conditioned(None, None, 400, 1.0)
    known = projection.measure(grey / 127.5 - 1.0)
    out = edit(score, rgb.sde, known, projection, generator=torch.Generator().manual_seed(0), steps=30).x[:, 2]
    covariance = 0.24 * torch.ones(3, 3) + 0.01 * torch.eye(3)
    gain = covariance[2, :2] @ torch.linalg.inv(covariance[:2, :2])
    expected = 0.1 + gain.sum() * (191 / 127.5 - 1.0 - 0.1)
    deviation = (covariance[2, 2] - gain @ covariance[:2, 2]).sqrt()
    assert abs(out.mean() - expected) < 4 * deviation / math.sqrt(out.numel()) + 0.002
    assert out.std().item() == pytest.approx(deviation.item(), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_colours_and_enlarges(rgb, photos, method):
    """The means over channels and over blocks are the given ones, up to the rounding of each pixel."""
    grey = photos[:, :1]
    coloured = rgb.colorise(grey, method=method, **QUICK).images
    assert coloured.shape == photos.shape
    assert (coloured.double().mean(dim=1, keepdim=True) - grey).abs().max() <= 0.5
    assert (coloured[:, 0] != coloured[:, 1]).any()
    small = photos[:, :, :2, :2]
    large = rgb.upscale(small, 2, method=method, **QUICK).images
    assert large.shape == photos.shape
    means = torch.nn.functional.avg_pool2d(large.double(), 2)
    clipped = torch.nn.functional.max_pool2d(((large == 0) | (large == 255)).double(), 2) > 0
    assert ((means - small).abs() <= 0.5)[~clipped].all()
    assert (~clipped).double().mean() > 0.5


def test_noise_is_in_grey_levels(rgb, photos):
    """Known pixels with noise of one grey level are kept, those with noise of a hundred levels change a lot."""
    off = [
        (rgb.inpaint(photos, torch.ones(4, 4, dtype=torch.bool), noise=noise, iterations=8, solver="unipc", steps=20)
         .images.double() - photos).abs().mean()
        for noise in (1.0, 100.0)
    ]  # fmt: skip
    assert off[0] < 3.0
    assert off[1] > 20.0


def test_a_model_edits(rgb, photos):
    """Strength 0 changes nothing, 1 is plain sampling, and the distance grows with the strength in between."""
    assert torch.equal(rgb.edit(photos, 0.0, **QUICK).images, photos)
    whole = rgb.edit(photos, 1.0, seed=4, **QUICK)
    assert torch.equal(whole.images, rgb.sample(n=3, seed=4, **QUICK).images)
    distances = [
        (rgb.edit(photos, strength, seed=4, **QUICK).images.double() - photos).abs().mean()
        for strength in (0.2, 0.5, 0.9)
    ]
    assert distances[0] < distances[1] < distances[2]
    again = rgb.edit(photos[1:], 0.5, seed=4, first=1, batch_size=1, **QUICK).images
    assert (again.int() - rgb.edit(photos, 0.5, seed=4, **QUICK).images[1:].int()).abs().max() <= 1


def test_progress_counts_the_steps_that_are_taken(rgb, photos):
    calls = []
    rgb.edit(photos, 0.5, batch_size=2, progress=lambda done, total: calls.append((done, total)), **QUICK)
    assert calls == [(number, 8) for number in range(1, 9)]
    calls.clear()
    rgb.inpaint(photos, KEPT, progress=lambda done, total: calls.append((done, total)), **QUICK)
    assert calls == [(number, 8) for number in range(1, 9)]


def test_images_that_do_not_fit_are_named(rgb, photos):
    with pytest.raises(ValueError, match=r"inpaint.*\[B, 3, 4, 4\].*\[3, 3, 4, 2\]"):
        rgb.inpaint(photos[..., :2], KEPT[:, :2])
    with pytest.raises(ValueError, match=r"mask has shape \(4, 2\).*\(3, 3, 4, 4\)"):
        rgb.inpaint(photos, KEPT[:, :2])
    with pytest.raises(ValueError, match="mask must be bool"):
        rgb.inpaint(photos, KEPT.float())
    with pytest.raises(ValueError, match=r"colorise.*\[B, 1, 4, 4\]"):
        rgb.colorise(photos)
    with pytest.raises(ValueError, match="draws grey images"):
        exact_model(1).colorise(photos[:, :1])
    with pytest.raises(ValueError, match="factor 3 does not divide"):
        rgb.upscale(photos, 3)
    with pytest.raises(ValueError, match=r"upscale.*\[B, 3, 2, 2\]"):
        rgb.upscale(photos, 2)
    with pytest.raises(ValueError, match=r"edit.*uint8 or float.*int64"):
        rgb.edit(photos.long(), 0.5)
    with pytest.raises(ValueError, match="edit: float images must lie in the data range, -1 to 1"):
        rgb.edit(photos.float(), 0.5)
    with pytest.raises(ValueError, match="strength must lie between 0 and 1, got 2"):
        rgb.edit(photos, 2.0)
    with pytest.raises(ValueError, match="no text encoder"):
        rgb.edit(photos, 0.5, prompts=["a"] * 3)
    with pytest.raises(ValueError, match=r"n=3, but \[2\]"):
        rgb.inpaint(photos, KEPT, prompts=["a"] * 2)


def test_latent_models_refuse_what_is_of_pixels(photos):
    latent = LatentSpec(
        vae="x", sha256="0", scaling_factor=1.0, shift_factor=0.0, shape=(3, 4, 4), pixels=(3, 8, 8)
    )  # fmt: skip
    model = exact_model(3)
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, latent=latent))
    for ask in (
        lambda: model.inpaint(photos, KEPT),
        lambda: model.colorise(photos[:, :1]),
        lambda: model.upscale(photos, 2),
    ):
        with pytest.raises(ValueError, match="needs a model of pixels, and this one samples latents of 'x'"):
            ask()
    with pytest.raises(ValueError, match=r"edit.*\[B, 3, 8, 8\]"):
        model.edit(photos, 0.5)


def encoded(vectors, tokens) -> Encoded:
    """Return conditions in which the first ``tokens`` of ``vectors`` are real and the others padding."""
    context = torch.tensor(vectors, dtype=torch.float64)[None]
    mask = (torch.arange(context.shape[1]) < tokens)[None]
    return Encoded(context[:, :tokens].mean(dim=1), context, mask)


def test_conditions_between_two():
    """Tokens lie on straight lines or great circles, all repeated equally often, and each end is its own prompt."""
    first = encoded([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], 2)
    second = encoded([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0], [2.0, 0.0]], 4)
    line = interpolate_conditions(first, second, torch.tensor([0.0, 0.25, 1.0]), "linear")
    expected = 0.75 * torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]) + 0.25 * second.context[0]
    torch.testing.assert_close(line.context[1], expected.double())
    assert line.mask.tolist() == [[True, False, True, False], [True] * 4, [True] * 4]
    torch.testing.assert_close(line.context[0, line.mask[0]], first.context[0, :2])
    torch.testing.assert_close(line.context[2], second.context[0])
    three = encoded([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 3)
    sixth = interpolate_conditions(first, three, torch.tensor([0.0, 0.5, 1.0]), "linear")
    assert sixth.context.shape[1] == 6
    torch.testing.assert_close(sixth.context[2, sixth.mask[2]], three.context[0])
    torch.testing.assert_close(line.pooled[1], 0.75 * first.pooled[0] + 0.25 * second.pooled[0])
    circle = interpolate_conditions(first, second, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), "spherical")
    torch.testing.assert_close(circle.context[1, 0], torch.full((2,), math.sqrt(0.5), dtype=torch.float64))
    torch.testing.assert_close(circle.context[2], second.context[0])
    torch.testing.assert_close(circle.pooled[[0, 2]], torch.cat([first.pooled, second.pooled]))
    with pytest.raises(ValueError, match="line must be one of spherical, linear"):
        interpolate_conditions(first, second, torch.tensor([0.5]), "crooked")


@pytest.mark.parametrize("line", ["spherical", "linear"])
def test_prompts_are_interpolated_from_one_noise(line):
    """The ends are the prompts' images from the first random stream; two equal prompts give one image throughout."""
    changes = {"classes": 3, "sde": VP()}
    model = Model(filled_model(**changes), caption_spec(**changes))
    settings = {"seed": 5, "guidance": 2.0, **QUICK}
    drawn = model.interpolate_prompts(CAPTIONS[2], CAPTIONS[3], [0.0, 0.5, 1.0], line=line, **settings).images
    for image, caption in ((drawn[0], CAPTIONS[2]), (drawn[2], CAPTIONS[3])):
        alone = model.sample(prompts=[caption], **settings).images[0]
        assert (image.int() - alone.int()).abs().max() <= 1
    assert (drawn[0].int() - drawn[2].int()).abs().max() > 1
    assert not torch.equal(drawn[0], drawn[1])
    same = model.interpolate_prompts(CAPTIONS[0], CAPTIONS[0], [0.0, 0.3, 1.0], line=line, **settings).images
    assert (same.int() - same[:1].int()).abs().max() <= 1
    with pytest.raises(ValueError, match="weights must be one or more numbers between 0 and 1"):
        model.interpolate_prompts("a", "b", [1.5])


def test_images_between_prompts_of_unequal_length_begin_where_the_first_ends():
    """A weight of a millionth hardly changes an image at either end, for any number of tokens."""
    model = Model(filled_model(sde=VP()), caption_spec(sde=VP()))
    short, long = "one", "the digit two and the digit three"
    tokens = [int(model.score_model.conditioner.encode([text], None, 1).mask.sum()) for text in (short, long)]
    assert tokens[0] != tokens[1]
    with torch.no_grad():
        for parameter in model.score_model.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    x, t = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])

    def score(weight):
        encode = model.score_model.conditioner.encode
        given = interpolate_conditions(
            encode([short], None, 1), encode([long], None, 1), torch.tensor([weight]), "linear"
        )
        return model.score_model.score(x, t, given)

    with torch.no_grad():
        ends, near = (score(0.0), score(1.0)), (score(1e-6), score(1.0 - 1e-6))
    way = (ends[0] - ends[1]).norm()
    assert way > 0.01
    for end, beside in zip(ends, near, strict=True):
        assert (end - beside).norm() < 1e-3 * way


def test_what_is_drawn_from_noise_goes_by_the_models_own_settings():
    """SDEdit and interpolated prompts use the model's own settings, and inpainting uses the general defaults."""
    own = {"solver": "unipc", "steps": 3, "guidance": 3.0, "guidance_interval": (0.1, 1.0)}
    model = Model(filled_model(sde=VP()), replace(caption_spec(sde=VP()), generation=own))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    asked = {"prompts": list(CAPTIONS[:2]), "seed": 3}
    plain, whole = model.sample(**asked), model.edit(images, 1.0, **asked)
    assert torch.equal(whole.images, plain.images)
    assert whole.nfe == plain.nfe == 3
    between_two = model.interpolate_prompts(CAPTIONS[0], CAPTIONS[1], [0.0, 1.0], seed=3)
    assert between_two.nfe == 3
    assert (between_two.images[0].int() - plain.images[0].int()).abs().max() <= 1
    everywhere = {"guidance": 3.0, "guidance_interval": (0.0, math.inf)}
    assert (model.sample(**asked, **everywhere).images[0].int() - plain.images[0].int()).abs().max() > 1
    for other in ({"guidance": 1.0, "guidance_interval": (0.0, math.inf)}, everywhere):
        assert model.edit(images, 1.0, **asked, **other).images.ne(plain.images).any()
    assert model.inpaint(images, torch.ones(8, 8, dtype=torch.bool), **asked).nfe > 30


@pytest.mark.parametrize("act", ["sample", "edit", "inpaint", "interpolate_prompts"])
def test_who_is_led_away_is_led(act):
    """A negative prompt without a scale gets the default guidance scale; an interval without one is refused."""
    model = Model(filled_model(sde=VP()), caption_spec(sde=VP()))
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    calls = {
        "sample": lambda **more: model.sample(prompts=["two"], **more),
        "edit": lambda **more: model.edit(images, 0.9, prompts=["two"], **more),
        "inpaint": lambda **more: model.inpaint(images, torch.zeros(8, 8, dtype=torch.bool), prompts=["two"], **more),
        "interpolate_prompts": lambda **more: model.interpolate_prompts("two", "one", [0.5], **more),
    }
    draw = partial(calls[act], solver="euler", steps=3)
    led = draw(negative="three").images
    assert torch.equal(led, draw(negative="three", guidance=2.0).images)
    assert not torch.equal(led, draw().images)
    with pytest.raises(ValueError, match="guidance_interval has no effect at guidance 1"):
        draw(guidance_interval=(0.2, 5.0))


def test_a_single_prompt_is_no_list_of_letters():
    model = Model(filled_model(classes=3, sde=VP()), caption_spec(classes=3, sde=VP()))
    with pytest.raises(ValueError, match="prompts must be a list with one for each image, got 'two'"):
        model.sample(prompts="two", **QUICK)
    with pytest.raises(ValueError, match="labels must be a list with one for each image, got 1"):
        model.sample(labels=1, **QUICK)
