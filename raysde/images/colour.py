"""Find the colour profiles of image files and convert pixels to sRGB by Little CMS.

The conversion keeps colours inside sRGB and clips others (relative colorimetric, with black point compensation).
"""

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

PNG = b"\x89PNG\r\n\x1a\n"
BASE = {"L": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}
"""Colour spaces of the profiles that can be applied to each Pillow mode; grey files often carry an RGB profile."""
NEAR = 2
"""Difference in levels up to which a profile counts as sRGB, because its curves and the transform are rounded."""
SRGB_GAMMA = (0.4445, 0.4645)
"""Range of exponents in PNG's gAMA chunk that stand for sRGB's curve; writers approximate it by 1/2.2."""
D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PRIMARIES = {
    1: (*D65, *SRGB_PRIMARIES),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""Chromaticities x, y of white, red, green and blue for CICP codes (ITU-T H.273): BT.709, BT.2020, Display P3."""
GAMMAS = {1: 0.0, 4: 2.2, 5: 2.8, 6: 0.0, 8: 1.0, 13: 0.0, 14: 0.0, 15: 0.0}
"""Exponent for each CICP transfer code; 0 is sRGB's curve, which browsers also use for video's codes."""
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@dataclass(frozen=True)
class Profile:
    """An ICC profile found in a file; ``data`` is None if the profile is damaged or of an unknown kind."""

    data: bytes | None


def find_profile(opened: Image.Image, data: bytes) -> Profile | None:
    """Return the colour profile of a file, opened and as bytes, or None if it declares none or declares sRGB."""
    if data.startswith(PNG):
        return _find_png_profile(opened, data)
    if "icc_profile" in opened.info:
        return Profile(opened.info["icc_profile"] or None)
    if opened.format == "AVIF" and (place := data.find(b"colrnclx", 0, 1 << 16)) >= 0:
        return _make_cicp_profile(*struct.unpack(">HH", data[place + 8 : place + 12]))
    if opened.format == "JPEG2000" and (place := data.find(b"colr", 0, 1 << 12)) >= 0 and data[place + 4] in (2, 3):
        return _cut_profile(data[place + 7 :])
    if data.startswith(b"BM") and data[70:74] == b"DEBM":  # a profile in a bitmap's fifth header
        start, size = struct.unpack("<II", data[126:134])
        return Profile(data[14 + start : 14 + start + size] or None)
    return None


def _cut_profile(data: bytes) -> Profile:
    return Profile(data[: int.from_bytes(data[:4], "big")] or None)


def _find_png_profile(opened: Image.Image, data: bytes) -> Profile | None:
    """Return the profile from the first of cICP, iCCP, sRGB, and gAMA with cHRM, in the PNG specification's order."""
    for kind, content in _read_chunks(data):
        if kind == b"cICP":
            return (
                _make_cicp_profile(content[0], content[1]) if len(content) == 4 and content[3] == 1 else Profile(None)
            )
    if "icc_profile" in opened.info:
        return Profile(opened.info["icc_profile"] or None)
    if "srgb" in opened.info or not {"gamma", "chromaticity"} & set(opened.info):
        return None
    exponent = opened.info.get("gamma", 0.4545)
    if not 0.1 <= exponent <= 10:
        return Profile(None)
    gamma = 0.0 if SRGB_GAMMA[0] <= exponent <= SRGB_GAMMA[1] else 1 / exponent
    places = opened.info.get("chromaticity", PRIMARIES[1])
    near = all(abs(found - wanted) < 0.002 for found, wanted in zip(places, PRIMARIES[1], strict=True))
    return None if near and not gamma else Profile(matrix_profile(tuple(places), gamma))


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, content) of each PNG chunk before the pixels."""
    place = len(PNG)
    while place + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"IDAT":
            return
        yield kind, data[place + 8 : place + 8 + size]
        place += size + 12


def _make_cicp_profile(primaries: int, transfer: int) -> Profile | None:
    """Return the profile for CICP codes, or None if they mean sRGB; code 2, "unspecified", counts as sRGB."""
    primaries, transfer = (1 if primaries == 2 else primaries), (13 if transfer == 2 else transfer)
    if primaries not in PRIMARIES or transfer not in GAMMAS:
        return Profile(None)
    if primaries == 1 and not GAMMAS[transfer]:
        return None
    return Profile(matrix_profile(PRIMARIES[primaries], GAMMAS[transfer]))


@lru_cache(maxsize=64)
def matrix_profile(places: tuple[float, ...], gamma: float) -> bytes | None:
    """Return an ICC matrix profile for primaries and a tone curve, or None if the primaries are degenerate.

    Args:
        places: chromaticities x, y of white, red, green and blue: eight numbers.
        gamma: exponent of the curve from pixel value to linear light; 0 for sRGB's curve.
    """
    corners = np.array([_xyz(*places[start : start + 2]) for start in (0, 2, 4, 6)])
    if not np.isfinite(corners).all() or abs(np.linalg.det(corners[1:])) < 1e-6:
        return None
    matrix = corners[1:].T * np.linalg.solve(corners[1:].T, corners[0])
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford
    d50 = np.array([0.9642, 1.0, 0.8249])
    columns = np.linalg.solve(cone, np.diag(cone @ d50 / (cone @ corners[0])) @ cone @ matrix).T
    if not np.abs(columns).max() < 32000:
        return None
    if gamma:
        curve = b"para\0\0\0\0\0\0\0\0" + _pack_fixed_point(gamma)
    else:
        curve = b"para\0\0\0\0\0\3\0\0" + _pack_fixed_point(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    content = [(b"wtpt", b"XYZ \0\0\0\0" + _pack_fixed_point(*d50))]
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    content += [
        (name, b"XYZ \0\0\0\0" + _pack_fixed_point(*column)) for name, column in zip(names, columns, strict=True)
    ]
    content += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    start = 128 + 4 + 12 * len(content)
    table, body = struct.pack(">I", len(content)), b""
    for name, value in content:
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value
    size = start + len(body)
    head = struct.pack(">I4sI", size, b"", 0x04200000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    return head + _pack_fixed_point(*d50) + bytes(48) + table + body


def _xyz(x: float, y: float) -> tuple[float, float, float]:
    return (x / y, 1.0, (1 - x - y) / y) if y else (math.nan, math.nan, math.nan)


def _pack_fixed_point(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


@lru_cache(maxsize=64)
def build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from pixels of mode L, RGB or CMYK to sRGB, or None if the ICC profile is sRGB itself.

    Raises:
        ValueError: if the profile is damaged or its colour space does not fit the mode.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in BASE.get(mode, ()):
            raise ValueError(f"its colour profile is of {space}, its pixels are {mode}")
        given = "RGB" if space == "RGB" else mode
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if given == "L":  # Little CMS's optimised pipeline interpolates a steep curve between a few points
            flags |= ImageCms.Flags.NOOPTIMIZE
        found = ImageCms.buildTransform(opened, SRGB, given, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ValueError(f"its colour profile is damaged: {error}") from error
    return None if given in ("L", "RGB") and _is_identity(found, given) else found


def _is_identity(found: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return True if a transform changes no colour of a lattice and no grey by more than ``NEAR`` levels."""
    ramp = np.arange(256, dtype=np.uint8)
    steps = np.linspace(0, 255, 12).astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    colours = np.concatenate([lattice, np.repeat(ramp[:, None], 3, axis=1)])[None]
    given = Image.fromarray(colours) if mode == "RGB" else Image.fromarray(np.ascontiguousarray(colours[..., 0]))
    wanted = colours if mode == "RGB" else np.repeat(colours[..., :1], 3, axis=2)
    moved = np.asarray(ImageCms.applyTransform(given, found), dtype=int) - wanted
    return bool(np.abs(moved).max() <= NEAR)


