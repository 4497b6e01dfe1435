"""Tar archives: grouping of files into samples for names with dots and other spellings of suffixes."""

import gzip
import json

import pytest

from raysde.data.ingest.samples import Bad
from raysde.data.ingest.sources import open_source
from raysde.data.ingest.sources.members import locate_member
from tests.support.sources import FILES, read, reasons, said, write_images, write_tar


def js(**values):
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    "names",
    [
        ["img_v1.5", "img_v1.6"],
        ["photo 1.1", "photo 1.2"],
        ["a.v2.0", "a.v2.1"],
        ["d/2021.05.03 beach", "d/2021.05.04 beach"],
        ["St. Paul 1", "St. Paul 2"],
        ["scan_0.25x", "scan_0.5x"],
        ["model.v1", "model.v2"],
        ["f.1/x", "f.2/x"],
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_name_may_hold_dots(tmp_path, names, mixed):
    """Names with dots are samples of their own with caption and label, also beside names without dots."""
    members = []
    for number, name in enumerate(names):
        members += [
            (f"{name}.png", FILES[number]),
            (f"{name}.txt", f"words {number}".encode()),
            (f"{name}.json", js(caption=f"more {number}", label=number)),
        ]
    plain = [("z1.png", FILES[5]), ("z1.txt", b"plain"), ("z2.jpg", FILES[6])] if mixed else []
    write_tar(tmp_path / "a.tar", members + plain)
    samples = read(tmp_path)
    expected = [(FILES[number], (f"words {number}", f"more {number}"), str(number)) for number in range(2)]
    assert said(samples) == expected + ([(FILES[5], ("plain",), None), (FILES[6], (), None)] if mixed else [])
    assert [sample.key for sample in samples[:2]] == [f"a.tar/{name}" for name in names]


@pytest.mark.parametrize(
    ("members", "captions", "label", "unread"),
    [
        (["a.png", "a.seg.png", "a.caption.txt"], ("a.caption.txt",), None, (".seg.png files",)),
        (["a.jpg", "a.metadata.json"], ("in json",), "7", ()),
        (["a.input.jpg", "a.caption"], ("a.caption",), None, ()),
        (["a.jpg", "a.TEXT", "a.label"], ("a.TEXT",), "a.label", ()),
        (["a.JPG", "a.jpg.txt", "a.label.txt"], ("a.jpg.txt",), "a.label.txt", ()),
        (["a.left.png", "a.left.txt"], ("a.left.txt",), None, ()),
        (
            ["a.jpg", "a.txt", "a.clip_l14.npy", "a.blip2.txt"],
            ("a.txt",),
            None,
            (".clip_lN.npy files", ".blipN.txt files"),
        ),
        (["a.0.jpg", "a.json"], ("in json",), "7", ()),
        (["a.json", "a.0.jpg"], ("in json",), "7", ()),
        (
            ["img_v1.5.png", "img_v1.5.mask.png", "img_v1.5.caption.txt"],
            ("img_v1.5.caption.txt",),
            None,
            (".mask.png files",),
        ),
    ],
)
def test_what_a_file_is_of_its_sample(tmp_path, members, captions, label, unread):
    content = {name: js(caption="in json", label=7) if name.endswith("json") else name.encode() for name in members}
    image = next(name for name in members if name.lower().endswith(("png", "jpg")))
    write_tar(tmp_path / "a.tar", [*content.items(), ("z.png", b"z")])
    first, last = read(tmp_path)
    assert (first.data, first.captions, first.label) == (image.encode(), captions, label)
    assert first.unread == unread
    assert (last.key, last.data, last.captions) == ("a.tar/z", b"z", ())


@pytest.mark.parametrize(
    ("members", "culprit"),
    [
        (["a.png", "a.1.png", "a.2.png"], "'a.1.png' may be of this sample"),
        (["a.1.png", "a.2.png", "a.json"], "'a.1' may be of this sample"),
        (["a.input.jpg", "a.target.jpg", "a.caption.txt"], "a.input.jpg, a.target.jpg"),
        (["John.Smith.png", "John.Doe.png"], "John.Smith.png, John.Doe.png"),
        (["a.json", "a.0.png", "a.1.png"], "a.0.png, a.1.png"),
        (["Dr.png", "Dr.1.PNG"], "'Dr.1.PNG' may be of this sample"),
    ],
)
def test_what_cannot_be_told_apart_is_named(tmp_path, members, culprit):
    write_tar(tmp_path / "a.tar", [(name, b'{"label": 1}') for name in [*members, "z.png"]])
    samples = read(tmp_path)
    assert culprit in reasons(samples)[0]
    assert "unpack the archive" in reasons(samples)[0]
    assert not isinstance(samples[-1], Bad)


@pytest.mark.parametrize(
    ("path", "key", "extension"),
    [
        ("d.1/a.png", "d.1/a", "png"),
        ("a.SEG.PNG", "a", "seg.png"),
        ("a.image_2.png", "a", "image_2.png"),
        ("a.left-eye.png", "a", "left-eye.png"),
        ("a.5.seg.png", "a.5", "seg.png"),
        ("a", "a", ""),
    ],
)
def test_where_a_name_is_cut(path, key, extension):
    assert (locate_member(path).key, locate_member(path).extension) == (key, extension)


@pytest.mark.parametrize("text", ["Dr.Who.JSON", "Dr.JSON"])
def test_a_file_is_named_as_it_is_written(tmp_path, text):
    """Errors about a member's content name it as spelled, also if its image came first under a longer name."""
    write_tar(tmp_path / "a.tar", [("Dr.Who.PNG", FILES[0]), (text, b'{"text": 7}'), ("z.png", FILES[1])])
    assert f"Dr: {text}: caption '7' is not a string" in reasons(read(tmp_path))[0]


def test_keys_of_json_are_read_in_any_spelling_and_named_otherwise(tmp_path):
    rows = [
        js(Text="one", Labels=3, url="x"),
        js(caption="two", key="000", status="success"),
        b'{"label": 1, "label": 2}',
        js(text="four", caption="another"),
        js(text="five", caption="five", Class="owl"),
    ]
    write_tar(
        tmp_path / "a.tar", [m for n, row in enumerate(rows) for m in ((f"{n}.png", FILES[n]), (f"{n}.json", row))]
    )
    samples = read(tmp_path)
    assert said([samples[0], samples[1], samples[4]]) == [
        (FILES[0], ("one",), "3"),
        (FILES[1], ("two",), None),
        (FILES[4], ("five",), "owl"),
    ]
    assert samples[0].unread == ("key 'url' of .json",)
    assert samples[1].unread == ("key 'key' of .json", "key 'status' of .json")
    assert "2.json: key 'label' is given twice" in reasons(samples)[0]
    assert "3.json: captions differ in 'text' and 'caption'; --caption-column" in reasons(samples)[1]
    chosen = read(tmp_path, caption_column="caption")
    assert chosen[3].captions == ("another",)
    assert "0.json has no column 'caption', which --caption-column asks for" in reasons(chosen)[0]


def test_names_of_folders_that_are_no_labels_are_counted(tmp_path):
    """Folder names in archives are counted as not read, except for an image with a label or outside of folders."""
    classes = [("cat/1.png", FILES[0]), ("dog/2.png", FILES[1]), ("dog/3.png", FILES[2]), ("dog/3.cls", b"7")]
    write_tar(tmp_path / "a.tar", [*classes, ("4.png", FILES[3])])
    unread = [sample.unread for sample in read(tmp_path)]
    assert [["names of folders" in kind for kind in kinds] for kinds in unread] == [[True], [True], [], []]


@pytest.mark.parametrize("suffix", ["txt", "caption"])
def test_lines_of_a_text_file_are_captions_in_a_folder_and_one_in_an_archive(tmp_path, suffix):
    """A text file in an archive is one caption with line breaks, and in a folder one caption a line (docs/data.md)."""
    write_images(tmp_path / "f", ["a"])
    (tmp_path / "f" / f"a.{suffix}").write_text("one\n\ntwo\n")
    write_tar(tmp_path / "a.tar", [("a.png", FILES[0]), (f"a.{suffix}", b"one\n\ntwo\n")])
    assert [sample.captions for sample in read(tmp_path / "f")] == [("one", "two")]
    assert [sample.captions for sample in read(tmp_path / "a.tar")] == [("one\n\ntwo",)]


def test_what_lies_beside_archives_is_named(tmp_path):
    write_tar(tmp_path / "00000.tar", [("0.png", FILES[0])])
    for name in ("00000.parquet", "00000_stats.json", "captions.csv"):
        (tmp_path / name).write_bytes(b"{}")
    source = open_source(str(tmp_path))
    assert source.kind == "webdataset"
    assert any("download" in note and "00000.parquet, 00000_stats.json" in note for note in source.notes)
    assert any("not read: captions.csv" in note for note in source.notes)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("chosen", [{"caption_column": "note"}, {"label_column": "kind"}])
def test_a_column_cannot_be_chosen_where_no_json_is(tmp_path, zipped, chosen):
    plain = tmp_path / "a.tar"
    write_tar(plain, [("1.png", FILES[0]), ("1.txt", b"x"), ("2.png", FILES[1])])
    if zipped:
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    with pytest.raises(ValueError, match=r"archive a\.tar.* has no JSON with keys to choose from; leave --caption"):
        open_source(str(tmp_path), **chosen)


def test_a_column_is_chosen_where_only_the_last_image_has_json(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", FILES[0]), ("2.png", FILES[1]), ("2.json", js(note="n", text="t"))])
    assert said(read(tmp_path, caption_column="note")) == [(FILES[0], (), None), (FILES[1], ("n",), None)]


def test_a_damaged_archive_is_reported_as_such_also_where_a_column_is_chosen(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", FILES[0]), ("2.png", FILES[1])])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(FILES[0]) + 700])
    assert "damaged or cut short" in reasons(read(tmp_path, caption_column="note"))[0]
