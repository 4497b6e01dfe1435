"""Ingest: convert images to shards in parallel with Ray Data; an interrupted ingest can be resumed.

While it runs, OUT/.ingest holds plan.json (the identity of source and rules) and a record of each finished part. Near
duplicates are left out in a second pass over the parts that have any, see :mod:`raysde.data.ingest.left_out`.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.data
from tqdm import tqdm

from raysde.cluster.backpressure import set_up_data
from raysde.cluster.connection import connect
from raysde.cluster.errors import attempt_as_row, iterate_results
from raysde.data.dataset.manifest import FORMAT, INGESTING, Manifest
from raysde.data.ingest.collect import collect_parts
from raysde.data.ingest.convert import Converted, Rules, convert_part
from raysde.data.ingest.identities import identities_file
from raysde.data.ingest.left_out import decide, read_decision, read_left_out, remove_stale
from raysde.data.ingest.samples import SourcePart
from raysde.data.ingest.sources import Source
from raysde.images.open import READING
from raysde.io.filesystems import absolute_location, child_path, exists
from raysde.io.journal import Journal, read_record
from raysde.io.listing import list_files

OPTIONAL = ("attributes", "keep", "near", "condition")
"""Rules that are part of an ingest's identity if they are set; older versions of raysde know none of them."""


def ingest(
    source: Source,
    out: str,
    rules: Rules,
    *,
    name: str,
    licence: str = "",
    skip_bad: bool = False,
    base: Manifest | None = None,
) -> Manifest:
    """Convert a source into shards and a manifest, on Ray.

    Args:
        out: folder or URI of the new data set.
        name: name of the source in the manifest.
        skip_bad: leave out unusable samples and list them in report.json.
        base: newest version of the data set in ``out``, to which the source is appended; None for a new data set.

    Raises:
        ValueError: if the target holds a data set or another interrupted ingest, or a sample is unusable.
        OSError: if the target or the source cannot be reached, or the target is full.
        RuntimeError: if workers are lost too often.
    """
    out = absolute_location(out)
    done = begin_ingest(out, ingest_identity(source, rules, base), base)
    version = 1 if base is None else base.version + 1
    connect()
    decision = None if rules.near is None else read_decision(out)
    with tqdm(total=source.count, unit="image", desc="ingesting", file=sys.stderr) as bar:
        for number in sorted(done):
            _accept_result(done[number], bar, skip_bad)
        # after the decision, a part that was lost is converted once, in the second pass
        left = [number for number in range(len(source.parts)) if number not in done and decision is None]
        for result in _convert_parts(source, rules, out, left, version):
            _accept_result(outline_result(result), bar, skip_bad)
    if rules.near is not None:
        standing = {number: outline.left_out for number, outline in done.items()}
        if decision is None:
            records = ingest_journal(out).records()
            decision = decide((Converted.from_json(content) for _, content in records), out, rules.near, base)
            standing = dict.fromkeys(range(len(source.parts)), 0)
        counts = decision["parts"]
        again = [number for number in range(len(source.parts)) if standing.get(number) != counts.get(number, 0)]
        changing = _convert_parts(source, rules, out, again, version, frozenset(counts))
        for _ in tqdm(changing, total=len(again), unit="part", desc="leaving out near duplicates", file=sys.stderr):
            pass
    # read again from the journal, since all of them would take this process's memory
    parts = (Converted.from_json(content) for _, content in ingest_journal(out).records())
    return collect_parts(parts, rules, out, source=name, licence=licence, labels=source.labels, base=base)


def ingest_journal(out: str) -> Journal:
    """Return the journal of an ingest; its units of work are the source's parts."""
    folder = child_path(out, INGESTING)
    return Journal(child_path(folder, "plan.json"), folder, "part-{:06d}.json")


