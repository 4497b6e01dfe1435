"""Prediction targets are exact linear reparameterisations of one another."""

import pytest
import torch

from raysde.conditioning.conditioner import Condition, Conditioner, Encoded
from raysde.models.score import ScoreModel
from raysde.sde import VE, VP
from raysde.sde.parameterisation import (
    TARGETS,
    Preconditioning,
    convert_target,
    noise_error_scale,
    target_coefficients,
    target_of,
)
from tests.support.oracles import SDES

STD = 0.5


def case(name, count=64):
    """Return data, noise and a time for each row, with alpha and sigma ready to broadcast."""
    g = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(count, 3, 4, 4, dtype=torch.float64, generator=g) for _ in range(2))
    t = torch.rand(count, dtype=torch.float64, generator=g) * 0.9 + 0.05
    alpha, sigma = (value[:, None, None, None] for value in SDES[name].marginal(t))
    return x0, eps, t, alpha, sigma


def published(target, x0, eps, alpha, sigma):
    """Return each target as its paper defines it."""
    size = torch.sqrt(sigma**2 + (alpha * STD) ** 2)
    x_t = alpha * x0 + sigma * eps
    return {
        "noise": eps,
        "score": -eps / sigma,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "flow": eps - x0,
        # Karras et al.: D = c_skip(s) y + c_out(s) F at y = x_t / alpha and s = sigma / alpha
        "edm": (x0 - STD**2 / ((sigma / alpha) ** 2 + STD**2) * x_t / alpha) / (sigma * STD / size),
    }[target]


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_what_its_paper_says(name, target):
    x0, eps, _, alpha, sigma = case(name)
    torch.testing.assert_close(
        target_of(target, x0, eps, alpha, sigma, STD), published(target, x0, eps, alpha, sigma), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("source", TARGETS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_every_other(name, source, target):
    """Converting a target to any other and back recovers it."""
    x0, eps, _, alpha, sigma = case(name)
    x_t = alpha * x0 + sigma * eps
    value = published(source, x0, eps, alpha, sigma)
    other = convert_target(value, x_t, alpha, sigma, source, target, STD)
    expected = published(target, x0, eps, alpha, sigma)
    size = expected.abs().mean()
    assert ((other - expected) / size).abs().max() < 1e-8
    back = convert_target(other, x_t, alpha, sigma, target, source, STD)
    assert ((back - value) / value.abs().mean()).abs().max() < 1e-8


@pytest.mark.parametrize("target", TARGETS)
def test_an_error_of_the_target_is_an_error_of_the_noise(target):
    """noise_error_scale is the derivative of the implied noise with respect to the target."""
    x0, eps, _, alpha, sigma = case("sub_vp")
    x_t = alpha * x0 + sigma * eps
    value = published(target, x0, eps, alpha, sigma)
    moved = convert_target(value + 0.1, x_t, alpha, sigma, target, "noise", STD)
    torch.testing.assert_close(moved - eps, 0.1 * noise_error_scale(target, alpha, sigma, STD).expand(eps.shape))


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match="magic"):
        target_coefficients("magic", torch.ones(1), torch.ones(1), STD)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("output", ["unit", "none"])
def test_the_score_of_known_noise(name, target, output):
    """A network that predicts the true noise gives score = -eps / sigma, whatever its target and scaling."""
    x0, eps, t, alpha, sigma = case(name, count=8)
    outside = Preconditioning(output=output)

    class Knowing(torch.nn.Module):
        def forward(self, x, time):
            # the network's input has unit variance for data of the stated standard deviation
            torch.testing.assert_close(x, (alpha * x0 + sigma * eps) / torch.sqrt(alpha**2 * STD**2 + sigma**2))
            return published(target, x0, eps, alpha, sigma) / outside.output_scale(target, alpha, sigma)

    model = ScoreModel(Knowing(), Conditioner(None, None, 0), SDES[name], target, STD, outside)
    x_t = alpha * x0 + sigma * eps
    torch.testing.assert_close(model.score(x_t, t, Encoded()), -eps / sigma, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.eps_hat(x_t, t, Encoded()), eps, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.x0_hat(x_t, t, Encoded()), x0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("target", ["noise", "score", "v"])
def test_outputs_have_unit_size(name, target):
    """The network's output stays of order 1 under any SDE at any time."""
    g = torch.Generator().manual_seed(2)
    x0, eps = (torch.randn(4096, 1, dtype=torch.float64, generator=g) for _ in range(2))
    for t in (1e-3, 0.1, 0.5, 0.9, 0.999):
        alpha, sigma = SDES[name].marginal(torch.tensor(t, dtype=torch.float64))
        scale = Preconditioning().output_scale(target, alpha, sigma)
        assert (target_of(target, x0, eps, alpha, sigma, 1.0) / scale).std().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("name", SDES)
def test_edm_outputs_have_unit_size_for_data_of_the_stated_deviation(name):
    g = torch.Generator().manual_seed(3)
    x0, eps = STD * torch.randn(4096, 1, dtype=torch.float64, generator=g), torch.randn(4096, 1, dtype=torch.float64)
    for t in (1e-3, 0.1, 0.5, 0.9, 0.999):
        alpha, sigma = SDES[name].marginal(torch.tensor(t, dtype=torch.float64))
        assert target_of("edm", x0, eps, alpha, sigma, STD).std().item() == pytest.approx(1.0, rel=0.1)


class Recorder(torch.nn.Module):
    """A network that records its inputs and returns a fixed image."""

    def forward(self, x, time):
        self.seen, self.time = x, time
        return torch.full_like(x, 0.3)


def test_songs_vp_networks_can_be_expressed():
    """The preconditioning can express score = -F(x, 999 t) / std (Song et al., code of their VP models)."""
    sde, x, t = VP(), torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.7])
    network = Recorder()
    outside = Preconditioning(time="999t", input="none")
    model = ScoreModel(network, Conditioner(None, None, 0), sde, "noise", 0.5, outside)
    expected = -0.3 / sde.sigma(t)[:, None, None, None].expand(x.shape)
    torch.testing.assert_close(model.score(x, t, Encoded()), expected)
    assert torch.equal(network.seen, x)
    torch.testing.assert_close(network.time, 999.0 * t)


