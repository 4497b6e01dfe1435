"""Pictures: what Pillow, numpy and simplejpeg say about the same files, and what is refused."""

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from raysde.data.decode import decode_image, encode_image
from raysde.data.geometry import RATIOS, bucket_shapes, centred_box, fitted, nearest_bucket, placed_box, resized
from raysde.data.pictures import is_grey, is_plain, open_picture
from tests.conftest import rng_image


def file(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def smooth(height=24, width=40):
    """A picture that JPEG changes little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)], axis=2).astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour, rows, *extra):
    """A PNG written from its specification."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RGB = rng_image(0, 16)
PICTURE = Image.fromarray(RGB)
LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_files_give_their_pixels(kind, options):
    data = file(PICTURE, kind, **options)
    assert np.array_equal(open_picture(data, 3), RGB)
    assert np.array_equal(open_picture(data, 1), PICTURE.convert("L"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_files_give_nearly_their_pixels(kind):
    found = open_picture(file(Image.fromarray(smooth()), kind), 3)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found, dtype=int) - smooth()).mean() < 4


@pytest.mark.parametrize("background", [0, 100, 255])
@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_transparency_is_laid_on_the_background(mode, kind, background):
    """As the definition of "over" says, to rounding."""
    pixels = rng_image(1, 16, len(mode))
    found = open_picture(
        file(Image.fromarray(pixels, mode), kind, **({"exact": True, "lossless": True} if kind == "WEBP" else {})),
        3,
        background=background,
    )
    alpha = pixels[..., -1:] / 255.0
    assert np.abs(np.asarray(found) - (alpha * pixels[..., :-1] + (1 - alpha) * background)).max() <= 1.0


def test_palettes_with_and_without_transparency():
    palette = PICTURE.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(open_picture(file(palette, "PNG"), 3), expected)
    assert np.array_equal(open_picture(file(palette, "GIF"), 3), expected)
    clear = np.asarray(palette) == 3
    for kind in ("PNG", "GIF"):
        found = np.asarray(open_picture(file(palette, kind, transparency=3), 3, background=7))
        assert np.array_equal(found, np.where(clear[..., None], 7, expected))


def test_a_transparent_colour_of_rgb():
    pixels = RGB.copy()
    pixels[2, 3] = (1, 2, 3)
    found = np.asarray(open_picture(file(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)), 3, background=50))
    pixels[2, 3] = 50
    assert np.array_equal(found, pixels)


def test_bits_become_black_and_white():
    bits = RGB[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(open_picture(file(Image.fromarray(bits), kind), 1), bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind):
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    deep[0, :4] = 0x8000, 0xFFFF, 0x00FF, 0x0100
    found = np.asarray(open_picture(file(Image.fromarray(deep), kind), 1))
    assert found[0, :4].tolist() == [128, 255, 0, 1]
    assert np.array_equal(found, deep >> 8)


def test_a_transparent_grey_of_sixteen_bits():
    """All sixteen bits tell it from its neighbours."""
    levels = [0x0100, 0x01FF, 0x0200, 0xFFFF]
    data = png(4, 1, 16, 0, b"\0" + struct.pack(">4H", *levels), chunk(b"tRNS", struct.pack(">H", 0x01FF)))
    assert np.asarray(open_picture(data, 1, background=99)).tolist() == [[1, 99, 2, 255]]
    assert np.asarray(open_picture(data, 3, background=99))[0, 1].tolist() == [99, 99, 99]


def test_floats_from_zero_to_one():
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(open_picture(file(Image.fromarray(values), "TIFF"), 1), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 255.0])
def test_floats_of_another_range_are_refused(value):
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 1] = value
    with pytest.raises(ValueError, match="expected 0 to 1"):
        open_picture(file(Image.fromarray(values), "TIFF"), 3)


