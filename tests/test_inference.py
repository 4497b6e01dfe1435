"""A model in use: likelihoods, latents and interpolation of uint8 images, guidance, and compiled networks."""

import math
from dataclasses import replace

import pytest
import torch

from raysde import likelihood, randomness
from raysde.conditioning import Encoded
from raysde.guidance import Conditioned
from raysde.inference import Model
from raysde.model import ModelSpec, fresh_model
from raysde.sampler import sample
from tests.tiny import spec_with


class GaussianNetwork(torch.nn.Module):
    """The exact noise prediction of N(0.1, 0.5^2) pixels, with one weight so that it has a device."""

    def __init__(self, sde) -> None:
        super().__init__()
        self.sde, self.weight = sde, torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        alpha, sigma = (value[:, None, None, None] for value in self.sde.marginal(t))
        # undo the input's scaling for data_std 0.5
        size = torch.sqrt(0.25 * alpha**2 + sigma**2)
        return self.weight * sigma * (x * size - alpha * 0.1) / size**2


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return spec_with()


@pytest.fixture
def exact(spec) -> Model:
    model = fresh_model(spec, [], 0)
    model.network = GaussianNetwork(spec.sde)
    return Model(model.eval(), spec)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    x = 0.1 + 0.5 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def test_log_prob_of_images(exact, images):
    """The closed form of a Gaussian at the images' float values."""
    found = exact.log_prob(images, probes=2)
    normal = torch.distributions.Normal(0.1, 0.5)
    expected = normal.log_prob(images.double() / 127.5 - 1.0).flatten(1).sum(1)
    # 64 pixels; the mean of 0.1 at the prior's end costs some 1e-3 nats a pixel
    assert ((found.value - expected) / 64).abs().max() < 2e-3
    assert found.latent.shape == images.shape


def test_bits_per_dim_of_images(exact, images):
    found = exact.bits_per_dim(images, repeats=3)
    expected = -torch.distributions.Normal(0.1, 0.5).log_prob(images / 127.5 - 1.0).flatten(1).mean(1) / math.log(2) + 7
    assert (found.value - expected).abs().max() < 0.02


def test_images_come_back_from_their_latents(exact, images):
    latents = exact.encode(images)
    assert latents.std().item() == pytest.approx(1.0, abs=0.15)
    assert (exact.decode(latents).int() - images.int()).abs().max() <= 1
    path = exact.interpolate(images[:2], images[2:], [0.0, 0.5, 1.0])
    assert path.shape == (3, 2, 1, 8, 8)
    assert (path[0].int() - images[:2].int()).abs().max() <= 1
    assert (path[2].int() - images[2:].int()).abs().max() <= 1


def test_images_that_do_not_fit_are_named(exact, images):
    """By everything that goes through latents: other sizes, floats in an unknown range, unequal numbers, no weight."""
    for ask in (exact.log_prob, exact.bits_per_dim, exact.encode):
        for wrong in (images[..., :4], images.float(), images.expand(-1, 3, -1, -1)):
            with pytest.raises(ValueError, match=r"takes uint8 images of shape \[B, 1, 8, 8\]"):
                ask(wrong)
    with pytest.raises(ValueError, match="interpolate: 1 images and 4"):
        exact.interpolate(images[:1], images, [0.5])
    for weights in ([], [1.5]):
        with pytest.raises(ValueError, match="weights must lie between 0 and 1"):
            exact.interpolate(images, images, weights)


