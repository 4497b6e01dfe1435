"""Selected rows: bits, counts and positions equal those of numpy, and only row groups that may match are read."""

import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.data.batches.plan import LANED, Plan
from raysde.data.dataset import kept_columns
from raysde.data.dataset.kept_columns import KeptColumns, KeptFile, KeptWriter, join_kept
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.manifest import Manifest, read_manifest, write_manifest
from raysde.data.dataset.selection import FilteredLayout, Selection, count_groups, filtered_layouts, select_rows
from raysde.data.dataset.shard_table import Shard
from raysde.data.dataset.split import filtered_window, split_rows
from tests.support.counted_store import folder_store


def manifest_of(rows: list[int], group: int, splits="", shapes=None, each: int = 1) -> Manifest:
    shards = tuple(
        Shard(f"{n}", count, count * each, f"{n:064x}", "validation" if splits[n : n + 1] == "v" else "train",
              shapes[n] if shapes else (8, 8)) for n, count in enumerate(rows)
    )  # fmt: skip
    return Manifest("x", 1, (8, 8), group, shards)


def selection_of(manifest: Manifest, mask: np.ndarray) -> Selection:
    from raysde.data.dataset.selection import count_before_groups

    bits = np.packbits(mask, bitorder="little")
    return Selection(bits, count_before_groups(manifest, bits))


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
@pytest.mark.parametrize("block", [1, 30, 1 << 22])
def test_positions_equal_those_of_a_list(share, block, monkeypatch):
    """Each selected row has one position in its split and bucket, row group by row group."""
    monkeypatch.setattr("raysde.data.dataset.selection.BLOCK", block)
    manifest = manifest_of([25, 8, 40, 1, 17], 8, "tttvv", [(8, 8), (4, 8), (8, 8), (8, 8), (4, 8)])
    mask = np.random.default_rng(0).random(manifest.rows) < share
    mask[70] = mask[80] = True
    selection = selection_of(manifest, mask)
    starts = manifest.starts
    edges = [row for n, count in enumerate(manifest.shards.rows) for row in range(starts[n], starts[n] + count, 8)]
    assert selection.before.tolist() == [int(mask[:edge].sum()) for edge in [*edges, manifest.rows]]
    assert len(edges) == count_groups(manifest)[-1]
    assert selection.count == mask.sum()
    for split, buckets in (("train", [[1], [0, 2]]), ("validation", [[4], [3]])):
        wanted = [[r for n in bucket for r in range(starts[n], starts[n + 1]) if mask[r]] for bucket in buckets]
        layouts = filtered_layouts(manifest, selection, split)
        assert [layout.rows_at(np.arange(layout.count)).tolist() for layout in layouts] == [w for w in wanted if w]
        for layout, rows in zip(layouts, [w for w in wanted if w], strict=True):
            shuffled = np.random.default_rng(1).permutation(layout.count)
            assert layout.rows_at(shuffled).tolist() == np.array(rows)[shuffled].tolist()
            assert layout.count_touched() == len({int(np.searchsorted(edges, row, side="right")) for row in rows})


def test_a_selection_is_stored_and_mapped_back():
    manifest = manifest_of([100, 33], 8)
    selection = selection_of(manifest, np.random.default_rng(0).random(133) < 0.4)
    again = Selection.from_buffer(pa.py_buffer(selection.content.to_pybytes()))
    assert np.array_equal(again.bits, selection.bits)
    assert np.array_equal(again.before, selection.before)
    assert (again.sha256, again.count) == (selection.sha256, selection.count)
    assert (
        again.in_rows(3, 130).tolist() == np.unpackbits(selection.bits, bitorder="little")[3:130].astype(bool).tolist()
    )
    for wrong in (b"no", pa.py_buffer(b"ARROW1")):
        with pytest.raises(ValueError, match=r"(?i)arrow|file"):
            Selection.from_buffer(pa.py_buffer(wrong))


@pytest.mark.parametrize("validation", [0, 20])
def test_held_out_rows_are_selected_and_apart(validation):
    """Training and held-out rows together are the selected rows, each once."""
    manifest = manifest_of([500, 300], 8)
    mask = np.random.default_rng(0).random(800) < 0.3
    rows, held = split_rows(manifest, validation, 5, selection_of(manifest, mask))
    train = rows[np.arange(rows.count)]
    assert len(held) == validation
    assert sorted([*train, *held]) == np.flatnonzero(mask).tolist()
    apart = manifest_of([500, 300], 8, "tv")
    rows, held = split_rows(apart, None, 5, selection_of(apart, mask))
    assert rows[np.arange(rows.count)].tolist() == np.flatnonzero(mask[:500]).tolist()
    assert held.tolist() == (500 + np.flatnonzero(mask[500:])).tolist()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
