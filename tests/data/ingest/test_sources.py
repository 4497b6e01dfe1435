"""Sources: every kind gives the same samples, and errors name the file or entry."""

import csv
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysde.data.ingest.samples import MAX_CAPTION, Bad, Sample
from raysde.data.ingest.sources import open_source
from tests.support.sources import (
    COUNT,
    FILES,
    IMAGES,
    NAMES,
    read,
    reasons,
    rows_of,
    said,
    write_images,
    write_lines,
    write_tar,
)

CAPTIONS = [(f"caption, {number}", f'another "{number}"\u2028line') for number in range(COUNT)]
LABELS = ["cat", "dog", "cat", "owl", "dog", "cat", "owl"]
CLASSES = ["cat", "dog", "owl"]
NUMBERS = [CLASSES.index(label) for label in LABELS]


EVERYTHING = list(zip(FILES, CAPTIONS, LABELS, strict=True))


def idx(array):
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    return (
        struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def link(name, kind=tarfile.SYMTYPE):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, "elsewhere"
    return header


# --- the same samples out of every kind ---------------------------------------------------------------------------


def make_jsonl(folder):
    rows = zip(NAMES, CAPTIONS, LABELS, strict=True)
    return write_lines(
        write_images(folder), [{"file_name": f"{name}.png", "text": list(c), "label": label} for name, c, label in rows]
    )


def make_jsonl_by_rows(folder):
    """Write one row for each caption, spread over two metadata files in subfolders."""
    for half, start in (("a", 0), ("b", 4)):
        names = NAMES[start : start + 4]
        write_images(folder / half)
        for name in set(NAMES) - set(names):
            (folder / half / f"{name}.png").unlink()
        write_lines(
            folder / half,
            [
                {"file_name": f"./{NAMES[number]}.png", "caption": CAPTIONS[number][which], "class": LABELS[number]}
                for which in (0, 1)
                for number in range(start, min(start + 4, COUNT))
            ],
        )
    return folder


def make_table(folder, delimiter=",", file="about.CSV"):
    write_images(folder)
    with (folder / file).open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(["image", "prompt", "label"])
        for name, captions, label in zip(NAMES, CAPTIONS, LABELS, strict=True):
            writer.writerows([f"{name}.png", caption, label] for caption in captions)
    return folder


def make_sidecars(folder):
    """Write a folder for each class, and a text file beside each image."""
    for number, name in enumerate(NAMES):
        home = folder / LABELS[number]
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{name}.png").write_bytes(FILES[number])
        (home / f"{name}.txt").write_text("\n\n".join(CAPTIONS[number]) + "\n", encoding="utf-8")
    return folder


def make_tar(folder, suffix=".tar", mode="w"):
    for start, stop in ((0, 3), (3, COUNT)):
        members = []
        for number in range(start, stop):
            captions, name = CAPTIONS[number], f"./photos/{NAMES[number]}"
            members += [
                (f"{name}.PNG", FILES[number]),
                (f"{name}.txt", captions[0].encode()),
                (f"{name}.json", json.dumps({"captions": list(captions), "width": 8}).encode()),
                (f"{name}.cls", LABELS[number].encode()),
            ]
        write_tar(folder / f"train-{start}{suffix}", members, mode)
    return folder


def make_parquet(folder):
    """Write Parquet as Hugging Face's datasets does: images as structs, and a ClassLabel."""
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    schema = pa.schema(
        [
            ("label", pa.int64()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("text", pa.list_(pa.string())),
        ],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [
        {"label": number, "image": {"bytes": data, "path": None}, "text": list(captions)}
        for number, data, captions in zip(NUMBERS, FILES, CAPTIONS, strict=True)
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "train-0.parquet", row_group_size=2)
    return folder


@pytest.mark.parametrize(
    "make",
    [
        make_jsonl,
        make_jsonl_by_rows,
        make_table,
        lambda folder: make_table(folder, "\t", "about.tsv"),
        make_tar,
        lambda folder: make_tar(folder, ".tar.gz", "w:gz"),
        lambda folder: make_tar(folder, ".tgz", "w:gz"),
        make_parquet,
    ],
)
def test_the_same_samples_come_out_of_every_kind(tmp_path, make):
    source = make(tmp_path / "source")
    samples = read(source)
    assert said(samples) == EVERYTHING
    assert len({sample.key for sample in samples}) == COUNT
    assert read(f"file://{source}") == samples


def test_class_folders_and_text_files_say_the_same(tmp_path):
    """Text files give several captions, folders give labels, and a note reports the latter."""
    source = make_sidecars(tmp_path / "source")
    assert sorted(said(read(source))) == sorted(EVERYTHING)
    assert any("subfolders: cat, dog, owl" in note for note in open_source(str(source)).notes)


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "npy", "npz", "npz_train", "kmnist"])
def test_arrays_hold_the_same_images_and_numbers(tmp_path, kind):
    pixels, labels = np.stack(IMAGES), np.array(NUMBERS, np.uint8)
    if kind.startswith("idx"):
        suffix, pack = (".gz", gzip.compress) if kind == "idx.gz" else ("", bytes)
        (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx(pixels)))
        (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(
            pack(idx(labels if suffix else labels.astype(np.int32)))
        )
    elif kind == "npy":
        np.save(tmp_path / "images.npy", pixels)
        np.save(tmp_path / "labels.npy", labels.astype(np.int64)[:, None])
    elif kind == "npz":
        np.savez_compressed(tmp_path / "set.npz", images=pixels, labels=labels)
    elif kind == "npz_train":
        np.savez(tmp_path / "set.npz", x_train=pixels, y_train=labels, x_test=pixels[:2], y_test=labels[:2])
    else:
        np.savez(tmp_path / "kmnist-train-imgs.npz", pixels)
        np.savez(tmp_path / "kmnist-train-labels.npz", labels)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    samples = read(tmp_path, part_rows=3)
    assert [sample.label for sample in samples] == [str(number) for number in NUMBERS]
    assert [np.asarray(Image.open(io.BytesIO(sample.data))).tolist() for sample in samples] == pixels.tolist()
    named = read(tmp_path, label_names=str(tmp_path / "classes.txt"), caption_template="a photo of a {label}")
    assert said(named) == [(data, (f"a photo of a {label}",), label) for data, _, label in EVERYTHING]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_of_any_colours_lose_nothing(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, channels), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    samples = read(tmp_path / "a.npy")
    decoded = [np.asarray(Image.open(io.BytesIO(sample.data))).reshape(5, 6, channels) for sample in samples]
    assert np.array_equal(decoded, pixels)
    assert [sample.key for sample in samples] == [f"a.npy#{row}" for row in range(4)]


def test_train_is_read_and_the_note_says_how_to_read_the_other(tmp_path):
    pixels = np.stack(IMAGES)
    for split, rows in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[rows])))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array(NUMBERS[rows], np.uint8))))
    source = open_source(str(tmp_path))
    other = f"{tmp_path}/t10k-images-idx3-ubyte.gz"
    assert source.count == 5
    assert len(source.notes) == 1
    assert other in source.notes[0]
    together = read(tmp_path) + read(other)
    assert [(sample.data, sample.label) for sample in together] == list(zip(FILES, map(str, NUMBERS), strict=True))


