"""`raysde evaluate` from model and shards to metrics, which do not depend on batch size or number of workers."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from raysde import registry
from raysde.cli import main
from raysde.data.dataset.manifest import SCHEMA, write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shards import write_shard
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.digits import TEMPLATES, WORDS, load_digits
from raysde.data.ingest.samples import Sample
from raysde.evaluation import compute
from raysde.evaluation.chunks import merge_parts
from raysde.evaluation.evaluate import evaluate
from raysde.evaluation.features import classifier as judging
from raysde.evaluation.features.classifier import Classifier, Judge, open_judge, shift_images
from raysde.evaluation.features.networks import wrap_as_network
from raysde.evaluation.generated import Drawer
from raysde.evaluation.metric import choose_direction
from raysde.evaluation.metrics import frechet
from raysde.evaluation.question import Question
from raysde.evaluation.real import Real, RealImages, Reference, merge_reference, open_reference
from raysde.evaluation.report import read_report
from raysde.evaluation.selection import ImageConditions, draw_conditions, read_images, select_rows, to_image_tensor
from raysde.evaluation.workload import DRAWN, REAL, Bench, measure_here
from raysde.inference.model import Model
from raysde.inference.ranges import split_range
from raysde.io import filesystems
from raysde.io.atomic import save_tensors
from raysde.registry import load
from raysde.tracking import connect_client, open_mlflow_run
from tests.support.checkpoints import description_of, write_model
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.edges import to_png
from tests.support.feature_networks import Four, Network
from tests.support.ingested import ingest_here
from tests.support.sources import Given

FAST = {"solver": "ddim", "steps": 2}
SHAPE = (8, 8)


class One(nn.Module):
    """A metric that returns one of Network's outputs to torchmetrics: in float64, and of the first channel."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.network, self.which = Network(), which

    def forward(self, images):
        return self.network(images[:, :1])[self.which].double()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "labels": write_model(folder / "labels", text=None, classes=10),
        "captions": write_model(folder / "captions"),
        "plain": write_model(folder / "plain", text=None),
        "colour": write_model(folder / "colour", text=None, image=(3, 8, 8)),
    }


def aged(path: str, folder: Path) -> str:
    """Return a model with other weights."""
    copy = Path(shutil.copytree(path, folder / "aged"))
    weights = {name: 0.8 * value for name, value in load_file(copy / "ema.safetensors").items()}
    save_file(weights, copy / "ema.safetensors")
    with description_of(copy) as description:
        description["files"]["ema.safetensors"] = hashlib.sha256((copy / "ema.safetensors").read_bytes()).hexdigest()
    return str(copy)


@pytest.fixture(scope="module")
def young(models, tmp_path_factory) -> str:
    """Return the model of labels with other weights."""
    return aged(models["labels"], tmp_path_factory.mktemp("young"))


def drawer(models, kind="labels", **settings):
    conditions = ImageConditions(tuple(range(10)), takes_labels=True) if kind == "labels" else ImageConditions()
    return Drawer(load(models[kind]), conditions, 5, {**FAST, **settings}, wrap_as_network("net", Network()))


def source(digits, network, count=None):
    return RealImages(digits.fingerprint, "train", count, SHAPE, network.hash)


def real_parts(digits, network, count=None, size=256):
    """Return the parts of a reference."""
    real = Real(Reader(digits), source(digits, network, count), network)
    return measure_here(Bench(real=real), REAL, split_range(len(real.rows), size))


def test_figures_are_torchmetrics_for_any_workers_and_batch_size(models, digits, tmp_path, monkeypatch):
    """Compare one process with batches of 256, workers with parts of three sizes in turn, and torchmetrics."""
    whole = drawer(models)
    images = whole.images(0, 120)
    reader, network = Reader(digits), whole.network
    reference = open_reference(source(digits, network), tmp_path, real_parts(digits, network))
    shown = to_image_tensor(read_images(reader, select_rows(digits, "train", None), SHAPE))
    fid, kid, score = (
        FrechetInceptionDistance(feature=One(0), input_img_size=(3, 8, 8)),
        KernelInceptionDistance(feature=One(0), subsets=100, subset_size=120),
        InceptionScore(feature=One(1)),
    )
    for part in (images[:50], images[50:]):
        fid.update(part.expand(-1, 3, -1, -1), real=False)
        kid.update(part.expand(-1, 3, -1, -1), real=False)
        score.update(part.expand(-1, 3, -1, -1))
    fid.update(shown.expand(-1, 3, -1, -1), real=True)
    for stretch in ([(0, 120)], [(64, 56), (0, 64)], [(90, 30), (30, 30), (60, 30), (0, 30)]):
        parts = [drawer(models, batch_size=17).part(*each) for each in stretch]
        found = merge_parts(parts)
        given = compute.Measured(found["features"], found["logits"], reference, 5, network.hash)
        assert compute.fid(given, allow_few=True).value == pytest.approx(fid.compute().item(), abs=1e-6)
        monkeypatch.setattr(compute.Measured, "generator", lambda self, stream: torch.Generator().manual_seed(8))
        torch.manual_seed(8)
        assert compute.compute_inception_score(given).value == pytest.approx(score.compute()[0].item(), abs=1e-6)
        kid.real_features = [reference.features.double()]
        torch.manual_seed(8)
        assert compute.kid(given).value == pytest.approx(kid.compute()[0].item(), abs=1e-6)


