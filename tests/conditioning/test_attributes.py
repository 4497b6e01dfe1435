"""Numeric attributes as conditions, from the recipe to drawn images."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.types import DataType
from PIL import Image

from raysde import rng
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.conditioning.conditioner import Conditioner
from raysde.conditioning.numbers import NumberEmbedding
from raysde.config import loading
from raysde.data.attributes import Attribute
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.manifest import Manifest, shard_schema, write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shards import write_shard
from raysde.data.ingest.digits import load_digits, stroke_thickness
from raysde.evaluation.selection import draw_conditions
from raysde.images.codec import encode_image
from raysde.inference.bulk import Bulk, draw_all
from raysde.inference.conditions import attribute_tensor
from raysde.inference.model import Model
from raysde.inference.prompt_file import read_requests
from raysde.models.spec import ModelSpec, fresh_model
from raysde.registry.mlflow_model import make_signature
from raysde.registry.serving import Served, request_columns
from raysde.runs.attributes import find_attributes
from raysde.runs.build import make_objective
from raysde.runs.hooks import draw_sample_grid
from raysde.runs.local import train_here
from raysde.runs.run import check_run, open_run
from raysde.training.objective import microbatch_loss
from tests.support.command_line import refused
from tests.support.models import inputs, noisy_model, spec_with
from tests.support.training import same_tensors, small_recipe, stirred

AGE, SIZE = Attribute("age", 10.0, 50.0), Attribute("size", -1.0, 1.0)


def write_numbered_digits(folder: Path, rows: int = 96, missing: int = 0) -> Manifest:
    """Write digits with their stroke thickness and the mean grey level; each ``missing``-th thickness is unknown."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits()
    thick, mean = stroke_thickness(images), images.mean(axis=(1, 2))
    table = [
        {
            "image": {"bytes": encode_image(Image.fromarray(images[i]), quality=None), "path": None},
            "captions": [f"the digit {labels[i]}"],
            "label": str(labels[i]),
            "key": f"{i:04d}.png",
            "width": 8,
            "height": 8,
            "hash": f"{i:016x}",
            "attributes": {"grey": mean[i], "thickness": None if missing and i % missing == 0 else thick[i]},
        }
        for i in range(rows)
    ]
    shard = write_shard(
        pa.Table.from_pylist(table, schema=shard_schema(["grey", "thickness"])),
        str(folder),
        "train-00000.parquet",
        row_group=64,
        image=(8, 8),
    )
    ranges = tuple(Attribute(name, each[:rows].min(), each[:rows].max()) for name, each in (("grey", mean), ("thickness", thick)))  # fmt: skip
    names = tuple(str(digit) for digit in range(10))
    columns = {each.name: str(each.type) for each in shard_schema(["grey", "thickness"])}
    manifest = Manifest(
        str(folder), 1, (8, 8), 64, (shard,), labels=names, captions=rows, columns=columns, attributes=ranges
    )
    write_manifest(manifest)
    return manifest


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Manifest:
    return write_numbered_digits(tmp_path_factory.mktemp("numbered"), missing=5)


def numbered_recipe(data, runs, /, **changes):
    return small_recipe(data, runs, **{"attributes__names": ["thickness"], "attributes__dropout": 0.25, **changes})


def number_model(*attributes: Attribute, **changes) -> Model:
    """Return an unconditional model but for its attributes, with random weights wherever they start at zero."""
    return noisy_model(spec_with(attributes=attributes, **changes))


def test_the_features_are_sines_and_cosines_of_the_scaled_value():
    """With a layer that adds the features up, a vector is the sum by hand: x, sines and cosines at octaves."""
    embedding = NumberEmbedding(10.0, 50.0, 1).double()
    with torch.no_grad():
        embedding.layers[0] = torch.nn.Linear(13, 1).double()
        embedding.layers[0].weight.fill_(1.0)
        embedding.layers[0].bias.fill_(0.0)
        embedding.layers[1], embedding.layers[2] = torch.nn.Identity(), torch.nn.Identity()
    for value, x in ((10.0, -1.0), (30.0, 0.0), (40.0, 0.5)):
        angles = [math.pi / 4 * 2**k * x for k in range(6)]
        wanted = x + sum(math.sin(a) + math.cos(a) for a in angles)
        assert embedding(torch.tensor([value], dtype=torch.float64)).item() == pytest.approx(wanted, abs=1e-5)


