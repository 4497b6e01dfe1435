"""Files opened as pictures, compared with Pillow and numpy on the same files, and files that are refused."""

import io
import resource
import struct
import time

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from raysde.images.codec import decode_image
from raysde.images.geometry import (
    fit_picture,
)
from raysde.images.open import is_grey, is_plain, open_picture, read_picture
from tests.support.pictures import PICTURE, RGB, image_file, png_chunk, png_file, rng_image, smooth

LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_files_give_their_pixels(kind, options):
    data = image_file(PICTURE, kind, **options)
    assert np.array_equal(open_picture(data, 3), RGB)
    assert np.array_equal(open_picture(data, 1), PICTURE.convert("L"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_files_give_nearly_their_pixels(kind):
    found = open_picture(image_file(Image.fromarray(smooth()), kind), 3)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found, dtype=int) - smooth()).mean() < 4


@pytest.mark.parametrize("background", [0, 100, 255])
@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_transparency_is_laid_on_the_background(mode, kind, background):
    """Transparent pixels equal Porter and Duff's "over" up to rounding."""
    pixels = rng_image(1, 16, len(mode))
    found = open_picture(
        image_file(
            Image.fromarray(pixels, mode), kind, **({"exact": True, "lossless": True} if kind == "WEBP" else {})
        ),
        3,
        background=background,
    )
    alpha = pixels[..., -1:] / 255.0
    assert np.abs(np.asarray(found) - (alpha * pixels[..., :-1] + (1 - alpha) * background)).max() <= 1.0


def test_palettes_with_and_without_transparency():
    palette = PICTURE.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(open_picture(image_file(palette, "PNG"), 3), expected)
    assert np.array_equal(open_picture(image_file(palette, "GIF"), 3), expected)
    clear = np.asarray(palette) == 3
    for kind in ("PNG", "GIF"):
        found = np.asarray(open_picture(image_file(palette, kind, transparency=3), 3, background=7))
        assert np.array_equal(found, np.where(clear[..., None], 7, expected))


def test_a_transparent_colour_of_rgb():
    pixels = RGB.copy()
    pixels[2, 3] = (1, 2, 3)
    found = np.asarray(
        open_picture(image_file(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)), 3, background=50)
    )
    pixels[2, 3] = 50
    assert np.array_equal(found, pixels)


def over(pixels, alpha, background):
    """Return Porter and Duff's "over" of pixels and a grey background, with alpha from 0 to 1."""
    return alpha * pixels + (1 - alpha) * background


