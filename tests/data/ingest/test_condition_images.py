"""Second images: the same from every kind of source, cut as their images, counted, and kept in step by readers."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysde.cluster.ingest import ingest_identity
from raysde.data.batches.arrow import from_table
from raysde.data.batches.blocks import _list_numbers
from raysde.data.batches.microbatch import make_microbatch
from raysde.data.batches.tables import Decoded, to_table
from raysde.data.condition_column import CONDITION, ConditionColumn
from raysde.data.dataset.contact_sheet import describe_manifest, draw_contact_sheet
from raysde.data.dataset.manifest import SCHEMA, read_manifest
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.sources import Source, SourcesReader, merge_manifests
from raysde.data.dataset.verify import verify_shards
from raysde.data.dataset.view import View, draw_uniforms
from raysde.data.ingest.append import check_appendable
from raysde.data.ingest.convert import Rules
from raysde.data.ingest.digits import edge_magnitude, load_digits
from raysde.data.ingest.probe import choose_rules
from raysde.data.ingest.samples import Sample
from raysde.data.ingest.sources import open_source
from tests.support.edges import EDGES, edge_shards, sobel_edges, to_png
from tests.support.ingested import ingest_here
from tests.support.sources import COUNT, FILES, NAMES, Given, read, reasons, write_images, write_lines, write_tar

SECONDS = [to_png(np.full((8, 8), 30 * number, np.uint8)) for number in range(COUNT)]
DEPTH = ConditionColumn("depth")


def write_source(kind, folder):
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "tar":
        pairs = zip(NAMES, FILES, SECONDS, strict=True)
        write_tar(folder / "a.tar", [(f"{name}.{end}", data) for name, file, second in pairs
                                     for end, data in (("png", file), ("depth.png", second))])  # fmt: skip
    elif kind in ("bytes", "struct", "path"):
        if kind == "path":
            write_beside(folder / "more")
        values = {
            "bytes": SECONDS,
            "struct": [{"bytes": each, "path": None} for each in SECONDS],
            "path": [f"more/{name}.png" for name in NAMES],
        }[kind]
        pq.write_table(pa.table({"image": FILES, "Depth": values}), folder / "a.parquet", row_group_size=3)
    else:
        write_images(folder)
        if kind == "suffix":
            for name, second in zip(NAMES, SECONDS, strict=True):
                (folder / f"{name}.Depth.png").write_bytes(second)
            return
        write_beside(folder / "more")
        rows = [{"file_name": f"{name}.png", "depth": f"more/{name}.png"} for name in NAMES]
        if kind == "jsonl":
            write_lines(folder, rows)
        elif kind == "csv":
            (folder / "metadata.csv").write_text(
                "file_name,depth\n" + "".join(f"{each['file_name']},{each['depth']}\n" for each in rows)
            )
        else:
            (folder / "about.json").write_text(json.dumps(rows))


def write_beside(folder):
    folder.mkdir()
    for name, second in zip(NAMES, SECONDS, strict=True):
        (folder / f"{name}.png").write_bytes(second)


@pytest.mark.parametrize("kind", ["tar", "bytes", "struct", "path", "suffix", "jsonl", "csv", "rows"])
def test_every_source_pairs_the_same_images(kind, tmp_path):
    """Each image comes once, with its own second image, and second images are no images of their own."""
    write_source(kind, tmp_path / "source")
    where = tmp_path / "source" / ("a.parquet" if kind == "path" else "")
    samples = read(where, condition="depth")
    assert not reasons(samples)
    assert [sample.data for sample in samples] == FILES
    assert [sample.condition for sample in samples] == SECONDS
    assert all(not sample.kept for sample in samples)
    assert open_source(str(where), condition="depth").condition == "depth"


@pytest.mark.parametrize("kind", ["tar", "bytes", "suffix", "jsonl"])
def test_the_same_source_without_the_name_is_read_as_before(kind, tmp_path):
    """No second image is read, and the identity of the source does not know the option."""
    write_source(kind, tmp_path / "source")
    samples = [sample for sample in read(tmp_path / "source") if isinstance(sample, Sample)]
    assert all(sample.condition is None for sample in samples)
    plain, paired = (open_source(str(tmp_path / "source"), condition=name) for name in (None, "depth"))
    assert plain.identity != paired.identity


def test_a_usual_name_of_images_may_name_the_second_one(tmp_path):
    """A column img of second images beside file_name does not name the image."""
    folder = tmp_path / "source"
    write_images(folder)
    write_beside(folder / "more")
    write_lines(folder, [{"file_name": f"{name}.png", "img": f"more/{name}.png"} for name in NAMES])
    assert [sample.condition for sample in read(folder, condition="img")] == SECONDS


def test_images_without_a_second_one_are_bad_rows(tmp_path):
    """Rows and bad rows add up to the images; each bad row names its image."""
    folder = tmp_path / "source"
    write_source("suffix", folder)
    (folder / "02.Depth.png").unlink()
    (folder / "04.Depth.png").write_bytes(to_png(np.zeros((4, 5), np.uint8)))
    (folder / "05.Depth.png").write_bytes(b"no image")
    found = open_source(str(folder), order="source", condition="depth")
    rules = choose_rules(found)
    manifest = ingest_here(found.parts, tmp_path / "out", rules)
    assert (manifest.rows, manifest.skipped) == (COUNT - 3, 3)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    said = {each["key"]: each["reason"] for each in report["skipped"]}
    assert said.keys() == {"02.png", "04.png", "05.png"}
    assert "condition image 'depth' of 02.png is missing" in said["02.png"]
    assert "it is 4x5 and the image 8x8 (height x width)" in said["04.png"]
    assert "condition image 'depth' of 05.png cannot be used: it is not an image" in said["05.png"]


def test_second_images_that_cannot_be_paired_are_refused(tmp_path):
    folder = tmp_path / "a"
    write_source("suffix", folder)
    (folder / "07.depth.png").write_bytes(SECONDS[0])
    with pytest.raises(
        ValueError, match=r"07.depth.png is a condition image 'depth', and there is no image of the nam"
    ):
        open_source(str(folder), condition="depth")
    (folder / "07.depth.png").rename(folder / "06.depth.jpg")
    with pytest.raises(ValueError, match=r"image 06.png has 2 condition images"):
        open_source(str(folder), condition="depth")
    for kind, said in (
        ("suffix", "no image has one; name files such as 0001.normals.png"),
        ("bytes", "has no column 'normals', which --condition-image asks for; it has image, Depth"),
    ):
        write_source(kind, tmp_path / f"no-{kind}")
        with pytest.raises(ValueError, match=said):
            open_source(str(tmp_path / f"no-{kind}"), condition="normals")
    write_source("tar", tmp_path / "tar")
    with pytest.raises(ValueError, match="none of the first 7 images has one"):
        choose_rules(open_source(str(tmp_path / "tar"), condition="normals"))
    with pytest.raises(ValueError, match="in archives it is a word without numbers"):
        open_source(str(tmp_path / "tar"), condition="cond2")
    pq.write_table(pa.table({"image": FILES, "depth": list(range(COUNT))}), tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match="is int64, neither images nor paths"):
        open_source(str(tmp_path / "numbers.parquet"), condition="depth")
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"is of arrays, which have no columns; leave .*--condition-image out"):
        open_source(str(tmp_path / "x.npy"), condition="depth")
    for name in ("image", "two words?", ""):
        with pytest.raises(ValueError, match=r"condition image .*rename the column or the files"):
            open_source(str(folder), condition=name)
    with pytest.raises(ValueError, match="is also the name of captions"):
        open_source(str(folder), condition="text")
    write_lines(tmp_path / "a", [{"file_name": "00.png", "depth": 3}])
    with pytest.raises(ValueError, match="condition image 'depth' is 3, expected the path of an image"):
        open_source(str(tmp_path / "a"), condition="depth")


def twin_samples(rows=24, sizes=((17, 12), (12, 17), (13, 13))):
    """Return samples of noise whose second image is the image itself."""
    samples = []
    for row in range(rows):
        height, width = sizes[row % len(sizes)]
        data = to_png(np.random.default_rng(row).integers(0, 256, (height, width), np.uint8))
        samples.append(Sample(f"{row:04d}", data, condition=data))
    return samples


@pytest.mark.parametrize(
    "rules",
    [
        {"size": 8},
        {"size": (6, 9), "fit": "pad"},
        {"size": 8, "fit": "stretch"},
        {"size": 8, "fit": "short"},
        {"fit": "keep"},
        {"size": 8, "bucket_multiple": 4},
        {"size": 8, "encode": "png"},
    ],
)
def test_an_image_that_is_its_own_second_image_stays_so(rules, tmp_path):
    """Ingest, and every crop and scale of a training view, give the same pixels twice, bit for bit; rows are conserved
    and buckets take both."""
    samples = twin_samples()
    made = Rules(channels=1, condition=DEPTH, row_group=4, shard_rows=16, validation=0.25, **rules)
    manifest = ingest_here([Given(tuple(samples))], tmp_path, made)
    assert manifest.rows == len(samples)
    reader = Reader(manifest, fields={CONDITION})
    shape = None if manifest.size is not None or rules.get("bucket_multiple") else (7, 5)
    for view in (View(shape), View((7, 5), "random", (0.4, 0.9))):
        if rules.get("bucket_multiple") and view.shape is not None:
            view = View(None, "random", (0.4, 0.9))
        for row in range(manifest.rows):
            found = reader.read(np.array([row]), view, draw_uniforms(1, row, 0, 1))
            assert np.array_equal(found.images, found.condition_images)
            assert found.images.max() > found.images.min()


def test_nearest_pixels_mix_no_levels(tmp_path):
    """Segmentation maps keep their levels through crops and scales; smooth scaling makes others."""
    levels = np.array([0, 90, 255], np.uint8)
    samples = [
        Sample(f"{row}", to_png(np.zeros((30, 30), np.uint8)),
               condition=to_png(levels[np.random.default_rng(row).integers(0, 3, (30, 30))]))
        for row in range(8)
    ]  # fmt: skip
    seen = {}
    for resample in ("nearest", "smooth"):
        rules = Rules(channels=1, size=17, condition=replace(DEPTH, resample=resample), encode="jpeg")
        manifest = ingest_here([Given(tuple(samples))], tmp_path / resample, rules)
        view = View((9, 9), "random", (0.5, 1.0))
        found = Reader(manifest, fields={CONDITION}).read(np.arange(8), view, draw_uniforms(0, 0, 0, 8))
        seen[resample] = set(found.condition_images.ravel().tolist())
    assert seen["nearest"] == set(levels.tolist())
    assert len(seen["smooth"]) > 50


def test_shards_manifest_and_blocks_hold_them(tmp_path):
    """Every row has the edges that torch computes, also through a block, an inspected manifest and its contact sheet."""
    manifest = edge_shards(tmp_path / "data", validation=0.2)
    assert manifest == read_manifest(manifest.path)
    assert manifest.condition == EDGES
    verify_shards(manifest, hashes=True)
    assert "condition      edges, grey, in every row" in describe_manifest(manifest)
    wanted = sobel_edges(load_digits()[0][:200])
    reader = Reader(manifest, fields={CONDITION, "labels"})
    keys = [int(str(reader.about(row)["key"])[:4]) for row in range(200)]
    assert sorted(keys) == list(range(200))
    rows = np.array([3, 77, 140, 199])
    found = reader.read(rows)
    assert np.array_equal(found.condition_images[..., 0], wanted[[keys[row] for row in rows]])
    assert np.array_equal(reader.condition_picture(77)[..., 0], wanted[keys[77]])
    decoded = [Decoded(step, 0, rows, reader.read(rows)) for step in range(2)]
    batches = [make_microbatch(step, 0, rows, reader.read(rows)) for step in range(2)]
    for sent, got in zip(batches, from_table(to_table(decoded, _list_numbers(reader)), 1), strict=True):
        assert got.condition_images.shape == (4, 1, 8, 8)
        assert np.array_equal(sent.condition_images, got.condition_images)
    sheet = np.asarray(draw_contact_sheet(reader, 1, 0))
    shown = draw_contact_sheet(reader, 1, 0).info["rows"][0]
    for left, picture in ((4, load_digits()[0][keys[shown]]), (120, wanted[keys[shown]])):
        assert np.array_equal(sheet[4:116:14, left : left + 112 : 14, 0], picture)
    plain = Reader(manifest)
    assert plain.read(rows).condition_images is None


def test_the_fingerprint_follows_the_second_images(tmp_path):
    first, again = (edge_shards(tmp_path / name, rows=20) for name in ("a", "b"))
    one, two = (
        ingest_here(
            [Given((Sample("0", FILES[0], condition=second),))],
            tmp_path / str(number),
            Rules(channels=3, size=4, condition=DEPTH),
        )
        for number, second in enumerate(SECONDS[:2])
    )
    assert first.fingerprint == again.fingerprint
    assert one.fingerprint != two.fingerprint


def test_data_sets_without_second_images_stay_as_they_were(tmp_path):
    """Neither manifest nor shards nor the identity of an ingest know of them."""
    source = Given(tuple(replace(each, condition=None) for each in twin_samples(4)))
    rules = Rules(channels=1, size=8)
    manifest = ingest_here([source], tmp_path, rules)
    assert "condition" not in json.loads((tmp_path / "manifest.json").read_text())
    assert pq.read_schema(manifest.file(0)).equals(SCHEMA, check_metadata=False)
    assert "condition_remarks" not in json.loads((tmp_path / "report.json").read_text())
    found = open_source(str(tmp_path_of_images(tmp_path / "images")))
    identities = {ingest_identity(found, each) for each in (rules, replace(rules, condition=DEPTH))}
    settings = {key: value for key, value in vars(rules).items() if key not in ("attributes", "keep", "condition")}
    assert len(identities) == 2
    assert "condition" not in settings


def tmp_path_of_images(folder):
    write_images(folder)
    return folder


def test_appended_rows_need_the_same_second_image(tmp_path):
    base = edge_shards(tmp_path / "data", rows=40)
    rules = Rules(channels=1, size=8, attributes=("thickness",), row_group=32, condition=EDGES)
    check_appendable(base, rules)
    for other, said in (
        (None, "has --condition-image edges, grey, these options make none"),
        (replace(EDGES, channels=3), "these options make edges, RGB"),
        (replace(EDGES, name="depth"), "these options make depth, grey"),
        (replace(EDGES, resample="nearest"), "scaled to the nearest pixel"),
    ):
        with pytest.raises(ValueError, match=said):
            check_appendable(base, replace(rules, condition=other))
    more = Sample("x", to_png(np.zeros((8, 8), np.uint8)), label="3", attributes=(1.0,), condition=to_png(np.full((8, 8), 7, np.uint8)))  # fmt: skip
    grown = ingest_here([Given((more,))], tmp_path / "data", rules, base)
    assert (grown.rows, grown.condition) == (41, EDGES)
    assert (Reader(grown, fields={CONDITION}).read(np.array([40])).condition_images == 7).all()


def test_mixed_data_sets_need_the_same_second_image(tmp_path):
    one, two = (edge_shards(tmp_path / name, rows=rows) for name, rows in (("a", 30), ("b", 50)))
    sources = [Source(one), Source(two)]
    reader = SourcesReader(sources, merge_manifests(sources), wanted=frozenset({CONDITION}))
    rows = np.array([29, 30, 79])
    found = reader.read(rows).condition_images[..., 0]
    assert np.array_equal(found, sobel_edges(load_digits()[0][[29, 0, 49]]))
    other = replace(two, condition=replace(EDGES, name="depth"))
    with pytest.raises(ValueError, match=r"has the condition image edges, grey, .* depth, grey"):
        merge_manifests([Source(one), Source(other)])


def test_colours_of_second_images_are_remarked(tmp_path):
    red = np.zeros((6, 6, 3), np.uint8)
    red[:3, :, 0] = 200
    samples = [Sample("0", to_png(np.zeros((6, 6), np.uint8)), condition=to_png(red))]
    manifest = ingest_here([Given(tuple(samples))], tmp_path / "grey", Rules(channels=1, size=6, condition=DEPTH))
    report = json.loads((tmp_path / "grey" / "report.json").read_text())
    assert report["condition_remarks"] == {"grey": {"images": 1, "examples": ["0"]}}
    assert not report["remarks"]
    whole = Rules(channels=1, size=6, condition=replace(DEPTH, channels=3))
    manifest = ingest_here([Given(tuple(samples))], tmp_path / "colour", whole)
    assert np.array_equal(Reader(manifest, fields={CONDITION}).read(np.array([0])).condition_images[0], red)


def test_a_damaged_entry_of_the_manifest_is_refused(tmp_path):
    manifest = edge_shards(tmp_path, rows=10)
    file = tmp_path / "manifest.json"
    content = json.loads(file.read_text())
    for entry, said in (
        ({"name": "a b"}, "a name has letters"),
        ({"name": "edges", "channels": 2}, "has 2 channels"),
        ({"name": "edges", "resample": "cubic"}, "expected smooth or nearest"),
        ({"name": "edges", "side": 2}, "is not a manifest"),
    ):
        file.write_text(json.dumps({**content, "condition": entry}))
        with pytest.raises(ValueError, match=said):
            read_manifest(manifest.path)
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "condition"}))
    with pytest.raises(ValueError, match="columns"):
        verify_shards(read_manifest(manifest.path), hashes=False)


def test_edges_of_digits_are_sobels():
    """The edges that `raysde ingest sklearn:digits` writes are those of torch; a step of 255 has magnitude 255."""
    images = load_digits()[0][:50]
    assert np.abs(edge_magnitude(images).astype(int) - sobel_edges(images)).max() == 0
    step = np.zeros((1, 6, 6), np.uint8)
    step[:, :, 3:] = 255
    assert edge_magnitude(step)[0].tolist() == [[0, 0, 255, 255, 0, 0]] * 6