# --- paths, globs, parts, identity --------------------------------------------------------------------------------


def test_globs_and_single_files_read_what_they_name(tmp_path):
    folder = make_tar(tmp_path / "tars")
    assert said(read(folder / "train-*.tar")) == EVERYTHING
    assert said(read(f"file://{folder}/train-*.tar")) == EVERYTHING
    assert said(read(folder / "train-0.tar") + read(f"file://{folder}/train-3.tar")) == EVERYTHING
    assert said(read(make_parquet(tmp_path / "tables") / "train-0.parquet")) == EVERYTHING


def test_relative_paths_are_read_from_any_working_directory(tmp_path, monkeypatch):
    make_jsonl(tmp_path / "here" / "source")
    monkeypatch.chdir(tmp_path / "here")
    source = open_source("source", order="source")
    monkeypatch.chdir(tmp_path)
    assert said(rows_of(source)) == EVERYTHING
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said(read("~/here/source")) == EVERYTHING


@pytest.mark.parametrize("part_rows", [1, 3, 7, 100])
@pytest.mark.parametrize("make", [make_jsonl, make_parquet])
def test_parts_partition_the_samples(tmp_path, make, part_rows):
    source = open_source(str(make(tmp_path / "source")), part_rows=part_rows)
    assert sorted(said(rows_of(source))) == sorted(EVERYTHING)
    assert [part.count for part in source.parts] == [len(list(part.read())) for part in source.parts]
    assert sum(part.count for part in source.parts) == source.count == COUNT
    assert len({part.name for part in source.parts}) == len(source.parts)
    if make is make_jsonl:
        assert [part.count for part in source.parts[:-1]] == [part_rows] * (len(source.parts) - 1)


@pytest.mark.parametrize("part_rows", [1, 3, 100])
def test_rows_of_an_array_have_their_number_in_the_file_as_key(tmp_path, part_rows):
    """Key, pixels and label belong together for any size of parts."""
    np.save(tmp_path / "train_images.npy", np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8))
    np.save(tmp_path / "train_labels.npy", np.arange(7) + 10)
    samples = read(tmp_path, part_rows=part_rows)
    assert [sample.key for sample in samples] == [f"train_images.npy#{row}" for row in range(7)]
    assert [sample.label for sample in samples] == [str(row + 10) for row in range(7)]
    assert [Image.open(io.BytesIO(sample.data)).getpixel((0, 0)) for sample in samples] == list(range(7))


def test_a_parts_row_groups_add_up_to_what_was_asked(tmp_path):
    folder = make_parquet(tmp_path / "source")
    assert [part.count for part in open_source(str(folder), part_rows=4).parts] == [4, 3]
    assert [part.count for part in open_source(str(folder), part_rows=1).parts] == [2, 2, 2, 1]
    keys = [sample.key for sample in read(folder, part_rows=1)]
    assert keys == [f"train-0.parquet#{row}" for row in range(COUNT)]