def test_image_i_is_the_same_image_however_it_is_drawn(models):
    """Image i is equal bit for bit in the same batch, and up to a rounded grey level beside other images."""
    whole, other = drawer(models), drawer(models, batch_size=3)
    images = whole.images(0, 23)
    assert torch.equal(drawer(models).images(0, 23), images)
    for first, count in ((0, 7), (7, 16), (22, 1)):
        found = other.images(first, count)
        assert (found.int() - images[first : first + count].int()).abs().max() <= 1
    assert not torch.equal(images[0], images[10])
    alone = Drawer(whole.model, ImageConditions((3,), takes_labels=True), 5, FAST)
    assert (alone.images(0, 4)[3].int() - images[3].int()).abs().max() <= 1


def test_labels_and_captions_come_in_turn(digits):
    found = draw_conditions(Reader(digits), "train", classes=10, captions=False)
    assert [found.label(i) for i in (0, 9, 10, 25)] == [0, 9, 0, 5]
    assert found.drawing(range(9, 11)) == {"prompts": None, "labels": [9, 0]}
    found = draw_conditions(Reader(digits), "train", classes=0, captions=True)
    said = found.drawing(range(200))
    assert said["labels"] is None
    for number, prompt in enumerate(said["prompts"]):
        digit = found.label(number)
        assert prompt in {form.format(word=WORDS[digit], number=digit) for form in TEMPLATES}
    assert len(set(said["prompts"][7::10])) > 3
    both = draw_conditions(Reader(digits), "train", classes=10, captions=True).drawing(range(3))
    assert both["labels"] == [0, 1, 2]
    assert all(both["prompts"])
    with pytest.raises(ValueError, match="the model knows 7 classes"):
        draw_conditions(Reader(digits), "train", classes=7, captions=False)


def test_captions_of_a_label_come_one_after_another():
    """Image n has label n mod 3, and the k-th image of a label has its k-th caption, cyclically."""
    given = ImageConditions((0, 1, 2), (("a", "b", "c"), ("d",), ("e", "f")), takes_labels=True)
    said = ["a", "d", "e", "b", "d", "f", "c", "d", "e", "a", "d", "f"]
    assert given.drawing(range(12)) == {"prompts": said, "labels": [0, 1, 2] * 4}
    assert given.drawing(range(5, 8)) == {"prompts": said[5:8], "labels": [2, 0, 1]}
    assert ImageConditions(captions=(("a", "b"),)).drawing(range(3, 6)) == {"prompts": ["b", "a", "b"], "labels": None}
    assert ImageConditions((0, 1), takes_labels=False).drawing(range(3)) == {"prompts": None, "labels": None}
    assert ImageConditions().label(3) is None


def test_few_images_are_drawn_for_conditions_of_the_whole_data(tmp_path):
    """Captions and attributes that rise with the row number come in an order in which a few represent all."""
    rows = 200
    samples = tuple(
        Sample(
            f"{row:04d}.png",
            to_png(np.full((8, 8), row, np.uint8)),
            (f"row {row * 77 % rows:03d}",),
            None,
            attributes=(row,),
        )
        for row in range(rows)
    )
    made = Rules(channels=1, size=8, attributes=("age",), shard_rows=120, row_group=32)
    reader = Reader(ingest_here([Given(samples)], tmp_path, made))
    found = draw_conditions(reader, "train", classes=0, captions=True, attributes=["age"])
    said = found.drawing(range(rows))
    numbers = [int(prompt[4:]) for prompt in said["prompts"]]
    ages = said["attributes"]["age"]
    assert numbers == [age * 77 % rows for age in ages], "caption and age of one row"
    assert sorted(ages) == list(range(rows))
    # the mean of 50 of the numbers from 0 to 199 has a standard deviation of about 7
    assert abs(np.mean(ages[:50]) - 99.5) < 30.0
    again = draw_conditions(reader, "train", classes=0, captions=True, attributes=["age"])
    assert again.drawing(range(rows)) == said


