"""Class labels from a collection to a sampled image: their order, their names, and classes without rows."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.types import DataType
from PIL import Image
from safetensors.torch import save_file

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.commands.ingest import print_summary
from raysde.config import loading
from raysde.data.classes import class_numbers, order_labels
from raysde.data.dataset.manifest import read_manifest, write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import convert_part
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.sources import open_source
from raysde.evaluation.features.classifier import open_judge
from raysde.evaluation.held_out import HeldOut
from raysde.evaluation.selection import draw_conditions
from raysde.inference.model import Model
from raysde.inference.prompt_file import read_requests
from raysde.models.spec import ModelSpec
from raysde.registry.mlflow_model import make_signature
from raysde.registry.serving import Served
from raysde.runs.run import check_resumable, open_run
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.digits import write_digit_shards
from tests.support.models import caption_spec, filled_model
from tests.support.pictures import rng_image

FAST = {"solver": "ddim", "steps": 2}
QUICK = ["--solver", "ddim", "--steps", "2"]
NUMERALS = ("5", "10", "15")
"""Class names that are numbers, but not the class numbers."""


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (set(), ()),
        ({"b", "a"}, ("a", "b")),
        ({"10", "9", "0"}, ("0", "9", "10")),
        ({"270", "0", "90", "180"}, ("0", "90", "180", "270")),
        ({"2", "-1", "0", "-10"}, ("-10", "-1", "0", "2")),
        ({"10.0", "3.0", "0.5"}, ("0.5", "3.0", "10.0")),
        ({"01443537", "01440764"}, ("01440764", "01443537")),
        ({"class10", "class2", "class"}, ("class", "class2", "class10")),
        ({"v1.10", "v1.9", "v1"}, ("v1", "v1.9", "v1.10")),
        ({"cat", "2", "10", "-3"}, ("-3", "2", "10", "cat")),
        ({"n1", "٣", "1e3", "+4"}, ("1e3", "+4", "n1", "٣")),
        ({"1" + "0" * 5000, "9" * 5000}, ("9" * 5000, "1" + "0" * 5000)),
    ],
)
def test_label_order(labels, order):
    """Numbers come first by value, then words in natural order, and only labels that occur are classes."""
    assert order_labels(labels) == order


@pytest.mark.parametrize("labels", [{"3", "3.0"}, {"3", "03"}, {"-0", "0"}, {"0.50", "0.5", "cat"}])
def test_one_number_in_two_spellings_is_refused(labels):
    with pytest.raises(ValueError, match=r"labels .* and .* are the same number; spell it one way"):
        order_labels(labels)


def test_one_number_in_two_spellings_is_refused_with_an_image_of_each(tmp_path):
    """Two spellings of a number are named with their first rows; JSON's 3.0 is the number 3, and text stays text."""
    said = r"labels '3' of 00[02]\.png and '3\.0' of 00[35]\.png are the same number"
    with pytest.raises(ValueError, match=said):
        ingested(described(tmp_path / "photos", [3.0, "4", "3", "3.0", "5", "3.0"]), tmp_path / "shards")


@pytest.mark.parametrize(
    ("count", "said"), [(0, None), (1, "1 of the 13 images has no label"), (4, "4 of the 16 images have no label")]
)
def test_images_without_a_label_are_counted_where_others_have_one(tmp_path, capsys, count, said):
    manifest = ingested(described(tmp_path / "photos", ["a", "b"] * 6 + [None] * count), tmp_path / "shards")
    print_summary(manifest, manifest.path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "no label" in line] == ([said] if said else [])


def test_a_collection_without_labels_counts_none(tmp_path, capsys):
    manifest = ingested(described(tmp_path / "photos", [None] * 6), tmp_path / "shards")
    print_summary(manifest, manifest.path)
    assert "no label" not in capsys.readouterr().out


def ingested(folder: Path, out: Path, **options):
    """Return the data set of a folder, as `raysde ingest` writes it, without Ray."""
    source = open_source(str(folder), **options)
    rules = choose_rules(source, size=8, validation=0.2)
    out.mkdir()
    parts = [convert_part(part, number, rules, str(out)) for number, part in enumerate(source.parts)]
    manifest = collect_parts(parts, rules, str(out), source="s", licence="", labels=source.labels)
    assert read_manifest(str(out)) == manifest
    return manifest