def test_random_order_mixes_classes_and_depends_on_nothing_but_names(tmp_path):
    names = [f"{'cat' if number < 100 else 'dog'}/{number:03d}.png" for number in range(200)]
    for folder in ("one", "two"):
        write_images(tmp_path / folder, [])
        for name in names:
            (tmp_path / folder / name).parent.mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(FILES[0])
    mixed, again = (open_source(str(tmp_path / folder), part_rows=50) for folder in ("one", "two"))
    keys = [[sample.key for sample in part.read()] for part in mixed.parts]
    assert sorted(key for part in keys for key in part) == names
    assert keys == [[sample.key for sample in part.read()] for part in again.parts]
    assert mixed.identity == again.identity
    for part in mixed.parts:
        assert 10 < sum(sample.label == "cat" for sample in part.read()) < 40
    assert [sample.key for sample in read(tmp_path / "one")] == names


def test_random_order_is_that_of_a_hash_which_every_process_computes_alike(tmp_path):
    """The order does not use Python's hash, because an ingest may resume in another process with other hashes."""
    names = [f"{number:02d}.png" for number in range(30)]
    for name in names:
        (tmp_path / name).write_bytes(FILES[0])
    expected = sorted(names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=16).hexdigest())
    assert [sample.key for part in open_source(str(tmp_path)).parts for sample in part.read()] == expected


def test_identity_changes_with_files_metadata_and_options_only(tmp_path):
    folder = make_jsonl(tmp_path / "source")

    def identity(**options):
        return open_source(str(folder), **options).identity

    before = identity()
    seen = {before, identity(part_rows=3), identity(order="source"), identity(caption_template="a {label}")}
    text = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    (folder / "metadata.jsonl").write_text(text.replace("cat", "cow"), encoding="utf-8")
    seen.add(identity())
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    assert identity() == before
    (folder / "00.png").write_bytes(FILES[0] + b"0")
    seen.add(identity())
    (folder / "00.png").rename(folder / "more.png")
    write_images(folder)
    seen.add(identity())
    assert len(seen) == 7
    moved = folder.rename(tmp_path / "moved")
    (moved / "more.png").unlink()
    assert open_source(str(moved)).identity == before


def test_a_part_pickles_without_the_data(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5000, 8, 8), np.uint8))
    write_tar(tmp_path / "t" / "a.tar", [(f"{number}.png", FILES[0] * 100) for number in range(9)])
    for path in ("a.npy", "t"):
        assert all(len(pickle.dumps(part)) < 1000 for part in open_source(str(tmp_path / path)).parts)


# --- folders ------------------------------------------------------------------------------------------------------


def test_captions_are_cleaned_alike(tmp_path):
    dirty = ["  x \n", "", " \t ", "y" * (MAX_CAPTION + 5)]
    folder = write_lines(write_images(tmp_path / "f", ["a"]), [{"file_name": "a.png", "captions": dirty}])
    table = pa.table({"image": [FILES[0]], "caption": [dirty]})
    pq.write_table(table, tmp_path / "t.parquet")
    tar = write_tar(tmp_path / "t.tar", [("a.png", FILES[0]), ("a.json", json.dumps({"text": dirty}).encode())])
    for path in (folder, tmp_path / "t.parquet", tar):
        assert [sample.captions for sample in read(path)] == [("x", "y" * MAX_CAPTION)]


def test_metadata_goes_before_text_files_and_folder_names(tmp_path):
    folder = write_images(tmp_path / "f", ["cat/a", "dog/b", "dog/c"])
    for name in ("cat/a", "dog/b"):
        (folder / f"{name}.txt").write_text("beside")
    write_lines(folder, [{"file_name": "cat/a.png", "text": "said", "label": 3}])
    for table in ("other.csv", "metadata.csv", "dog/metadata.tsv"):
        mark = "\t" if table.endswith("tsv") else ","
        (folder / table).write_text(f"file_name{mark}text\ncat/a.png{mark}unread\n")
    got = {sample.key: (sample.captions, sample.label) for sample in read(folder)}
    assert got == {"cat/a.png": (("said",), "3"), "dog/b.png": (("beside",), None), "dog/c.png": ((), None)}
    notes = open_source(str(folder)).notes
    assert any("dog/metadata.tsv, metadata.csv, other.csv" in note and "not read" in note for note in notes)
    assert any("1 of 3 images have no caption" in note for note in notes)


def test_splits_and_a_lone_folder_are_not_classes(tmp_path):
    splits = write_images(tmp_path / "splits", ["train/a", "test/b"])
    lone = write_images(tmp_path / "lone", ["images/a", "images/b"])
    top = write_images(tmp_path / "top", ["cat/a", "dog/b", "c"])
    assert {sample.label for path in (splits, lone, top) for sample in read(path)} == {None}
    assert any("splits" in note for note in open_source(str(splits)).notes)
    bugs = write_images(tmp_path / "words", ["bug/a", "test/b"])
    assert sorted(sample.label for sample in read(bugs)) == ["bug", "test"]