def ingest_identity(source: Source, rules: Rules, base: Manifest | None = None) -> str:
    """Return a hash of everything that determines the content of the shards.

    Args:
        base: version of the data set that the source is appended to; None for a new data set.
    """
    settings = {key: value for key, value in asdict(rules).items() if key not in OPTIONAL or value}
    rules_said = {"reading": READING, "rules": settings} | ({} if base is None else {"base": base.fingerprint})
    said = json.dumps({"format": FORMAT, "source": source.identity, **rules_said}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outline:
    """Numbers of rows and unusable samples (``bad``) of a converted part, the reason of the first unusable one, and the
    number of near duplicates that were left out."""

    rows: int
    bad: int
    reason: str
    left_out: int = 0


def outline_result(result: Converted) -> Outline:
    """Return the outline of a part."""
    reason = result.bad[0].reason if result.bad else ""
    return Outline(sum(shard.rows for shard in result.shards), len(result.bad), reason, result.left_out)


def begin_ingest(out: str, wanted: str, base: Manifest | None = None) -> dict[int, Outline]:
    """Prepare the target, and return the parts that an earlier ingest of the same source and rules finished.

    Args:
        out: folder or URI of the data set.
        wanted: identity of this ingest, from :func:`ingest_identity`.
        base: the data set in the target that is appended to; None for a new one.

    Raises:
        ValueError: if the target holds a data set or an unfinished ingest of another source.
    """
    if base is None and exists(child_path(out, "manifest.json")):
        raise ValueError(
            f"{out} holds a data set already; choose another folder or remove it, or add to it with --append"
        )
    refused = (
        f"{out} holds an unfinished ingest of another source or with other options, of the same source before it was "
        f"changed, or of another version of raysde: remove {'it' if base is None else child_path(out, INGESTING)} to "
        "start again, or repeat that ingest"
    )
    ingest_journal(out).begin({"identity": wanted}, lambda found, plan: None if found == plan else refused)
    outlines: dict[int, Outline] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, content in ingest_journal(out).records():
        part = Converted.from_json(content)
        outlines[number] = outline_result(part)
        sizes |= {shard.file: (number, shard.bytes) for shard in part.shards}
    shards = list_files(out, list(sizes))
    rows = list_files(child_path(out, INGESTING), [identities_file(number) for number in outlines])
    broken = {number for name, (number, size) in sizes.items() if name not in shards or shards[name].size != size}
    return {
        number: outline
        for number, outline in outlines.items()
        if number not in broken and identities_file(number) in rows
    }


def _accept_result(result: Outline, bar: Any, skip_bad: bool) -> None:
    """Update the progress bar; refuse unusable samples unless ``skip_bad`` is set.

    Raises:
        ValueError: naming the first unusable sample.
    """
    bar.update(result.rows + result.bad + result.left_out)
    if result.bad and not skip_bad:
        more = f" (and {result.bad - 1} more)" if result.bad > 1 else ""
        raise ValueError(f"{result.reason}{more}; --skip-bad leaves such samples out")


def _convert_parts(
    source: Source, rules: Rules, out: str, numbers: list[int], version: int, changed: frozenset[int] = frozenset()
) -> Iterator[Converted]:
    """Convert parts in a Ray Data stream and yield the result of each as it finishes.

    Args:
        changed: parts of which samples are left out.

    Raises:
        ValueError: if a part cannot be read.
        OSError: if a part's shards cannot be written.
        RuntimeError: if workers are lost too often.
    """
    if not numbers:
        return
    set_up_data()
    stream = ray.data.range(len(numbers), override_num_blocks=len(numbers)).map_batches(
        _make_writer(ray.put(source.parts), numbers, rules, out, version, changed), batch_size=1
    )
    for _, content in iterate_results(stream):
        yield Converted.from_json(content)


def convert_and_record(
    part: SourcePart, number: int, rules: Rules, out: str, version: int, *, again: bool
) -> Converted:
    """Convert a part and record it as finished.

    Args:
        again: leave out the samples that the decision names. Shards of the first conversion that are not written again
            are deleted before the part is recorded, so that an interruption repeats the deletion.

    Raises:
        ValueError, OSError: as :func:`raysde.data.ingest.convert.convert_part`.
    """
    journal = ingest_journal(out)
    result = convert_part(part, number, rules, out, version, read_left_out(out, number) if again else ())
    if again and exists(journal.place(number)):
        remove_stale(out, Converted.from_json(read_record(journal.place(number))), result)
    journal.keep(number, result.to_json())
    return result


def _make_writer(
    parts: ray.ObjectRef, numbers: list[int], rules: Rules, out: str, version: int, changed: frozenset[int]
) -> Callable[[dict[str, Any]], dict[str, list[Any]]]:
    def write(batch: dict[str, Any]) -> dict[str, list[Any]]:
        number = numbers[int(batch["id"][0])]

        def work() -> dict[str, Any]:
            part = ray.get(parts)[number]
            return convert_and_record(part, number, rules, out, version, again=number in changed).to_json()

        return attempt_as_row(number, work)

    return write