def described(folder: Path, labels) -> Path:
    """Write a folder of images with the labels as JSON values."""
    folder.mkdir()
    lines = []
    for number, label in enumerate(labels):
        Image.fromarray(rng_image(number)).save(folder / f"{number:03d}.png")
        lines.append(json.dumps({"file_name": f"{number:03d}.png", "label": label}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (range(1, 11), tuple(map(str, range(1, 11)))),
        ([0, 90, 180, 270], ("0", "90", "180", "270")),
        ([-1, 2, 10], ("-1", "2", "10")),
        ([3.0, "3", 7], ("3", "7")),
        (["a2", "a10", None], ("a2", "a10")),
    ],
)
def test_a_class_for_each_label_that_occurs(tmp_path, labels, names):
    """Classes come from both splits, and each row has the class number of its own label."""
    given = [*labels] * 6
    manifest = ingested(described(tmp_path / "photos", given), tmp_path / "shards")
    assert manifest.rows_in("validation") > 0
    assert manifest.labels == names
    reader = Reader(manifest)
    for row, number in enumerate(reader.read(np.arange(manifest.rows)).labels.tolist()):
        label = given[int(reader.about(row)["key"][:3])]
        assert (None if number < 0 else names[number]) == (None if label is None else str(label).removesuffix(".0"))


def test_folders_are_classes(tmp_path):
    for angle in (0, 90, 180, 270):
        (tmp_path / "photos" / str(angle)).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng_image(angle + number)).save(tmp_path / "photos" / str(angle) / f"{number}.png")
    assert ingested(tmp_path / "photos", tmp_path / "shards").labels == ("0", "90", "180", "270")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """Return twelve rows of dresses and bags, whose class numbers come from a file of five names."""
    place = tmp_path_factory.mktemp("clothes")
    (place / "names.txt").write_text("shirt\ndress\ncoat\nbag\nboot\n")
    folder = described(place / "photos", [1, 3] * 30)
    return ingested(folder, place / "shards", label_names=str(place / "names.txt"))


