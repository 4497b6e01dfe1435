"""Summary and contact sheet of a data set: its counts, and the place of each image."""

from dataclasses import replace

import numpy as np
import pytest

from raysde.data.dataset.contact_sheet import CELL, LINE, describe_manifest, draw_contact_sheet, make_thumbnail
from raysde.data.dataset.reader import Reader
from raysde.data.ingest.digits import load_digits
from tests.support.digits import write_digit_shards


@pytest.mark.parametrize(("count", "columns"), [(11, 8), (3, 3), (500, 8)])
def test_a_sheet_shows_different_rows_row_by_row(tmp_path, count, columns):
    """Images are enlarged by whole factors in their cells, in row order, and cells without an image are white."""
    reader = Reader(write_digit_shards(tmp_path, 20, 12, 5))
    sheet = np.asarray(draw_contact_sheet(reader, count, 1).convert("L"))
    shown, images = min(count, 20), load_digits()[0]
    lines = -(-shown // columns)
    assert sheet.shape == (lines * (CELL + 2 * LINE + 4) + 4, columns * (CELL + 4) + 4)
    found = []
    for place in range(shown):
        left, top = 4 + place % columns * (CELL + 4), 4 + place // columns * (CELL + 2 * LINE + 4)
        small = sheet[top + CELL // 16 : top + CELL : CELL // 8, left + CELL // 16 : left + CELL : CELL // 8]
        (row,) = [row for row in range(20) if np.array_equal(images[row], small)]
        found.append(row)
        assert (sheet[top + CELL : top + CELL + LINE, left : left + CELL] < 128).any()  # its caption
    assert found == sorted(set(found))
    about = draw_contact_sheet(reader, count, 1).info
    assert (about["rows"], about["seed"], about["fingerprint"]) == (found, 1, reader.manifest.fingerprint)
    if shown == 20:
        assert (sheet[-CELL:, 4 + 4 * (CELL + 4) :] == 255).all()
    assert np.array_equal(sheet, np.asarray(draw_contact_sheet(reader, count, 1).convert("L")))
    assert shown == 20 or not np.array_equal(sheet, np.asarray(draw_contact_sheet(reader, count, 2).convert("L")))


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8), (112, 112)), ((10, 60), (60, 10)), ((300, 100), (37, 112)), ((100, 300), (112, 37))]
)
def test_thumbnails_fill_a_cell_with_their_longer_side(shape, size):
    """Small images grow by whole factors, and large ones keep their proportions; sizes are (width, height)."""
    assert make_thumbnail(np.zeros((*shape, 1), np.uint8)).size == size
    assert make_thumbnail(np.zeros((*shape, 3), np.uint8)).size == size


def test_a_description_counts_what_the_manifest_says(tmp_path):
    plain = write_digit_shards(tmp_path, 20, 12, 5)
    found = {"images": {"width": [3, 9], "height": [4, 7], "mean": [0.25], "std": [0.5]},
             "captions": {"in_all": 31, "mean_characters": 12.5, "longest": 17}, "labels": {"3": 8, "5": 12}}  # fmt: skip
    shards = (
        replace(plain.shards[0], bytes=2_500_000),
        replace(plain.shards[1], split="validation", bytes=1_000_000, image=(4, 16)),
    )
    manifest = replace(plain, shards=shards, statistics=found, skipped=3, captions=19, source="here", licence="free")
    lines = "\n".join(describe_manifest(manifest))
    for said in (
        manifest.fingerprint, "12 for training, 8 for validation, 3 skipped", "2 of 3.5 MB in all, row groups of 5 rows",
        "images         8 x 8, grey", "   4 x 16    8 rows", "   8 x 8     12 rows", "4 to 7 high, 3 to 9 wide",
        "mean 0.250, deviation 0.500 of 1", "31 for 19 rows, 12.5 characters on average, at most 17", "classes        10",
        "  3            8 rows", "  5            12 rows", "  4            0 rows", "source         here", "licence        free",
    ):  # fmt: skip
        assert said in lines, said
    assert "RGB" in "\n".join(describe_manifest(replace(manifest, channels=3)))