def test_images_are_drawn_for_the_captions_of_the_split_and_the_first_of_each_row(tmp_path):
    """The last of three rows is held out, the first has two captions and the second none."""
    plain = write_digit_shards(tmp_path, 3, 1)
    shards = []
    for number, said in enumerate([["one of two", "another"], [], ["held out"]]):
        table = pq.read_table(plain.file(number))
        table = table.set_column(1, SCHEMA.field("captions"), pa.array([said], SCHEMA.field("captions").type))
        split = "validation" if number == 2 else "train"
        shards.append(write_shard(table, plain.path, plain.shards[number].file, row_group=4, split=split, image=(8, 8)))
    reader = Reader(replace(plain, shards=tuple(shards), labels=("0", "1", "2")))
    assert draw_conditions(reader, "train", classes=0, captions=True) == ImageConditions(captions=(("one of two",),))
    assert draw_conditions(reader, "validation", classes=0, captions=True) == ImageConditions((2,), (("held out",),))
    with pytest.raises(ValueError, match=r"not every class of the data at .* has a caption"):
        draw_conditions(reader, "train", classes=3, captions=True)
    assert draw_conditions(reader, "train", classes=3, captions=False) == ImageConditions(
        (0, 1), takes_labels=True, numbers=(0, 1, 2)
    )


def test_what_was_asked_for_goes_with_its_image(models, digits):
    """A part that does not begin at the first image has the classes of its own numbers."""
    judge = Judge(Classifier(1, SHAPE, 10).eval(), "abc", 19, 20)
    found = replace(drawer(models), judge=judge).part(7, 5)
    assert found.first == 7
    assert found.values["asked"].tolist() == [7, 8, 9, 0, 1]
    alone = replace(drawer(models), judge=judge).images(7, 5)
    assert torch.equal(found.values["read"], judge.read(alone))
    assert len(found.values["features"]) == len(found.values["logits"]) == 5


def test_a_reference_is_known_by_everything_that_it_is_of(monkeypatch):
    """Other data, rows, sizes, networks or numbers of kept features give another file."""
    first = RealImages("data", "train", None, (8, 8), "net")
    changes = ({"fingerprint": "datb"}, {"split": "validation"}, {"count": 200}, {"count": 201}, {"shape": (8, 9)},
               {"shape": (9, 8)}, {"network": "nes"})  # fmt: skip
    names = [first.name, *(replace(first, **change).name for change in changes)]
    assert len(set(names)) == 8
    assert replace(first).name == names[0]
    monkeypatch.setattr("raysde.evaluation.real.KEPT", 70)
    assert first.name not in names


def test_an_evaluation_is_of_the_split_and_the_rows_asked_for(models, tmp_path, monkeypatch):
    """The real images are exactly those rows, the report says so, and every setting reaches the drawing of as many
    images."""
    plain = write_digit_shards(tmp_path / "shards", 60, 40)
    data = replace(plain, shards=(plain.shards[0], replace(plain.shards[1], split="validation")))
    write_manifest(data)
    seen, given, draw, show = [], [], Model.sample, Reader.read

    def sample(self, **settings):
        given.append(settings)
        return draw(self, **settings)

    def shown(self, rows, *rest):
        seen.append(rows.tolist())
        return show(self, rows, *rest)

    monkeypatch.setattr(Model, "sample", sample)
    monkeypatch.setattr(Reader, "read", shown)
    how = {"solver": "ddim", "steps": 2, "guidance": 1.5, "batch_size": 7, "eta": 0.5}
    network = wrap_as_network("net", Network())
    for split, count, wanted in (
        ("validation", None, range(40, 60)),
        ("train", None, range(40)),
        ("train", 25, range(40)),
    ):
        question = Question(("kid",), 11, seed=6, split=split, reference=count, settings=how)
        seen.clear(), given.clear()
        answer = evaluate(
            load(models["labels"]), data.path, question, open_features=lambda _: network, cache=tmp_path / "c"
        )
        rows = [row for part in seen for row in part]
        assert len(set(rows)) == len(rows) == (count or len(wanted))
        assert set(rows) <= set(wanted)
        (found,) = answer.figures
        assert (found.samples, found.reference, found.seed) == (11, len(rows), 6)
        assert answer.about["data"]["split"] == split
        assert sum(each["n"] for each in given) == 11
        assert all(how.items() <= each.items() and each["seed"] == 6 for each in given)
        present = sorted(set(load_digits()[1][wanted].tolist()))
        asked = [label for each in given for label in each["labels"]]
        assert asked == [present[number % len(present)] for number in range(11)]


