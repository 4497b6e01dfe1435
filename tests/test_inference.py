"""A model in use: likelihoods, latents and interpolation of uint8 images, guidance, and compiled networks."""

import math

import pytest
import torch

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


def test_a_guided_model_has_no_likelihood(exact, images):
    with pytest.raises(ValueError, match="unconditional"):
        exact.log_prob(images, guidance=2.0)


@pytest.mark.parametrize("solver", ["unipc", "pc", "rk45", "dpmpp_2m_sde"])
def test_every_setting_reaches_the_sampler(exact, solver):
    """The model's own sampling equals the sampler's, settings and streams included."""
    one = exact.sample(n=3, seed=5, solver=solver, steps=6, denoise=True)
    two = exact.sample(n=2, seed=5, first=1, solver=solver, steps=6, denoise=True)
    assert torch.equal(one.images[1:], two.images)
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
