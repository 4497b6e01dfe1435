"""Near duplicates left out of an ingest: the same data set as from a source without them, at any interruption."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from raysde.cluster.ingest import begin_ingest, convert_and_record, ingest_identity, ingest_journal
from raysde.data.dataset.duplicates import Criterion
from raysde.data.dataset.hash_files import FOLDER
from raysde.data.dataset.manifest import INGESTING, read_manifest
from raysde.data.dataset.verify import verify_shards
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import Converted, Rules
from raysde.data.ingest.left_out import LIST, decide, read_decision
from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.sources import Source
from tests.support.copies import COPIES, draw_scene, png, resized
from tests.support.ingested import ingest_here
from tests.support.sources import Given

KEEPING = Rules(channels=3, size=48, row_group=8, shard_rows=10, validation=0.3, keep=("score",))
RULES = replace(KEEPING, near=Criterion())


def sample(number, picture, key="p"):
    return Sample(f"{key}{number:03d}", png(picture), (f"caption {number}",), str(number % 3), kept={"score": number})


def planted():
    """Return 50 pictures, of which 20 have a copy, and two unusable samples, mixed, and the keys of the copies."""
    rng = np.random.default_rng(5)
    pictures = [draw_scene(seed) for seed in range(50)]
    kinds = ["half", "jpeg", "cropped"]
    copies = [sample(n, COPIES[kinds[n % 3]](pictures[n], rng), "z") for n in range(20)]
    samples = [sample(n, each) for n, each in enumerate(pictures)] + copies + [Bad("b1", "bad"), Bad("b2", "bad")]
    mixed = [samples[place] for place in rng.permutation(len(samples))]
    first = {}
    for place, each in enumerate(mixed):
        first.setdefault(int(each.key[1:]), []).append((place, each.key)) if each.key[0] in "pz" else None
    # of pictures of one size, the first in the source is kept; the copy of half the size is left out
    left = {
        next(key for _, key in pair if key[0] == "z") if int(pair[0][1][1:]) % 3 == 0 else pair[1][1]
        for pair in first.values()
        if len(pair) == 2
    }
    return mixed, left


def parts_of(samples, each=18):
    return [Given(tuple(samples[start : start + each])) for start in range(0, len(samples), each)]


class Killed(Exception):
    pass


class Ingest:
    """The steps of an ingest in this process, each of which may be the last one before a kill."""

    def __init__(self, samples, out, rules=RULES, base=None, each=18):
        self.parts, self.out, self.rules, self.base = parts_of(samples, each), str(out), rules, base
        self.source = Source("folder", tuple(self.parts), "here", len(samples))
        self.version = 1 if base is None else base.version + 1

    def run(self, steps=10**6, order=1):
        """Take so many steps, parts in their order or from the last; return the manifest, or None if it was killed."""
        done = begin_ingest(self.out, ingest_identity(self.source, self.rules, self.base), self.base)
        standing = {number: outline.left_out for number, outline in done.items()}
        decision = read_decision(self.out)
        numbers = range(len(self.parts))[::order]
        try:
            if decision is None:
                for number in numbers:
                    if number not in done:
                        steps = self.step(steps, number, again=False)
                records = (Converted.from_json(content) for _, content in ingest_journal(self.out).records())
                decision = decide(records, self.out, self.rules.near, self.base)
                standing = dict.fromkeys(numbers, 0)
            for number in numbers:
                if standing.get(number) != decision["parts"].get(number, 0):
                    steps = self.step(steps, number, again=number in decision["parts"])
        except Killed:
            return None
        parts = (Converted.from_json(content) for _, content in ingest_journal(self.out).records())
        return collect_parts(parts, self.rules, self.out, source="x", licence="", base=self.base)

    def step(self, steps, number, *, again):
        if not steps:
            raise Killed
        convert_and_record(self.parts[number], number, self.rules, self.out, self.version, again=again)
        return steps - 1


def keys_of(folder, manifest):
    return [key for shard in manifest.shards for key in pq.read_table(folder / shard.file).column("key").to_pylist()]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_lists(files):
    return {name: content for name, content in files.items() if name not in ("report.json", LIST)}


def test_the_data_set_is_that_of_a_source_without_the_copies(tmp_path):
    """Shards, manifest, kept columns and hashes have the bytes of an ingest of the kept samples in the same parts."""
    samples, left = planted()
    manifest = Ingest(samples, tmp_path / "a").run()
    verify_shards(manifest, hashes=True)
    keys = keys_of(tmp_path / "a", manifest)
    assert set(keys) == {each.key for each in samples if not isinstance(each, Bad)} - left
    assert len(keys) + len(left) + manifest.skipped == len(samples) == 72
    listed = pq.read_table(tmp_path / "a" / LIST).to_pylist()
    assert {row["key"] for row in listed} == left
    assert all(row["key"][1:] == row["kept"][1:] and row["kept"] in keys for row in listed)
    assert all(0.0 < row["distance"] <= RULES.near.threshold for row in listed)
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert (report["near_duplicates"]["rows"], report["near_duplicates"]["groups"]) == (20, 20)
    assert len(report["skipped"]) == 2
    kept = [Given(tuple(each for each in part.samples if each.key not in left)) for part in parts_of(samples)]
    ingest_here(kept, tmp_path / "b", replace(KEEPING, near=None))
    one, two = (without_lists(contents(tmp_path / name)) for name in "ab")
    for files in (one, two):
        manifest_text = json.loads(files.pop("manifest.json"))
        files["manifest"] = {key: value for key, value in manifest_text.items() if key != "source"}
    # positions in the source count the samples that were left out
    assert {name for name in one if not name.startswith(FOLDER)} == {n for n in two if not n.startswith(FOLDER)}
    assert {n: c for n, c in one.items() if not n.startswith(FOLDER)} == {
        n: c for n, c in two.items() if not n.startswith(FOLDER)
    }
    assert set(one) == set(two)


@pytest.mark.parametrize("order", [1, -1])
def test_an_interrupted_ingest_ends_with_the_same_files(tmp_path, order):
    """Killed after every step, with parts finishing in any order, and with the shards of a part lost."""
    samples, _ = planted()
    whole = Ingest(samples, tmp_path / "whole")
    whole.run()
    ingest = Ingest(samples, tmp_path / "killed")
    for kills in range(100):
        if kills == 2 or kills == 6:  # a task that was killed while it wrote a shard
            (tmp_path / "killed" / "train-00001.parquet").write_bytes(b"torn")
        if ingest.run(steps=1, order=order) is not None:
            break
    assert 7 <= kills < 20
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_shards_that_are_not_written_again_are_deleted(tmp_path):
    """A part whose rows are all left out has no shard, also if the ingest was killed before it was recorded."""
    pictures = [draw_scene(seed) for seed in range(36)]
    samples = [sample(n, each) for n, each in enumerate(pictures)]
    samples += [sample(n, resized(each, 0.5), "z") for n, each in enumerate(pictures[:18])]
    ingest = Ingest(samples, tmp_path / "a", replace(RULES, keep=()))
    ingest.run(steps=3)
    assert ingest.run(steps=0) is None
    shutil.copytree(tmp_path / "a", tmp_path / "before")
    before = {path.name for path in (tmp_path / "before").glob("*-00002*.parquet")}
    assert before
    manifest = ingest.run()
    assert not any((tmp_path / "a" / name).exists() or (tmp_path / "a" / FOLDER / name).exists() for name in before)
    assert manifest.rows == 36
    assert read_manifest(str(tmp_path / "a")) == manifest


def test_an_appended_copy_of_an_old_image_is_left_out(tmp_path):
    """A row of an earlier version is kept, even if the new one is larger, and with its hashes lost."""
    old = [draw_scene(seed) for seed in range(20)]
    ingest = Ingest([sample(n, resized(each, 0.6)) for n, each in enumerate(old)], tmp_path / "a")
    base = ingest.run()
    shutil.rmtree(tmp_path / "a" / FOLDER)
    new = [sample(n, draw_scene(n), "z") for n in range(10, 40)]
    rules = replace(RULES, validation=0.2)
    grown = Ingest(new, tmp_path / "a", rules, base).run()
    assert (grown.version, grown.rows) == (2, 40)
    keys = keys_of(tmp_path / "a", grown)
    assert set(keys) == {f"p{n:03d}" for n in range(20)} | {f"z{n:03d}" for n in range(20, 40)}
    listed = pq.read_table(tmp_path / "a" / "duplicates-v2.parquet").to_pylist()
    assert {(row["key"], row["kept"]) for row in listed} == {(f"z{n:03d}", f"p{n:03d}") for n in range(10, 20)}
    assert all(row["kept_in_earlier_version"] for row in listed)
    report = json.loads((tmp_path / "a" / "report-v2.json").read_text())
    assert report["near_duplicates"]["of_earlier_versions"] == 10
    with pytest.raises(
        ValueError, match=r"each of the 5 images of x nearly repeats one .* leave out --drop-duplicates"
    ):
        Ingest(new[:5], tmp_path / "a", rules, grown).run()


def test_rows_do_not_depend_on_the_division_into_parts(tmp_path):
    samples, left = planted()
    for each in (5, 30, 100):
        manifest = Ingest(samples, tmp_path / str(each), each=each).run()
        rows = {each.key for each in samples if not isinstance(each, Bad)} - left
        assert set(keys_of(tmp_path / str(each), manifest)) == rows


def test_the_identity_of_an_ingest_has_the_criterion_only_if_it_is_given():
    source = Source("folder", (), "here", 0)
    assert ingest_identity(source, KEEPING) != ingest_identity(source, RULES)
    other = replace(RULES, near=Criterion(mirrored=True))
    assert ingest_identity(source, RULES) != ingest_identity(source, other)


def test_missing_hashes_of_a_part_are_named(tmp_path):
    samples, _ = planted()
    ingest = Ingest(samples, tmp_path / "a")
    assert ingest.run(steps=3) is None
    (tmp_path / "a" / FOLDER / "train-00000.parquet").unlink()
    with pytest.raises(ValueError, match=rf"hashes/train-00000\.parquet is missing or damaged; remove \S+/{INGESTING}"):
        ingest.run()