@pytest.mark.parametrize("apart", [False, True])
def test_a_judge_is_tested_on_rows_that_it_was_not_trained_on(tmp_path, monkeypatch, apart):
    """The judge is tested on every tenth row or on the validation split, in evaluation mode, as it is used."""
    data = write_digit_shards(tmp_path / "shards", 70, 50)
    if apart:
        data = replace(data, shards=(data.shards[0], replace(data.shards[1], split="validation")))
    taken, plain = [], judging.read_labelled_images

    def watched(reader, rows, shape):
        taken.append(rows.tolist())
        return plain(reader, rows, shape)

    monkeypatch.setattr(judging, "read_labelled_images", watched)
    monkeypatch.setattr(judging, "MOST", 2)
    judge = open_judge(Reader(data), SHAPE, tmp_path / "cache")
    learned, held = taken
    assert held == (list(range(50, 70)) if apart else list(range(0, 70, 10)))
    assert sorted(learned + held) == list(range(70))
    images, labels = plain(Reader(data), np.array(held), SHAPE)
    assert (judge.asked, judge.right) == (len(held), int((judge.read(images) == labels).sum()))
    assert not judge.classifier.training
    again = open_judge(Reader(data), SHAPE, tmp_path / "cache")  # read from the cache
    assert not again.classifier.training
    assert torch.equal(again.read(images), judge.read(images))
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    open_judge(Reader(data), (9, 8), tmp_path / "cache")
    open_judge(Reader(data), SHAPE, tmp_path / "cache", seed=1)
    changed = replace(data, shards=(replace(data.shards[0], sha256="0" * 64), data.shards[1]))
    open_judge(Reader(changed), SHAPE, tmp_path / "cache")
    assert len({path.name for path in (tmp_path / "cache").iterdir()} - names) == 3


def test_networks_judge_as_in_use():
    """Networks run without dropout and batch statistics, whatever mode they were left in."""
    noisy = nn.Sequential(nn.Flatten(), Floats(), nn.Dropout(0.5), nn.BatchNorm1d(64)).train()
    network, images = wrap_as_network("noisy", noisy), torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)[:, :1]
    network = replace(network, channels=1)
    torch.testing.assert_close(network(images)[0], images.flatten(1) / (1.0 + 1e-5) ** 0.5)


class Floats(nn.Module):
    def forward(self, x):
        return x.float()


def test_real_rows_are_those_of_the_split_once_each(digits):
    assert select_rows(digits, "train", None).tolist() == list(range(200))
    few = select_rows(digits, "train", 50)
    assert len(set(few.tolist())) == 50
    assert few.max() > 120
    with pytest.raises(ValueError, match="no rows of split validation"):
        select_rows(digits, "validation", None)


def test_a_reference_is_of_all_rows_and_is_kept(digits, tmp_path, monkeypatch):
    network = wrap_as_network("net", Network())
    monkeypatch.setattr("raysde.evaluation.real.KEPT", 70)
    given = source(digits, network)
    found = open_reference(given, tmp_path, real_parts(digits, network, size=30))
    features = network(torch.from_numpy(load_digits()[0][:200]).unsqueeze(1))[0].double()
    np.testing.assert_allclose(found.moments.mean, features.mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(found.moments.covariance, np.cov(features.numpy().T), rtol=1e-5, atol=1e-9)
    assert found.moments.count == 200
    assert len(found.features) == 70
    # features equal those of a row up to the rounding of a product of 64 numbers, which depends on the batch size
    apart, nearest = torch.cdist(found.features.double(), features).min(dim=1)
    assert apart.max() < 1e-5
    kept = sorted(nearest.tolist())
    assert len(set(kept)) == 70
    # 70 of 200 at random: the largest is above 150 with a probability of 1 - 1e-9
    assert kept[0] < 50 < 150 < kept[-1]

    def forbidden(images):
        raise AssertionError("measured twice")

    monkeypatch.setattr(network.module, "forward", forbidden)
    again = open_reference(given, tmp_path, real_parts(digits, network))
    assert torch.equal(again.moments.outer, found.moments.outer)
    names = {source(digits, network, count).name for count in (None, 50)} | {given.name}
    assert len(names) == 2
    assert json.loads((tmp_path / f"{given.name}.json").read_text())["images"] == 200


def test_two_may_write_the_same_file_at_once(tmp_path, monkeypatch):
    """One process writes a file during the write of another; each puts a whole file in its place."""
    begun, plain, write = [], safetensors.torch.save_file, Path.write_bytes

    def tensors(values, file, about):
        begun.append(file)
        if len(begun) == 1:
            save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(3)}, {})
        plain(values, file, about)

    def content(self, given):
        begun.append(self)
        if len(begun) == 3:
            filesystems.write_json(str(tmp_path / "a.json"), 1)
        return write(self, given)

    monkeypatch.setattr(safetensors.torch, "save_file", tensors)
    monkeypatch.setattr(Path, "write_bytes", content)
    save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(3)}, {})
    filesystems.write_json(str(tmp_path / "a.json"), 0)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], torch.zeros(3))
    assert (tmp_path / "a.json").read_text() == "0\n"
    assert len({file.name for file in begun}) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "a.json"}