def retagged(data, tag, value):
    """Return a little-endian TIFF with another number in one of its entries."""
    place = data.index(struct.pack("<HHI", tag, 3, 1))
    return data[: place + 8] + struct.pack("<H", value) + data[place + 10 :]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits(depth):
    """The transparent value is compared in the file's own levels, and its further bits are ignored."""
    levels = np.arange(min(8, 1 << depth) or 2, dtype=np.uint8).repeat(8)[:16]
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    rows = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    for clear in (1, 0):
        data = png_file(16, 1, depth, 0, rows, png_chunk(b"tRNS", struct.pack(">H", clear)))
        wanted = np.where(levels == clear, 99, levels * (255 // ((1 << depth) - 1)))
        assert np.asarray(open_picture(data, 1, background=99))[0].tolist() == wanted.tolist()
        assert read_picture(data, 3).changes == {"transparent", "colourless"}


def test_a_transparent_colour_of_sixteen_bits():
    """A transparent colour is distinguished from another one that differs only in its lower bits."""
    values = np.array([[0x0102, 0x8304, 0xFF06], [0x0103, 0x8304, 0xFF06]], dtype=">u2")
    data = png_file(2, 1, 16, 2, b"\0" + values.tobytes(), png_chunk(b"tRNS", values[0].tobytes()))
    assert np.asarray(open_picture(data, 3, background=50))[0].tolist() == [[50, 50, 50], [1, 0x83, 0xFF]]


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_sixteen_bits(channels):
    values = np.random.default_rng(3).integers(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    data = png_file(7, 5, 16, {2: 4, 4: 6}[channels], rows)
    share = values[..., -1:] / 65535.0
    found = np.asarray(open_picture(data, 3, background=31)).astype(float)
    wanted = over(values[..., :-1] / 257.0, share, 31)
    assert np.abs(found - wanted).max() <= 2.5  # a level each for the bits that are cut, and half for the rounding
    assert is_grey(data) == (channels == 2)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_tiffs_whose_pixels_are_multiplied_by_alpha(mode):
    """Extra sample 1 is associated (premultiplied) alpha, 2 is not."""
    straight = rng_image(8, 16, len(mode))
    straight[..., -1] |= 128
    alpha = straight[..., -1:] / 255.0
    multiplied = np.concatenate([np.rint(straight[..., :-1] * alpha), straight[..., -1:]], axis=2).astype(np.uint8)
    for pixels, extra in ((multiplied, 1), (straight, 2)):
        data = retagged(image_file(Image.fromarray(pixels, mode), "TIFF"), 338, extra)
        found = np.asarray(open_picture(data, 3, background=77)).astype(float)
        assert np.abs(found - over(straight[..., :-1], alpha, 77)).max() <= 2.0  # it is divided and multiplied again


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG2000", "PNG", "TIFF"])
def test_smooth_alpha_of_every_kind_that_has_one(kind):
    """Lossy formats agree up to the error of their own colours and alpha."""
    alpha = np.linspace(0, 255, 40).astype(np.uint8)[None, :, None].repeat(24, axis=0)
    data = image_file(Image.fromarray(np.concatenate([smooth(), alpha], axis=2)), kind, **({"quality": 95} if kind in ("WEBP", "AVIF") else {}))  # fmt: skip
    found = np.asarray(open_picture(data, 3, background=200)).astype(float)
    error = np.abs(found - over(smooth(), alpha / 255.0, 200))
    assert error.mean() < 3
    assert "transparent" in read_picture(data, 3).changes


def test_opaque_alpha_changes_nothing():
    read = read_picture(
        image_file(Image.fromarray(np.concatenate([RGB, np.full_like(RGB[..., :1], 255)], axis=2)), "PNG"), 3
    )
    assert np.array_equal(read.picture, RGB)
    assert not read.changes


def test_bits_become_black_and_white():
    bits = RGB[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(open_picture(image_file(Image.fromarray(bits), kind), 1), bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind):
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    deep[0, :4] = 0x8000, 0xFFFF, 0x00FF, 0x0100
    found = np.asarray(open_picture(image_file(Image.fromarray(deep), kind), 1))
    assert found[0, :4].tolist() == [128, 255, 0, 1]
    assert np.array_equal(found, deep >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiffs_of_sixteen_bits_in_either_order(order, white_is_zero):
    deep = np.random.default_rng(1).integers(0, 65536, (9, 8), dtype=np.uint16)
    data = tiff(8, 9, 16, deep.astype(order + "u2").tobytes(), order, photometric=0 if white_is_zero else 1)
    if order == ">" and white_is_zero:  # a kind that Pillow does not know
        with pytest.raises(ValueError, match="known kind"):
            open_picture(data, 1)
        return
    assert np.array_equal(open_picture(data, 1), ((65535 - deep) if white_is_zero else deep) >> 8)


def test_tiffs_of_twelve_bits_fill_the_range():
    values = np.arange(0, 4096, 64)
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    data = tiff(8, 8, 12, packed.astype(np.uint8).tobytes(), "<")
    assert np.array_equal(np.asarray(open_picture(data, 1)).ravel(), values >> 4)


def test_floats_whose_white_is_zero():
    values = np.linspace(0, 1, 64, dtype=np.float32)
    data = tiff(8, 8, 32, values.astype("<f4").tobytes(), "<", photometric=0, sample=3)
    assert np.abs(np.asarray(open_picture(data, 1)).ravel() - (1 - values) * 255).max() <= 0.51


def tiff(width, height, depth, pixels, order, photometric=1, sample=1):
    """Return a grey TIFF of one strip, written from the TIFF specification."""
    entries = [(256, width), (257, height), (258, depth), (259, 1), (262, photometric), (273, 0), (277, 1),
               (278, height), (279, len(pixels)), (339, sample)]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    out = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(entries))
    for tag, value in entries:
        out += struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", start if tag == 273 else value)
    return out + struct.pack(order + "I", 0) + pixels


def test_pgm_of_any_depth():
    """The largest value that a PGM declares is white."""
    for most in (1, 7, 255, 1023, 65535):
        values = np.linspace(0, most, 12).round().astype(int)
        width = 1 if most < 256 else 2
        data = b"P5 12 1 %d\n" % most + b"".join(int(value).to_bytes(width, "big") for value in values)
        found = np.asarray(open_picture(data, 1))[0].astype(int)
        assert np.abs(found - values * 255 / most).max() <= 1  # rounded at 8 or cut at 16 bits
        assert found[-1] == 255


@pytest.mark.parametrize(("kind", "most"), [("PNG", 255), ("TIFF", 200), ("PNG", 1)])
def test_deep_pixels_that_all_become_black_are_remarked(kind, most):
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8) * most // 63
    assert "black" in read_picture(image_file(Image.fromarray(dark), kind), 1).changes
    assert not read_picture(image_file(Image.fromarray(dark * 257), kind), 1).changes & {"black"} or most == 1
    assert not read_picture(image_file(Image.fromarray(dark * 0), kind), 1).changes


def test_a_transparent_grey_of_sixteen_bits():
    """All sixteen bits distinguish the transparent grey from its neighbours."""
    levels = [0x0100, 0x01FF, 0x0200, 0xFFFF]
    data = png_file(4, 1, 16, 0, b"\0" + struct.pack(">4H", *levels), png_chunk(b"tRNS", struct.pack(">H", 0x01FF)))
    assert np.asarray(open_picture(data, 1, background=99)).tolist() == [[1, 99, 2, 255]]
    assert np.asarray(open_picture(data, 3, background=99))[0, 1].tolist() == [99, 99, 99]


def test_floats_from_zero_to_one():
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(open_picture(image_file(Image.fromarray(values), "TIFF"), 1), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 255.0])
def test_floats_of_another_range_are_refused(value):
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 1] = value
    with pytest.raises(ValueError, match="expected 0 to 1"):
        open_picture(image_file(Image.fromarray(values), "TIFF"), 3)


def test_cmyk_is_ink():
    """No ink is white and one full ink is its colour, also where Adobe's marker says that inks are inverted."""
    ink = np.zeros((16, 32, 4), dtype=np.uint8)
    ink[:, 16:, 0] = 255
    data = image_file(Image.frombytes("CMYK", (32, 16), ink.tobytes()), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(simplejpeg.decode_jpeg(data, "CMYK")[3].astype(int) - (255 - ink[3])).max() <= 3
    expected = np.repeat([[255, 255, 255], [0, 255, 255]], 16, axis=0)
    assert np.abs(np.asarray(open_picture(data, 3))[3].astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    data = image_file(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)
    found = open_picture(data, 3)
    assert np.abs(np.asarray(found, dtype=int) - (200, 0, 0)).max() <= 4
    assert not is_plain(data, found)


@pytest.mark.parametrize("kind", ["TIFF", "MPO", "AVIF"])
def test_the_first_of_several_pages_or_pictures(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    data = image_file(frames[0], kind, save_all=True, append_images=frames[1:])
    read = read_picture(data, 3)
    assert np.abs(np.asarray(read.picture, dtype=int) - (200, 0, 0)).max() <= 4
    assert read.changes == {"frames"}
    assert not is_plain(data, read.picture)


def test_a_gain_map_is_not_taken_for_a_second_picture():
    """An HDR photograph is a plain JPEG followed by a gain map, a JPEG with hdrgm in its metadata."""
    base, gain = Image.fromarray(smooth(16, 16)), Image.new("RGB", (16, 16))
    data = image_file(
        base, "MPO", save_all=True, append_images=[gain], xmp=b'<x:xmpmeta hdrgm:Version="1.0"/>', quality=95
    )
    read = read_picture(data, 3)
    assert np.abs(np.asarray(read.picture, dtype=int) - smooth(16, 16)).mean() < 4
    assert np.abs(decode_image(data, 3).astype(int) - np.asarray(read.picture)).max() <= 2


def test_inks_coded_as_luma_and_chroma():
    """Adobe's YCCK stores inverted inks as the JPEG standard's YCbCr."""
    ink = np.zeros((16, 48, 4), dtype=np.uint8)
    ink[:, 16:32, 1], ink[:, 32:, 3] = 255, 128
    data = imagecodecs.jpeg8_encode(255 - ink, level=100, colorspace="CMYK", outcolorspace="YCCK", subsampling="444")
    expected = [[255, 255, 255], [255, 0, 255], [127, 127, 127]]
    read = read_picture(data, 3)
    found = np.asarray(read.picture)[5, [7, 23, 39]].astype(int)  # between the edges, beside which chroma is blurred
    assert np.abs(found - expected).max() <= 4
    assert read.changes == {"ink"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, kind):
    """The EXIF standard says which sides row 0 and column 0 are; numpy transposes the expected pixels."""
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"subsampling": 0, "quality": 100} if kind == "JPEG" else {}
    data = image_file(Image.fromarray(pixels), kind, exif=exif, **options)
    turned = [
        pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.swapaxes(0, 1), np.rot90(pixels, -1),
        np.rot90(pixels, 2).swapaxes(0, 1), np.rot90(pixels),
    ][orientation - 1]  # fmt: skip
    found = open_picture(data, 3)
    assert np.abs(np.asarray(found, dtype=int) - turned).max() <= 6
    assert np.array_equal(found, ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert is_plain(data, found) == (orientation == 1 and kind in ("JPEG", "PNG"))


def test_exif_data_that_cannot_be_written_again_costs_no_photograph():
    """A photograph with a damaged EXIF entry is read and turned by its valid orientation."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    whole = exif.tobytes()
    place = whole.index(struct.pack(">H", 0x010F)) + 2
    odd = whole[:place] + struct.pack(">H", 10) + whole[place + 2 :]
    data = image_file(PICTURE, "PNG")
    data = data[:33] + png_chunk(b"eXIf", odd.removeprefix(b"Exif\0\0")) + data[33:]
    assert np.array_equal(open_picture(data, 3), np.rot90(RGB, -1))


def test_a_very_long_picture_is_read():
    data = image_file(Image.fromarray(rng_image(0, 1, 1)[..., 0]).resize((200_000, 1)), "PNG")
    assert open_picture(data, 3).size == (200_000, 1)
    assert fit_picture(open_picture(data, 1), "crop", (8, 8), 0).size == (8, 8)
    with pytest.raises(ValueError, match="pixels"):
        fit_picture(open_picture(data, 1), "short", (64, 64), 0)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff\xd8", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ValueError, match=r"empty|known kind|decoded"):
        open_picture(data, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_cut_file_is_refused_wherever_it_is_cut(kind):
    """A cut file is refused, unless only the bytes that mark its end are missing."""
    data = image_file(PICTURE, kind)
    for stop in [*range(0, len(data) - 40, 7), len(data) - 40]:
        with pytest.raises(ValueError, match=r"empty|known kind|decoded"):
            open_picture(data[:stop], 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 15_000, 30_000, 2**31 - 1])
@pytest.mark.parametrize("rows", [b"", bytes(30_001 * 300)], ids=["claimed", "compressed"])
def test_decompression_bombs_are_refused_at_once(side, rows):
    data = png_file(side, side, 8, 0, rows)
    refused_at_once(data, open_picture)
    refused_at_once(data, decode_image)


def test_a_jpeg_that_claims_too_much_is_refused_at_once():
    data = bytearray(image_file(PICTURE, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 65_000, 65_000)
    refused_at_once(bytes(data), open_picture)
    refused_at_once(bytes(data), decode_image)


def refused_at_once(data, function):
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ValueError, match="pixels"):
        function(data, 1)
    assert time.perf_counter() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


# --- kinds --------------------------------------------------------------------------------------------------------


def test_grey_files_are_known_by_their_kind():
    deep = Image.fromarray(np.zeros((4, 4), dtype=np.uint16))
    for picture in (PICTURE.convert("L"), PICTURE.convert("1"), PICTURE.convert("LA"), deep):
        assert is_grey(image_file(picture, "PNG"))
    for picture, kind in [(PICTURE, "PNG"), (PICTURE.convert("CMYK"), "JPEG"), (PICTURE.quantize(4), "PNG")]:
        assert not is_grey(image_file(picture, kind))
    with pytest.raises(ValueError, match="known kind"):
        is_grey(b"words")


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_files_are_those_that_training_decodes_to_the_same_pixels(channels):
    picture = PICTURE if channels == 3 else PICTURE.convert("L")
    for kind in ("PNG", "JPEG"):
        data = image_file(picture, kind)
        found = open_picture(data, channels)
        assert is_plain(data, found)
        assert np.abs(decode_image(data, channels).squeeze().astype(int) - np.asarray(found)).max() <= 2


def test_files_that_need_converting_are_not_plain():
    deep = png_file(1, 1, 16, 2, b"\0" + bytes(6))
    two_bits = png_file(4, 1, 2, 0, b"\0" + b"\x1b")
    assert np.array_equal(open_picture(two_bits, 1), [[0, 85, 170, 255]])
    for data, channels in [(deep, 3), (two_bits, 1), (image_file(PICTURE, "BMP"), 3), (image_file(PICTURE, "PNG"), 1),
                           (image_file(PICTURE.convert("L"), "JPEG"), 3), (image_file(PICTURE.quantize(4), "PNG"), 3)]:  # fmt: skip
        assert not is_plain(data, open_picture(data, channels))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", [b"Exif\0\0junk, not a header", b"MM\0*\0\0\0\x08\xff\xff", b"II"], ids=repr)
def test_damaged_exif_data_say_nothing(kind, exif):
    """Each format gives the same pixels as without the damaged EXIF data."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    plain, damaged = io.BytesIO(), io.BytesIO()
    picture.save(plain, kind, quality=90)
    picture.save(damaged, kind, quality=90, exif=exif)
    read = [np.asarray(read_picture(file.getvalue(), 3).picture) for file in (plain, damaged)]
    assert np.array_equal(*read)
