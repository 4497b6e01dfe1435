"""Runs on several data sets, and on weighted rows: shares, rows, captions, classes, resume, and what is refused."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint
from raysde.config import loading
from raysde.data.batches.arrow import from_table
from raysde.data.batches.blocks import StreamSpec, group_by_step, make_block
from raysde.data.batches.microbatch import read_batches
from raysde.data.dataset.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from raysde.data.dataset.shards import write_shard
from raysde.runs.build import make_objective
from raysde.runs.local import train_here
from raysde.runs.run import Run, check_resumable, check_run, identity_settings, open_run
from tests.support.digits import write_digit_shards
from tests.support.training import same_tensors, small_recipe


def relabelled(folder, rows: int, labels: list[str], group: int = 10) -> Manifest:
    """Write digits whose labels are ``labels`` in turn, with a caption of the label."""
    write_digit_shards(folder, rows, 45, group)
    manifest, shards = read_manifest(str(folder)), []
    for number, shard in enumerate(manifest.shards):
        table, first = pq.read_table(manifest.file(number)), int(manifest.starts[number])
        own = [labels[row % len(labels)] for row in range(first, first + len(table))]
        table = table.set_column(1, SCHEMA.field("captions"), pa.array([[f"one {name}"] for name in own]))
        table = table.set_column(2, SCHEMA.field("label"), pa.array(own, pa.string()))
        shards.append(write_shard(table.cast(SCHEMA), str(folder), shard.file, row_group=group, image=(8, 8)))
    names = tuple(sorted(set(labels)))
    write_manifest(dataclasses.replace(manifest, shards=tuple(shards), labels=names, statistics={}))
    return read_manifest(str(folder))


def moved(manifest: Manifest, folder) -> Manifest:
    """Return a copy of a data set in another folder."""
    return read_manifest(str(shutil.copytree(manifest.path, folder)))


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Manifest, Manifest]:
    """Return data sets of the classes cat and dog, and bird, cat and emu."""
    folder = tmp_path_factory.mktemp("both")
    return relabelled(folder / "a", 120, ["dog", "cat"]), relabelled(folder / "b", 70, ["emu", "cat", "bird"], 7)


def mixed(both, runs, weights=(3, 1), entries=({}, {}), **changes) -> Run:
    mix = [
        {"path": each.path, "weight": weight, **more} for each, weight, more in zip(both, weights, entries, strict=True)
    ]
    more = {"train__microbatch": 4, "class_conditional": True, "data": {"mix": mix, "shuffle_window": 32}, **changes}
    return open_run(loading.parse_recipe(small_recipe(both[0], runs, **more)))


def batches_of(run: Run, start: int, stop: int, rank: int = 0, world: int = 1) -> list:
    reader = run.sources.open_reader(run.feed.fields)
    return [each for step in read_batches(run.feed, reader, start, stop, rank, world) for each in step]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_hold_in_every_world_with_restarts(both, tmp_path, world):
    """After each row of the run, a data set has its share within one row, and each of its rows as often as the others."""
    run = mixed(both, tmp_path, validation__rows=0)
    assert run.plan.has_lanes
    batches = {}
    for start in range(0, 30, 5):
        for rank in range(world):
            found = batches_of(mixed(both, tmp_path, validation__rows=0), start, start + 5, rank, world)
            batches |= {(each.step, each.index): each.rows for each in found}
    rows = np.concatenate([batches[place] for place in sorted(batches)])
    assert len(rows) == 30 * run.plan.batch
    first = np.cumsum(rows < both[0].rows)
    assert np.abs(first - np.arange(1, len(rows) + 1) * 3 / 4).max() < 1
    whole = len(rows) // (2 * 16) * 32  # rows of whole segments
    for start, stop in ((0, 120), (120, 190)):
        counts = np.bincount(rows[:whole], minlength=190)[start:stop]
        assert counts.max() - counts.min() <= 1


def test_rows_keep_their_images_captions_and_classes(both, tmp_path):
    """Each row shows the image and caption of its own data set, and its class's number in the united order."""
    run = mixed(both, tmp_path)
    assert run.spec.class_names == ("bird", "cat", "dog", "emu")
    readers = [read_manifest(each.path) for each in both]
    for batch in batches_of(run, 0, 6):
        for place, row in enumerate(batch.rows.tolist()):
            number = int(row >= 120)
            about = run.sources.open_reader(frozenset()).about(row)
            assert (about["row"], about["source"]) == (row, readers[number].path)
            assert batch.captions[place] == f"one {about['label']}"
            assert run.spec.class_names[int(batch.labels[place])] == about["label"]
            alone = pq.read_table(f"{readers[number].path}/{about['shard']}").to_pylist()
            keys = [each["key"] for each in alone]
            assert alone[keys.index(about["key"])]["label"] == about["label"]