def test_hidden_files_are_left_out(tmp_path):
    folder = write_images(tmp_path / "f", ["a", "._a.png", ".cache/b.png", "c/.d/e.png"])
    assert [sample.key for sample in read(folder)] == ["a.png"]
    tar = write_tar(tmp_path / "t.tar", [("._a.png", b"junk"), ("a.png", FILES[0])])
    assert said(read(tar)) == [(FILES[0], (), None)]


def test_a_text_file_that_is_not_utf8_costs_its_sample_alone(tmp_path):
    folder = write_images(tmp_path / "f", ["a", "b"])
    (folder / "a.txt").write_bytes(b"fine\n\xff")
    (folder / "b.txt").write_text("b")
    samples = read(folder)
    assert [type(sample) for sample in samples] == [Bad, Sample]
    assert reasons(samples) == ["a.txt, line 2 is not UTF-8; save the file in that encoding"]


def test_an_image_that_has_gone_is_bad(tmp_path):
    source = open_source(str(write_images(tmp_path / "f", ["a", "b"])), order="source")
    (tmp_path / "f" / "a.png").unlink()
    assert [type(sample) for sample in rows_of(source)] == [Bad, Sample]
    assert reasons(rows_of(source)) == ["file a.png is missing"]


GOOD = '{"file_name": "00.png", "text": "x"}\n'


@pytest.mark.parametrize(
    ("file", "content", "culprits"),
    [
        ("metadata.jsonl", GOOD + '{"file_name": "nine.png"}', ["metadata.jsonl, entry 2", "nine.png"]),
        ("metadata.jsonl", GOOD + '{"file_name"', ["metadata.jsonl, line 2", "JSON"]),
        ("metadata.jsonl", "\n" + "[" * 100_000, ["metadata.jsonl, line 2", "JSON"]),
        ("metadata.jsonl", GOOD + "[1]", ["metadata.jsonl, line 2", "object"]),
        ("metadata.jsonl", GOOD.encode() + b'{"text": "\xff"}', ["metadata.jsonl, line 2", "UTF-8"]),
        ("metadata.jsonl", '{"text": "x"}', ["metadata.jsonl, entry 1", "file_name"]),
        ("metadata.jsonl", '{"file_name": "../00.png"}', ["entry 1", "'../00.png'"]),
        ("metadata.jsonl", '{"file_name": "/00.png"}', ["entry 1", "'/00.png'"]),
        ("metadata.jsonl", '{"file_name": "00.png", "text": [1]}', ["entry 1", "caption"]),
        ("metadata.jsonl", '{"file_name": "00.png", "text": "\\ud800"}', ["entry 1", "Unicode"]),
        ("metadata.jsonl", '{"file_name": "00.png", "label": 1.5}', ["entry 1", "label '1.5'"]),
        ("metadata.jsonl", '{"file_name": "00.png", "label": Infinity}', ["entry 1", "label 'inf'"]),
        (
            "metadata.jsonl",
            '{"file_name": "00.png", "label": "cat"}\n{"file_name": "00.png", "label": "dog"}',
            ["00.png", "cat", "dog"],
        ),
        ("a.csv", "file_name,text\n00.png,one, two\n", ["a.csv, line 2", "more fields"]),
        ("a.csv", 'file_name,text\n00.png,"one', ["a.csv, line 2"]),
        ("a.csv", b"file_name,text\n00.png,\xff\n", ["a.csv, line 2", "UTF-8"]),
        ("a.csv", "file_name,label\n00.png,1\n00.png,2\n", ["a.csv, entry 2", "00.png", "'1'", "'2'"]),
        ("a.tsv", "name\ttext\n00.png\tx\n", ["a.tsv, entry 1", "file_name"]),
    ],
)
def test_wrong_metadata_is_named(tmp_path, file, content, culprits):
    folder = write_images(tmp_path / "f")
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=file) as caught:
        open_source(str(folder))
    assert all(culprit in str(caught.value) for culprit in culprits)


def test_numbers_of_any_size_are_labels(tmp_path):
    """Numbers keep their digits, without a conversion to floating point."""
    folder = write_images(tmp_path / "f", ["a", "b", "c"])
    labels = ["9007199254740993", "1" + "0" * 400, "1e3"]
    text = "\n".join(
        f'{{"file_name": "{name}.png", "label": {label}}}' for name, label in zip("abc", labels, strict=True)
    )
    (folder / "metadata.jsonl").write_text(text)
    assert [sample.label for sample in read(folder)] == [*labels[:2], "1000"]