def test_a_file_of_names_numbers_the_classes(clothes, capsys):
    """The file's lines are the class numbers; names without rows keep their numbers and are reported."""
    assert clothes.labels == ("shirt", "dress", "coat", "bag", "boot")
    assert set(Reader(clothes).read(np.arange(clothes.rows)).labels.tolist()) == {1, 3}
    print_summary(clothes, clothes.path)
    assert (
        "3 of the 5 classes have no rows, so that nothing can be learned of them: shirt, coat, boot"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(("names", "labels"), [("5\n10\n15", ("5", "10", "15")), ("0\n1\n2", ("0", "1", "2"))])
def test_a_file_of_names_may_hold_numerals(tmp_path, names, labels):
    """Labels 0 to 2 mean the lines of the file; a line that is the number of another class is refused."""
    (tmp_path / "names.txt").write_text(names)
    manifest = ingested(
        described(tmp_path / "a", [0, 1, 2] * 4), tmp_path / "b", label_names=str(tmp_path / "names.txt")
    )
    assert manifest.labels == labels
    assert manifest.statistics["labels"] == dict.fromkeys(labels, 4)
    for clash in ("1\n2\n3", "cat\n0", "0\n2\n1"):
        (tmp_path / "names.txt").write_text(clash)
        with pytest.raises(ValueError, match=r"names\.txt, line \d: .* is the number of another"):
            open_source(str(tmp_path / "a"), label_names=str(tmp_path / "names.txt"))


def test_classes_without_rows_are_not_drawn(clothes, tmp_path):
    for split in ("train", "validation"):
        found = draw_conditions(Reader(clothes), split, classes=5, captions=False, names=clothes.labels)
        assert found.labels == (1, 3)
        assert found.drawing(range(4)) == {"prompts": None, "labels": [1, 3, 1, 3]}
    (tmp_path / "names.txt").write_text("\n".join(clothes.labels))
    one = ingested(described(tmp_path / "a", [1] * 9), tmp_path / "b", label_names=str(tmp_path / "names.txt"))
    assert one.classes == 5
    with pytest.raises(ValueError, match="has no labels to judge by"):
        open_judge(Reader(one), (8, 8), tmp_path)


def test_a_data_set_in_an_other_order_is_matched_by_names(clothes):
    """For each row and image, the model gets its own number of the class."""
    names = ("bag", "boot", "coat", "dress", "hat", "shirt")
    found = draw_conditions(Reader(clothes), "train", classes=6, captions=False, names=names)
    assert [found.label(number) for number in range(2)] == [1, 3]  # the class numbers of the data set
    assert found.drawing(range(2))["labels"] == [names.index("dress"), names.index("bag")]
    spec = caption_spec(text=None, classes=6, class_names=names, image=(3, 8, 8))
    model = Model(filled_model(text=None, classes=6, class_names=names, image=(3, 8, 8)), spec)
    rows = np.arange(6)
    held = HeldOut(model, Reader(clothes), rows, (8, 8), 0, 0.5, ())
    columns = Reader(clothes).read(rows)
    columns.labels[0] = -1
    given = held.model_arguments(columns)["labels"]
    assert given[0] == -1
    assert [names[number] for number in given[1:]] == [clothes.labels[number] for number in columns.labels[1:]]


def test_other_classes_than_the_models_are_named(clothes):
    with pytest.raises(ValueError, match=r"class that the model does not know: 'shirt' is no class; .*skirt"):
        draw_conditions(Reader(clothes), "train", classes=2, captions=False, names=("skirt", "dress"))
    with pytest.raises(ValueError, match=r"the model knows 4 classes, the data at .* has 5"):
        draw_conditions(Reader(clothes), "train", classes=4, captions=False)


def recipe(data, tmp_path, **sampling):
    return loading.parse_recipe({
        "name": "clothes", "storage": str(tmp_path), "data": {"path": data.path}, "class_conditional": True,
        "network": {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []},
        "sampling": sampling, "train": {"length": {"steps": 1}, "batch": 4},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            ["dress", "bga"],
            r"sampling\.labels: 'bga' is no class; did you mean 'bag'\? there are shirt, dress, coat, bag",
        ),
        ([3], r"sampling\.labels: '3' is no class; there are shirt"),
        (["boot"], r"sampling\.labels: no row of .* has the label 'boot'"),
    ],
)
def test_a_grid_asks_for_classes_that_rows_have(clothes, tmp_path, labels, said):
    assert open_run(recipe(clothes, tmp_path, labels=["bag"])).spec.class_names == clothes.labels
    with pytest.raises(ValueError, match=said):
        open_run(recipe(clothes, tmp_path, labels=labels))


def test_a_run_goes_on_with_its_own_classes_alone(clothes, tmp_path):
    run = open_run(recipe(clothes, tmp_path))
    said = {**run.data_identity, "microbatch": run.plan.microbatch}
    before = checkpoint.Description(run.spec, {}, run.config.flat(), said, {}, {})
    check_resumable(run, before)
    check_resumable(run, dataclasses.replace(before, spec=dataclasses.replace(run.spec, class_names=())))
    other = dataclasses.replace(run.spec, class_names=("shirt", "bag", "coat", "dress", "boot"))
    with pytest.raises(ValueError, match=r"knows other classes than the data at .*: class 1 was 'bag', now 'dress'"):
        check_resumable(run, dataclasses.replace(before, spec=other))
    fewer = dataclasses.replace(run.spec, classes=4, class_names=())
    with pytest.raises(ValueError, match="there were 4, now 5"):
        check_resumable(run, dataclasses.replace(before, spec=fewer))


# data sets and models by earlier versions


def test_an_old_manifest_keeps_its_numbers_and_its_identity(tmp_path):
    """A manifest of format 2, with classes that no row has, keeps its class numbers and its fingerprint."""
    shards = write_digit_shards(tmp_path / "new", rows=60).shards
    (tmp_path / "new" / "manifest.json").unlink()
    table = [label for shard in shards for label in pq.read_table(tmp_path / "new" / shard.file)["label"].to_pylist()]
    old = {
        "format": 2, "rows": 60, "channels": 1, "size": [8, 8], "row_group": 1024,
        "shards": [{"file": s.file, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256, "split": "train",
                    "image": [8, 8]} for s in shards],
        "labels": [str(number) for number in range(12)], "captions": 60,
        "statistics": {"labels": {label: table.count(label) for label in sorted(set(table))}},
        "source": "s", "licence": "", "skipped": 0,
        "columns": {"image": "struct<bytes: binary, path: string>", "captions": "list<element: string>", "label": "string",
                    "key": "string", "width": "int32", "height": "int32", "hash": "string"},
    }  # fmt: skip
    file = tmp_path / "new" / "manifest.json"
    file.write_text(json.dumps(old))
    manifest = read_manifest(str(tmp_path / "new"))
    assert manifest.labels == tuple(map(str, range(12)))
    assert Reader(manifest).read(np.arange(60)).labels.tolist() == [int(label) for label in table]
    assert manifest.fingerprint == hashlib.sha256("".join(s.sha256 for s in shards).encode()).hexdigest()[:16]
    found = draw_conditions(Reader(manifest), "train", classes=12, captions=False)
    assert found.labels == tuple(range(10))
    write_manifest(manifest)
    assert json.loads(file.read_text()) == old
    again = dataclasses.replace(manifest, format=3, labels=order_labels(table))
    assert again.fingerprint != manifest.fingerprint  # so that a run of 12 classes is not resumed with 10


