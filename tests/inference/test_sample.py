"""Image i depends on its own prompt, label, seed and negative prompt, for any batches and parts."""

import pytest
import torch

from raysde.inference.bulk import Bulk
from raysde.inference.model import Model
from raysde.inference.prompt_file import Requests
from raysde.sde import VP
from tests.support.models import CAPTIONS, caption_spec, filled_model

METHOD = {"solver": "ddim", "steps": 2}
PROMPTS = [CAPTIONS[place] for place in (2, 0, 3, 1, 0, 2, 1, 3)]
LABELS = [3, 1, 4, 1, 5, 9, 2, 6]
SEEDS = [70, 5, 5, 71, 5, 72, 5, 73]
NEGATIVES = ["", CAPTIONS[1], CAPTIONS[2], "", CAPTIONS[3], CAPTIONS[0], CAPTIONS[2], CAPTIONS[2]]


@pytest.fixture(scope="module")
def model() -> Model:
    changes = {"classes": 10, "sde": VP()}
    return Model(filled_model(**changes), caption_spec(**changes))


@pytest.fixture(scope="module")
def alone(model) -> torch.Tensor:
    """Return images 3 to 10, each sampled alone."""
    return torch.cat(
        [
            model.sample(
                prompts=[PROMPTS[i]], labels=[LABELS[i]], seed=SEEDS[i], negative=NEGATIVES[i], guidance=3.0, first=3 + i, **METHOD
            ).images
            for i in range(8)
        ]
    )  # fmt: skip


def far(one: torch.Tensor, two: torch.Tensor) -> list[bool]:
    """Return for each image True if it differs by more than a grey level; another order of sums may change one."""
    return ((one.int() - two.int()).abs().flatten(1).max(dim=1).values > 1).tolist()


def whole(model, **changes) -> torch.Tensor:
    given = {"prompts": PROMPTS, "labels": LABELS, "seed": SEEDS, "negative": NEGATIVES, "first": 3, **changes}
    return model.sample(guidance=3.0, **METHOD, **given).images


@pytest.mark.parametrize("batch_size", [3, 100])
def test_images_are_those_drawn_alone(model, alone, batch_size):
    assert not any(far(whole(model, batch_size=batch_size), alone))


def test_each_image_is_of_its_own_and_of_nothing_else(model, alone):
    """Changing a condition of two images changes only these, so that the test above can detect mixed-up conditions."""
    changes = {
        "prompts": [*PROMPTS[:2], CAPTIONS[0], *PROMPTS[3:5], CAPTIONS[0], *PROMPTS[6:]],
        "labels": [*LABELS[:2], 0, *LABELS[3:5], 0, *LABELS[6:]],
        "seed": [*SEEDS[:2], 6, *SEEDS[3:5], 6, *SEEDS[6:]],
        "negative": [*NEGATIVES[:2], CAPTIONS[3], *NEGATIVES[3:5], CAPTIONS[3], *NEGATIVES[6:]],
    }
    for name, values in changes.items():
        assert far(whole(model, batch_size=3, **{name: values}), alone) == [i in (2, 5) for i in range(8)], name
    assert all(far(whole(model, first=4), alone))


@pytest.mark.parametrize(("batch", "part"), [(2, 4), (3, 7)])
def test_parts_of_a_file_are_its_images_in_order(model, tmp_path, batch, part):
    """Each row's prompt, label, seed, negative prompt and metadata belong to its number in every part.

    This holds also if the first parts exist and only later ones are sampled."""
    seeds, negatives = [None if seed == 5 else seed for seed in SEEDS], [each or None for each in NEGATIVES]
    asked = Requests("rows", 8, PROMPTS, LABELS, seeds, negatives)
    settings = {"guidance": 3.0, "guidance_interval": None, "autoguide": None, **METHOD, "batch_size": batch}
    job = Bulk(model, asked, str(tmp_path), "parquet", 5, None, settings, part)
    assert [first for first, _ in job.parts] == [
        sum(count for _, count in job.parts[:n]) for n in range(len(job.parts))
    ]
    assert sum(count for _, count in job.parts) == 8
    one = model.sample(prompts=PROMPTS, labels=LABELS, seed=SEEDS, negative=NEGATIVES, guidance=3.0, **METHOD).images
    for first, count in reversed(job.parts):
        assert not any(far(job.sample(first, count).images, one[first : first + count]))
        for row in job.rows(first, count):
            i = row["number"]
            assert row == {
                "number": i,
                "prompt": PROMPTS[i],
                "label": LABELS[i],
                "seed": SEEDS[i],
                "negative": NEGATIVES[i],
            }
        assert [row["number"] for row in job.rows(first, count)] == list(range(first, first + count))