def test_a_reference_does_not_depend_on_the_order_of_its_parts(digits):
    parts = list(real_parts(digits, wrap_as_network("net", Network()), size=64))
    first, again = merge_reference(iter(parts)), merge_reference(reversed(parts))
    torch.testing.assert_close(first.moments.outer, again.moments.outer, rtol=1e-12, atol=0.0)
    assert torch.equal(first.features, again.features)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return 1,400 digits and a cache folder for them; 397 digits are left."""
    folder = tmp_path_factory.mktemp("many")
    return write_digit_shards(folder / "shards", 1400, 700), folder / "cache"


def test_a_judge_reads_digits_it_has_not_seen_and_is_kept(many, monkeypatch):
    """Trained on 1,260 digits, the judge is at most four standard errors below a nearest neighbour on the last 397."""
    manifest, cache = many
    judge = open_judge(Reader(manifest), SHAPE, cache)
    assert judge.asked == 140
    assert judge.right >= 133
    images, labels = load_digits()
    read = judge.read(torch.from_numpy(images[1400:]).unsqueeze(1)).numpy()
    known = KNeighborsClassifier(1).fit(images[:1400].reshape(1400, -1), labels[:1400])
    assert (read == labels[1400:]).mean() > known.score(images[1400:].reshape(397, -1), labels[1400:]) - 0.04
    monkeypatch.setattr("raysde.evaluation.features.classifier.train_classifier", None)
    again = open_judge(Reader(manifest), SHAPE, cache)
    assert (again.hash, again.right, again.asked) == (judge.hash, judge.right, judge.asked)


def test_images_like_the_real_ones_have_a_figure(digits):
    """A distance that is 0 but for rounding, to either side, lies in its own interval."""
    network = wrap_as_network("net", Network())
    for count in range(20, 60):
        reference = merge_reference(real_parts(digits, network, count))
        measured = compute.Measured(reference.features, None, reference, 0, network.hash)
        found = compute.fid(measured, allow_few=True)
        assert found.low <= found.value <= found.high


def test_precision_is_of_drawn_images_and_recall_of_real_ones():
    """Images drawn near one of two real clusters are all among real ones, and half of the real ones are missed."""
    g = torch.Generator().manual_seed(7)
    one, other, drawn = (torch.randn(200, 2, generator=g) for _ in range(3))
    real = torch.cat([one, other + 100.0])[torch.randperm(400, generator=g)]
    measured = compute.Measured(drawn, None, Reference(frechet.Moments.of(real), real), 0, "net")
    precision, recall = compute.precision(measured), compute.recall(measured)
    assert precision.value > 0.95
    shown = (real[:200].norm(dim=1) < 50.0).double().mean().item()
    assert shown - 0.06 < recall.value <= shown
    assert list(precision.influence.values) == ["drawn"]
    assert list(recall.influence.values) == ["real"]


@pytest.mark.parametrize(("reals", "drawns"), [(70, 40), (40, 70), (55, 55)])
def test_unequal_numbers_of_real_and_drawn_images(reals, drawns):
    """Each metric names its number of images; precision and recall equal brute force on equally many images of each
    set."""
    g = torch.Generator().manual_seed(reals)
    real, drawn = torch.randn(reals, 3, generator=g), 1.6 * torch.randn(drawns, 3, generator=g) + 0.8
    measured = compute.Measured(drawn, None, Reference(frechet.Moments.of(real), real), 4, "net")
    few, (x, y) = min(reals, drawns), (each.double().numpy()[: min(reals, drawns)] for each in (real, drawn))

    def inside(centres, others):
        radii = np.sort(np.linalg.norm(centres[:, None] - centres[None], axis=2), axis=1)[:, 3]
        return (np.linalg.norm(others[:, None] - centres[None], axis=2) <= radii).any(axis=1)

    precision, recall = compute.precision(measured), compute.recall(measured)
    assert precision.value == inside(x, y).mean() != recall.value == inside(y, x).mean()
    assert precision.influence.values["drawn"].tolist() == inside(x, y).tolist()
    assert recall.influence.values["real"].tolist() == inside(y, x).tolist()
    assert {(each.samples, each.reference) for each in (precision, recall)} == {(few, few)}
    fid, kid = compute.fid(measured, allow_few=True), compute.kid(measured)
    for each in (fid, kid):
        assert (each.samples, each.reference, each.seed, each.features) == (drawns, reals, 4, "net")
        assert each.entry()["best"] == "lower"
        assert {name: len(value) for name, value in each.influence.values.items() if name != "subsets"} == {
            "drawn": drawns, "real": reals,
        }  # fmt: skip
        assert each.low < each.value < each.high
    mean, other, a, b = (
        drawn.double().mean(0),
        real.double().mean(0),
        torch.cov(drawn.double().T),
        torch.cov(real.double().T),
    )
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0.0).sqrt().sum()
    expected = (mean - other).square().sum() + a.trace() + b.trace() - 2.0 * roots
    assert fid.value == pytest.approx(expected.item(), rel=1e-6)


def test_a_choice_of_a_figure_is_by_its_seed():
    """KID's subsets and the parts of the inception score change with the seed, independently of each other."""
    reference = Reference(frechet.Moments.of(torch.zeros(5, 2)), torch.zeros(5, 2))
    draws = [
        torch.rand(
            4, generator=compute.Measured(torch.zeros(5, 2), None, reference, seed, "").generator(stream)
        ).tolist()
        for seed, stream in ((0, 2), (0, 3), (1, 2), (0, 2))
    ]
    assert draws[0] == draws[3]
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_kid_is_of_the_images_that_are_kept(monkeypatch):
    """KID uses the first KEPT drawn images, because pairs of all would take too long, and the metric gives their
    number."""
    monkeypatch.setattr(compute, "KEPT", 30)
    g = torch.Generator().manual_seed(0)
    real, drawn = torch.randn(25, 3, generator=g), torch.randn(50, 3, generator=g)
    reference = Reference(frechet.Moments.of(real), real)
    few, many = (compute.kid(compute.Measured(each, None, reference, 0, "")) for each in (drawn[:30], drawn))
    assert (few.value, few.samples) == (many.value, many.samples) == (few.value, 30)


