"""Damaged files: any bytes give a valid result or a ValueError, and nothing is printed."""

import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from raysde.data.dataset.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shards import write_shard
from raysde.data.dataset.verify import verify_shards
from raysde.images import codec
from raysde.images.codec import decode_image, encode_image
from raysde.images.colour import PRIMARIES, matrix_profile
from raysde.images.open import is_grey, is_plain, open_picture
from tests.support.pictures import rng_image


def examples(count):
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


@pytest.fixture(autouse=True, scope="module")
def _small_limit():
    """Allow only 100,000 pixels, since damaged headers claim large sizes that would take long."""
    kept = codec.MAX_PIXELS
    codec.MAX_PIXELS = Image.MAX_IMAGE_PIXELS = 100_000
    yield
    codec.MAX_PIXELS = Image.MAX_IMAGE_PIXELS = kept


def files():
    """Return small files of every format, by format."""
    picture = Image.fromarray(rng_image(0, 16))
    deep = Image.fromarray(rng_image(1, 16, 2).view(np.uint16)[..., 0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    frames = {"save_all": True, "append_images": [picture.rotate(90)], "duration": 40}
    wanted = [(picture, kind, {}) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "AVIF", "JPEG2000")]
    wanted += [(picture.convert(mode), "PNG", {}) for mode in ("1", "L", "P", "LA", "RGBA")]
    wanted += [(picture, kind, {"exif": exif}) for kind in ("PNG", "JPEG", "WEBP")]
    wanted += [(picture, kind, frames) for kind in ("PNG", "GIF", "WEBP")]
    wanted += [(picture.convert(mode), "JPEG", {}) for mode in ("L", "CMYK")]
    wanted += [(picture, "JPEG", {"progressive": True}), (deep, "PNG", {}), (picture.convert("P"), "BMP", {})]
    profile = matrix_profile(PRIMARIES[12], 0.0)
    wanted += [(picture, kind, {"icc_profile": profile}) for kind in ("PNG", "JPEG", "WEBP", "AVIF")]
    wanted += [(picture, "PNG", {"transparency": (1, 2, 3)}), (picture.convert("L"), "PNG", {"transparency": 3})]
    wanted += [(picture, "MPO", {"save_all": True, "append_images": [picture.rotate(90)]})]
    tiffs = [(picture, "TIFF", {"compression": kind}) for kind in ("raw", "tiff_lzw", "packbits", "jpeg")]
    tiffs += [(deep, "TIFF", {}), (Image.fromarray(np.zeros((8, 8), dtype=np.float32)), "TIFF", {})]
    return [written(*one) for one in wanted], [written(*one) for one in tiffs]


def written(picture, kind, options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


FILES, TIFFS = files()
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "insert", "delete", "swap", "cut"]),
        st.integers(0, 2**20),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def damaged(data, edits):
    data = bytearray(data)
    for kind, number, said in edits:
        place = number % max(1, len(data))
        if kind == "flip":
            data[place : place + 1] = bytes(byte ^ (1 << said[0] % 8) for byte in data[place : place + 1])
        elif kind == "set":
            data[place : place + len(said)] = said
        elif kind == "insert":
            data[place:place] = said
        elif kind == "delete":
            del data[place : place + len(said)]
        elif kind == "cut":
            del data[max(place, len(data) - number % 97) :]
        elif data:
            other = int.from_bytes(said, "big") % len(data)
            data[place], data[other] = data[other], data[place]
    return bytes(data)


def outcome(function, *arguments, culprit=""):
    """Return a function's result, or None after a ValueError with one printable line that matches ``culprit``."""
    try:
        return function(*arguments)
    except ValueError as error:
        said = str(error)
    assert said.encode().splitlines() == [said.encode()]
    assert re.search(culprit, said), said
    return None


