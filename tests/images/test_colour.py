"""Colour profiles: pixels are converted as the colour spaces' closed forms say, and sRGB pixels are kept."""

import io
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from raysde.data.ingest.convert import Rules, convert_part
from raysde.data.ingest.samples import Sample
from raysde.images.colour import PRIMARIES, matrix_profile
from raysde.images.open import is_plain, open_picture, read_picture
from tests.support.pictures import image_file, png_chunk, png_file, rng_image
from tests.support.sources import Given

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = (0.9642, 1.0, 0.8249)
SPACES = {
    "Display P3": ((0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060), 0.0),
    "Adobe RGB": ((0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256),
    "ProPhoto": ((0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8),
    "BT.2020, 2.2": (PRIMARIES[9], 2.2),
}
PIXELS = rng_image(5, 48)
NEAR = 1.2
"""Half a level of rounding, and as much for Little CMS's 8-bit path (14-bit fractions through a matrix and a table)."""


def decoded(values, gamma):
    """Return linear light from 0 to 1 for values from 0 to 1; gamma 0 is sRGB's curve."""
    return values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def levels(light):
    """Return the sRGB levels of linear light, clipped to 0 to 255."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(places):
    """Return the matrix from an RGB space to XYZ by SMPTE RP 177: the primaries add up to its white."""
    white, *corners = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(places[::2], places[1::2], strict=True))
    matrix = np.stack(corners, axis=1)
    return matrix * np.linalg.solve(matrix, white), white


def between(first, second):
    """Return the matrix from linear light of one space to another, with Bradford's chromatic adaptation."""
    (here, white), (there, other) = to_xyz(first), to_xyz(second)
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapted = np.linalg.inv(cones) @ np.diag(cones @ other / (cones @ white)) @ cones
    return np.linalg.inv(there) @ adapted @ here


def expected(pixels, name):
    places, gamma = SPACES[name]
    return levels(decoded(pixels / 255.0, gamma) @ between(places, PRIMARIES[1]).T)


def profile(name):
    places, gamma = SPACES[name]
    return matrix_profile(places, gamma)


def grey_profile(gamma):
    """Return an ICC profile of grey with an exponent, written from the ICC's specification."""
    tags = [(b"wtpt", b"XYZ \0\0\0\0" + fixed(*D50)), (b"kTRC", b"para\0\0\0\0\0\0\0\0" + fixed(gamma))]
    return icc(b"mntrGRAYXYZ ", tags)


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc(kinds, tags):
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, value in tags:
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    head = struct.pack(">I", start + len(body)) + bytes(4) + b"\x02\x40\0\0" + kinds + bytes(12) + b"acsp" + bytes(28)
    return head + fixed(*D50) + bytes(48) + table + body


def bmp(pixels, embedded):
    """Return a bitmap with a version 5 header and an embedded profile."""
    height, width = pixels.shape[:2]
    rows = pixels[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    head += bytes(16) + b"DEBM" + bytes(36 + 12) + struct.pack("<IIII", 4, 124 + len(rows), len(embedded), 0)
    assert len(head) == 124
    return b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(embedded), 0, 0, 138) + head + rows + embedded


def jp2(picture, embedded):
    """Return a JPEG 2000 file in which a profile replaces the enumerated colour space."""
    data = image_file(picture, "JPEG2000", irreversible=False)
    place = data.index(b"colr") - 4
    size = int.from_bytes(data[place : place + 4], "big")
    box = struct.pack(">I", 11 + len(embedded)) + b"colr\2\0\0" + embedded
    header = data.index(b"jp2h") - 4
    length = int.from_bytes(data[header : header + 4], "big") + len(box) - size
    return data[:header] + struct.pack(">I", length) + data[header + 4 : place] + box + data[place + size :]


# --- profiles are applied -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_matrix_profiles_become_srgb(name):
    data = image_file(Image.fromarray(PIXELS), "PNG", icc_profile=profile(name))
    read = read_picture(data, 3)
    assert np.abs(np.asarray(read.picture) - expected(PIXELS, name)).max() < NEAR
    assert read.changes == {"profile"}
    assert not is_plain(data, read.picture)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "JPEG2000", "BMP", "AVIF"])
def test_profiles_are_found_in_every_kind_of_file(kind):
    embedded, picture = profile("Display P3"), Image.fromarray(PIXELS)
    if kind == "BMP":
        data = bmp(PIXELS, embedded)
    elif kind == "JPEG2000":
        data = jp2(picture, embedded)
    else:
        data = image_file(
            picture, kind, icc_profile=embedded, **({"TIFF": {}}.get(kind, {"lossless": True, "quality": 100}))
        )
    found = read_picture(data, 3)
    assert found.changes == {"profile"}
    raw = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(np.asarray(found.picture) - expected(raw, "Display P3")).max() < NEAR


