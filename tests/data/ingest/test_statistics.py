"""Statistics in the manifest, compared with numpy over all rows at once, for any parts."""

import json

import numpy as np
import pytest
from PIL import Image

from raysde.data.ingest.statistics import Statistics


def rows_of(channels: int, count: int = 13):
    g = np.random.default_rng(channels)
    for number in range(count):
        height, width = g.integers(2, 9, 2)
        pixels = g.integers(0, 100 + 12 * number, (height, width, channels)) // np.array([1, 2, 3])[:channels]
        captions = tuple("x" * length for length in g.integers(1, 40, number % 3))
        found = (int(width) * 3 + 1, int(height) * 2 + 5)
        yield pixels.astype(np.uint8), found, captions, None if number % 4 == 0 else str(number % 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cuts", [[], [1], [5, 6], [0, 12], [3, 7, 9]])
def test_parts_add_up_to_what_numpy_counts(channels, cuts):
    """Means and deviations are of stored pixels, and sizes of source images.

    Parts have unequal sizes, one is empty, and some are converted to JSON and back."""
    rows = list(rows_of(channels))
    whole = Statistics()
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        part = Statistics()
        for pixels, found, captions, label in rows[start:stop]:
            part.count(Image.fromarray(pixels[..., 0] if channels == 1 else pixels), found, captions, label)
        whole.add(Statistics.from_json(json.loads(json.dumps(part.to_json()))) if number % 2 == 0 else part)
    flat = np.concatenate([pixels.reshape(-1, channels) for pixels, *_ in rows]) / 255.0
    captions = [caption for _, _, said, _ in rows for caption in said]
    labels = [label for *_, label in rows if label is not None]
    found = whole.summary(channels)
    assert found["images"]["mean"] == pytest.approx(flat.mean(axis=0), abs=1e-6)
    assert found["images"]["std"] == pytest.approx(flat.std(axis=0), abs=1e-6)
    assert found["images"]["width"] == [min(w for _, (w, _), *_ in rows), max(w for _, (w, _), *_ in rows)]
    assert found["images"]["height"] == [min(h for _, (_, h), *_ in rows), max(h for _, (_, h), *_ in rows)]
    assert found["captions"]["in_all"] == len(captions)
    assert found["captions"]["mean_characters"] == pytest.approx(np.mean([len(each) for each in captions]), abs=0.005)
    assert found["captions"]["longest"] == max(len(each) for each in captions)
    assert found["labels"] == {label: labels.count(label) for label in sorted(set(labels))}
    assert (whole.rows, whole.captioned, whole.pixels) == (13, sum(bool(said) for _, _, said, _ in rows), len(flat))


def test_nothing_is_counted_of_nothing():
    found = Statistics().summary(3)
    assert found["images"] == {"width": [0, 0], "height": [0, 0], "mean": [0.0] * 3, "std": [0.0] * 3}
    assert found["captions"] == {"in_all": 0, "mean_characters": 0.0, "longest": 0}