OLD_MODEL = {
    "image": [1, 8, 8], "data_range": [-1.0, 1.0], "data_std": 0.5,
    "sde": {"train_floor": 1e-05, "sample_floor": 0.001, "ceiling": 1.0, "schedule": "linear", "beta_min": 0.1,
            "beta_max": 20.0, "cosine_s": 0.008, "cosine_end": 0.9946, "alphas_cumprod": [], "kind": "vp"},
    "network": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4],
                "head_channels": 8, "patch": 1, "dropout": 0.0, "checkpointing": False},
    "target": "v", "text": None, "classes": 3, "preconditioning": {"time": None, "input": "unit", "output": "unit"},
    "uncertainty": False, "latent": None, "generation": {},
}  # fmt: skip
"""Description of a model with classes by a version that did not store their names."""


def test_an_old_checkpoint_keeps_its_numbers(tmp_path, capsys):
    """Classes of an old checkpoint are requested by number, and its description, and so its hash, is unchanged."""
    drawn = filled_model(text=None, classes=3)
    folder = tmp_path / "old"
    folder.mkdir()
    save_file(checkpoint.complete_weights(drawn), folder / "ema.safetensors")
    files = {"ema.safetensors": hashlib.sha256((folder / "ema.safetensors").read_bytes()).hexdigest()}
    content = {
        "format": 2,
        "model": OLD_MODEL,
        "state": {"step": 3},
        "recipe": {},
        "data": {},
        "files": files,
        "versions": {"raysde": "0.1"},
    }
    (folder / "checkpoint.json").write_text(json.dumps(content))
    model = checkpoint.load_model(folder)
    assert model.spec.class_names == ()
    assert model.spec.dump() == OLD_MODEL
    new = Model(drawn, caption_spec(text=None, classes=3, class_names=NUMERALS))
    asked = model.sample(labels=[2, 0], guidance=2.0, **FAST).images
    assert torch.equal(asked, new.sample(labels=["15", "5"], guidance=2.0, **FAST).images)
    with pytest.raises(ValueError, match="stores no class names; give a number from 0 to 2"):
        model.sample(labels=["2"], **FAST)
    assert make_signature(model.spec).inputs.input_types() == [DataType.long, DataType.long]
    (tmp_path / "rows.csv").write_text("label\n2\n0\n")
    assert read_requests(str(tmp_path / "rows.csv")).labelled(3, ()).labels == [2, 0]
    given = ["sample", str(folder), *QUICK, "--guidance", "2", "--device", "cpu"]
    assert main([*given, "--label", "2", "--label", "0", "--out", str(tmp_path / "out")]) == 0
    for number in range(2):
        with Image.open(tmp_path / "out" / f"image-{number:03d}.png") as image:
            assert np.array_equal(np.asarray(image), asked[number, 0].numpy())
    capsys.readouterr()
    said = refused(capsys, *given, "--label", "dog")
    assert "--label 'dog' is no class number: the model stores no class names; give a number from 0 to 2" in said


# names


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    """Return a checkpoint with class names that are numerals, but not the class numbers."""
    place = tmp_path_factory.mktemp("models") / "named"
    return Path(write_model(place, text=None, classes=3, class_names=NUMERALS))