def test_accuracy_counts_what_is_read_as_asked():
    judge = Judge(Classifier(1, SHAPE, 10), "abc", 19, 20)
    found = compute.accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0]), judge, 7)
    assert (found.value, found.samples, found.features, found.seed) == (0.75, 4, "abc", 7)
    assert found.low < 0.75 < found.high
    assert "0.9500" in found.method


def test_shifts_stay_within_their_bounds_and_reach_them():
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[0, 0, 4, 4] = 9
    found = shift_images(image.repeat(300, 1, 1, 1), 1, torch.Generator().manual_seed(0))
    places = {tuple(each.nonzero()[0, 1:].tolist()) for each in found}
    assert places == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_accuracy_of_real_digits_drawn_for_their_labels(models, many, monkeypatch):
    """A model that draws held-out real digits for its labels is right as often as the judge."""
    images, labels = load_digits()
    rows = {digit: np.flatnonzero(labels[1400:] == digit) + 1400 for digit in range(10)}

    def real(self, first, count, progress=None):
        numbers = range(first, first + count)
        return torch.from_numpy(np.stack([images[rows[n % 10][n // 10]] for n in numbers])).unsqueeze(1)

    monkeypatch.setattr(Drawer, "images", real)
    question = Question(("accuracy",), 300, settings=FAST)
    (found,) = evaluate(load(models["labels"]), many[0].path, question, cache=many[1]).figures
    assert found.value > 0.85


def command(models, digits, tmp_path, *more, kind="labels"):
    given = ["evaluate", models[kind], "--data", digits.path, "--solver", "ddim", "--steps", "2"]
    return [*given, "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "report.json"), *more]


@pytest.mark.parametrize("named", ["models:/digits@candidate", "{run_id}"])
def test_figures_of_a_registered_model_are_metrics_of_its_run(
    models, digits, tmp_path, monkeypatch, empty_store, named
):
    """The run gets the metrics and their intervals at the checkpoint's step; the version keeps its earlier tags."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = connect_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = open_mlflow_run(client, "e", "r", {}, (tmp_path / "artifacts").as_uri())
    folder = Path(shutil.copytree(models["labels"], tmp_path / "model"))
    with description_of(folder) as description:
        description["state"]["step"] = 7
    registry.publish_checkpoint(client, folder, run_id=run_id, name="digits", alias="candidate")
    before = client.get_model_version("digits", "1").tags
    given = command({"labels": named.format(run_id=run_id)}, digits, tmp_path, "--samples", "30", "--metrics", "kid")
    for _ in range(2):
        assert main([*given, "--features", "judge"]) == 0
    figure = read_report(tmp_path / "report.json")["kid"]
    for name, value in (("kid", figure.value), ("kid/low", figure.low), ("kid/high", figure.high)):
        logged = client.get_metric_history(run_id, f"figures/{name}")
        assert [(each.step, each.value) for each in logged] == [(7, value)]
    assert client.get_model_version("digits", "1").tags == before


def test_the_command_writes_a_report(models, digits, tmp_path, capsys):
    more = ["--features", f"{__name__}:Network", "--allow-code", "--samples", "100", "--seed", "4", "--allow-few"]
    metrics = "recall,accuracy,fid,kid,is,precision"
    assert main(command(models, digits, tmp_path, *more, "--metrics", metrics)) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [each["name"] for each in report["figures"]] == metrics.split(",")
    for each in report["figures"]:
        assert each["low"] <= each["value"] <= each["high"]
        assert each["samples"] == 100
        assert each["seed"] == 4
        assert len(each["network"]) == 16
        assert f"{each['value']:.5g}" in shown
    assert report["data"]["fingerprint"] == digits.fingerprint
    weights = hashlib.sha256((Path(models["labels"]) / "ema.safetensors").read_bytes()).hexdigest()
    nowhere = {**dict.fromkeys(("name", "version", "run_id")), "generation": {}}
    assert report["model"] == {"source": models["labels"], "weights": weights, "step": 0, **nowhere}
    gate = read_report(tmp_path / "report.json")
    for each in report["figures"]:
        figure = gate[each["name"]]
        for name in ("value", "low", "high", "samples", "seed"):
            assert getattr(figure, name) == each[name]
        assert figure.features == each["network"]
        assert figure.data == f"{digits.fingerprint} {report['data']['split']} {each['reference']} 8x8"
        assert figure.overrides == "solver=ddim steps=2"
        assert choose_direction(each["name"], None) == each["best"]
    assert report["sampling"]["solver"] == "ddim"
    first = {each["name"]: each["value"] for each in report["figures"]}
    assert main(command(models, digits, tmp_path, *more, "--metrics", metrics, "--batch-size", "9")) == 0
    shares = {"recall", "accuracy", "precision"}  # of 100 images; one grey level may move one image across a border
    for each in json.loads((tmp_path / "report.json").read_text())["figures"]:
        off = 0.021 if each["name"] in shares else 1e-3
        assert each["value"] == pytest.approx(first[each["name"]], rel=1e-2, abs=off)


def test_a_guide_leads_the_images_and_stands_in_the_report(models, young, digits, tmp_path):
    """The images equal those of the model's own ``sample``, and metrics of another guide count as other settings."""
    model, guide = load(models["labels"]), load(young)
    labels, method = [number % 10 for number in range(6)], {**FAST, "guidance": 3.0}
    for away in ({"autoguide": guide}, {"autoguide": guide, "autoguidance": 2.0}):
        led = Drawer(model, ImageConditions(tuple(range(10)), takes_labels=True), 5, {**method, **away}).images(0, 6)
        assert torch.equal(led, model.sample(n=6, labels=labels, seed=5, **away, **method).images)
        assert not torch.equal(led, drawer(models, guidance=3.0).images(0, 6))
    found = []
    twice = ["--autoguide", young, "--autoguidance", "2"]
    for each in ([], ["--autoguide", young], ["--autoguide", models["labels"]], twice):
        more = ["--features", "judge", "--metrics", "kid", "--samples", "30", *each]
        assert main(command(models, digits, tmp_path, *more)) == 0
        found.append(read_report(tmp_path / "report.json")["kid"])
    assert len({figure.overrides for figure in found}) == 4
    assert len({found[place].value for place in (0, 1, 3)}) == 3
    assert "autoguidance=2" in found[3].overrides


@pytest.mark.parametrize(
    ("away", "sampling"),
    [
        ({}, {"guidance": 2.0}),
        ({"guidance": 3.0}, {"guidance": 3.0}),
        ({"autoguidance": 3.0}, {"guidance": 1.0, "autoguidance": 3.0}),
    ],
)
def test_a_model_without_conditions_is_led_away_from_its_guide_alone(
    models, digits, tmp_path, monkeypatch, away, sampling
):
    """The scale is ``autoguidance``, or ``guidance``, or 2 if neither is given, as in the model's own ``sample``."""
    model, guide = load(models["plain"]), aged(models["plain"], tmp_path)
    asked, draw = [], Model.sample
    monkeypatch.setattr(Model, "sample", lambda self, **given: asked.append(draw(self, **given)) or asked[-1])
    options = [word for name, value in away.items() for word in (f"--{name}", str(value))]
    more = ["--features", "judge", "--metrics", "kid", "--samples", "12", "--autoguide", guide, *options]
    assert main(command(models, digits, tmp_path, *more, kind="plain")) == 0
    found = json.loads((tmp_path / "report.json").read_text())["sampling"]
    assert {name: found[name] for name in ("guidance", "autoguidance") if name in found} == sampling
    (drawn,) = asked
    wanted = draw(model, n=12, seed=found["seed"], autoguide=load(guide), **away, **FAST)
    assert torch.equal(drawn.images, wanted.images)
    assert not torch.equal(drawn.images, draw(model, n=12, seed=found["seed"], **FAST).images)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--metrics", "kid", "--guidance", "1"], "autoguide has no effect at guidance 1"),
        (["--metrics", "kid", "--autoguidance", "1"], "autoguide has no effect at autoguidance 1"),
        (["--metrics", "bpd"], "autoguide has no effect: none of the metrics"),
    ],
)
def test_a_guide_without_effect_is_refused(models, young, digits, tmp_path, capsys, more, said):
    given = ["--features", "judge", "--samples", "30", "--autoguide", young, *more]
    assert said in refused(capsys, *command(models, digits, tmp_path, *given))


def test_the_judges_features_are_a_network(models, digits, tmp_path):
    assert main(command(models, digits, tmp_path, "--features", "judge", "--samples", "30", "--metrics", "kid,is")) == 0
    kid, score = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert kid["network"] == score["network"]
    assert 1.0 <= score["value"] <= 10.0


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("labels", ["--samples", "2047"], "FID of 2047 drawn images says little"),
        ("labels", ["--reference", "100"], "FID of 100 real images says little"),
        ("labels", [], "FID of 200 real images says little"),
        ("labels", ["--reference", "3", "--metrics", "kid"], "3 real images are too few"),
        ("labels", ["--metrics", "fid,beauty"], "beauty"),
        ("labels", ["--metrics", ","], "metrics must be of"),
        ("labels", ["--features", "nowhere.pth", "--metrics", "kid"], "there is no feature network 'nowhere.pth'"),
        ("labels", ["--features", "torch.nn:Identity", "--metrics", "kid"], "names code: add --allow-code"),
        ("labels", ["--split", "validation", "--metrics", "kid"], "no rows of split validation"),
        ("labels", ["--samples", "0", "--metrics", "kid"], "0 drawn images are too few"),
        (
            "plain",
            ["--metrics", "accuracy"],
            "accuracy: needs a model with labels, or with captions of labelled images",
        ),
        ("colour", ["--metrics", "kid"], "the model draws 3 channels"),
        ("labels", ["--solver", "best"], "solver must be one of"),
    ],
)
def test_mistakes_are_one_sentence(models, digits, tmp_path, capsys, kind, more, said):
    assert said in refused(capsys, *command(models, digits, tmp_path, *more, kind=kind))
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("script", [False, True])
def test_a_network_for_other_images_is_refused_before_any_is_drawn(models, digits, tmp_path, capsys, script):
    """A class and a TorchScript network are refused, also if they do not say how many channels they take."""
    name = "tests.support.feature_networks:Four"
    if script:
        torch.jit.script(Four()).save(tmp_path / "four.pt")
        name = str(tmp_path / "four.pt")
    said = refused(capsys, *command(models, digits, tmp_path, "--features", name, "--allow-code", "--metrics", "kid"))
    assert f"the feature network {name} cannot take images of 1 x 8 x 8" in said
    assert "4 channels" in said
    write_manifest(replace(write_digit_shards(tmp_path / "colour"), channels=3))
    asked = ["evaluate", models["colour"], "--data", str(tmp_path / "colour"), "--cache", str(tmp_path)]
    grey = ["--features", "tests.support.feature_networks:Grey", "--allow-code", "--metrics", "kid"]
    assert "takes 1 channels, the images have 3" in refused(capsys, *asked, *grey)


@pytest.mark.parametrize(
    ("output", "said"),
    [("{place}", "is a folder"), ("magic://bucket/report.json", "magic://"), ("{place}/file/report.json", "cannot be")],
)
def test_a_report_that_cannot_be_written_is_refused_before_any_image(models, digits, tmp_path, capsys, output, said):
    (tmp_path / "file").write_text("")
    given = command(models, digits, tmp_path, "--samples", "8", "--metrics", "kid", "--features", "judge")
    assert said in refused(capsys, *given, "--output", output.format(place=tmp_path))


def test_a_network_without_logits_has_no_inception_score(models, digits, tmp_path, capsys):
    more = ["--features", "tests.support.feature_networks:Grey", "--allow-code", "--samples", "30", "--metrics", "is"]
    assert "gives features alone" in refused(capsys, *command(models, digits, tmp_path, *more))


def test_progress_counts_every_image(models):
    said, bench = [], Bench(drawer=drawer(models, batch_size=100))
    list(measure_here(bench, DRAWN, split_range(300), lambda done, total: said.append((done, total))))
    assert said[-1] == (300, 300)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert len(set(said)) > 5