def test_cmyk_is_ink():
    """No ink is white and all of one ink its colour, though Adobe's programs, as their mark says, write it inverted."""
    ink = np.zeros((16, 32, 4), dtype=np.uint8)
    ink[:, 16:, 0] = 255
    data = file(Image.frombytes("CMYK", (32, 16), ink.tobytes()), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(simplejpeg.decode_jpeg(data, "CMYK")[3].astype(int) - (255 - ink[3])).max() <= 3
    expected = np.repeat([[255, 255, 255], [0, 255, 255]], 16, axis=0)
    assert np.abs(np.asarray(open_picture(data, 3))[3].astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    data = file(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)
    found = open_picture(data, 3)
    assert np.abs(np.asarray(found, dtype=int) - (200, 0, 0)).max() <= 4
    assert not is_plain(data, found)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, kind):
    """The EXIF standard names where row 0 and column 0 are seen; numpy turns the corners."""
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"subsampling": 0, "quality": 100} if kind == "JPEG" else {}
    data = file(Image.fromarray(pixels), kind, exif=exif, **options)
    turned = [
        pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.swapaxes(0, 1), np.rot90(pixels, -1),
        np.rot90(pixels, 2).swapaxes(0, 1), np.rot90(pixels),
    ][orientation - 1]  # fmt: skip
    found = open_picture(data, 3)
    assert np.abs(np.asarray(found, dtype=int) - turned).max() <= 6
    assert np.array_equal(found, ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert is_plain(data, found) == (orientation == 1 and kind in ("JPEG", "PNG"))


def test_exif_data_that_cannot_be_written_again_costs_no_photograph():
    """A damaged EXIF entry beside a sound orientation."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    whole = exif.tobytes()
    place = whole.index(struct.pack(">H", 0x010F)) + 2
    odd = whole[:place] + struct.pack(">H", 10) + whole[place + 2 :]
    data = file(PICTURE, "PNG")
    data = data[:33] + chunk(b"eXIf", odd.removeprefix(b"Exif\0\0")) + data[33:]
    assert np.array_equal(open_picture(data, 3), np.rot90(RGB, -1))


def test_a_very_long_picture_is_read():
    data = file(Image.fromarray(rng_image(0, 1, 1)[..., 0]).resize((200_000, 1)), "PNG")
    assert open_picture(data, 3).size == (200_000, 1)
    assert fitted(open_picture(data, 1), "crop", 8, 0).size == (8, 8)
    with pytest.raises(ValueError, match="pixels"):
        fitted(open_picture(data, 1), "short", 64, 0)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff\xd8", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ValueError, match=r"empty|known kind|decoded"):
        open_picture(data, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_cut_file_is_refused_wherever_it_is_cut(kind):
    """Up to the last bytes, which say no more than that it ends."""
    data = file(PICTURE, kind)
    for stop in [*range(0, len(data) - 40, 7), len(data) - 40]:
        with pytest.raises(ValueError, match=r"empty|known kind|decoded"):
            open_picture(data[:stop], 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 15_000, 30_000, 2**31 - 1])
@pytest.mark.parametrize("rows", [b"", bytes(30_001 * 300)], ids=["claimed", "compressed"])
def test_decompression_bombs_are_refused_at_once(side, rows):
    data = png(side, side, 8, 0, rows)
    refused_at_once(data, open_picture)
    refused_at_once(data, decode_image)


def test_a_jpeg_that_claims_too_much_is_refused_at_once():
    data = bytearray(file(PICTURE, "JPEG"))
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
        assert is_grey(file(picture, "PNG"))
    for picture, kind in [(PICTURE, "PNG"), (PICTURE.convert("CMYK"), "JPEG"), (PICTURE.quantize(4), "PNG")]:
        assert not is_grey(file(picture, kind))
    with pytest.raises(ValueError, match="known kind"):
        is_grey(b"words")


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_files_are_those_that_training_decodes_to_the_same_pixels(channels):
    picture = PICTURE if channels == 3 else PICTURE.convert("L")
    for kind in ("PNG", "JPEG"):
        data = file(picture, kind)
        found = open_picture(data, channels)
        assert is_plain(data, found)
        assert np.abs(decode_image(data, channels).squeeze().astype(int) - np.asarray(found)).max() <= 2


def test_files_that_need_converting_are_not_plain():
    deep = png(1, 1, 16, 2, b"\0" + bytes(6))
    two_bits = png(4, 1, 2, 0, b"\0" + b"\x1b")
    assert np.array_equal(open_picture(two_bits, 1), [[0, 85, 170, 255]])
    for data, channels in [(deep, 3), (two_bits, 1), (file(PICTURE, "BMP"), 3), (file(PICTURE, "PNG"), 1),
                           (file(PICTURE.convert("L"), "JPEG"), 3), (file(PICTURE.quantize(4), "PNG"), 3)]:  # fmt: skip
        assert not is_plain(data, open_picture(data, channels))


# --- encoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_png_loses_nothing(channels):
    pixels = rng_image(3, 20, channels)
    data = encode_image(Image.fromarray(pixels.squeeze()), quality=None)
    assert np.array_equal(decode_image(data, channels), pixels)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}, {"optimize": True}]
)
def test_two_jpeg_decoders_agree(options):
    for pixels in (RGB, smooth(), smooth(17, 23)):
        data = file(Image.fromarray(pixels), "JPEG", **options)
        assert np.abs(decode_image(data, 3).astype(int) - np.asarray(open_picture(data, 3))).max() <= 2


def test_jpeg_keeps_colour_at_full_size():
    data = encode_image(Image.fromarray(smooth()), quality=95)
    assert simplejpeg.decode_jpeg_header(data)[2:] == ("YCbCr", "444")
    assert np.abs(decode_image(data, 3).astype(int) - smooth()).max() < 12


def test_a_profile_of_inks_does_not_follow_the_pixels():
    cmyk = file(PICTURE.convert("CMYK"), "JPEG", icc_profile=b"a profile of inks")
    assert "icc_profile" not in Image.open(io.BytesIO(encode_image(open_picture(cmyk, 3), quality=None))).info


@pytest.mark.parametrize(
    ("picture", "channels"),
    [
        (PICTURE, 1),
        (PICTURE.convert("L"), 3),
        (PICTURE.quantize(4), 1),
        (PICTURE.convert("1"), 1),
        (PICTURE.convert("RGBA"), 3),
    ],
)
def test_pngs_that_are_not_the_shards_kind_are_not_taken_for_it(picture, channels):
    with pytest.raises(ValueError, match=r"colour type|depth"):
        decode_image(file(picture, "PNG"), channels)


# --- geometry -----------------------------------------------------------------------------------------------------


def disc(width, height):
    """A white disc on black, half as wide as the short side."""
    y, x = np.mgrid[0:height, 0:width]
    inside = (x + 0.5 - width / 2) ** 2 + (y + 0.5 - height / 2) ** 2 < (min(width, height) / 4) ** 2
    return Image.fromarray((inside * 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(120, 60), (60, 120), (90, 90), (200, 64)])
def test_proportions_are_kept(size):
    """A disc stays as wide as high, but for stretching, which changes its sides by the factors of the picture's."""
    short, long = min(size), max(size)
    for fit, shape, scale in [
        ("crop", (48, 48), (48 / short, 48 / short)),
        ("pad", (48, 48), (48 / long, 48 / long)),
        ("short", (round(size[0] * 48 / short), round(size[1] * 48 / short)), (48 / short, 48 / short)),
        ("stretch", (48, 48), (48 / size[0], 48 / size[1])),
        ("keep", size, (1, 1)),
    ]:
        found = fitted(disc(*size), fit, 48, 0)
        assert found.size == shape
        bright = np.asarray(found) > 127
        widths = bright.any(axis=0).sum(), bright.any(axis=1).sum()
        assert np.abs(np.array(widths) - np.array(scale) * short / 2).max() <= 2


def test_padding_is_beside_the_picture():
    found = np.asarray(fitted(Image.new("RGB", (30, 10)), "pad", 30, 99))
    assert (found[10:20] == 0).all()
    assert (found[:10] == 99).all()
    assert (found[20:] == 99).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "short", "keep"])
