"""`raysde inspect --duplicates` and the options of near duplicates: their output agrees with planted copies."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raysde.cli import main
from raysde.commands.duplicates import draw_pairs
from raysde.data.dataset.duplicates import Criterion, find_duplicates
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.samples import Sample
from raysde.evaluation.feature_similarity import FeatureSimilarity
from raysde.evaluation.features.networks import wrap_as_network
from tests.support.command_line import refused
from tests.support.copies import cropped, draw_scene, png, recompressed, resized
from tests.support.ingested import ingest_here
from tests.support.sources import Given


class Corner(nn.Module):
    """The mean of each quarter of an image and one, as features."""

    def forward(self, images):
        levels = images.float().mean(dim=1, keepdim=True)
        return torch.cat([nn.functional.adaptive_avg_pool2d(levels, 2).flatten(1), torch.ones(len(images), 1)], dim=1)


@pytest.fixture
def copied(tmp_path):
    """A data set of 30 pictures, of which a has three copies, b one, and the others none."""
    rng, scenes = np.random.default_rng(0), [draw_scene(seed) for seed in range(30)]
    first = scenes[0]
    copies = [resized(first, 0.5), recompressed(first, 70), cropped(first, 0.03, rng), resized(scenes[1], 0.5)]
    names = ["a0", "b0", *(f"c{n}" for n in range(28)), "a1", "a2", "a3", "b1"]
    samples = [Sample(name, png(each)) for name, each in zip(names, scenes + copies, strict=True)]
    rules = Rules(channels=3, size=48, row_group=8, shard_rows=16, validation=0.4)
    return ingest_here([Given(tuple(samples))], tmp_path / "shards", rules)


def test_a_data_set_with_copies_is_described(copied, tmp_path, capsys):
    sheet = tmp_path / "pairs.png"
    words = ["inspect", copied.path, "--sheet", str(tmp_path / "sheet.png"), "--duplicate-sheet", str(sheet)]
    assert main(words) == 0
    assert "duplicates" not in capsys.readouterr().out
    assert not sheet.exists()
    assert main([*words, "--duplicates"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("duplicates"))
    assert lines[place] == "duplicates     4 rows of 34 nearly repeat another, in 2 groups of 6 rows"
    splits = {
        key: row >= copied.rows_in("train") for row in range(34) for key in [str(Reader(copied).about(row)["key"])]
    }
    across = sum(len({splits[f"{group}{n}"] for n in range(count)}) == 2 for group, count in (("a", 4), ("b", 2)))
    assert (f"{across} group" in lines[place + 1]) == (across > 0)
    groups = [line.split() for line in lines if " rows    " in line]
    assert [line[0] for line in groups] == ["4", "2"]
    assert {key for key in groups[0] if key[0] == "a"} < {"a0", "a1", "a2", "a3"}
    assert groups[1][2] == "b0"  # the larger one
    assert lines[-1] == f"closest pairs  {sheet}"
    assert Image.open(sheet).width > 4 * 112


def test_the_picture_shows_the_closest_pairs_side_by_side(copied):
    """Each pair is two adjacent cells with the same picture, the first pair the closest."""
    found = find_duplicates(copied, Criterion())
    assert (np.diff(found.lengths) >= 0).all()
    drawn = np.asarray(draw_pairs(Reader(copied), found).convert("L"), dtype=float)
    rows = -(-2 * len(found.pairs) // 4)
    height = drawn.shape[0] // rows
    for number in range(len(found.pairs)):
        top, left = height * (number // 2), 113 * (2 * (number % 2))
        cells = [drawn[top + height - 100 : top + height - 12, x + 10 : x + 100] for x in (left, left + 113)]
        assert np.corrcoef(cells[0].ravel(), cells[1].ravel())[0, 1] > 0.8


def test_features_confirm_pairs(copied):
    """A pair passes if the cosine of its features, here computed by NumPy, is large enough."""
    network, reader = wrap_as_network("corner", Corner()), Reader(copied)
    images = np.stack([np.asarray(reader.read(np.array([row])).images[0], dtype=float) for row in range(34)])
    means = images.mean(axis=3).reshape(34, 2, 24, 2, 24).mean(axis=(2, 4)).reshape(34, 4)
    features = np.concatenate([means, np.ones((34, 1))], axis=1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    one, two = np.array([0, 3, 5, 9, 20]), np.array([7, 4, 3, 33, 2])
    cosines = (features[one] * features[two]).sum(axis=1)
    least = float(np.sort(cosines)[2] - 1e-4)
    assert FeatureSimilarity(reader, network, least)(one, two).tolist() == (cosines >= least).tolist()
    assert len(find_duplicates(copied, Criterion(), FeatureSimilarity(reader, network, 0.9)).groups()) == 2
    with pytest.raises(ValueError, match=r"--feature-similarity must be above 0 and at most 1, got 1\.5"):
        FeatureSimilarity(reader, network, 1.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--duplicates", "--duplicate-distance", "0"],
            "--duplicate-distance: the threshold of near duplicates must be",
        ),
        (
            ["--duplicates", "--duplicate-distance", "nan"],
            "--duplicate-distance: the threshold of near duplicates must",
        ),
        (["--duplicate-distance", "0.1"], "--duplicate-distance goes with --duplicates; add it"),
        (["--mirrored-duplicates"], "--mirrored-duplicates goes with --duplicates; add it"),
        (["--features", "inception"], "--features goes with --duplicates; add it"),
        (["--duplicates", "--feature-similarity", "0.5"], "--feature-similarity goes with --features; add it"),
        (["--duplicates", "--allow-code"], "--allow-code goes with --features; add it"),
        (["--duplicates", "--features", "no-such"], "there is no feature network 'no-such'"),
        (["--duplicates", "--duplicate-sheet", "."], "--duplicate-sheet . is a folder"),
    ],
)
def test_bad_options_of_inspect_are_one_sentence(copied, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, "inspect", copied.path, *words)


def test_bad_options_of_ingest_are_refused_before_the_source_is_read(tmp_path, capsys):
    words = ["ingest", "no/such", str(tmp_path / "out")]
    assert "--duplicate-distance goes with --drop-duplicates" in refused(capsys, *words, "--duplicate-distance", "0.1")
    said = refused(capsys, *words, "--drop-duplicates", "--duplicate-distance", "2")
    assert "--duplicate-distance: the threshold of near duplicates must be above 0 and at most 0.5, got 2" in said
