"""Folders of images with descriptions in other files, under other names, and about absent images."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.data.ingest.samples import Bad
from raysde.data.ingest.sources import open_source
from tests.support.sources import FILES, read, reasons, write_images, write_lines


def notes_of(folder, **options):
    return open_source(str(folder), **options).notes


def found(folder, **options):
    """Return (captions, label) by key."""
    return {sample.key: (sample.captions, sample.label) for sample in read(folder, **options)}


def write_json(folder, file, document):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(document))
    return folder


# --- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metadata.csv", "file_name, text, label\n00.png, red, cat\n01.png, blue, dog\n"),
        ("metadata.csv", 'file_name, text, label\n00.png, "red", cat\n01.png, "blue", dog\n'),
        ("Metadata.CSV", "FILE_NAME,Text,LABEL\n00.png,red,cat\n01.png,blue,dog\n"),
        ("about.tsv", "filename\tcaption_text\tlabels\n00.png\tred\tcat\n01.png\tblue\tdog\n"),
        ("list.csv", "Image Path,Caption,Class\n./00.png,red,cat\n 01.png ,blue,dog\n"),
        (
            "Metadata.jsonl",
            '{"Filename": "00.png", "Prompt": "red", "Label": "cat"}\n{"image": "01.png", "caption": "blue", "class": "dog"}',
        ),
        (
            "train.jsonl",
            '{"file-name": "00.png", "TEXT": "red", "labels": ["cat"]}\n{"file-name": "01.png", "TEXT": "blue", "labels": ["dog"]}',
        ),
        (
            "metadata.NDJSON",
            '{"img_path": "00.png", "texts": ["red"], "label": "cat"}\n{"img_path": "01.png", "texts": "blue", "label": "dog"}',
        ),
        (
            "metadata.json",
            '[{"file_name": "00.png", "Text": "red", "label": "cat"}, {"file_name": "01.png", "Text": "blue", "label": "dog"}]',
        ),
        (
            "annotations.json",
            '{"00.png": {"caption": "red", "label": "cat"}, "01": {"caption": "blue", "label": "dog"}}',
        ),
    ],
)
def test_columns_and_files_are_found_in_any_spelling(tmp_path, file, content):
    folder = write_images(tmp_path / "f", ["00", "01"])
    (folder / file).write_text(content)
    assert found(folder) == {"00.png": (("red",), "cat"), "01.png": (("blue",), "dog")}


@pytest.mark.parametrize(
    ("file", "content", "culprits"),
    [
        ("metadata.csv", "file_name,Text, text\n00.png,a,b\n", ["'Text' and 'text'", "rename"]),
        ("metadata.csv", "file_name,text,text\n00.png,a,b\n", ["line 1", "'text' twice"]),
        ("metadata.csv", "file_name,id,id\n00.png,1,2\n", ["line 1", "'id' twice"]),
        ("a.tsv", "file_name\tlabel\tclass\n00.png\t1\tcat\n", ["entry 1", "'label' and 'class'", "--label-column"]),
        ("metadata.jsonl", '{"file_name": "00.png", "text": "a", "caption": "b"}', ["entry 1", "'text' and 'caption'"]),
        ("metadata.jsonl", '\n{"file_name": "00.png", "text": "a", "text": "b"}', ["line 2", "'text' is given twice"]),
        ("metadata.jsonl", '{"file_name": "00.png", "more": {"id": 1, "id": 1}}', ["line 1", "'id' is given twice"]),
        ("metadata.jsonl", '{"file_name": "00.png", "path": "01.png"}', ["two images", "00.png", "01.png"]),
        ("captions.json", '{"00.png": "a", "00.png": "b"}', ["captions.json", "'00.png' is given twice"]),
        (
            "metadata.json",
            '[{"file_name": "00.png", "label": "a"}, {"image": "00.png", "label": "b"}]',
            ["entry 2", "'a'"],
        ),
    ],
)
def test_what_may_mean_two_things_is_named(tmp_path, file, content, culprits):
    folder = write_images(tmp_path / "f", ["00", "01"])
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=file.replace(".", r"\.")) as caught:
        open_source(str(folder))
    assert all(culprit in str(caught.value) for culprit in culprits)


def test_columns_that_say_the_same_are_no_conflict(tmp_path):
    folder = write_images(tmp_path / "f", ["00"])
    row = {"file_name": "00.png", "caption": "a", "captions": ["a", "b"], "text": "", "label": 3, "class": "3"}
    assert found(write_lines(folder, [row])) == {"00.png": (("a", "b"), "3")}


def test_columns_that_are_not_read_are_named_and_can_be_chosen(tmp_path):
    folder = write_images(tmp_path / "f", ["00"])
    write_lines(folder, [{"file_name": "00.png", "blip_caption": "a", "category": "cat", "width": 8}])
    assert any("columns blip_caption, category, width are not read" in note for note in notes_of(folder))
    assert any("no column of captions" in note and "--caption-column" in note for note in notes_of(folder))
    chosen = {"caption_column": "Blip Caption", "label_column": "category"}
    assert found(folder, **chosen) == {"00.png": (("a",), "cat")}
    assert any(note.endswith("columns width are not read") for note in notes_of(folder, **chosen))
    assert open_source(str(folder)).identity != open_source(str(folder), caption_column="blip_caption").identity
    with pytest.raises(ValueError, match=r"has no column 'words'.*it has file_name, blip_caption, category, width"):
        open_source(str(folder), caption_column="words")


# --- files beside images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("DSC_1.JPG", "DSC_1.TXT"),
        ("IMG_1.PNG", "img_1.txt"),
        ("a.png", "A.Txt"),
        ("x.v1.5.png", "x.v1.5.caption"),
        ("d/x.jpg", "d/x.jpg.txt"),
        ("x.png", "x.text"),
    ],
)
def test_text_files_are_found_in_any_spelling(tmp_path, image, text):
    folder = write_images(tmp_path / "f", [image, "other.png"])
    (folder / text).write_text("words")
    assert found(folder) == {image: (("words",), None), "other.png": ((), None)}


def test_text_files_of_no_image_or_of_two_are_named(tmp_path):
    folder = write_images(tmp_path / "f", ["A.png", "a.png", "b.png"])
    for name in ("a.txt", "B.txt", "b.txt", "prompts.txt"):
        (folder / name).write_text(name)
    assert found(folder) == {"A.png": ((), None), "a.png": (("a.txt",), None), "b.png": (("b.txt",), None)}
    assert any("not read" in note and "B.txt, prompts.txt" in note for note in notes_of(folder))


def test_a_text_file_that_two_images_may_own_is_named(tmp_path):
    folder = write_images(tmp_path / "f", ["Foo.png", "foo.png"])
    (folder / "FOO.txt").write_text("whose")
    assert found(folder) == {"Foo.png": ((), None), "foo.png": ((), None)}
    assert any("not read" in note and "FOO.txt" in note for note in notes_of(folder))


def write_download(folder, *, stats=True):
    """Write the files of img2dataset with output_format=files."""
    for piece in ("00000", "00001"):
        write_images(folder / piece, [f"{piece}000{number}.jpg" for number in range(2)])
        for number in range(2):
            key = f"{piece}000{number}"
            (folder / piece / f"{key}.txt").write_text(f"words {key}")
            row = {
                "url": "http://x/y",
                "caption": f"words {key}",
                "key": key,
                "status": "success",
                "width": 8,
                "exif": "{}",
            }
            (folder / piece / f"{key}.json").write_text(json.dumps(row))
        pq.write_table(pa.table({"url": ["x"], "caption": ["y"], "key": ["z"]}), folder / f"{piece}.parquet")
        if stats:
            (folder / f"{piece}_stats.json").write_text(json.dumps({"count": 2}))
    return folder


@pytest.mark.parametrize("stats", [True, False])
def test_a_download_of_img2dataset_is_a_folder(tmp_path, stats):
    folder = write_download(tmp_path / "f", stats=stats)
    keys = [f"{piece}000{number}" for piece in ("00000", "00001") for number in range(2)]
    assert found(folder) == {f"{key[:5]}/{key}.jpg": ((f"words {key}",), None) for key in keys}
    notes = notes_of(folder)
    assert any("download" in note and "00000.parquet" in note for note in notes)
    assert any("no label is taken" in note for note in notes)
    assert "key 'url' of .json" in read(folder)[0].unread
    assert found(folder / "00001") == {f"{key}.jpg": ((f"words {key}",), None) for key in keys[2:]}


def test_a_table_that_is_no_record_is_still_another_kind(tmp_path):
    folder = write_images(tmp_path / "f", ["00000/a"])
    pq.write_table(pa.table({"image": FILES[:1]}), folder / "images.parquet")
    with pytest.raises(ValueError, match="several kinds"):
        open_source(str(folder))


def test_json_beside_images_is_read_and_its_faults_are_named(tmp_path):
    folder = write_images(tmp_path / "f", ["cat/a", "dog/b", "dog/c", "dog/d"])
    for name, content in {
        "cat/a.json": '{"caption": "one", "shapes": []}',
        "dog/b.json": '{"label": "cat"}',
        "dog/c.json": '{"label": "dog", "label": "dog"}',
        "dog/d.json": "[1, 2]",
    }.items():
        (folder / name).write_text(content)
    samples = read(folder)
    assert [(s.captions, s.label, s.unread) for s in samples if not isinstance(s, Bad)] == [
        (("one",), "cat", ("key 'shapes' of .json",)),
        ((), "dog", (".json files without an object",)),
    ]
    assert "'cat' in dog/b.json and 'dog' by its folder" in reasons(samples)[0]
    assert "dog/c.json: key 'label' is given twice" in reasons(samples)[1]


# --- documents that describe many images ----------------------------------------------------------------------------


def test_edm_labels_go_before_folders(tmp_path):
    names = [f"0000{piece}/img0000000{number}.png" for piece in range(2) for number in range(3)]
    folder = write_images(tmp_path / "f", names)
    write_json(folder, "dataset.json", {"labels": [[name, number % 3] for number, name in enumerate(names)]})
    assert {key: label for key, (_, label) in found(folder).items()} == {n: str(i % 3) for i, n in enumerate(names)}
    before = open_source(str(folder)).identity
    write_json(folder, "dataset.json", {"labels": [[name, 2 - number % 3] for number, name in enumerate(names)]})
    assert open_source(str(folder)).identity != before
    write_json(folder, "dataset.json", {"labels": None})
    assert {label for _, label in found(folder).values()} == {None}
    assert any("dataset.json gives no labels" in note for note in notes_of(folder))
    write_json(folder, "dataset.json", {"labels": [[name, [0.5] * 25] for name in names]})
    with pytest.raises(ValueError, match=r"dataset\.json, label 1 .*is a list"):
        open_source(str(folder))


@pytest.mark.parametrize(
    "place", ["captions_train2017.json", "annotations/captions_train2017.json", "dataset_coco.json"]
)
@pytest.mark.parametrize("home", ["", "train2017/"])
def test_coco_captions_are_read(tmp_path, place, home):
    names = [f"{number:012d}.jpg" for number in range(3)]
    folder = write_images(tmp_path / "f", [home + name for name in names])
    images = [{"id": 40 + number, "file_name": name, "height": 8} for number, name in enumerate(names)]
    said = [{"image_id": 40 + n, "id": 100 * k + n, "caption": f"{k} of {n}\n"} for k in range(2) for n in range(3)]
    write_json(folder, place, {"info": {}, "images": images, "annotations": said, "licenses": []})
    assert found(folder) == {home + name: ((f"0 of {n}", f"1 of {n}"), None) for n, name in enumerate(names)}
    assert any(place in note for note in notes_of(folder))
    write_json(folder, place, {"images": images, "annotations": [*said, {"image_id": 7, "caption": "x"}]})
    with pytest.raises(ValueError, match=r"annotation 7.*no image with the id 7"):
        open_source(str(folder))


def test_coco_splits_are_no_classes(tmp_path):
    folder = write_images(tmp_path / "f", ["train2017/1.jpg", "val2017/2.jpg"])
    for split, number in (("train", 1), ("val", 2)):
        images, said = [{"id": number, "file_name": f"{number}.jpg"}], [{"image_id": number, "caption": split}]
        write_json(folder, f"annotations/captions_{split}2017.json", {"images": images, "annotations": said})
        boxes = [{"image_id": number, "category_id": 3, "bbox": []}]
        write_json(folder, f"annotations/instances_{split}2017.json", {"images": images, "annotations": boxes})
    assert found(folder) == {"train2017/1.jpg": (("train",), None), "val2017/2.jpg": (("val",), None)}
    assert any(
        "not read" in n and "instances_train2017.json, annotations/instances_val2017.json" in n
        for n in notes_of(folder)
    )


COCO = {"images": [{"id": 1, "file_name": "cat/a.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}


@pytest.mark.parametrize(
    ("document", "labels"),
    [
        (COCO, (None, None)),
        ({"labels": None}, (None, None)),
        ({"cat/a.png": "x"}, ("cat", "dog")),
        ([{"file_name": "cat/a.png", "text": "x"}], ("cat", "dog")),
        ([{"file_name": "cat/a.png", "label": 3}], ("3", None)),
    ],
)
def test_folders_are_classes_unless_a_document_speaks_of_labels(tmp_path, document, labels):
    """EDM's and COCO's forms define the labels, if any; with captions in other forms, folders are the labels."""
    folder = write_json(write_images(tmp_path / "f", ["cat/a", "dog/b"]), "about.json", document)
    assert tuple(label for _, label in found(folder).values()) == labels


@pytest.mark.parametrize(
    ("file", "document", "expected"),
    [
        ("captions.json", {"a.png": "x", "b.png": ["y", "z"]}, [(("x",), None), (("y", "z"), None)]),
        ("prompts.json", {"a": "x", "b": "y"}, [(("x",), None), (("y",), None)]),
        ("labels.json", {"a.png": "cat", "b.png": "dog"}, [((), "cat"), ((), "dog")]),
        ("classes.json", {"a.png": 3, "b.png": 4}, [((), "3"), ((), "4")]),
        ("meta_cap.json", {"a.png": {"caption": "x", "tags": "t"}, "b.png": {}}, [(("x",), None), ((), None)]),
    ],
)
def test_descriptions_by_name_are_read(tmp_path, file, document, expected):
    folder = write_json(write_images(tmp_path / "f", ["a", "b"]), file, document)
    assert list(found(folder).values()) == expected
    assert any(f"are read from {file}" in note for note in notes_of(folder))


@pytest.mark.parametrize(
    ("file", "document"),
    [
        ("class_indices.json", {"0": "cat", "1": "dog"}),
        ("annotations.json", {"data": [{"file_name": "cat/a.png"}]}),
        ("instances_val.json", {"images": [{"id": 1, "file_name": "cat/a.png"}], "annotations": [{"category_id": 1}]}),
        ("captions.yaml", "a"),
        ("captions.txt", "a"),
    ],
)
def test_a_description_that_is_not_read_is_named_beside_the_labels_of_folders(tmp_path, file, document):
    folder = write_json(write_images(tmp_path / "f", ["cat/a", "dog/b"]), file, document)
    assert {key: label for key, (_, label) in found(folder).items()} == {"cat/a.png": "cat", "dog/b.png": "dog"}
    assert any("not read" in note and file in note for note in notes_of(folder))


@pytest.mark.parametrize(
    ("file", "document"),
    [
        ("captions.json", {"a/1.png": "y", "1.png": "x"}),
        ("dataset.json", {"labels": [["a/1.png", 0], ["1.png", 1]]}),
        (
            "captions_train2017.json",
            {
                "images": [{"id": 1, "file_name": "a/1.png"}, {"id": 2, "file_name": "1.png"}],
                "annotations": [{"image_id": 2, "caption": "x"}],
            },
        ),
    ],
)
def test_a_name_that_several_images_have_is_refused(tmp_path, file, document):
    folder = write_json(write_images(tmp_path / "f", ["a/1", "b/1"]), file, document)
    with pytest.raises(ValueError, match=r"image '1(\.png)?' may be any of a/1\.png, b/1\.png; write its path"):
        open_source(str(folder))


def test_captions_by_stem_name_the_image_that_is_not_there(tmp_path):
    """A document most of whose keys are images describes images, and a key without an image is named."""
    folder = write_json(
        write_images(tmp_path / "f", ["1", "2"]), "captions.json", {"1": "one", "2": "two", "3": "three"}
    )
    with pytest.raises(ValueError, match="image '3' is not among the images"):
        open_source(str(folder))
    samples = read(folder, missing="bad")
    assert [sample.captions for sample in samples if not isinstance(sample, Bad)] == [("one",), ("two",)]
    assert len(reasons(samples)) == 1


def test_a_broken_document_is_refused(tmp_path):
    folder = write_images(tmp_path / "f", ["cat/a", "dog/b"])
    (folder / "dataset.json").write_text('{"labels": [')
    with pytest.raises(ValueError, match=r"dataset\.json is not valid JSON: Expecting value: line 1") as refusal:
        open_source(str(folder))
    assert "jsonl" not in str(refusal.value)


@pytest.mark.parametrize(("text", "lines"), [('{"a": 1}\n{"b": 2}\n', True), ('{"a": 1} {"b": 2}', False)])
def test_lines_of_json_in_a_json_file_are_refused_with_their_place(tmp_path, text, lines):
    folder = write_images(tmp_path / "f", ["cat/a", "dog/b"])
    (folder / "captions.json").write_text(text)
    with pytest.raises(ValueError, match=r"captions\.json is not valid JSON: Extra data") as refusal:
        open_source(str(folder))
    assert ("belong in a .jsonl file" in str(refusal.value)) == lines


@pytest.mark.parametrize(("image", "note", "ending"), [(1, "1", "only one with 1"), ("1", 1, "only one with '1'")])
def test_coco_ids_of_another_type_are_named(tmp_path, image, note, ending):
    document = {
        "images": [{"id": image, "file_name": "1.png"}],
        "annotations": [{"image_id": note, "caption": "x"}],
    }
    folder = write_json(write_images(tmp_path / "f", ["1"]), "captions.json", document)
    with pytest.raises(ValueError, match=f"annotation 1: there is no image with the id {note!r}, {ending}"):
        open_source(str(folder))


SEVERAL = {
    "lines": lambda one, two: {
        "metadata.jsonl": "\n".join(json.dumps({"file_name": "a.png", **row}) for row in (one, two))
    },
    "entries": lambda one, two: {"list.json": json.dumps([{"file_name": "a.png", **row} for row in (one, two)])},
    "tables": lambda one, two: {
        f"metadata.{kind}": "\n".join(
            mark.join(line) for line in zip(("file_name", "a.png"), *row.items(), strict=True)
        )
        for kind, mark, row in (("csv", ",", one), ("tsv", "\t", two))
    },
    "documents": lambda one, two: {f"{n}.json": json.dumps({"a.png": row}) for n, row in enumerate((one, two))},
    "files beside it": lambda one, two: {"a.json": json.dumps(one), "a.png.json": json.dumps(two)},
}


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("kind", SEVERAL)
def test_several_descriptions_of_an_image_add_up(tmp_path, kind, label_first):
    """A label from one description and a caption from another are combined, in either order."""
    folder = write_images(tmp_path / "f", ["a"])
    parts = ({"label": "cat"}, {"text": "x"})
    for name, text in SEVERAL[kind](*(parts if label_first else parts[::-1])).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    assert found(folder) == {"a.png": (("x",), "cat")}


# --- images that are not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "document"),
    [
        ("metadata.jsonl", {"file_name": "gone.png", "text": "x"}),
        ("metadata.json", [{"file_name": "a.png"}, {"file_name": "gone.png", "text": "x"}]),
        ("dataset.json", {"labels": [["a.png", 1], ["gone.png", 2]]}),
        ("captions.json", {"a.png": "x", "gone.png": "y"}),
        (
            "coco.json",
            {
                "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}],
                "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}],
            },
        ),
    ],
)
def test_an_image_that_is_described_and_not_there_is_refused_or_bad(tmp_path, file, document):
    folder = write_json(write_images(tmp_path / "f", ["a"]), file, document)
    with pytest.raises(ValueError, match=r"'gone\.png' is not among the images .*--skip-bad") as caught:
        open_source(str(folder))
    assert file in str(caught.value)
    source = open_source(str(folder), missing="bad")
    assert source.count == 2
    samples = read(folder, missing="bad")
    assert [sample.key for sample in samples] == ["a.png", "gone.png"]
    assert [file in reason and "gone.png" in reason for reason in reasons(samples)] == [True]
    assert not any("2 of 2" in note or "2 images" in note for note in source.notes)


@pytest.mark.parametrize(
    ("file", "text", "culprit", "key"),
    [
        ("metadata.jsonl", '{"file_name": "b.png", "text": 7}', "entry 2: caption '7'", "b.png"),
        ("metadata.jsonl", '{"file_name": "b.png", "label": 1.5}', "entry 2: label '1.5'", "b.png"),
        ("metadata.jsonl", '{"file_name": "gone.png", "text": 7}', "entry 2: caption '7'", "gone.png"),
        ("metadata.jsonl", '{"file_name": "b.png", "text": "x"', "line 2 is not valid JSON", None),
        ("metadata.jsonl", "[1]", "line 2 is not a JSON object", None),
        ("metadata.jsonl", '{"text": "x"}', "entry 2: no image is named", None),
        ("metadata.csv", "b.png,x,y", "line 3 has more fields than the header", "b.png"),
        ("metadata.csv", ",x", "entry 2: no image is named", None),
        ("metadata.csv", "../b.png,x", "entry 2: path '../b.png'", None),
        ("metadata.json", '{"file_name": "b.png", "text": 7}', "entry 2: caption '7'", "b.png"),
        ("metadata.json", '{"text": "x"}', "entry 2: no image is named", None),
        ("captions.json", '"b.png": 1.5', "key 'b.png': label '1.5'", "b.png"),
        ("dataset.json", '["b.png", 1.5]', "label 2 (b.png): label '1.5'", "b.png"),
        ("coco.json", '{"image_id": 2, "caption": 7}', "annotation 2: caption '7'", "b.png"),
        ("coco.json", '{"image_id": 9, "caption": "x"}', "annotation 2: there is no image with the id 9", None),
        ("coco.json", '{"image_id": [2], "caption": "x"}', "annotation 2: unhashable", None),
    ],
)  # fmt: skip
def test_one_wrong_entry_costs_its_image_alone(tmp_path, file, text, culprit, key):
    """A wrong entry between two right ones refuses the source, or with --skip-bad is left out with its image.

    Both give the same sentence."""
    folder = write_images(tmp_path / "f", ["a", "b", "c"])
    first, last = (json.dumps({"file_name": f"{name}.png", "text": name}) for name in "ac")
    images = json.dumps([{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abc", 1)])
    notes = '{"image_id": 1, "caption": "a"}', '{"image_id": 3, "caption": "c"}'
    content = {
        "metadata.jsonl": f"{first}\n{text}\n{last}",
        "metadata.csv": f"file_name,text\na.png,a\n{text}\nc.png,c\n",
        "metadata.json": f"[{first}, {text}, {last}]",
        "captions.json": f'{{"a.png": "a", {text}, "c.png": "c"}}',
        "dataset.json": f'{{"labels": [["a.png", 0], {text}, ["c.png", 1]]}}',
        "coco.json": f'{{"images": {images}, "annotations": [{notes[0]}, {text}, {notes[1]}]}}',
    }
    (folder / file).write_text(content[file])
    with pytest.raises(ValueError, match=re.escape(f"{file}, {culprit}") + ".*; --skip-bad leaves such entries out"):
        open_source(str(folder))
    samples = read(folder, missing="bad")
    (bad,) = [sample for sample in samples if isinstance(sample, Bad)]
    assert f"{file}, {culprit}" in bad.reason
    assert bad.key == key if key else bad.key.endswith(culprit.split(":")[0].split(" is ")[0])
    whole = {sample.key: (sample.captions or sample.label) for sample in samples if not isinstance(sample, Bad)}
    right = {"a.png": "0", "c.png": "1"} if file == "dataset.json" else {"a.png": ("a",), "c.png": ("c",)}
    assert whole == right | ({} if key == "b.png" else {"b.png": None})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metadata.jsonl", '{"picture": "a.png"}\n{"picture": "b.png"}'),
        ("metadata.csv", "picture,text\na.png,x\nb.png,y\n"),
        ("metadata.csv", 'file_name,text\na.png,x\nb.png,"y\n'),
        (
            "coco.json",
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": "1", "caption": "x"}]}',
        ),
    ],
)
def test_a_description_of_which_nothing_can_be_read_is_refused_whatever_is_left_out(tmp_path, file, text):
    """A table without a right row, or with an unclosed quote, refuses the source, since its captions would be lost."""
    folder = write_images(tmp_path / "f", ["a", "b"])
    (folder / file).write_text(text)
    for missing in ("refuse", "bad"):
        with pytest.raises(ValueError, match=re.escape(file)) as caught:
            open_source(str(folder), missing=missing)
        assert "--skip-bad" not in str(caught.value)


@pytest.mark.parametrize(
    ("there", "written", "hint"),
    [
        ("Dog.JPG", "dog.jpg", "the source, which has 'Dog.JPG'; --skip-bad"),
        ("a/Dog.png", "dog.png", "the source, which has 'a/Dog.png'; --skip-bad"),
        ("dog.png", "dog.jpg", "the source, which has 'dog.png'; --skip-bad"),
        ("caf\u00e9.png", "cafe\u0301.png", "the source, which has 'caf\u00e9.png'; --skip-bad"),
        ("cat.png", "dog.png", "the source; --skip-bad"),
    ],
)
@pytest.mark.parametrize("file", ["metadata.csv", "metadata.json"])
def test_a_name_that_differs_in_case_or_suffix_is_suggested(tmp_path, file, there, written, hint):
    folder = write_images(tmp_path / "f", [there, "other.png"])
    rows = [{"file_name": "other.png", "text": "x"}, {"file_name": written, "text": "y"}]
    text = "".join(f"{row['file_name']},{row['text']}\n" for row in rows)
    (folder / file).write_text(f"file_name,text\n{text}" if file.endswith("csv") else json.dumps(rows))
    with pytest.raises(ValueError, match=re.escape(f"image {written!r} is not among the images of {hint}")):
        open_source(str(folder))


def test_the_summary_names_what_was_skipped_and_not_read(tmp_path):
    """The report of a conversion without Ray names skipped images and ignored files."""
    from raysde.data.ingest.collect import collect_parts
    from raysde.data.ingest.convert import Converted, Rules, convert_part
    from raysde.io.filesystems import read_bytes

    folder = write_images(tmp_path / "f", ["a", "b"])
    write_lines(folder, [{"file_name": "gone.png", "text": "x"}])
    for name in "ab":
        (folder / f"{name}.json").write_text('{"url": "x"}')
    (part,) = open_source(str(folder), missing="bad").parts
    rules, out = Rules(channels=1, size=8), str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    result = Converted.from_json(json.loads(json.dumps(convert_part(part, 0, rules, out).to_json())))
    collect_parts([result], rules, out, source="f", licence="")
    report = json.loads(read_bytes(f"{out}/report.json"))
    assert [entry["key"] for entry in report["skipped"]] == ["gone.png"]
    assert report["unread"] == {"key 'url' of .json": 2}


@pytest.mark.parametrize(
    ("file", "text"), [("metadata.csv", "file_name,text\n"), ("a.tsv", ""), ("metadata.jsonl", "\n")]
)
def test_a_table_without_rows_is_named(tmp_path, file, text):
    """A table with right columns and no rows is reported in a note."""
    folder = write_images(tmp_path / "f", ["a"])
    (folder / file).write_text(text)
    assert f"{file} has no rows, so that it describes no image" in notes_of(folder)
    (folder / file).write_text(
        '{"file_name": "a.png", "text": "x"}'
        if "json" in file
        else "file_name\ttext\na.png\tx\n".replace("\t", "," if "csv" in file else "\t")
    )
    assert not any("no rows" in note for note in notes_of(folder))


def test_a_choice_of_columns_needs_columns(tmp_path):
    folder = write_images(tmp_path / "f", ["a"])
    (folder / "a.txt").write_text("words")
    with pytest.raises(ValueError, match="no table and no JSON with columns; leave --caption-column"):
        open_source(str(folder), caption_column="words")
    (folder / "a.json").write_text('{"words": "more"}')
    assert found(folder, caption_column="words") == {"a.png": (("more", "words"), None)}


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_tables_with_another_separator_are_named(tmp_path, mark):
    folder = write_images(tmp_path / "f", ["a"])
    (folder / "m.csv").write_text(f"file_name{mark}text\na.png{mark}one, two\n")
    with pytest.raises(ValueError, match=r"m\.csv, line 1 separates its columns by .*, expected ','; save the table"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["cat/a", "dog/b", "cover"], r"subfolders \(cat, dog\), since 1 images lie beside them"),
        (["all/cat/a", "all/dog/b"], r"all/cat, all/dog\); give .*f/all to make classes"),
        (["all/a", "all/b"], None),
        (["all/cat/a", "all/cat/b"], None),
        (["a", "one/b"], None),
    ],
)
def test_subfolders_that_are_no_classes_are_named(tmp_path, names, note):
    folder = tmp_path / "f"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(FILES[0])
    said = [one for one in open_source(str(folder)).notes if "no label is taken" in one]
    assert len(said) == (note is not None)
    assert all(re.search(note, one) for one in said)
    assert {label for _, label in found(folder).values()} == {None}


@pytest.mark.parametrize("place", ["cats", "cats/young"])
def test_a_name_means_the_image_beside_its_description_first(tmp_path, place):
    """A description means the image beside it, also if the root has an image of the same name."""
    folder = write_images(tmp_path / "f", ["00", "01", f"{place}/00"])
    write_json(folder, f"{place}/captions.json", {"00.png": "mine", "01.png": "above"})
    captions = {key: said for key, (said, _) in found(folder).items()}
    assert captions == {"00.png": (), "01.png": ("above",), f"{place}/00.png": ("mine",)}


@pytest.mark.parametrize("key", ["labels", "Labels", "LABELS"])
@pytest.mark.parametrize("form", [list, dict])
def test_labels_of_a_dataset_json_are_found_in_any_spelling(tmp_path, key, form):
    """Labels are read from EDM's list of pairs or a map, and take precedence over folder names."""
    pairs = [["cat/a.png", 7], ["dog/b.png", 3]]
    value = dict(pairs) if form is dict else pairs
    folder = write_json(write_images(tmp_path / "f", ["cat/a", "dog/b"]), "dataset.json", {key: value})
    assert {name: label for name, (_, label) in found(folder).items()} == {"cat/a.png": "7", "dog/b.png": "3"}


@pytest.mark.parametrize("value", [None, []])
def test_a_dataset_json_without_labels_says_that_there_are_none(tmp_path, value):
    folder = write_json(write_images(tmp_path / "f", ["cat/a", "dog/b"]), "dataset.json", {"labels": value})
    assert {label for _, label in found(folder).values()} == {None}


@pytest.mark.parametrize("link", ["loop", "cat/deep/loop"])
@pytest.mark.parametrize("up", [".", "..", "../.."])
def test_a_link_to_a_folder_around_it_is_named(tmp_path, link, up):
    """A link to a containing folder is refused, because every image would be listed forty times."""
    folder = write_images(tmp_path / "a" / "f", ["cat/deep/1", "dog/2"])
    (folder / link).symlink_to(up, target_is_directory=True)
    with pytest.raises(ValueError, match=rf"{link} is a link to a folder that it lies in: remove it"):
        open_source(str(folder))


def test_a_link_to_another_folder_is_followed(tmp_path):
    folder = write_images(tmp_path / "f", ["dog/2"])
    write_images(tmp_path / "elsewhere", ["1"])
    (folder / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [label for _, label in found(folder).values()] == ["cat", "dog"]