def test_a_picture_of_the_right_size_stays_the_same(fit):
    assert fitted(PICTURE, fit, 16, 0) is PICTURE


def test_boxes_stay_inside_and_keep_their_proportions():
    """Also in floating point, for Pillow refuses a box that begins at -1e-15."""
    rng = np.random.default_rng(0)
    for _ in range(5_000):
        size, shape = tuple(rng.integers(1, 400, 2).tolist()), tuple(rng.integers(1, 130, 2).tolist())
        for scale, x, y in [(1.0, 0.5, 0.5), (1.0, 1.0, 1.0), tuple(rng.random(3))]:
            left, top, right, bottom = placed_box(size, shape, scale, x, y)
            assert 0 <= left <= right <= size[0]
            assert 0 <= top <= bottom <= size[1]
            assert abs((right - left) * shape[0] - (bottom - top) * shape[1]) < 1e-8


@pytest.mark.parametrize(("size", "shape"), [((53, 100), (49, 49)), ((61, 49), (37, 111)), ((1, 300), (64, 64))])
def test_boxes_at_the_border_can_be_cut_out(size, shape):
    assert resized(Image.new("L", size), shape, centred_box(size, shape)).size == shape[::-1]


@pytest.mark.parametrize(("size", "multiple"), [(64, 8), (256, 64), (512, 64), (32, 4), (100, 16)])
def test_buckets(size, multiple):
    """Sides are multiples, areas near the square's as far as the rounding of sides allows, and none comes twice."""
    shapes = bucket_shapes(size, multiple)
    assert len(set(shapes)) == len(shapes)
    for height, width in shapes:
        assert height % multiple == width % multiple == 0
        slack = multiple / 2 * (height + width + multiple)
        assert abs(height * width - size**2) <= slack
    assert all((width, height) in shapes for height, width in shapes)
    for ratio in RATIOS:
        sides = size / ratio**0.5, size * ratio**0.5
        assert any(np.abs(np.subtract(shape, sides)).max() <= multiple / 2 for shape in shapes)


def test_the_nearest_bucket_is_the_nearest():
    """By the angle's logarithm, over all buckets."""
    shapes = bucket_shapes(256, 32)
    logs = np.log([width / height for height, width in shapes])
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 500, (500, 2)).tolist():
        distance = np.abs(logs - np.log(width / height))
        assert distance[shapes.index(nearest_bucket((width, height), shapes))] <= distance.min() + 1e-9