def test_unknown_numbers_have_a_vector_and_finite_gradients():
    embedding = NumberEmbedding(0.0, 2.0, 4)
    with torch.no_grad():
        embedding.unknown.copy_(torch.arange(4.0))
    values = torch.tensor([math.nan, 0.5])
    vectors = embedding(values)
    assert torch.equal(vectors[0], torch.arange(4.0))
    vectors.sum().backward()
    assert torch.equal(embedding.unknown.grad, torch.ones(4))
    alone = torch.autograd.grad(embedding(values[1:]).sum(), list(embedding.layers.parameters()))
    for parameter, wanted in zip(embedding.layers.parameters(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def test_numbers_add_to_the_class_and_are_dropped_with_it():
    torch.manual_seed(0)
    conditioner = Conditioner(None, None, 3, ranges=[(0.0, 1.0), (5.0, 6.0)])
    assert conditioner.width == conditioner.class_embedding.embedding_dim
    given = torch.tensor([[0.2, 5.5], [math.nan, 5.1], [0.7, math.nan]])
    condition = conditioner.condition(None, [0, 1, 2], 3, attributes=given)
    first, second = conditioner.number_embeddings
    wanted = conditioner.class_embedding(torch.tensor([0, 1, 2])) + first(given[:, 0]) + second(given[:, 1])
    torch.testing.assert_close(conditioner(condition).pooled, wanted)
    torch.testing.assert_close(conditioner.encode(None, [0, 1, 2], 3, given).pooled, wanted)
    dropped = condition.drop_rows(torch.tensor([True, False, False]), conditioner.null())
    assert dropped.attributes.isnan().tolist() == [[True, True], [True, False], [False, True]]
    assert dropped.labels.tolist() == [-1, 1, 2]
    single = condition.drop_attributes(torch.tensor([[False, True], [False, False], [False, False]]))
    assert single.attributes.isnan().tolist() == [[False, True], [True, False], [False, True]]
    with pytest.raises(ValueError, match="a numeric attribute was given, but the model has none"):
        Conditioner(None, None, 3).condition(None, [0], 1, attributes=torch.zeros(1, 1))


def test_models_without_attributes_keep_their_weights_and_their_description():
    plain, spec = fresh_model(spec_with(classes=3), [], 7), spec_with(classes=3)
    assert "attributes" not in spec.dump()
    assert not any("number" in name for name in plain.state_dict())
    with_attributes = replace(spec, attributes=(AGE, SIZE))
    assert ModelSpec.parse(json.loads(json.dumps(with_attributes.dump()))) == with_attributes
    assert with_attributes.conditional
    assert replace(with_attributes, classes=0).conditional


def test_dropout_of_single_attributes_has_its_own_stream(numbered, tmp_path):
    """The share that is dropped is the recipe's, keyed by (seed, step, microbatch); noise and times stay the same."""
    run = open_run(loading.parse_recipe(numbered_recipe(numbered, tmp_path)))
    state, objective = stirred(run), make_objective(run)
    seen = []
    forward = lambda x_t, t, condition: (seen.append((x_t, t, condition)), (torch.zeros_like(x_t), None))[1]  # noqa: E731
    reader = Reader(run.manifest, fields=run.feed.fields)
    batches = [batch for step in read_batches(run.feed, reader, 0, 40) for batch in step]
    for given in (objective, replace(objective, attribute_dropout=0.0), replace(objective, attribute_dropout=1.0)):
        for batch in batches:
            microbatch_loss(forward, state.model, batch, given, torch.device("cpu"))
    third = len(batches)
    assert all(each.attributes.isnan().all() for _, _, each in seen[2 * third :])
    for first, second in zip(seen[:third], seen[third : 2 * third], strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert torch.equal(first[2].ids, second[2].ids)
    known = torch.cat([each.attributes for _, _, each in seen[third : 2 * third]]).isfinite()
    kept = torch.cat([each.attributes for _, _, each in seen[:third]]).isfinite()
    count, share = int(known.sum()), 0.25
    assert not (kept & ~known).any()
    lost = 1.0 - kept.sum().item() / count
    assert abs(lost - share) < 4.0 * math.sqrt(share * (1.0 - share) / count)
    batch, own = batches[7], rng.generator(run.config.seed, rng.ATTRIBUTES, batches[7].step, batches[7].index)
    chosen = torch.rand(batch.attributes.shape, generator=own) < share
    assert torch.equal(kept.split(len(batch.rows))[7], known.split(len(batch.rows))[7] & ~chosen)


def test_a_run_is_the_same_after_a_restart(numbered, tmp_path):
    """A run that stops after five of ten steps and resumes ends with the bits of one that went through."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    recipe = numbered_recipe(numbered, whole, class_conditional=True)
    train_here(open_run(loading.parse_recipe(recipe)), None)
    train_here(open_run(loading.parse_recipe({**recipe, "storage": str(halved), "train": {**recipe["train"], "length": {"steps": 5}}})), None)  # fmt: skip
    train_here(open_run(loading.parse_recipe({**recipe, "storage": str(halved)})), None)
    ends = [checkpoint.load_model(folder / "small" / checkpoint.checkpoint_name(10)) for folder in (whole, halved)]
    assert same_tensors(*(each.score_model.state_dict() for each in ends))
    assert [each.name for each in ends[0].spec.attributes] == ["thickness"]
    assert ends[0].spec.attributes == numbered.attributes[1:]


def test_a_recipe_that_does_not_fit_gets_a_sentence(numbered, tmp_path):
    def refuse(said, **changes):
        with pytest.raises(ValueError, match=said):
            open_run(loading.parse_recipe(numbered_recipe(numbered, tmp_path, **changes)))

    refuse(r"attributes\.names: there is no attribute 'thicknes'; did you mean thickness\?; there are grey, thickness at ",
           attributes__names=["thicknes"])  # fmt: skip
    refuse("names holds 'grey' twice", attributes__names=["grey", "grey"])
    refuse("dropout needs attributes", attributes__names=[])
    refuse(r"attributes\.dropout", attributes__dropout=1.5)
    refuse("sampling.attributes needs 'grey' in attributes.names", sampling__attributes={"grey": [1.0]})
    refuse("sampling.attributes has no value of 'thickness'", sampling__attributes={"thickness": []})
    flat = replace(numbered, attributes=(Attribute("thickness", 2.0, 2.0),))
    with pytest.raises(ValueError, match="thickness is 2 in all rows"):
        find_attributes(["thickness"], flat)
    with pytest.raises(ValueError, match=r"the data set has none at .*; ingest them with `raysde ingest --attributes`"):
        find_attributes(["thickness"], replace(numbered, attributes=()))


def test_the_grid_takes_the_recipes_values_in_turn(numbered, tmp_path):
    low, high = numbered.attributes[1].low, numbered.attributes[1].high
    asked = {
        "text": None,
        "sampling__attributes": {"thickness": [low, high]},
        "sampling__count": 4,
        "sampling__steps": 2,
    }
    run = open_run(loading.parse_recipe(numbered_recipe(numbered, tmp_path, **asked)))
    check_run(run)
    state = stirred(run)
    drawn = Model(state.model, run.spec).sample(
        attributes={"thickness": [low, high, low, high]}, n=4, steps=2, guidance=1.0
    )
    assert draw_sample_grid(run, state.model).tobytes() == drawn.grid(2).tobytes()
    assert drawn.captions == [f"thickness {value:.4g}" for value in (low, high, low, high)]


def test_samples_depend_on_their_own_numbers_alone():
    """An image is the same in any batch, a number for all equals a list of it, and None equals leaving it out."""
    model, settings = number_model(AGE, SIZE), {"steps": 3, "solver": "heun", "guidance": 1.5}
    ages = [12.0, 30.0, None]
    whole = model.sample(attributes={"age": ages, "size": 0.5}, **settings)
    assert whole.attributes == {"age": ages, "size": [0.5] * 3}
    assert whole.metadata(1)["attributes"] == {"age": 30.0, "size": 0.5}
    assert whole.metadata(2)["attributes"] == {"size": 0.5}
    for index, age in enumerate(ages):
        alone = model.sample(attributes={"age": age, "size": [0.5]}, first=index, **settings)
        torch.testing.assert_close(alone.images, whole.images[index : index + 1], atol=1, rtol=0.0)
    assert not torch.equal(whole.images[0], model.sample(attributes={"age": 45.0, "size": 0.5}, **settings).images[0])
    unknown = model.sample(attributes={"size": 0.5}, n=3, **settings)
    torch.testing.assert_close(unknown.images[2], whole.images[2], atol=1, rtol=0.0)
    x, t = inputs(2)
    conditioned = model.conditioned(None, None, 2, 1.0, {"age": [12.0, 45.0]})
    wanted = model.score_model.score(x, t, model.score_model.conditioner.encode(None, None, 2, torch.tensor([[12.0, math.nan], [45.0, math.nan]])))  # fmt: skip
    assert torch.equal(conditioned.score(x, t), wanted)


def test_impossible_numbers_are_refused_and_unusual_ones_warned_of():
    model = number_model(AGE, SIZE)
    for given, said in (
        ({"agee": 3.0}, "there is no attribute 'agee'; did you mean age"),
        ({"age": "x"}, "attribute 'age' must be a number or a list of numbers"),
        ({"age": [math.inf]}, "attribute 'age' must be a finite number, got inf"),
        ({"age": [True]}, "attribute 'age' must be a finite number, got True"),
    ):
        with pytest.raises(ValueError, match=said):
            model.sample(attributes=given, n=1, steps=2)
    with pytest.raises(ValueError, match="n=3, but"):
        model.sample(attributes={"age": [20.0, 30.0]}, n=3, steps=2)
    with pytest.raises(ValueError, match="there is no attribute 'age'; the model has none"):
        attribute_tensor(spec_with(), {"age": 3.0}, 1)
    with pytest.warns(UserWarning, match="attribute age=51 is outside the training data's range, 10 to 50"):
        attribute_tensor(model.spec, {"age": [20.0, 51.0]}, 2)


def test_guides_need_the_same_attributes():
    model, other = number_model(AGE), number_model(SIZE)
    with pytest.raises(ValueError, match="autoguide: it takes other conditions"):
        model.sample(attributes={"age": 20.0}, autoguide=other, guidance=2.0)


def test_a_prompt_file_has_a_column_for_each_attribute(tmp_path):
    """Rows of the file are drawn as by ``sample``, an empty cell is unknown, and the results name the numbers."""
    model, file = number_model(AGE, SIZE), tmp_path / "ages.csv"
    file.write_text("Age,seed,note\n12,4,x\n,5,y\n30.5,6,z\n")
    requests = read_requests(str(file), ["age", "size"])
    assert (requests.attributes, requests.unread) == ({"age": [12.0, None, 30.5]}, ("note",))
    file.with_name("b.csv").write_text("Age,seed,note\n12,4,x\n,5,y\n31,6,z\n")
    assert read_requests(str(file.with_name("b.csv")), ["age"]).sha256 != requests.sha256
    settings = {
        "batch_size": 2,
        "guidance": 1.0,
        "guidance_interval": None,
        "autoguide": None,
        "steps": 2,
        "solver": "heun",
    }
    bulk = Bulk(model, requests, str(tmp_path / "out"), "parquet", 0, None, settings, images_per_part=2)
    draw_all(bulk)
    table = pa.concat_tables(pq.read_table(file) for file in sorted((tmp_path / "out").glob("*.parquet")))
    assert table.column("age").to_pylist() == [12.0, None, 30.5]
    drawn = model.sample(attributes={"age": [12.0, None, 30.5]}, seed=[4, 5, 6], steps=2, solver="heun", batch_size=2)
    files = [Image.open(io.BytesIO(each["bytes"])) for each in table.column("image").to_pylist()]
    assert np.array_equal(np.stack([np.asarray(each) for each in files]), drawn.images[:, 0].numpy())
    file.write_text("Age\nold\n")
    with pytest.raises(ValueError, match="row 1 has the age 'old', which is no number"):
        read_requests(str(file), ["age"])
    with pytest.raises(ValueError, match="neither a column prompt nor a column label nor one of size"):
        read_requests(str(file), ["size"])


def test_requests_have_a_column_for_each_attribute():
    model = number_model(AGE, SIZE)
    assert request_columns(model.spec) == {"age": False, "size": False, "number": False}
    data = pd.DataFrame({"age": [12.0, math.nan], "size": [0.5, -0.5]})
    served = Served(model).predict(data, {"steps": 2, "solver": "heun", "guidance": 1.0})
    drawn = model.sample(attributes={"age": [12.0, None], "size": [0.5, -0.5]}, steps=2, solver="heun", guidance=1.0)
    files = [Image.open(io.BytesIO(each)) for each in served["image"]]
    assert np.array_equal(np.stack([np.asarray(each) for each in files]), drawn.images[:, 0].numpy())
    assert [json.loads(file.text["attributes"]) for file in files] == [{"age": 12.0, "size": 0.5}, {"size": -0.5}]


def test_the_signature_has_the_attributes_as_numbers():
    found = {each.name: (each.type, each.required) for each in make_signature(number_model(AGE, SIZE).spec).inputs}
    assert found["age"] == found["size"] == (DataType.double, False)
    alone = {each.name: each.required for each in make_signature(number_model(AGE).spec).inputs}
    assert alone == {"age": True, "number": False}


def test_evaluation_draws_for_the_numbers_of_real_rows(numbered):
    reader = Reader(numbered)
    found = draw_conditions(
        reader, "train", classes=10, captions=False, names=numbered.labels, attributes=["thickness"]
    )
    asked = found.drawing(range(40))
    images, labels = load_digits()
    thick = stroke_thickness(images)[:96].astype(np.float32)
    for label, value in zip(asked["labels"], asked["attributes"]["thickness"], strict=True):
        known = [None if row % 5 == 0 else float(thick[row]) for row in range(96) if labels[row] == label]
        assert value in known
    with pytest.raises(ValueError, match="there is no attribute 'age'"):
        draw_conditions(reader, "train", classes=10, captions=False, names=numbered.labels, attributes=["age"])


def test_the_command_line_draws_by_numbers(numbered, tmp_path, capsys):
    recipe = numbered_recipe(numbered, tmp_path, text=None)
    train_here(open_run(loading.parse_recipe(recipe)), None)
    where = str(tmp_path / "small" / checkpoint.checkpoint_name(10))
    middle = 0.5 * (numbered.attributes[1].low + numbered.attributes[1].high)
    out = ["--out", str(tmp_path / "drawn"), "--steps", "2", "--guidance", "1"]
    assert main(["sample", where, "--attribute", f"thickness={middle}", "--attribute", "thickness=1.5", *out]) == 0
    model = checkpoint.load_model(Path(where))
    drawn = model.sample(attributes={"thickness": [middle, 1.5]}, steps=2, guidance=1.0)
    files = [np.asarray(Image.open(tmp_path / "drawn" / f"image-00{number}.png")) for number in range(2)]
    assert np.array_equal(np.stack(files), drawn.images[:, 0].numpy())
    for given, said in (("thick", "write a name and a number"), ("thick=1", "did you mean thickness"), ("thickness=x", "write a name")):  # fmt: skip
        capsys.readouterr()
        assert said in refused(capsys, "sample", where, "--attribute", given, *out)


@pytest.mark.slow
def test_digits_are_drawn_as_thick_as_asked(tmp_path):
    """Stroke thickness of drawn digits, by the formula that measured the data, follows the thickness asked for.

    Pearson's correlation over 200 images has a standard error of (1 - r^2) / sqrt(200), 0.025 at r = 0.8.
    """
    data = write_numbered_digits(tmp_path / "digits", rows=1797)
    recipe = {
        "name": "thick", "storage": str(tmp_path), "data": {"path": data.path}, "class_conditional": True,
        "attributes": {"names": ["thickness"], "dropout": 0.05},
        "network": {"kind": "unet", "channels": 24, "multipliers": [1, 2], "blocks": 1, "attention": []},
        "train": {"length": {"steps": 500}, "batch": 64, "lr": 3e-3, "betas": [0.9, 0.99], "weighting": "target",
                  "warmup": 50, "decay": "cosine", "ema": {"half_life": 3000}},
        "log_every": 500, "checkpoint_every": 500,
    }  # fmt: skip
    train_here(open_run(loading.parse_recipe(recipe)), None)
    model = checkpoint.load_model(tmp_path / "thick" / checkpoint.checkpoint_name(500))
    images, _ = load_digits()
    low, high = np.quantile(stroke_thickness(images), (0.02, 0.98))
    asked = np.random.default_rng(0).uniform(low, high, 200)
    labels = [str(number % 10) for number in range(200)]
    drawn = model.sample(labels=labels, attributes={"thickness": asked.tolist()}, guidance=2.0, steps=10)
    found = stroke_thickness(drawn.images[:, 0].numpy())
    correlation = np.corrcoef(asked, found)[0, 1]
    print(f"correlation of asked and drawn thickness {correlation:.3f}, of {low:.2f} to {high:.2f} pixels")
    assert correlation >= 0.8
