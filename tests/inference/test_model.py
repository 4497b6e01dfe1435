"""The model's methods: likelihoods, latents and interpolation of uint8 images, guidance, compiled networks."""

import math
from dataclasses import replace

import pytest
import torch

from raysde import rng
from raysde.conditioning.conditioner import Encoded
from raysde.inference import flow
from raysde.inference.guidance import Conditioned
from raysde.inference.model import Model
from raysde.models.spec import ModelSpec, fresh_model
from raysde.sampling import likelihood
from raysde.sampling.sampler import sample
from tests.support.models import spec_with


class GaussianNetwork(torch.nn.Module):
    """A network with the exact noise of N(0.1, 0.5^2) pixels, and one weight so that it has a device."""

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
    """The log-density equals the closed form of a Gaussian at the images' float values."""
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
    """All methods of latents refuse other sizes, floats outside the range, unequal numbers and missing weights."""
    for ask in (exact.log_prob, exact.bits_per_dim, exact.encode):
        for wrong in (images[..., :4], images.long(), images.expand(-1, 3, -1, -1)):
            with pytest.raises(
                ValueError, match=r"takes (uint8 images|images, uint8 or float,) of shape \[B, 1, 8, 8\]"
            ):
                ask(wrong)
    with pytest.raises(ValueError, match=r"takes uint8 images of shape"):
        exact.bits_per_dim(exact.floats(images))
    for ask in (
        exact.log_prob,
        exact.encode,
        lambda x: exact.edit(x, 0.5),
        lambda x: exact.upscale(x[..., ::2, ::2], 2),
    ):
        for wrong in (images.float(), torch.full((1, 1, 8, 8), math.nan), exact.floats(images) - 2.5):
            with pytest.raises(ValueError, match="float images must lie in the data range, -1 to 1, got"):
                ask(wrong)
    with pytest.raises(ValueError, match="interpolate: first has 1 images and second 4"):
        exact.interpolate(images[:1], images, [0.5])
    for weights in ([], [1.5]):
        with pytest.raises(ValueError, match="weights must be one or more numbers between 0 and 1"):
            exact.interpolate(images, images, weights)


def test_every_argument_of_a_likelihood_reaches_it(exact, images, monkeypatch):
    """Conditions, guidance, probes, repeats, divergence, data range and the seed's random stream are passed on."""
    asked, streams = [], []
    record = lambda self, *given: asked.append(given) or "score"  # noqa: E731
    monkeypatch.setattr(flow, "conditional_score", record)

    def remembered(*given, generator=None, **more):
        streams.append(None if generator is None else generator.initial_seed())
        asked.append((given, more))
        return (torch.zeros(4, 1, 8, 8), 9) if generator is None else "found"

    for name in ("log_prob", "bits_per_dim", "encode_counted", "decode_counted"):
        monkeypatch.setattr(likelihood, name, remembered)
    coarse = {"rtol": 1e-2, "atol": 1e-3}
    ranged = replace(exact, spec=replace(exact.spec, data_range=(-0.5, 2.0)))
    floats = images.double() * 2.5 / 255.0 - 0.5
    said = {"prompts": ["a"] * 4, "labels": [3, 1, 2, 0], "attributes": {"age": 30.0}}
    ranged.log_prob(images, **said, seed=6, guidance=1.5, divergence="exact", probes=7, **coarse)
    ranged.bits_per_dim(images, **said, seed=8, guidance=2.5, repeats=3, probes=2, divergence="gaussian", **coarse)
    ranged.encode(images, **said, guidance=3.5, **coarse)
    ranged.decode(torch.ones(4, 1, 8, 8), **said, guidance=4.5, **coarse)
    conditions = (said["prompts"], said["labels"], 4)
    assert asked[0::2] == [(*conditions, scale, said["attributes"]) for scale in (1.5, 2.5, 3.5, 4.5)]
    assert streams == [rng.key(6, rng.PROBES), rng.key(8, rng.PROBES), None, None]
    (logs, log_how), (bits, bits_how), (encoded, encode_how), (decoded, decode_how) = asked[1::2]
    assert encode_how == decode_how == coarse
    for given in (logs, encoded):
        assert (given[0], given[2]) == ("score", exact.sde)
        torch.testing.assert_close(given[1].double(), floats, rtol=0.0, atol=1e-6)
    assert log_how == {"divergence": "exact", "probes": 7, **coarse}
    assert torch.equal(bits[1], images)
    assert bits_how == {"data_range": (-0.5, 2.0), "repeats": 3, "probes": 2, "divergence": "gaussian", **coarse}
    assert torch.equal(decoded[1], torch.ones(4, 1, 8, 8))


def test_images_on_the_way_have_the_same_conditions_at_both_ends(exact, images, monkeypatch):
    """Both ends are encoded, and all images between them decoded, under the given prompts and labels."""
    asked = []
    plain = flow.conditional_score
    monkeypatch.setattr(
        flow, "conditional_score", lambda self, *given: asked.append(given) or plain(self, None, None, *given[2:])
    )
    exact.interpolate(images[:1], images[1:2], [0.25, 0.75], prompts=["a"], labels=[3])
    assert asked == [(["a"], [3], 1, 1.0, None)] * 4