def test_templates_and_dropout_are_each_data_sets_own(both, tmp_path):
    entries = ({"caption_template": "a {label}: {caption}", "condition_dropout": 0.5}, {"caption_template": "{label}!"})
    run = mixed(both, tmp_path, entries=entries, class_conditional=False)
    for batch in batches_of(run, 0, 6):
        for row, caption in zip(batch.rows.tolist(), batch.captions, strict=True):
            label = ["dog", "cat"][row % 2] if row < 120 else ["emu", "cat", "bird"][(row - 120) % 3]
            assert caption == (f"a {label}: one {label}" if row < 120 else f"{label}!")
    task = make_objective(run)
    found = task.dropout_of(np.array([0, 119, 120, 189]), torch.device("cpu"))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.1, 0.1]), rtol=0, atol=0)
    assert make_objective(mixed(both, tmp_path)).dropouts == ()
    assert {"a cat: one cat", "emu!", "bird!"} <= set(run.sources.sample_captions(1000))


def test_blocks_are_those_of_the_reader(both, tmp_path):
    """A process that opens the reference makes the microbatches of the training process, bit for bit."""
    run = mixed(
        both, tmp_path, entries=({"weights": "balanced"}, {"caption_template": "{label}!"}), validation__rows=20
    )
    spec = StreamSpec(data=run.sources.reference(run.config, run.feed), start=3, stop=9, block_steps=2)
    for rank in range(2):
        tables = (list(from_table(make_block(spec, block), 1)) for block in spec.blocks_of(rank, 2))
        found = [each for step in group_by_step(tables, spec, rank, 2) for each in step]
        for block, alone in zip(found, batches_of(run, 3, 9, rank, 2), strict=True):
            assert (block.step, block.index, block.captions) == (alone.step, alone.index, alone.captions)
            assert torch.equal(block.images, alone.images)
            assert torch.equal(block.labels, alone.labels)


def test_held_out_rows_follow_the_weights(both, tmp_path):
    """They are never trained on."""
    run = mixed(both, tmp_path, weights=(3, 1), validation__rows=20)
    assert [(run.held_out < 120).sum(), (run.held_out >= 120).sum()] == [15, 5]
    seen = np.concatenate([each.rows for each in batches_of(run, 0, 30)])
    assert set(seen) == set(range(190)) - set(run.held_out.tolist())