def test_every_argument_of_a_likelihood_reaches_it(exact, images, monkeypatch):
    """Conditions and guidance, probes, repeats and divergence, the data range, and the stream of the seed."""
    asked, streams = [], []
    told = lambda self, *given: asked.append(given) or "score"  # noqa: E731
    monkeypatch.setattr(Model, "conditioned", told)

    def remembered(*given, generator=None, **more):
        streams.append(None if generator is None else generator.initial_seed())
        asked.append((given, more))
        return torch.zeros(2, 4, 1, 8, 8) if len(given) == 3 and generator is None else "found"

    for name in ("log_prob", "bits_per_dim", "encode", "decode"):
        monkeypatch.setattr(likelihood, name, remembered)
    ranged = replace(exact, spec=replace(exact.spec, data_range=(-0.5, 2.0)))
    floats = images.double() * 2.5 / 255.0 - 0.5
    said = {"prompts": ["a"] * 4, "labels": [3, 1, 2, 0]}
    ranged.log_prob(images, **said, seed=6, guidance=1.5, divergence="exact", probes=7)
    ranged.bits_per_dim(images, **said, seed=8, guidance=2.5, repeats=3, probes=2)
    ranged.encode(images, **said, guidance=3.5)
    ranged.decode(torch.ones(4, 1, 8, 8), **said, guidance=4.5)
    assert asked[0::2] == [(said["prompts"], said["labels"], 4, scale) for scale in (1.5, 2.5, 3.5, 4.5)]
    assert streams == [randomness.key(6, randomness.PROBES), randomness.key(8, randomness.PROBES), None, None]
    (logs, log_how), (bits, bits_how), (encoded, _), (decoded, _) = asked[1::2]
    for given in (logs, encoded):
        assert (given[0], given[2]) == ("score", exact.sde)
        torch.testing.assert_close(given[1].double(), floats, rtol=0.0, atol=1e-6)
    assert log_how == {"divergence": "exact", "probes": 7}
    assert torch.equal(bits[1], images)
    assert bits_how == {"data_range": (-0.5, 2.0), "repeats": 3, "probes": 2}
    assert torch.equal(decoded[1], torch.ones(4, 1, 8, 8))


def test_images_on_the_way_are_told_the_same_at_both_ends(exact, images, monkeypatch):
    """Both ends are encoded and every image between them decoded under the prompts and labels that are given."""
    asked = []
    plain = Model.conditioned
    monkeypatch.setattr(
        Model, "conditioned", lambda self, *given: asked.append(given) or plain(self, None, None, *given[2:])
    )
    exact.interpolate(images[:1], images[1:2], [0.25, 0.75], prompts=["a"], labels=[3])
    assert asked == [(["a"], [3], 1, 1.0)] * 4


def test_pixels_and_floats_are_in_the_models_data_range(exact, images):
    """Also where black is 0 and white is 1, and where the range is none of the usual."""
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-0.5, 2.0)):
        model = replace(exact, spec=replace(exact.spec, data_range=(low, high)))
        floats = model.floats(images)
        torch.testing.assert_close(floats.double(), images.double() / 255.0 * (high - low) + low, rtol=0.0, atol=1e-6)
        assert torch.equal(model.pixels(floats), images)


def test_a_guided_model_has_no_likelihood(exact, images):
    with pytest.raises(ValueError, match="unconditional"):
        exact.log_prob(images, guidance=2.0)


@pytest.mark.parametrize("solver", ["unipc", "pc", "rk45", "dpmpp_2m_sde"])
def test_every_setting_reaches_the_sampler(exact, solver):
    """The model's own sampling equals the sampler's, settings and streams included, to a rounding."""
    one = exact.sample(n=3, seed=5, solver=solver, steps=6, denoise=True)
    two = exact.sample(n=2, seed=5, first=1, solver=solver, steps=6, denoise=True)
    assert (one.images[1:].int() - two.images.int()).abs().max() <= 1
    assert (one.images[:2].int() - two.images.int()).abs().max() > 1
    assert one.nfe >= 7
    other = exact.sample(n=3, seed=5, solver=solver, steps=6)
    assert other.nfe == one.nfe - 1


def test_a_compiled_network_samples_alike(spec):
    """torch.compile with the eager backend traces the network as a whole: the same numbers."""
    model = fresh_model(spec, [], 0).eval().requires_grad_(False)
    plain = sample(Conditioned(model, Encoded()), spec.sde, (2, 1, 8, 8), solver="unipc", steps=3,
                   generator=torch.Generator().manual_seed(0))  # fmt: skip
    model.network = torch.compile(model.network, backend="eager", fullgraph=True)
    compiled = sample(Conditioned(model, Encoded()), spec.sde, (2, 1, 8, 8), solver="unipc", steps=3,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    torch.testing.assert_close(compiled.x, plain.x)