def test_an_epoch_reads_few_row_groups_twice(share):
    """Each selected row comes once an epoch, and lanes read at most 1.6 row groups for each that holds a selected row.

    A chunk of four row groups or more cuts one in four; a window of a lane cuts one more of about five.
    """
    manifest = manifest_of([3840] * 60, 64, each=25_000)
    mask = np.random.default_rng(0).random(manifest.rows) < share
    rows, _ = split_rows(manifest, 0, 0, selection_of(manifest, mask))
    assert isinstance(rows.layouts[0], FilteredLayout)
    window, chunk = filtered_window(manifest, rows, 512, 16, None)
    plan = Plan(rows=rows.count, batch=512, microbatch=16, seed=0, window=window, chunk=chunk, order=LANED)
    assert plan.has_lanes
    reads, seen = 0, []
    for segment in range(rows.count // window):
        for index in range(plan.microbatches):
            steps = range(segment * plan.segment, (segment + 1) * plan.segment)
            lane = rows[np.concatenate([plan.rows_of(step, index) for step in steps])]
            reads += len(np.unique(lane // 64))
            seen.append(lane)
    everything = np.concatenate(seen)
    assert len(np.unique(everything)) == len(everything)
    assert mask[everything].all()
    touched = rows.layouts[0].count_touched() * len(everything) / rows.count
    assert reads <= 1.6 * touched


def write_columns(folder, rows: int, values: dict, types: dict, split="train") -> KeptColumns:
    writer = KeptWriter(str(folder), split, types)
    writer.add(pa.table(values, schema=KeptColumns(types, ()).schema))
    return KeptColumns(types, tuple(writer.close()))


def test_a_million_rows_are_counted_in_seconds_from_row_groups_that_match(tmp_path):
    """Among 31 row groups, sorted by score, the 2 that may match are read, and one of two columns. numpy counts alike.

    A second of this process's own time is 5 times the need on a slow core; the bound of the wall clock is the task's.
    """
    rows = 10**6
    generator = np.random.default_rng(0)
    score, url = np.sort(generator.random(rows)), generator.integers(0, 2**60, rows).astype(str)
    kept = write_columns(tmp_path, rows, {"score": score, "url": url}, {"score": "double", "url": "string"})
    manifest = replace(manifest_of([8192] * 122 + [rows - 122 * 8192], 64), path=str(tmp_path), kept=kept)
    begin, used = time.perf_counter(), time.process_time()
    selection = select_rows(manifest, "score >= 0.95")
    assert time.process_time() - used < 5.0
    print(f"{time.perf_counter() - begin:.2f} s of wall clock, {time.process_time() - used:.2f} s of this process")
    assert selection.count == (score >= 0.95).sum()
    assert select_rows(manifest, "score < 0.3 or score >= 0.4").count == ((score < 0.3) | (score >= 0.4)).sum()
    footer = pq.read_metadata(tmp_path / kept.files[0].file)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    wanted = sum(g.column(0).total_compressed_size for g in groups if g.column(0).statistics.max >= 0.95)
    size = sum(g.total_byte_size for g in groups)
    with folder_store(str(tmp_path)) as store:
        far = replace(manifest, path=store.uri())
        assert select_rows(far, "score >= 0.95").sha256 == selection.sha256
        read = store.read()
    assert wanted <= sum(read) <= wanted + 2 * (footer.serialized_size + 2**16)
    assert sum(read) < size / 20


def test_columns_are_cut_into_files_and_joined(tmp_path, monkeypatch):
    """Files of bounded size hold the rows in order, and a grown data set those of both versions, split by split."""
    monkeypatch.setattr(kept_columns, "FILE_ROWS", 10)
    first = write_columns(tmp_path, 25, {"n": list(range(25))}, {"n": "int64"})
    assert [file.rows for file in first.files] == [10, 10, 5]
    found = pa.concat_tables(pq.read_table(tmp_path / file.file) for file in first.files)
    assert found.column("n").to_pylist() == list(range(25))
    apart = KeptFile("columns-validation-00000.parquet", "validation", 3, 1, "0" * 64)
    both = join_kept(replace(first, files=(*first.files, apart)), KeptColumns({"n": "double"}, first.files[:1]))
    assert [file.split for file in both.files] == ["train"] * 4 + ["validation"]
    assert both.types == {"n": "double"}
    assert KeptColumns.from_json(both.to_json(), {"train": 35, "validation": 3}) == both
    for other in ({"m": "int64"}, {"n": "string"}):
        with pytest.raises(ValueError, match=r"the kept columns are n before|kept column n is of type int64 before"):
            join_kept(first, KeptColumns(other, ()))
    for damage in ({"rows": 9}, {"split": "test"}, {"file": "../x"}):
        values = both.to_json()
        values["files"][0] |= damage
        with pytest.raises(ValueError, match="kept"):
            KeptColumns.from_json(values, {"train": 35, "validation": 3})


def test_a_filter_that_does_not_fit_is_a_sentence(tmp_path):
    kept = write_columns(tmp_path, 20, {"n": list(range(20))}, {"n": "int64"})
    manifest = replace(manifest_of([20], 8), path=str(tmp_path), kept=kept)
    write_manifest(manifest)
    assert read_manifest(str(tmp_path)) == manifest
    assert select_rows(manifest, "n >= 18").count == 2
    for text, sentence in (
        ("n > 30", "none of the 20 rows of .* fulfils 'n > 30'"),
        ("m > 3", "data.filter: there is no column m"),
    ):
        with pytest.raises(ValueError, match=sentence):
            select_rows(manifest, text)
    with pytest.raises(ValueError, match=r"keeps no columns; ingest it with --keep-columns n"):
        select_rows(replace(manifest, kept=None), "n > 3")
    file = tmp_path / kept.files[0].file
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"columns-train-00000.parquet of .* is damaged"):
        select_rows(manifest, "n > 3")
    file.unlink()
    with pytest.raises(ValueError, match=r"columns-train-00000.parquet of .* is missing"):
        select_rows(manifest, "n > 3")


def test_a_billion_rows_need_no_list():
    """The rows of any step of 10^8 selected rows come from bits and counts alone."""
    manifest = manifest_of([65_536] * 1000, 64)
    bits = np.full(manifest.rows // 8, 0b00010001, dtype=np.uint8)
    before = np.arange(manifest.rows // 64 + 1, dtype=np.int64) * 16
    rows = Rows(filtered_layouts(manifest, Selection(bits, before), "train"), np.empty(0, dtype=np.int64))
    positions = np.array([0, 1, 12_345_678, rows.count - 1])
    assert rows[positions].tolist() == (4 * positions).tolist()