@pytest.mark.parametrize("window", [32, 1000])
def test_classes_are_balanced(tmp_path, window):
    """In each epoch of draws, each row of a class comes within one draw of its share; 50, 10 and 10 rows have a class."""
    names = ["emu"] * 5 + ["cat", "bird"]
    manifest = relabelled(tmp_path / "c", 70, names)
    data = {"path": manifest.path, "weights": "balanced", "shuffle_window": window}
    run = open_run(loading.parse_recipe(small_recipe(manifest, tmp_path, data=data, train__microbatch=4)))
    assert run.plan.has_lanes == (window < 70)
    labels = np.array([sorted(set(names)).index(name) for name in names * 10])
    share = 70 / 3 / np.bincount(labels)[labels]
    positions = np.concatenate([run.plan.rows_of(step, index) for step in range(70) for index in range(4)])
    rows = run.feed.rows[positions]
    for epoch in range(14):
        counts = np.bincount(rows[positions // 70 == epoch], minlength=70)
        assert counts.sum() == 70
        assert np.abs(counts - share).max() < 1 + 1e-6
    totals = np.bincount(labels[rows], minlength=3)
    # over all epochs each of the 20 rows of the small classes is within four draws of its share
    assert np.abs(totals - len(rows) / 3).max() < 4 * 20


def test_a_column_weighs_rows(both, tmp_path):
    """All images are 8 wide, so that the column draws each row once an epoch."""
    data = {"path": both[0].path, "weights": {"column": "width"}}
    run = open_run(loading.parse_recipe(small_recipe(both[0], tmp_path, data=data, train__batch=12)))
    rows = np.concatenate([run.feed.rows[run.plan.rows_of(step, 0)] for step in range(10)])
    assert sorted(rows) == list(range(120))


def test_a_run_goes_on_bit_for_bit(both, tmp_path):
    """A run stopped at step 5 ends with the weights of one that was not, also after its data sets were moved."""
    entries = ({"weights": "balanced", "condition_dropout": 0.9}, {"caption_template": "a {label}"})
    whole = mixed(both, tmp_path, name="whole", entries=entries)
    train_here(whole, None)
    parts = mixed(both, tmp_path, name="parts", entries=entries)
    train_here(dataclasses.replace(parts, steps=5), None)
    away = []
    for each in both:
        away.append(moved(each, tmp_path / "moved" / each.path[-1]))
    train_here(mixed(away, tmp_path, name="parts", entries=entries), None)
    ends = [checkpoint.find_newest_checkpoint(tmp_path / name) for name in ("whole", "parts")]
    for name in ("weights.safetensors", "ema.safetensors"):
        assert same_tensors(*(load_file(each / name) for each in ends))
    description = checkpoint.read_description(ends[0])
    assert description.data["order"] == 3
    assert [(each["fingerprint"], each["rows"], each["share"]) for each in description.data["sources"]] == [
        (both[0].fingerprint, 120, 3), (both[1].fingerprint, 70, 1)]  # fmt: skip
    assert identity_settings(mixed(away, tmp_path, entries=entries)) == identity_settings(
        mixed(both, tmp_path, entries=entries)
    )
    for change in ({"weights": (1, 1)}, {"entries": ({}, {})}):
        with pytest.raises(ValueError, match=r"has data\.mix="):
            check_resumable(mixed(both, tmp_path, name="whole", **{"entries": entries, **change}), description)
    with pytest.raises(ValueError, match="was trained on other data"):
        check_resumable(mixed(both[::-1], tmp_path, name="whole", entries=entries), description)


def test_files_of_every_data_set_are_checked(both, tmp_path):
    other = moved(both[1], tmp_path / "b")
    file = tmp_path / "b" / other.shards[1].file
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    check_run(mixed(both, tmp_path))
    with pytest.raises(ValueError, match=rf"{other.shards[1].file} of {other.path}"):
        check_run(mixed((both[0], other), tmp_path))


@pytest.fixture
def grey(both, tmp_path):
    """Return a function that returns the second data set with another manifest."""

    def change(**values) -> Manifest:
        found = moved(both[1], tmp_path / "changed")
        write_manifest(dataclasses.replace(found, **values))
        return read_manifest(found.path)

    return change


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"channels": 3}, "has images of 1 channels, .*changed of 3"),
        ({"size": (16, 16)}, "has images of 8x8, .*changed of 16x16; set data.image_size"),
        ({"columns": {"image": "x"}}, "have different columns"),
        ({"labels": ("bird", "cat", "emu", "3"), }, None),
    ],
)  # fmt: skip
def test_data_sets_that_do_not_fit_are_refused(both, grey, tmp_path, values, said):
    other = grey(**values)
    if said is None:
        assert mixed((both[0], other), tmp_path).spec.class_names == ("3", "bird", "cat", "dog", "emu")
        return
    with pytest.raises(ValueError, match=said):
        mixed((both[0], other), tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"weights": {"column": "score"}}, "has no column of numbers 'score'; it has width, height"),
        ({"weights": {"column": "widht"}}, r"'widht'; did you mean width\?"),
        ({"weights": {"column": "label"}}, "has no column of numbers 'label'"),
        ({"weights": "balance"}, "data.weights: must be 'balanced'"),
        ({"weights": {"column": ""}}, "has no column of numbers ''"),
        ({"path": None}, "data: path is required"),
        ({"mix": [{"path": "x", "weight": 1}]}, "path and mix exclude each other"),
        ({"path": None, "mix": []}, "data.mix: "),
        ({"path": None, "mix": [{"path": "/none", "weight": 1}]}, "data.mix.0.path '/none' holds no manifest.json"),
        ({"path": None, "mix": [{"path": "x", "weight": 0}]}, "data.mix.0.weight: "),
        ({"path": None, "mix": [{"path": "x"}]}, "key 'data.mix.0.weight' is required"),
        ({"path": None, "mix": [{"path": "x", "weight": 1, "wieghts": 1}]}, "unknown key 'data.mix.0.wieghts'"),
        ({"path": None, "mix": [{"path": "x", "weight": 1, "condition_dropout": 2}]}, "data.mix.0.condition_dropout: "),
        ({"path": None, "mix": [{"path": "x", "weight": 1, "caption_template": "a"}]}, "holds neither {caption} nor"),
        ({"path": None, "mix": [{"path": "x", "weight": 1}], "weights": "balanced"}, "weights goes with path"),
    ],
)
def test_bad_values_give_a_sentence(both, tmp_path, data, said):
    tree = small_recipe(both[0], tmp_path)
    with pytest.raises(ValueError, match=said):
        open_run(loading.parse_recipe({**tree, "data": {**tree["data"], **data}}))


def test_a_row_without_a_label_cannot_be_balanced(both, tmp_path):
    manifest = moved(both[0], tmp_path / "a")
    table = pq.read_table(manifest.file(1))
    table = table.set_column(2, SCHEMA.field("label"), pa.array([None, *table.column("label").to_pylist()[1:]]))
    shard = write_shard(table, manifest.path, manifest.shards[1].file, row_group=10, image=(8, 8))
    shards = [manifest.shards[0], shard, *manifest.shards[2:]]
    write_manifest(dataclasses.replace(manifest, shards=tuple(shards)))
    tree = small_recipe(manifest, tmp_path, data__weights="balanced")
    with pytest.raises(ValueError, match=f"data.weights: {manifest.path}: row 45 has no label"):
        open_run(loading.parse_recipe(tree))
