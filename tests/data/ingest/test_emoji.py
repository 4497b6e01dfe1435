"""Emoji as a data set: pictures, captions and ingest."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from raysde.cli import main
from raysde.commands.ingest import prepare_source
from raysde.config.builtin import list_builtin
from raysde.data.ingest.emoji import CHOSEN, Emoji, list_captions, write_emoji
from raysde.data.ingest.samples import Bad
from raysde.data.ingest.sources import open_source
from tests.support.real import real

FONT = "noto/NotoColorEmoji.ttf"


@pytest.fixture(scope="module")
def font() -> str:
    return str(real(FONT))


def samples(folder) -> dict:
    found = [sample for part in open_source(str(folder)).parts for sample in part.read()]
    assert not any(isinstance(sample, Bad) for sample in found)
    return {sample.key: sample for sample in found}


def test_twelve_with_several_ways_to_ask_for_each():
    assert len(CHOSEN) == 12
    said = [caption for ways in CHOSEN.values() for caption in ways]
    assert len(set(said)) == len(said)
    for character, ways in CHOSEN.items():
        assert len(ways) >= 3
        # the heart is black in Unicode's sense, filled with ink, and red in the font
        assert unicodedata.name(character).lower() in ways or unicodedata.name(character) == "HEAVY BLACK HEART"


def test_the_folder_is_ready_for_ingest(font, tmp_path):
    """The folder holds twelve pictures of the requested size, each with all captions and a label."""
    assert write_emoji(tmp_path, font, size=24) == 12
    found = samples(tmp_path)
    assert {tuple(sample.captions) for sample in found.values()} == set(CHOSEN.values())
    assert {sample.label for sample in found.values()} == {ways[0] for ways in CHOSEN.values()}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (24, 24))
    whale = samples(tmp_path)["1f433.png"]
    assert "a blue whale" in whale.captions


def test_colours_are_what_the_captions_say(font):
    """The mean hue of each emoji is the colour in its caption, and its background is white."""
    emoji = Emoji(font)

    def ink(character) -> np.ndarray:
        pixels = np.asarray(emoji.draw(character, 64), dtype=float)
        assert (pixels[0, 0] == 255).all()
        return pixels[pixels.min(axis=2) < 200].mean(axis=0)

    red, yellow, green, blue = (
        ink(c) for c in "\N{HEAVY BLACK HEART}\N{GRINNING FACE}\N{EVERGREEN TREE}\N{SPOUTING WHALE}"
    )
    assert red[0] > 2 * max(red[1:])
    assert min(yellow[:2]) > 1.5 * yellow[2]
    assert green[1] > max(green[0], green[2])
    assert blue[2] > blue[1] > blue[0]


def test_the_twelve_differ_in_their_pixels(font):
    """Any two emoji differ by at least 0.15 of the range in root mean square at 16 x 16."""
    emoji = Emoji(font)
    pixels = np.stack([np.asarray(emoji.draw(each, 16), dtype=float) / 255.0 for each in CHOSEN]).reshape(12, -1)
    between = np.sqrt(((pixels[:, None] - pixels[None]) ** 2).mean(axis=2))
    assert between[~np.eye(12, dtype=bool)].min() > 0.15


def test_all_that_the_font_has_by_name(font, tmp_path):
    characters = Emoji(font).characters()
    assert len(characters) == len(set(characters)) > 1000
    assert set(CHOSEN) <= set(characters)
    assert list_captions("\N{OWL}") == ("owl",)
    assert write_emoji(tmp_path, font, size=8, only=()) == len(characters)
    found = samples(tmp_path)
    assert len(found) == len(characters)
    assert all(sample.captions for sample in found.values())
    with pytest.raises(ValueError, match="not of these emoji; remove the folder"):
        write_emoji(tmp_path, font)


def test_what_is_no_font_is_named(tmp_path, capsys):
    (tmp_path / "f.ttf").write_bytes(b"no font")
    for path in (tmp_path / "f.ttf", tmp_path / "absent.ttf"):
        assert main(["ingest", f"emoji:{path}", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(path) in line


def test_a_character_that_the_font_lacks_is_named(font, tmp_path):
    with pytest.raises(ValueError, match="LATIN SMALL LETTER A"):
        write_emoji(tmp_path, font, only=["a"])


def test_other_sources_are_left_alone(tmp_path):
    for source in ("photos", "s3://bucket/photos", "data/train-*.tar", "."):
        assert prepare_source(source, tmp_path / "..", None) == source
        assert prepare_source(source, type(tmp_path)("."), None) == source


def test_fashion_mnist_is_read_with_its_names():
    """The first training picture is an ankle boot, of class 9 (Xiao et al. 2017)."""
    names = str(list_builtin("list of class names")["fashion-mnist"])
    source = open_source(str(real("fashion-mnist")), label_names=names, caption_template="a picture of {label}")
    assert source.count == 60_000
    assert len(source.labels) == 10
    first = next(iter(source.parts[0].read()))
    assert (first.label, first.captions) == ("ankle boot", ("a picture of ankle boot",))