def test_pixels_and_floats_are_in_the_models_data_range(exact, images):
    """Conversions use the model's data range, such as 0 to 1 or an unusual range."""
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
    """The model's sampling equals the sampler's with the same settings and random streams, up to rounding."""
    one = exact.sample(n=3, seed=5, solver=solver, steps=6, denoise=True)
    two = exact.sample(n=2, seed=5, first=1, solver=solver, steps=6, denoise=True)
    assert (one.images[1:].int() - two.images.int()).abs().max() <= 1
    assert (one.images[:2].int() - two.images.int()).abs().max() > 1
    assert one.nfe >= 7
    other = exact.sample(n=3, seed=5, solver=solver, steps=6)
    assert other.nfe == one.nfe - 1


def test_a_compiled_network_samples_alike(spec):
    """A network that torch.compile traces as a whole, with the eager backend, gives the same samples."""
    model = fresh_model(spec, [], 0).eval().requires_grad_(False)
    plain = sample(Conditioned(model, Encoded()), spec.sde, (2, 1, 8, 8), solver="unipc", steps=3,
                   generator=torch.Generator().manual_seed(0))  # fmt: skip
    model.network = torch.compile(model.network, backend="eager", fullgraph=True)
    compiled = sample(Conditioned(model, Encoded()), spec.sde, (2, 1, 8, 8), solver="unipc", steps=3,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    torch.testing.assert_close(compiled.x, plain.x)


def calls_of(model: Model) -> list[int]:
    """Return a list that grows by one at each evaluation of the network."""
    calls: list[int] = []
    model.score_model.network.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    return calls


def test_what_flows_cost_is_reported_and_tolerances_change_it(exact, images):
    calls = calls_of(exact)
    found = exact.encode_counted(images)
    assert found.nfe == len(calls)
    assert torch.equal(found.x, exact.encode(images))
    calls.clear()
    back = exact.decode_counted(found.x, rtol=1e-2, atol=1e-2)
    assert back.nfe == len(calls) < found.nfe
    assert torch.equal(back.x, exact.decode(found.x, rtol=1e-2, atol=1e-2))
    # the flow of a Gaussian is a line: each pixel's distance from the mean, in its own deviations
    expected = (exact.floats(images) - 0.1) / 0.5
    fine, coarse = ((exact.encode(images, rtol=e, atol=e) - expected).abs().max() for e in (1e-5, 3e-2))
    assert fine < 5e-3 < coarse


def test_float_images_are_what_uint8_images_mean(exact, images):
    """Float inputs give the same bits as uint8 ones, and uint8 outputs are the rounded float outputs."""
    floats, mask = exact.floats(images), torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :3] = True
    for ask in (
        lambda x: exact.log_prob(x, probes=1).value,
        exact.encode,
        lambda x: exact.interpolate(x[:1], x[1:2], [0.3]),
        lambda x: exact.edit(x, 0.5, steps=3).images,
        lambda x: exact.inpaint(x, mask, steps=3).images,
        lambda x: exact.upscale(x[..., ::2, ::2], 2, steps=3).images,
    ):
        assert torch.equal(ask(floats), ask(images))
    drawn = exact.sample(n=3, steps=4, dtype=torch.float32)
    assert drawn.images.abs().max() > 1.0  # neither clipped
    assert torch.equal(drawn.pictures, exact.sample(n=3, steps=4).images)
    for ask in (
        lambda **given: exact.sample(n=3, steps=4, **given).images,
        lambda **given: exact.edit(images, 0.5, steps=4, **given).images,
        lambda **given: exact.inpaint(images, mask, steps=4, **given).images,
        lambda **given: exact.decode(exact.encode(images), **given),
        lambda **given: exact.interpolate(images[:1], images[1:2], [0.3], **given),
    ):
        rough, fine = ask(), ask(dtype=torch.float32)
        assert (rough.dtype, fine.dtype) == (torch.uint8, torch.float32)
        assert torch.equal(((fine.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8), rough)
        assert (fine * 127.5 - (fine * 127.5).round()).abs().max() > 0.2
    with pytest.raises(ValueError, match=r"torch\.uint8 or torch\.float32, got torch\.int64"):
        exact.sample(dtype=torch.long)


def test_a_walk_may_begin_anywhere_and_take_any_times(exact):
    """Sampling with ``start`` and ``times`` equals the sampler's, also in batches; ``start`` sets the shape."""
    g = torch.Generator().manual_seed(4)
    start, times = torch.randn(5, 1, 8, 8, generator=g), torch.tensor([0.7, 0.4, 0.1, 0.01])
    score = exact.conditioned(None, None, 2, 1.0).score
    calls = []
    found = exact.sample(
        start=start, times=times, dtype=torch.float32, batch_size=2, progress=lambda *each: calls.append(each)
    )
    assert calls == [(step, 9) for step in range(1, 10)]
    assert found.nfe == 6
    wanted = sample(score, exact.sde, start.shape, start=start, times=times, solver="heun").x
    torch.testing.assert_close(found.images, wanted)
    for wrong in (start[0], start[:, :, :4], start.long(), start.expand(-1, 2, -1, -1)):
        with pytest.raises(ValueError, match=r"start must be floats of shape|multiples"):
            exact.sample(n=5, start=wrong, size=8)
    with pytest.raises(ValueError, match="start must be floats"):
        exact.sample(n=4, start=start)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="start holds NaN or infinity"):
            exact.sample(n=5, start=start.clone().index_fill_(0, torch.tensor([3]), bad))