def test_a_profile_of_a_jpeg_in_many_pieces():
    """A profile of more than 64 kB is read from several markers, and ignored if one of them is missing."""
    embedded = profile("Adobe RGB") + bytes(100_000)
    embedded = struct.pack(">I", len(embedded)) + embedded[4:]
    data = image_file(Image.fromarray(PIXELS), "JPEG", icc_profile=embedded)
    raw = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(np.asarray(open_picture(data, 3)) - expected(raw, "Adobe RGB")).max() < NEAR
    second = data.index(b"ICC_PROFILE\0\2") - 4
    cut = data[:second] + data[second + 2 + int.from_bytes(data[second + 2 : second + 4], "big") :]
    read = read_picture(cut, 3)
    assert read.changes == {"unusable"}
    assert np.array_equal(read.picture, raw)


@pytest.mark.parametrize(("primaries", "transfer", "name"), [(12, 13, "Display P3"), (9, 4, "BT.2020, 2.2")])
def test_cicp_codes_of_png_win_over_profiles(primaries, transfer, name):
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    codes = png_chunk(b"cICP", bytes([primaries, transfer, 0, 1]))
    read = read_picture(png_file(48, 48, 8, 2, rows, codes, png_chunk(b"gAMA", struct.pack(">I", 100000))), 3)
    assert np.abs(np.asarray(read.picture) - expected(PIXELS, name)).max() < NEAR
    assert read_picture(png_file(48, 48, 8, 2, rows, png_chunk(b"cICP", bytes([9, 16, 0, 1]))), 3).changes == {
        "unusable"
    }  # PQ
    plain = read_picture(png_file(48, 48, 8, 2, rows, png_chunk(b"cICP", bytes([1, 13, 0, 1]))), 3)
    assert np.array_equal(plain.picture, PIXELS)
    assert not plain.changes


@pytest.mark.parametrize(("exponent", "srgb"), [(100000, False), (55556, False), (45455, True)])
@pytest.mark.parametrize("wide", [False, True])
def test_gamma_and_primaries_of_png(exponent, srgb, wide):
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    places = SPACES["Adobe RGB"][0] if wide else PRIMARIES[1]
    extra = [png_chunk(b"gAMA", struct.pack(">I", exponent))]
    extra += [png_chunk(b"cHRM", struct.pack(">8I", *(round(place * 100000) for place in places)))]
    read = read_picture(png_file(48, 48, 8, 2, rows, *extra), 3)
    light = decoded(PIXELS / 255.0, 0.0 if srgb else 100000 / exponent)
    wanted = levels(light @ between(places, PRIMARIES[1]).T)
    assert np.abs(np.asarray(read.picture) - wanted).max() < NEAR
    assert read.changes == (set() if srgb and not wide else {"profile"})
    said = read_picture(png_file(48, 48, 8, 2, rows, png_chunk(b"sRGB", b"\0"), *extra), 3)
    assert np.array_equal(said.picture, PIXELS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.6])
def test_grey_profiles(gamma, channels):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = read_picture(image_file(Image.fromarray(ramp), "PNG", icc_profile=grey_profile(gamma)), channels)
    found = np.asarray(read.picture).reshape(16, 16, -1)
    assert np.abs(found - levels(decoded(ramp / 255.0, gamma))[..., None]).max() < NEAR
    assert "profile" in read.changes


def test_a_grey_file_with_a_profile_of_colours():
    """A grey file with an RGB profile, which is common, is read with that space's tone curve."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = np.asarray(
        open_picture(image_file(Image.fromarray(ramp), "JPEG", quality=100, icc_profile=profile("ProPhoto")), 1)
    )
    raw = np.asarray(Image.open(io.BytesIO(image_file(Image.fromarray(ramp), "JPEG", quality=100))))
    assert np.abs(found - levels(decoded(raw / 255.0, 1.8))).max() < NEAR


LAB = {0: (100, 0, 0), 1: (60, -20, -30), 2: (55, 45, 10), 4: (85, 0, 50)}
"""Lab colours of paper and of three single inks, all inside sRGB; every other corner is darker and neutral."""


def test_cmyk_goes_by_its_profile():
    """At full and no ink the colour is the entry of the profile's table, without interpolation."""
    corners = [LAB.get(number, (30, 0, 0)) if number < 8 else (0, 0, 0) for number in range(16)]
    table = b"".join(bytes([round(light * 2.55), a + 128, b + 128]) for light, a, b in (  # last ink fastest: C M Y K
        corners[(c) | (m << 1) | (y << 2) | (k << 3)] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)))  # fmt: skip
    lut = (
        b"mft1\0\0\0\0\4\3\2\0"
        + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + bytes(range(256)) * 4
        + table
        + bytes(range(256)) * 3
    )
    embedded = icc(b"prtrCMYKLab ", [(b"wtpt", b"XYZ \0\0\0\0" + fixed(*D50)), (b"A2B0", lut), (b"A2B1", lut)])
    ink = np.array([[255 * (number >> bit & 1) for bit in range(4)] for number in (0, 1, 2, 4, 7, 8)], dtype=np.uint8)
    data = image_file(Image.fromarray(ink[None], "CMYK"), "TIFF", icc_profile=embedded)
    read = read_picture(data, 3)
    wanted = lab_levels(np.array([corners[number] for number in (0, 1, 2, 4, 7, 8)], dtype=float))
    assert np.abs(np.asarray(read.picture)[0] - wanted).max() < 3  # Lab is coded in 8 bits: up to 0.6 of a unit of L
    assert read.changes == {"profile"}
    assert read_picture(image_file(Image.fromarray(ink[None], "CMYK"), "TIFF"), 3).changes == {"ink"}


