"""Image restoration in batches: each image has its own measurement, and every option applies in the data range."""

from dataclasses import replace

import pytest
import torch

from raysde.inference.model import Model
from raysde.sampling.inverse import restore
from raysde.sampling.inverse.operators import AveragePool, Grey, Mask
from raysde.sampling.inverse.restore import WAYS
from raysde.sampling.sampler import Samples
from tests.support.exact_models import KEPT, exact_model

QUICK = {"solver": "ddim", "steps": 4}


@pytest.fixture(scope="module")
def rgb() -> Model:
    return exact_model(3)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return torch.randint(40, 216, (5, 3, 4, 4), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


TASKS = {
    "one mask": lambda model, photos, rows, **how: model.inpaint(photos[rows], KEPT, **how),
    "a mask each": lambda model, photos, rows, **how: model.inpaint(
        photos[rows], torch.stack([KEPT, ~KEPT, KEPT.T, ~KEPT.T, ~KEPT])[:, None][rows], **how
    ),
    "colorise": lambda model, photos, rows, **how: model.colorise(photos[rows, :1], **how),
    "upscale": lambda model, photos, rows, **how: model.upscale(photos[rows, :, :2, 2:], 2, **how),
    "edit": lambda model, photos, rows, **how: model.edit(
        photos[rows], 0.5, **{key: value for key, value in how.items() if key != "method"}
    ),
}


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("task", TASKS)
def test_each_image_is_restored_from_its_own(rgb, photos, task, method):
    """Five images in batches of two equal those restored alone by number, up to one grey level, and all differ."""
    how = {"method": method, "seed": 4, **QUICK}
    whole = TASKS[task](rgb, photos, slice(None), batch_size=2, **how).images
    for number in range(5):
        alone = TASKS[task](rgb, photos, slice(number, number + 1), first=number, **how).images
        assert (alone[0].int() - whole[number].int()).abs().max() <= 1
    other = TASKS[task](rgb, photos.flip(0), slice(None), batch_size=2, **how).images
    assert (other[:2].int() - whole[:2].int()).abs().max() > 1


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_every_option_reaches_the_edit_in_the_units_of_the_data(rgb, photos, monkeypatch, low, high):
    """Noise is converted from grey levels and measurements are floats; the test computes the measurements itself."""
    asked = []

    def edit(score, sde, known, projection, **given):
        asked.append((known, projection, given))
        return Samples(torch.zeros(projection.transpose(known).shape), 1)

    monkeypatch.setattr(restore, "edit", edit)
    model = replace(rgb, spec=replace(rgb.spec, data_range=(low, high)))
    floats = photos.double() / 255.0 * (high - low) + low
    options = {"method": "moment_matching", "noise": 51.0, "iterations": 7, "resample": 2}
    given = {**options, "seed": 1, "solver": "euler_maruyama", "steps": 9}
    model.inpaint(photos, KEPT, **given)
    model.colorise(photos[:, 1:2], **given)
    model.upscale(photos[:, :, :2, :2], 2, **given)
    for _, _, found in asked:
        assert found["noise"] == pytest.approx(0.2 * (high - low))
        kept = {name: found[name] for name in ("method", "iterations", "resample", "solver", "steps")}
        assert kept == {name: given[name] for name in kept}
        assert len(found["generator"]) == 5
    (hole, mask, _), (grey, mean, _), (small, pool, _) = asked
    assert (type(mask), mean, pool) == (Mask, Grey(3), AveragePool(2))
    torch.testing.assert_close(hole.double(), torch.where(KEPT, floats, 0.0), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(grey.double(), floats[:, 1:2], rtol=0.0, atol=1e-6)
    torch.testing.assert_close(small.double(), floats[:, :, :2, :2], rtol=0.0, atol=1e-6)


def test_projections_are_their_definitions():
    """On colour images that are not square, projections equal the mean over channels, over blocks and the known pixels.

    Their adjoints distribute each measurement by the pixels' weights in it."""
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grey, pooled = Grey(3).measure(x), AveragePool(2).measure(x)
    assert (grey.shape, pooled.shape) == ((2, 1, 4, 6), (2, 3, 2, 3))
    for b in range(2):
        for h in range(4):
            for w in range(6):
                assert grey[b, 0, h, w].item() == pytest.approx(sum(x[b, c, h, w].item() for c in range(3)) / 3.0)
    for c in range(3):
        for h in range(2):
            for w in range(3):
                block = sum(x[1, c, 2 * h + i, 2 * w + j].item() for i in range(2) for j in range(2)) / 4.0
                assert pooled[1, c, h, w].item() == pytest.approx(block)
                back = AveragePool(2).transpose(pooled)[1, c, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
                assert back.flatten().tolist() == pytest.approx([block / 4.0] * 4)
    torch.testing.assert_close(Grey(3).transpose(grey), (grey / 3.0).expand(2, 3, 4, 6))
    known = torch.zeros(4, 6, dtype=torch.bool)
    known[1, 4] = True
    measured = Mask(known).measure(x)
    assert torch.equal(measured[..., 1, 4], x[..., 1, 4])
    assert measured.count_nonzero() == 6