def test_a_label_that_is_no_whole_number_is_a_class_as_text_alone(tmp_path):
    """Every kind of source that distinguishes numbers from text refuses a fraction as label and names the remedy."""
    other = {"file_name": "1.png", "label": "cat"}
    lines = write_lines(write_images(tmp_path / "f", ["0", "1"]), [{"file_name": "0.png", "label": 1.5}, other])
    pq.write_table(pa.table({"image": FILES[:1], "label": [1.5]}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", images=np.stack(IMAGES[:1]), labels=np.array([1.5]))
    write_tar(tmp_path / "a.tar", [("0.png", FILES[0]), ("0.json", b'{"label": 1.5}')])
    for source in (lines, *(tmp_path / f"a.{kind}" for kind in ("parquet", "npz", "tar"))):
        (reason,) = reasons(read(source, missing="bad"))
        assert "label '1.5' is neither a word nor a whole number; write it as text" in reason
    write_lines(tmp_path / "f", [{"file_name": "0.png", "label": "1.5"}, other])
    pq.write_table(pa.table({"image": FILES[:1], "label": ["1.5"]}), tmp_path / "a.parquet")
    write_tar(tmp_path / "a.tar", [("0.png", FILES[0]), ("0.cls", b"1.5")])
    for source in (tmp_path / "f", tmp_path / "a.parquet", tmp_path / "a.tar"):
        assert said(read(source))[0] == (FILES[0], (), "1.5")
    (tmp_path / "f/metadata.jsonl").unlink()
    (tmp_path / "f/metadata.csv").write_text("file_name,label\n0.png,1.5\n")
    assert said(read(tmp_path / "f"))[0] == (FILES[0], (), "1.5")


def test_two_tables_are_one_too_many(tmp_path):
    folder = write_images(tmp_path / "f")
    for name in ("a.csv", "b.tsv"):
        (folder / name).write_text("file_name\n")
    with pytest.raises(ValueError, match=r"a\.csv, b\.tsv"):
        open_source(str(folder))


# --- what is no source --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "path", "culprit"),
    [
        (lambda folder: None, "nowhere", "is missing"),
        (lambda folder: None, "nowhere/*.tar", "is missing"),
        (lambda folder: None, "*.tar", "matches no file"),
        (lambda folder: None, "", "is empty"),
        (lambda folder: (folder / "a.doc").write_text("x"), "", "holds no file that is read"),
        (lambda folder: make_tar(write_images(folder)), "", r"several kinds.*00\.png.*train-0\.tar.*/\*\.tar"),
        (write_images, "00.png", "expected the folder"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(3)), "", "no array of images"),
        (lambda folder: [np.save(folder / f"{n}.npy", np.zeros((2, 3, 3), "u1")) for n in "ab"], "", "give one of"),
    ],
)
def test_what_is_no_source_is_named(tmp_path, make, path, culprit):
    make(tmp_path)
    for given in (f"{tmp_path}/{path}", f"file://{tmp_path}/{path}"):
        with pytest.raises(ValueError, match=culprit) as caught:
            open_source(given)
        assert given.rstrip("/") in str(caught.value)


def test_unknown_schemes_and_options_that_do_not_fit_are_named(tmp_path):
    folder = str(write_images(tmp_path / "f"))
    for culprit, path, options in [
        ("gopher://x/y", "gopher://x/y", {}),
        ("part_rows is 0", folder, {"part_rows": 0}),
        ("order is 'sorted'", folder, {"order": "sorted"}),
        ("images elsewhere", folder, {"images": "elsewhere"}),
        ("caption_template 'a photo'", folder, {"caption_template": "a photo"}),
        ("names.txt is missing", folder, {"label_names": str(tmp_path / "names.txt")}),
    ]:
        with pytest.raises(ValueError, match=culprit):
            open_source(path, **options)


@pytest.mark.parametrize(
    ("text", "culprit"), [("cat\n\ndog\n", "line 2 is blank"), ("cat\ncat", "line 2 is 'cat' again")]
)
def test_wrong_class_names_are_named(tmp_path, text, culprit):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"names\.txt, {culprit}"):
        open_source(str(write_images(tmp_path / "f")), label_names=str(tmp_path / "names.txt"))


def test_numbers_without_a_class_name_are_bad(tmp_path):
    folder = write_images(tmp_path / "f", ["a", "b", "c", "d"])
    labels = ["1", "2", "dog", None]
    write_lines(folder, [{"file_name": f"{n}.png", "label": label} for n, label in zip("abcd", labels, strict=True)])
    (tmp_path / "names.txt").write_text("cat\ndog")
    samples = read(folder, label_names=str(tmp_path / "names.txt"), caption_template="one {label}, {0}")
    assert [getattr(sample, "label", "bad") for sample in samples] == ["dog", "bad", "dog", None]
    assert samples[0].captions == ("one dog, {0}",)
    assert samples[3].captions == ()
    write_lines(
        folder, [{"file_name": "a.png", "label": "cat", "text": "its own"}, {"file_name": "b.png", "label": "dog"}]
    )
    assert [sample.captions for sample in read(folder, caption_template="a {label}")][:2] == [("its own",), ("a dog",)]
    assert "b.png" in reasons(samples)[0]