def test_songs_ve_networks_can_be_expressed():
    """The preconditioning can express score = F(2 x - 1, log sigma) / sigma for data in [0, 1] (Song et al., VE code)."""
    sde, x, t = VE(), torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.7])
    network = Recorder()
    outside = Preconditioning(time="log_sigma", input="centred")
    model = ScoreModel(network, Conditioner(None, None, 0), sde, "score", 0.5, outside)
    expected = 0.3 / sde.sigma(t)[:, None, None, None].expand(x.shape)
    torch.testing.assert_close(model.score(x, t, Encoded()), expected)
    torch.testing.assert_close(network.seen, 2.0 * x - 1.0)
    torch.testing.assert_close(network.time, sde.sigma(t).log())


def test_karras_networks_can_be_expressed():
    """The preconditioning can express D = c_skip x + c_out F(c_in x, log(sigma) / 4) (Karras et al. table 1)."""
    sde, x, t = SDES["edm"], torch.randn(2, 3, 4, 4), torch.tensor([0.01, 0.1])
    network = Recorder()
    model = ScoreModel(network, Conditioner(None, None, 0), sde, "edm", 0.5)
    sigma = sde.sigma(t)[:, None, None, None]
    skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / torch.sqrt(sigma**2 + 0.25)
    torch.testing.assert_close(model.x0_hat(x, t, Encoded()), skip * x + out * 0.3, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.seen, x / torch.sqrt(sigma**2 + 0.25))
    torch.testing.assert_close(network.time, sde.sigma(t).log() / 4)


def test_a_network_may_take_sigma():
    t = torch.tensor([0.3])
    time = Preconditioning(time="sigma").network_time(SDES["ve"], t)
    torch.testing.assert_close(time, SDES["ve"].sigma(t))


def test_the_uncertainty_is_of_the_noise_level():
    """The uncertainty network receives each row's log-SNR, which is comparable across SDEs; without it there is none."""
    sde, x, t = VP(), torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.7])
    uncertainty = torch.nn.Identity()
    model = ScoreModel(Recorder(), Conditioner(None, None, 0), sde, "noise", 0.5, None, uncertainty)
    output, log_variance = model(x, t, Condition())
    torch.testing.assert_close(log_variance, sde.log_snr(t))
    assert torch.equal(output, torch.full_like(x, 0.3))
    assert ScoreModel(Recorder(), Conditioner(None, None, 0), sde, "noise", 0.5)(x, t, Condition())[1] is None