def test_numerals_are_names_and_ints_are_numbers():
    assert class_numbers(["10", 0, "5", np.int64(2), torch.tensor(1), -1], 3, NUMERALS) == [1, 0, 0, 2, 1, -1]
    for label, said in (("1", r"'1' is no class; .*there are 5, 10, 15"), (1.0, "neither a class name"), (True, "neither"),
                        (None, "neither")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            class_numbers([label], 3, NUMERALS)
    with pytest.raises(ValueError, match="the model has no classes; leave the labels out"):
        class_numbers(["1"], 0, ())


def test_numerals_are_names_wherever_a_class_is_asked_for(named, tmp_path, capsys):
    """`--label 10`, 10 in a file and 10 in a request mean the class named 10, which is class number 1."""
    model = checkpoint.load_model(named)
    wanted = model.sample(labels=[1], guidance=2.0, **FAST).images
    assert torch.equal(model.sample(labels=["10"], guidance=2.0, **FAST).images, wanted)
    assert not torch.equal(model.sample(labels=[2], guidance=2.0, **FAST).images, wanted)
    with pytest.raises(ValueError, match=r"class labels must lie in 0\.\.2"):
        model.sample(labels=[10], **FAST)
    given = ["sample", str(named), *QUICK, "--guidance", "2", "--device", "cpu", "--out"]
    assert main([*given, str(tmp_path / "one"), "--label", "10"]) == 0
    with Image.open(tmp_path / "one" / "image-000.png") as image:
        assert np.array_equal(np.asarray(image), wanted[0, 0].numpy())
    for name, content in (("a.csv", "label\n10\n"), ("a.jsonl", '{"label": 10}\n'), ("b.jsonl", '{"label": "10"}\n')):
        (tmp_path / name).write_text(content)
        assert main([*given, str(tmp_path / f"{name}-out"), "--prompts-file", str(tmp_path / name)]) == 0
        row = pq.read_table(tmp_path / f"{name}-out" / "part-00000.parquet").to_pylist()[0]
        assert row["label"] == "10"
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert np.array_equal(np.asarray(image), wanted[0, 0].numpy())
    served = Served(model).predict(pd.DataFrame({"label": ["10"]}), {"steps": 2, "solver": "ddim"})
    with Image.open(io.BytesIO(served["image"][0])) as image:
        assert np.array_equal(np.asarray(image), wanted[0, 0].numpy())
    assert make_signature(model.spec).inputs.input_types() == [DataType.string, DataType.long]


def test_unknown_names_are_refused_with_the_nearest(named, tmp_path, capsys):
    said = refused(capsys, "sample", str(named), *QUICK, "--label", "1")
    assert "--label '1' is no class; did you mean" in said
    assert "there are 5, 10, 15" in said
    (tmp_path / "a.csv").write_text("label\n5\n7\n")
    said = refused(
        capsys, "sample", str(named), *QUICK, "--prompts-file", str(tmp_path / "a.csv"), "--out", str(tmp_path / "o")
    )
    assert "a.csv, row 2: label '7' is no class; there are 5, 10, 15" in said
    Image.fromarray(rng_image(0, channels=1)[:, :, 0]).save(tmp_path / "x.png")
    said = refused(capsys, "edit", str(named), "--image", str(tmp_path / "x.png"), "--strength", "0.5", "--label", "50")
    assert "--label '50' is no class" in said


def test_a_guide_knows_the_same_classes(named):
    model = checkpoint.load_model(named)
    guide = dataclasses.replace(model, spec=dataclasses.replace(model.spec, class_names=("5", "15", "10")))
    with pytest.raises(
        ValueError, match="autoguide: it knows other classes than the model: class 1 was '10', now '15'"
    ):
        model.sample(labels=["5"], autoguide=guide, guidance=2.0, **FAST)
    old = dataclasses.replace(model, spec=dataclasses.replace(model.spec, class_names=()))
    model.sample(labels=["5"], autoguide=old, guidance=2.0, **FAST)


def test_names_are_as_many_as_classes():
    for names in (["a", "b"], ["a", "b", "a"], ["a", "b", "c", "a"], ["a", "b", "c", "d"]):
        with pytest.raises(ValueError, match=f"class_names must be 3 different names, got {len(names)}"):
            ModelSpec.parse({**OLD_MODEL, "class_names": names})
    spec = ModelSpec.parse({**OLD_MODEL, "class_names": list(NUMERALS)})
    assert ModelSpec.parse(json.loads(json.dumps(spec.dump()))) == spec