def lab_levels(lab):
    """Return sRGB levels of CIE 1976 L*a*b* under D50."""
    middle = (lab[..., 0] + 16) / 116
    cubes = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    xyz = np.where(cubes > 6 / 29, cubes**3, 3 * (6 / 29) ** 2 * (cubes - 4 / 29)) * D50
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    matrix, white = to_xyz(PRIMARIES[1])
    adapted = np.linalg.inv(cones) @ np.diag(cones @ white / (cones @ D50)) @ cones
    return levels(xyz @ adapted.T @ np.linalg.inv(matrix).T)


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_files(channels):
    lab = np.array([[100, 0, 0], [50, 0, 0], [0, 0, 0], [60, -20, -30], [55, 45, 10], [85, 0, 50]], dtype=float)
    coded = np.stack([lab[:, 0] * 2.55, lab[:, 1], lab[:, 2]], axis=1).round().astype(np.int16).astype(np.uint8)
    data = image_file(Image.frombytes("LAB", (6, 1), coded.tobytes()), "TIFF")
    wanted = lab_levels(np.concatenate([coded[:, :1] / 2.55, lab[:, 1:]], axis=1))
    if channels == 1:
        wanted = (wanted @ (0.299, 0.587, 0.114))[:, None]
    assert np.abs(np.asarray(open_picture(data, channels)).reshape(6, channels) - wanted).max() < 2.5


def test_a_profile_comes_before_transparency():
    """Pixels are converted to sRGB first, because the grey background is an sRGB level."""
    alpha = rng_image(6, 48)[..., :1]
    data = image_file(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)), "PNG", icc_profile=profile("Adobe RGB"))
    read = read_picture(data, 3, background=90)
    share = alpha / 255.0
    wanted = share * expected(PIXELS, "Adobe RGB") + (1 - share) * 90
    assert np.abs(np.asarray(read.picture) - wanted).max() < NEAR + 0.5
    assert read.changes == {"profile", "transparent"}


# --- profiles that change nothing, or cannot be used --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_srgb_profiles_change_no_bit(kind, mode, tmp_path):
    """An sRGB profile changes neither the pixels nor the stored file."""
    picture = Image.fromarray(PIXELS).convert(mode)
    for embedded in (SRGB, matrix_profile(PRIMARIES[1], 0.0)):
        data = image_file(picture, kind, icc_profile=embedded)
        read = read_picture(data, len(mode))
        assert not read.changes
        assert np.array_equal(read.picture, Image.open(io.BytesIO(data)))
        assert stored(data, tmp_path, channels=len(mode)) == data


@pytest.mark.parametrize(
    "embedded",
    [b"a profile", bytes(200), SRGB[:100], SRGB[:-300], grey_profile(2.0), b"\0" * 4 + SRGB[4:128]],
    ids=["text", "zeros", "a header cut short", "cut short", "of grey", "a header alone"],
)
def test_profiles_that_cannot_be_used_are_remarked_and_not_stored(embedded, tmp_path):
    data = image_file(Image.fromarray(PIXELS), "PNG", icc_profile=embedded)
    read = read_picture(data, 3)
    assert np.array_equal(read.picture, PIXELS)
    assert read.changes == {"unusable"}
    with Image.open(io.BytesIO(stored(data, tmp_path))) as kept:
        assert np.array_equal(kept, PIXELS)
        assert "icc_profile" not in kept.info


@pytest.mark.parametrize("encode", ["auto", "keep", "png", "jpeg"])
def test_no_reader_applies_a_profile_twice(encode, tmp_path):
    """The stored file is sRGB and declares no other profile: reading it again converts nothing."""
    for kind in ("PNG", "JPEG", "WEBP"):
        data = image_file(Image.fromarray(PIXELS), kind, icc_profile=profile("ProPhoto"))
        kept = stored(data, tmp_path, encode=encode)
        with Image.open(io.BytesIO(kept)) as found:
            assert not {"icc_profile", "gamma", "chromaticity"} & set(found.info)
        assert not read_picture(kept, 3).changes


def stored(data, folder, channels=3, encode="auto"):
    result = convert_part(
        Given((Sample("a", data),)), 0, Rules(channels=channels, fit="keep", encode=encode), str(folder)
    )
    return pq.read_table(folder / result.shards[0].file).to_pylist()[0]["image"]["bytes"]