# --- tar archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "culprit"),
    [
        ([("../bad.png", FILES[0])], r"'\.\./bad\.png'"),
        ([("/bad.png", FILES[0])], r"'/bad\.png'"),
        ([("bad.png", FILES[0]), (link("bad.txt"), b"")], "link"),
        ([(link("bad.png", tarfile.LNKTYPE), b"")], "link"),
        ([("bad.png", FILES[0]), ("bad.png", FILES[1])], "two members"),
        ([("bad.png", FILES[0]), ("bad.jpg", FILES[1])], "2 images"),
        ([("bad.txt", b"words")], "no image"),
        ([("bad", b"words")], "no image"),
        ([("bad.png", FILES[0]), ("bad.txt", b"\xff")], "UTF-8"),
        ([("bad.png", FILES[0]), ("bad.json", b"{")], "JSON"),
        ([("bad.png", FILES[0]), ("bad.json", b'{"label": 1}'), ("bad.cls", b"2")], "label '2'"),
    ],
)
def test_a_bad_sample_of_an_archive_is_named_and_alone(tmp_path, members, culprit):
    write_tar(tmp_path / "a.tar", [("first.png", FILES[5]), *members, ("last.png", FILES[6])])
    samples = read(tmp_path)
    assert [getattr(sample, "data", None) for sample in samples] == [FILES[5], None, FILES[6]]
    assert samples[1].key.startswith("a.tar/")
    with pytest.raises(ValueError, match=culprit):
        raise ValueError(samples[1].reason)


def test_names_end_at_their_first_dot(tmp_path):
    """An image named exactly as its sample is used and others are ignored; a single image with a longer name is used."""
    members = [("d.x/a.seg.png", FILES[0]), ("d.x/a.png", FILES[1]), ("d.x/a.txt", b"words"), ("b.left.png", FILES[2])]
    write_tar(tmp_path / "a.tar", members)
    samples = read(tmp_path)
    assert said(samples) == [(FILES[1], ("words",), None), (FILES[2], (), None)]
    assert [sample.key for sample in samples] == ["a.tar/d.x/a", "a.tar/b"]


def test_a_key_that_comes_again_is_bad(tmp_path):
    """A second image under the same name is refused, so that captions of the two are not mixed."""
    twice = [("a.png", FILES[0]), ("a.txt", b"one"), ("b.png", FILES[1]), ("a.png", FILES[2]), ("a.txt", b"two")]
    write_tar(tmp_path / "a.tar", twice)
    samples = read(tmp_path)
    assert said(samples[:2]) == [(FILES[0], ("one",), None), (FILES[1], (), None)]
    assert [sample.key for sample in samples[2:]] == ["a.tar/a"]
    assert "'a' appear again" in samples[2].reason


@pytest.mark.parametrize("suffix", ["txt", "json", "cls"])
@pytest.mark.parametrize("images_first", [True, False])
def test_descriptions_apart_from_their_images_are_refused_with_the_remedy(tmp_path, suffix, images_first):
    """Captions apart from their image refuse the archive, also with --skip-bad, since they would be lost."""
    images = [(f"{name}.png", data) for name, data in zip("ab", FILES, strict=False)]
    texts = [(f"{name}.{suffix}", b'{"label": 1}') for name in "ab"]
    write_tar(tmp_path / "a.tar", images + texts if images_first else texts + images)
    with pytest.raises(ValueError, match=r"archive a\.tar: files of 'a' lie apart .* tar --sort=name"):
        read(tmp_path, missing="bad")


