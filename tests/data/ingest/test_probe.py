"""Files of a folder: each supported format is read under every suffix, others are named, and changes are counted."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from raysde.data.ingest.convert import Converted, Rules, convert_part
from raysde.data.ingest.probe import choose_row_group, choose_rules
from raysde.data.ingest.samples import Sample
from raysde.data.ingest.sources import open_source
from raysde.images.kinds import IMAGE_SUFFIXES, unread_note
from raysde.images.remarks import SENTENCES, Remarks
from tests.support.pictures import image_file, rng_image
from tests.support.sources import Given, write_tar

WRITTEN_AS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
    "PPM": (".ppm", ".pnm"),
    "MPO": (".mpo",),
}


def suffixes():
    return [(kind, suffix) for kind, all_of_it in WRITTEN_AS.items() for suffix in all_of_it]


def write(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def keys(source):
    return sorted(sample.key for part in source.parts for sample in part.read())


def test_every_suffix_of_a_kind_is_read_in_folders_and_archives(tmp_path):
    """Suffixes in capitals are read too, and each file by its content."""
    picture = Image.fromarray(rng_image(0, 16))
    members = []
    for number, (kind, suffix) in enumerate(suffixes()):
        name = f"{number:02d}{suffix.upper() if number % 2 else suffix}"
        write(tmp_path / "folder", name, image_file(picture, kind))
        members.append((name, image_file(picture, kind)))
    source = open_source(str(tmp_path / "folder"))
    assert keys(source) == sorted(name for name, _ in members)
    assert not any("not read" in note for note in source.notes)
    result = convert_part(Given(tuple(itertools.chain.from_iterable(part.read() for part in source.parts))), 0,
                     choose_rules(source), str(tmp_path))  # fmt: skip
    assert (result.statistics.rows, result.bad) == (len(members), [])
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "a.tar", members)
    assert len(keys(open_source(str(tmp_path / "tars")))) == len(members)


def test_the_suffixes_are_the_decoder_s():
    """The suffixes equal those that Pillow registers from the formats' specifications."""
    assert {suffix for _, suffix in suffixes()} <= set(IMAGE_SUFFIXES)
    assert not {".eps", ".pdf", ".psd", ".svg", ".npy", ".mp4", ".ico", ".txt", ""} & set(IMAGE_SUFFIXES)


def test_files_that_nothing_reads_are_counted_by_suffix(tmp_path):
    for name in ("a.png", "sub/b.jpg"):
        write(tmp_path, name, image_file(Image.fromarray(rng_image(0, 8)), "PNG"))
    write(tmp_path, "a.txt", b"a caption")
    for name in ("1.heic", "2.HEIC", "3.heic", "sub/4.heic", "c.svg", "d.psd", "sub/film.mp4", "README", "notes.txt"):
        write(tmp_path, name, b"x")
    notes = open_source(str(tmp_path)).notes
    (note,) = [note for note in notes if note.startswith("files that are not read")]
    for said in ("4 of .heic (1.heic, 2.HEIC, 3.heic ...)", "1 of .svg (c.svg)", "1 of .psd (d.psd)",
                 "1 of .mp4 (sub/film.mp4)", "1 of no suffix (README)"):  # fmt: skip
        assert said in note
    assert any("notes.txt" in note and "not read" in note for note in notes)
    assert "a.txt" not in note
    assert unread_note(["a.png"], {"a.png"}) == []


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_a_wrong_suffix_is_read_by_its_content(tmp_path, kind):
    write(tmp_path, "a.png", image_file(Image.fromarray(rng_image(0, 16)), kind))
    source = open_source(str(tmp_path))
    assert choose_rules(source).size == 16


@pytest.mark.parametrize(("width", "height"), [(12, 10), (10, 12), (12, 12)])
def test_the_size_is_the_first_images_short_side(tmp_path, width, height):
    for name, pixels in (("a.png", rng_image(0, 16)[:height, :width]), ("b.png", rng_image(1, 8))):
        write(tmp_path, name, image_file(Image.fromarray(pixels), "PNG"))
    source = open_source(str(tmp_path), order="source")
    assert choose_rules(source).size == min(width, height)
    assert choose_rules(source, size=9).size == 9
    assert choose_rules(source, fit="keep").size is None


# --- grey and colour ----------------------------------------------------------------------------------------------


def mixed(folder, count, colour, kind="PNG"):
    """Write grey files, and colour files at the numbers in ``colour``, in name order."""
    for number in range(count):
        picture = Image.fromarray(rng_image(number, 8))
        write(folder, f"{number:04d}.png", image_file(picture if number in colour else picture.convert("L"), kind))