def check_image(data, channels):
    """Call all functions that read image files; a plain file is decoded to the same pixels or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = check_picture(data, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        array = outcome(decode_image, data, channels)
    if array is None:
        return
    assert (array.dtype, array.ndim, array.shape[2]) == (np.uint8, 3, channels)
    assert 0 < array.size <= 300_000
    if picture is not None and is_plain(data, picture):
        assert np.abs(array.astype(int) - np.asarray(picture).reshape(array.shape)).max() <= 2


def check_picture(data, channels):
    outcome(is_grey, data, culprit="^it is not an image of a known kind")
    picture = outcome(lambda: open_picture(data, channels, background=7))
    if picture is None:
        return None
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert np.asarray(picture).dtype == np.uint8
    assert is_plain(data, picture) in (True, False)
    return picture


@examples(4500)
@given(st.binary(max_size=200), st.sampled_from([b"", *(data[:12] for data in FILES)]), st.sampled_from([1, 3]))
def test_random_bytes(tail, head, channels):
    check_image(head + tail, channels)


def test_damaged_pictures(capfd):
    @examples(3500)
    @given(st.sampled_from(FILES), EDITS, st.sampled_from([1, 3]))
    def run(data, edits, channels):
        check_image(damaged(data, edits), channels)

    run()
    assert capfd.readouterr() == ("", "")


@examples(500)
@given(st.sampled_from(TIFFS), EDITS, st.sampled_from([1, 3]))
def test_damaged_tiffs(data, edits, channels):
    """Damaged TIFFs may print, because libtiff writes to standard error and Pillow does not turn it off."""
    check_image(damaged(data, edits), channels)


# --- manifests ----------------------------------------------------------------------------------------------------

ROWS = 24
PIXELS = [rng_image(number) for number in range(ROWS)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Return a data set of one shard with three row groups."""
    folder = tmp_path_factory.mktemp("shards")
    rows = [
        {"image": {"bytes": encode_image(Image.fromarray(PIXELS[n]), quality=None), "path": None},
         "captions": [f"picture {n}"], "label": str(n % 3), "key": f"{n}.png", "width": 8, "height": 8,
         "hash": f"{n:016x}"}
        for n in range(ROWS)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    shard = write_shard(table, str(folder), "train-00000.parquet", row_group=8, image=(8, 8))
    manifest = Manifest(str(folder), 3, (8, 8), 8, (shard,), labels=("0", "1", "2"), captions=ROWS)
    write_manifest(manifest)
    return manifest


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5)
    | st.sampled_from([-1, 0, 2**63, 10**400, 1e308, "\ud800", "../x", "train", [], {}, [8], [8, 8], [0, 8], "88", 3.0, True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def check_manifest(folder, content):
    (folder / "manifest.json").write_bytes(content)
    manifest = outcome(read_manifest, str(folder), culprit="manifest.json")
    if manifest is None:
        return
    assert type(manifest) is Manifest
    assert type(manifest.channels) is int
    assert manifest.size is None or len(manifest.image) == 3
    assert (
        manifest.starts[-1]
        == manifest.rows
        == sum(layout.count for split in ("train", "validation") for layout in manifest.layouts(split))
    )
    assert len(manifest.fingerprint) == 16
    assert manifest.classes == len(set(manifest.labels))
    assert all(manifest.file(number) for number in range(len(manifest.shards)))


@examples(600)
@given(edits=EDITS)
def test_a_manifest_with_damaged_bytes(shards, tmp_path_factory, edits):
    check_manifest(tmp_path_factory.getbasetemp(), damaged((Path(shards.path) / "manifest.json").read_bytes(), edits))


@examples(600)
@given(
    changes=st.lists(
        st.tuples(st.booleans(), st.integers(0, 30), st.just("drop") | st.just("add") | st.just("set"), ANYTHING),
        min_size=1,
        max_size=3,
    )
)
def test_a_manifest_with_other_values(shards, tmp_path_factory, changes):
    content = json.loads((Path(shards.path) / "manifest.json").read_bytes())
    for inside, number, kind, value in changes:
        within = content.get("shards") if inside else None
        target = within[0] if isinstance(within, list) and within and isinstance(within[0], dict) else content
        names = [*target, "extra"]
        name = names[number % len(names)]
        if kind == "drop":
            target.pop(name, None)
        elif kind == "set":
            target[name] = value
        else:
            target[name] = [target.get(name), value]
    check_manifest(tmp_path_factory.getbasetemp(), json.dumps(content).encode())


@examples(50)
@given(value=ANYTHING, depth=st.integers(0, 3000))
def test_a_manifest_of_something_else(tmp_path_factory, value, depth):
    check_manifest(tmp_path_factory.getbasetemp(), b"[" * depth + json.dumps(value).encode() + b"]" * depth)


# --- shards -------------------------------------------------------------------------------------------------------


@examples(600)
@given(edits=EDITS, end=st.booleans())
def test_a_damaged_shard_gives_its_pixels_or_an_error(shards, edits, end):
    """Half of the damage is in the footer, which has no checksum."""
    path = Path(shards.path) / shards.shards[0].file
    whole = path.read_bytes()
    border = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little") if end else 0
    changed = whole[:border] + damaged(whole[border:], edits)
    path.write_bytes(changed)
    try:
        check_shard(shards, changed == whole)
    finally:
        path.write_bytes(whole)


def check_shard(manifest, same):
    if not same:
        with pytest.raises(ValueError, match="train-00000"):
            verify_shards(manifest, hashes=True)
    outcome(lambda: verify_shards(manifest, hashes=False), culprit="train-00000")
    outcome(check_rows, manifest, culprit="train-00000|row")


def check_rows(manifest):
    columns = Reader(manifest).read(np.arange(ROWS))
    assert np.array_equal(columns.images, PIXELS)
    assert columns.captions == [f"picture {n}" for n in range(ROWS)]
    assert np.array_equal(columns.labels, np.arange(ROWS) % 3)