def to_srgb(picture: Image.Image, profile: Profile) -> Image.Image:
    """Convert a picture of mode L, RGB or CMYK to sRGB of mode L or RGB; return ``picture`` itself if it is sRGB.

    Raises:
        ValueError: if the profile is damaged, of an unknown kind, or does not fit the picture's mode.
    """
    if profile.data is None:
        raise ValueError("its colour profile is damaged or of an unknown kind")
    found = build_transform(profile.data, picture.mode)
    if found is None:
        return picture
    given = picture.convert("RGB") if found.input_mode == "RGB" and picture.mode == "L" else picture
    result = ImageCms.applyTransform(given, found)
    assert result is not None, "only a transform in place gives no picture"
    return result.getchannel("G") if picture.mode == "L" else result


def from_lab(picture: Image.Image) -> Image.Image:
    """Convert a picture of mode LAB (CIE L*a*b* under D50) to sRGB; an embedded profile is not applied."""
    result = ImageCms.applyTransform(picture, _build_lab_transform())
    assert result is not None, "only a transform in place gives no picture"
    return result


@lru_cache(maxsize=1)
def _build_lab_transform() -> ImageCms.ImageCmsTransform:
    space, flags = ImageCms.createProfile("LAB"), ImageCms.Flags.NOOPTIMIZE
    return ImageCms.buildTransform(space, SRGB, "LAB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)


def is_srgb(profile: Profile | None, mode: str) -> bool:
    """Return True if pixels of a mode are sRGB and no other program would convert them by the file's profile."""
    if profile is None:
        return True
    try:
        return profile.data is not None and build_transform(profile.data, mode) is None
    except ValueError:
        return False
