"""Encoding and decoding of images, compared with Pillow, numpy and simplejpeg on the same bytes."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from raysde.images.codec import decode_image, encode_image
from raysde.images.open import open_picture
from tests.support.pictures import PICTURE, RGB, image_file, rng_image, smooth

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
        data = image_file(Image.fromarray(pixels), "JPEG", **options)
        assert np.abs(decode_image(data, 3).astype(int) - np.asarray(open_picture(data, 3))).max() <= 2


def test_jpeg_keeps_colour_at_full_size():
    data = encode_image(Image.fromarray(smooth()), quality=95)
    assert simplejpeg.decode_jpeg_header(data)[2:] == ("YCbCr", "444")
    assert np.abs(decode_image(data, 3).astype(int) - smooth()).max() < 12


def test_a_profile_of_inks_does_not_follow_the_pixels():
    cmyk = image_file(PICTURE.convert("CMYK"), "JPEG", icc_profile=b"a profile of inks")
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
        decode_image(image_file(picture, "PNG"), channels)