@pytest.mark.parametrize(
    ("colour", "channels"),
    [({0}, 3), ({15}, 3), ({16}, 3), ({200}, 3), (set(), 1), (set(range(300)) - {0, 1, 2}, 3)],
)
def test_channels_come_from_images_beyond_the_first(tmp_path, colour, channels):
    mixed(tmp_path, 300, colour)
    source = open_source(str(tmp_path), order="source")
    assert choose_rules(source).channels == channels
    assert choose_rules(source) == choose_rules(open_source(str(tmp_path), order="source"))  # as when an ingest goes on


def test_channels_come_from_parts_all_over_the_source(tmp_path):
    """Colour in a middle part of forty, which is among the sixteen checked, is found; in the last one it is not."""
    for place, channels in ((395, 1), (250, 3)):
        folder = tmp_path / str(place)
        mixed(folder, 400, set(range(place, place + 5)))
        assert choose_rules(open_source(str(folder), order="source", part_rows=10)).channels == channels


def test_colour_that_is_made_grey_is_counted_and_named(tmp_path):
    """Colour and tinted images that become grey are counted, RGB files with equal channels are not."""
    rgb, grey = Image.fromarray(rng_image(0, 8)), Image.fromarray(rng_image(1, 8)).convert("L")
    tinted = Image.merge("RGB", [grey.point(lambda level: min(255, level + 20)), grey, grey])
    mixed(tmp_path, 300, set())
    for name, picture in (("x1", rgb), ("x2", rgb.quantize(16)), ("x3", tinted), ("y1", grey.convert("RGB"))):
        write(tmp_path, f"{name}.png", image_file(picture, "PNG"))
    write(tmp_path, "y2.png", image_file(grey.convert("RGB"), "JPEG", quality=70))
    source = open_source(str(tmp_path), order="source")
    (tmp_path / "out").mkdir()
    rules = replace(choose_rules(source), size=8)
    assert rules.channels == 1
    result = convert_part(source.parts[0], 0, rules, str(tmp_path / "out"))
    assert result.remarks.counts == {"grey": 3}
    (sentence,) = Converted.from_json(result.to_json()).remarks.sentences(305)
    assert sentence.startswith("3 of 305 images are in colour and were made grey; --channels 3 keeps colours: x1.png")
    colours = convert_part(source.parts[0], 0, replace(rules, channels=3), str(tmp_path / "out")).remarks
    assert colours.counts == {"colourless": 302}


def test_remarks_of_parts_add_up():
    """Counts add up and examples are the first of all, for any parts."""
    rng = np.random.default_rng(0)
    said = [(f"{number}", {change for change in SENTENCES if rng.random() < 0.3}) for number in range(40)]
    whole, added = Remarks(), Remarks()
    for key, changes in said:
        whole.count(key, changes)
    for start in range(0, 40, 7):
        part = Remarks()
        for key, changes in said[start : start + 7]:
            part.count(key, changes)
        added.add(Remarks.from_json(part.to_json()))
    assert added == whole
    for change in SENTENCES:
        found = [key for key, changes in said if change in changes]
        assert (whole.counts[change], whole.examples[change]) == (len(found), found[:3])


def test_an_ingest_under_other_rules_of_reading_is_another(tmp_path, monkeypatch):
    """Parts converted by an older version of raysde are not mixed with new ones."""
    from raysde.cluster import ingest

    mixed(tmp_path, 3, {1})
    source = open_source(str(tmp_path))
    before = ingest.ingest_identity(source, choose_rules(source))
    assert ingest.ingest_identity(open_source(str(tmp_path)), choose_rules(source)) == before
    monkeypatch.setattr(ingest, "READING", ingest.READING + 1)
    assert ingest.ingest_identity(source, choose_rules(source)) != before


# --- what cannot be read ------------------------------------------------------------------------------------------


def test_images_that_cannot_be_read_are_refused_by_name(tmp_path):
    whole = image_file(Image.fromarray(rng_image(0, 32)), "JPEG")
    broken = {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "words.gif": b"words", "photo.jpg": heic()}
    for name, data in {"good.jpg": whole, **broken}.items():
        write(tmp_path / "in", name, data)
    source = open_source(str(tmp_path / "in"))
    result = convert_part(source.parts[0], 0, choose_rules(source), str(tmp_path))
    assert sorted(bad.key for bad in result.bad) == sorted(broken)
    for bad in result.bad:
        assert bad.key in bad.reason
        assert "\n" not in bad.reason


def heic():
    """Return the start of a photograph in a format that is not supported."""
    out = io.BytesIO()
    out.write(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    return out.getvalue()


@pytest.mark.parametrize(("side", "rows"), [(256, 8), (88, 64), (16, 1024)])
def test_row_groups_are_of_one_to_two_megabytes(side, rows):
    """Noise has about 3 bytes a pixel as PNG: 197 kB, 23 kB and 0.8 kB."""
    samples = tuple(Sample(f"{n}.png", image_file(Image.fromarray(rng_image(n, side)), "PNG")) for n in range(4))
    assert choose_row_group(list(samples), Rules(channels=3, size=side)) == rows