def test_files_that_nothing_reads_may_lie_apart(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", FILES[0]), ("b.png", FILES[1]), ("a.npy", b""), ("b.npy", b"")])
    samples = read(tmp_path, missing="bad")
    assert said(samples[:2]) == [(FILES[0], (), None), (FILES[1], (), None)]
    assert [sample.key for sample in samples[2:]] == ["a.tar/a", "a.tar/b"]


def test_a_huge_member_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("raysde.data.ingest.sources.webdataset.MAX_MEMBER", 1000)
    write_tar(tmp_path / "a.tar", [("a.png", bytes(1001)), ("b.png", bytes(1000)), ("c.png", b"")])
    samples = read(tmp_path)
    assert [getattr(sample, "data", None) for sample in samples] == [None, bytes(1000), b""]
    assert "1001 bytes" in samples[0].reason


def test_folders_and_devices_in_an_archive_are_passed_over(tmp_path):
    members = [(link("d", tarfile.DIRTYPE), b""), ("d/a.png", FILES[0]), (link("d/pipe", tarfile.FIFOTYPE), b"")]
    write_tar(tmp_path / "a.tar", [*members, ("d/a.txt", b"words")])
    assert said(read(tmp_path)) == [(FILES[0], ("words",), None)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_cut_anywhere_yields_what_was_whole_and_says_so(tmp_path, mode):
    """A cut is never taken for the archive's end, and no sample is changed."""
    path = write_tar(tmp_path / "a.tar", [(f"{name}.png", data) for name, data in zip(NAMES, FILES, strict=True)], mode)
    whole, data = read(path), path.read_bytes()
    assert said(whole) == [(file, (), None) for file in FILES]
    ends = np.cumsum([512 + -(-len(file) // 512) * 512 for file in FILES]).tolist()
    last = ends[-1] + 511 if mode == "w" else len(data) - 60
    for stop in range(0, last + 1, 128):
        path.write_bytes(data[:stop])
        samples = read(path)
        assert samples[:-1] == whole[: len(samples) - 1]
        assert samples[-1].key == "a.tar"
        assert "a.tar is damaged" in samples[-1].reason
        if mode == "w":  # a sample is complete once the next header or the end mark is read
            assert len(samples) - 1 == sum(end + 512 <= stop for end in ends)


def test_what_follows_the_end_of_an_archive_is_not_lost_silently(tmp_path):
    """A second archive in the same file is reported; two separately compressed halves of one archive are read."""
    path = write_tar(tmp_path / "a.tar", [("a.png", FILES[0]), ("b.png", FILES[1])])
    data = path.read_bytes()
    path.write_bytes(data + data)
    assert said(read(path)[:2]) == [(FILES[0], (), None), (FILES[1], (), None)]
    assert "more after" in reasons(read(path))[0]
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]))
    assert said(read(tmp_path / "c.tar.gz")) == [(FILES[0], (), None), (FILES[1], (), None)]


def test_a_compressed_archives_checksum_is_compared(tmp_path):
    path = write_tar(tmp_path / "a.tgz", [("a.png", FILES[0]), ("b.png", FILES[1])], "w:gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert "a.tgz is damaged" in reasons(read(path))[0]


def test_a_damaged_header_is_not_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", FILES[0]), ("b.png", FILES[1]), ("c.png", FILES[2])])
    data = bytearray(path.read_bytes())
    data[data.index(b"b.png") + 150] ^= 1
    path.write_bytes(data)
    samples = read(path)
    assert [sample.key for sample in samples] == ["a.tar"]
    assert "bad checksum" in samples[0].reason


# --- Parquet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image", "IMG", "jpg", "photo"])
def test_image_columns_are_found(tmp_path, name):
    """Image columns are found by name, or under another name by their type, a struct of bytes and path."""
    images = [{"bytes": data, "path": "x"} for data in FILES] if name == "photo" else FILES
    table = pa.table({"key": NAMES, name: images, "label": pa.array(LABELS).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    samples = read(tmp_path)
    assert said(samples) == [(data, (), label) for data, label in zip(FILES, LABELS, strict=True)]
    assert [sample.key for sample in samples] == [f"a.parquet#{row}" for row in range(COUNT)]


def test_paths_are_read_from_the_files_folder_or_from_images(tmp_path):
    write_images(tmp_path / "tables" / "deep")
    write_images(tmp_path / "elsewhere", [f"{name}x" for name in NAMES])
    paths = [f"{name}.png" for name in NAMES]
    pq.write_table(pa.table({"file_name": paths, "text": NAMES}), tmp_path / "tables" / "deep" / "a.parquet")
    expected = [(data, (name,), None) for data, name in zip(FILES, NAMES, strict=True)]
    assert said(read(tmp_path / "tables" / "deep" / "a.parquet")) == expected
    for name in NAMES:
        (tmp_path / "elsewhere" / f"{name}x.png").rename(tmp_path / "elsewhere" / f"{name}.png")
        (tmp_path / "tables" / "deep" / f"{name}.png").unlink()
    assert len(reasons(read(tmp_path / "tables"))) == COUNT
    for images in (str(tmp_path / "elsewhere"), f"file://{tmp_path}/elsewhere"):
        assert said(read(tmp_path / "tables", images=images)) == expected


def test_bad_rows_are_named_and_alone(tmp_path):
    write_images(tmp_path, ["a"])
    rows = [
        {"image": {"bytes": None, "path": "a.png"}, "label": 0},
        {"image": None, "label": 0},
        {"image": {"bytes": None, "path": None}, "label": 0},
        {"image": {"bytes": None, "path": "../a.png"}, "label": 0},
        {"image": {"bytes": None, "path": "/a.png"}, "label": 0},
        {"image": {"bytes": None, "path": "b.png"}, "label": 0},
        {"image": {"bytes": None, "path": ""}, "label": 0},
        {"image": {"bytes": FILES[1], "path": None}, "label": 3},
        {"image": {"bytes": FILES[1], "path": None}, "label": -1},
    ]
    features = {"label": {"names": CLASSES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), tmp_path / "x.parquet")
    samples = read(tmp_path / "x.parquet")
    assert said([samples[0], samples[8]]) == [(FILES[0], (), "cat"), (FILES[1], (), None)]
    found = reasons(samples)
    culprits = ["null", "null", "../a.png", "/a.png", "b.png is missing", "missing", "label 3"]
    assert len(found) == len(culprits)
    for row, (reason, culprit) in enumerate(zip(found, culprits, strict=True), start=1):
        assert reason.startswith(f"x.parquet#{row}: ")
        assert culprit in reason


def test_parquet_files_that_do_not_fit_are_named(tmp_path):
    good = make_parquet(tmp_path / "good") / "train-0.parquet"
    data = good.read_bytes()
    for name, content, culprit in [
        ("cut", data[: len(data) // 2], r"cut\.parquet is not a whole Parquet file"),
        ("empty", b"", r"empty\.parquet is not a whole Parquet file"),
    ]:
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=culprit):
            open_source(str(tmp_path / f"{name}.parquet"))
    pq.write_table(pa.table({"id": [1]}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none\.parquet has no column of images.*id: int64"):
        open_source(str(tmp_path / "none.parquet"))
    pq.write_table(pa.table({"image": FILES}), good.parent / "train-1.parquet")
    with pytest.raises(ValueError, match=r"train-1\.parquet is read as"):
        open_source(str(good.parent))
    with pytest.raises(ValueError, match=r"images .* column 'image'"):
        open_source(str(good.parent / "train-1.parquet"), images=str(tmp_path))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="holds no row"):
        open_source(str(tmp_path / "rows.parquet"))


def test_a_damaged_page_costs_its_row_group(tmp_path):
    table = pa.table({"image": FILES, "label": NUMBERS})
    path = tmp_path / "a.parquet"
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(table, path, row_group_size=2, write_page_checksum=True, **plain)
    source = open_source(str(path))
    whole = rows_of(source)
    data = bytearray(path.read_bytes())
    data[data.index(FILES[2]) + 20] ^= 255
    path.write_bytes(data)
    samples = rows_of(source)
    assert [sample.key for sample in samples] == [sample.key for sample in whole]
    assert [type(sample) is Bad for sample in samples] == [False, False, True, True, False, False, False]
    assert [sample for sample in samples if isinstance(sample, Sample)] == whole[:2] + whole[4:]
    assert all("a.parquet, row group 1" in reason for reason in reasons(samples))


def test_train_and_test_in_one_folder_are_noted(tmp_path):
    folder = make_parquet(tmp_path / "f")
    (folder / "test-0.parquet").write_bytes((folder / "train-0.parquet").read_bytes())
    assert any("train-*" in note for note in open_source(str(folder)).notes)
    assert not any("train-*" in note for note in open_source(str(folder / "train-*.parquet")).notes)


# --- arrays -------------------------------------------------------------------------------------------------------


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_arrays_that_do_not_fit_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.stack(IMAGES)
    whole = idx(pixels)
    saved = io.BytesIO()
    np.save(saved, pixels)
    objects = io.BytesIO()
    np.save(objects, np.array([[[Trap()]]], dtype=object), allow_pickle=True)
    zipped = io.BytesIO()
    np.savez(zipped, images=pixels)
    fortran, fortran_grey = io.BytesIO(), io.BytesIO()
    np.save(fortran, np.asfortranarray(pixels))
    np.save(fortran_grey, np.asfortranarray(pixels[..., 0]))
    floats, channels_first = io.BytesIO(), io.BytesIO()
    np.save(floats, pixels.astype("f4"))
    np.save(channels_first, np.zeros((2, 3, 8, 8), "u1"))
    for name, content, culprit in [
        ("a-idx3-ubyte", whole[:-1], "asks for"),
        ("a-idx3-ubyte", whole + b"0", "asks for"),
        ("a-idx3-ubyte", b"\1" + whole[1:], "not those of an idx file"),
        ("a-idx3-ubyte", whole[:9], "cannot be read"),
        ("a-idx3-ubyte.gz", gzip.compress(whole)[:-9], "cannot be read"),
        ("a-idx3-ubyte.gz", gzip.compress(whole[:-1]), "asks for"),
        ("a-idx3-ubyte.gz", whole, "cannot be read"),
        ("a.npy", saved.getvalue()[:-1], "asks for"),
        ("a.npy", b"", "cannot be read"),
        ("a.npy", objects.getvalue(), "Python objects"),
        ("a.npy", fortran.getvalue(), "Fortran"),
        ("a.npy", fortran_grey.getvalue(), "Fortran"),
        ("a.npy", floats.getvalue(), "float32"),
        ("a.npy", channels_first.getvalue(), r"\[2, 3, 8, 8\], expected uint8"),
        ("a.npz", zipped.getvalue()[:-30], "not a whole .npz"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=culprit) as caught:
            open_source(str(tmp_path / name))
        assert name in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("labels", [np.zeros(6, "u1"), np.zeros(8, "u1"), np.zeros((7, 3), "u1")])
def test_labels_that_do_not_fit_are_named(tmp_path, labels):
    np.savez(tmp_path / "a.npz", images=np.stack(IMAGES), labels=labels)
    with pytest.raises(ValueError, match=r"a\.npz:labels has shape .* 7 images"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("colours", [3, 4])
def test_an_array_of_one_image_is_no_array_of_narrow_ones(tmp_path, colours):
    image = np.random.default_rng(0).integers(0, 256, (32, 24, colours), dtype=np.uint8)
    np.save(tmp_path / "one.npy", image)
    with pytest.raises(ValueError, match=rf"one\.npy .*one image.*save it as \[1, 32, 24, {colours}\]"):
        open_source(str(tmp_path))
    np.save(tmp_path / "one.npy", image[None])
    assert len(read(tmp_path)) == 1
    np.save(tmp_path / "one.npy", image[..., None])
    assert len(read(tmp_path)) == 32
