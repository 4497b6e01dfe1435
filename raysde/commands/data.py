"""The commands `raysde inspect`, which describes a data set, and `raysde plan`, which lists the rows of a step."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raysde.commands.duplicates import (
    add_criterion_options,
    add_feature_options,
    check_feature_options,
    inspect_duplicates,
    read_criterion,
)
from raysde.commands.outputs import check_picture
from raysde.io.amounts import amount

if TYPE_CHECKING:
    from raysde.data.dataset.manifest import Manifest
    from raysde.data.dataset.verify import Verification
    from raysde.runs.run import Run

COMPARED = {
    "hash": "sizes, columns and hashes",
    "schema": "sizes and columns",
    "listing": "sizes and entity tags in a listing",
}
"""Words for what each verification compares."""


def add_inspect_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde inspect`."""
    command.description = (
        "Describes a data set, checks its shards, and writes a contact sheet of some images; or lists the checkpoints "
        "of a run. Of several data sets, also says what a recipe gets that mixes them."
    )
    command.add_argument(
        "shards",
        nargs="+",
        help="folder or URI with a manifest.json, several for a mixture; or the folder of a run, or RUN@best, RUN@last "
        "or RUN@STEP",
    )
    command.add_argument("--sheet", default="contact-sheet.png", help="picture to write (default %(default)s)")
    command.add_argument("-n", type=int, default=48, help="number of images on the sheet (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="seed that selects the images (default %(default)s)")
    version = "version of the data set, if it has grown (default: the newest)"
    command.add_argument("--version", type=int, metavar="N", help=version)
    command.add_argument("--fast", action="store_true", help="skip the check of the shards' hashes")
    near = command.add_argument_group("near duplicates")
    wanted = "find images that are resized, recompressed, or slightly cropped copies of another"
    near.add_argument("--duplicates", action="store_true", help=wanted)
    sheet = "picture of the closest pairs to write (default %(default)s)"
    near.add_argument("--duplicate-sheet", default="duplicates.png", metavar="FILE", help=sheet)
    add_criterion_options(near)
    add_feature_options(near)
    command.set_defaults(run=run_inspect)


def add_plan_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde plan`."""
    command.description = "Lists the rows of one training step of a recipe, before, during or after the run."
    command.add_argument("recipe", help="YAML file, or the name of a built-in recipe (raysde recipes lists them)")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="changed keys, such as data.path=SHARDS"
    )
    command.add_argument("--step", type=int, required=True, help="number of the step, from 0")
    command.set_defaults(run=run_plan)


def run_inspect(args: argparse.Namespace) -> None:
    """Run `raysde inspect`: print what a data set holds, check its shards, write a contact sheet; or list checkpoints.

    Raises:
        ValueError: if there is no such data set or checkpoint, it is damaged, or an option is wrong.
    """
    from raysde.checkpoints.names import split_name
    from raysde.commands.checkpoints import format_checkpoints, is_run
    from raysde.data.dataset.contact_sheet import describe_manifest, draw_contact_sheet
    from raysde.data.dataset.manifest import read_manifest
    from raysde.data.dataset.reader import Reader
    from raysde.data.dataset.versions import choose_version
    from raysde.images.tensors import save_picture

    run, name = split_name(args.shards[0])
    if len(args.shards) == 1 and ((name is not None and run.is_dir()) or is_run(run)):
        print(format_checkpoints(run, name))
        return
    if args.version is not None and len(args.shards) > 1:
        raise ValueError("--version goes with one data set; leave it out, or inspect them one by one")
    if args.n < 1:
        raise ValueError(f"-n must be at least 1, got {args.n}")
    criterion = read_criterion(args, "--duplicates")
    check_feature_options(args)
    confirming = {"features": args.features, "similarity": args.feature_similarity, "allow_code": args.allow_code}
    target, pairs = Path(args.sheet).expanduser(), Path(args.duplicate_sheet).expanduser()
    check_picture("--sheet", target)
    if criterion is not None:
        check_picture("--duplicate-sheet", pairs)
    manifests = [read_manifest(path, version=choose_version(path, args.version, "--version")) for path in args.shards]
    for number, manifest in enumerate(manifests):
        print("\n".join(describe_manifest(manifest)))
        for line in check_shards(manifest, fast=args.fast):
            print(line)
        sheet = numbered(target, number)
        save_picture(draw_contact_sheet(Reader(manifest), args.n, args.seed), sheet)
        print(f"contact sheet  {sheet}")
        if criterion is not None:
            print("\n".join(inspect_duplicates(manifest, criterion, numbered(pairs, number), **confirming)))
    if len(manifests) > 1:
        print("\n".join(describe_mixture(manifests)))


def numbered(path: Path, number: int) -> Path:
    """Return the path of a picture for data set ``number``; the first one has no number."""
    return path.with_stem(f"{path.stem}-{number}") if number else path


def describe_mixture(manifests: "list[Manifest]") -> list[str]:
    """Return the lines of text about several data sets together.

    Raises:
        ValueError: if a recipe cannot mix them.
    """
    from raysde.data.dataset.sources import Source, check_shapes, merge_manifests

    sources = [Source(manifest) for manifest in manifests]
    merged = merge_manifests(sources)
    check_shapes(sources)
    return [
        f"together       {merged.rows_in('train')} rows for training, {merged.rows_in('validation')} for validation",
        f"fingerprint    {merged.fingerprint}",
        f"classes        {merged.classes}, united by name",
    ]


def check_shards(manifest: "Manifest", *, fast: bool) -> Iterator[str]:
    """Check the shards of a data set, and yield lines about what was compared.

    Args:
        fast: skip hashes.

    Raises:
        ValueError: naming the first shard that differs.
    """
    from raysde.data.dataset.verify import hashing_needs_ray, is_local, verify_here

    if not fast and hashing_needs_ray(manifest, ()):
        from raysde.cluster.verify import verify_data as verify
    else:
        verify = verify_here
    chosen: Verification = "hash" if not fast else "schema" if is_local(manifest.path) else "listing"
    remarks = verify(manifest, (), chosen)
    yield f"checked        {COMPARED[chosen]} of all shards"
    yield from remarks


def run_plan(args: argparse.Namespace) -> None:
    """Run `raysde plan`: print the rows of a step, which lie later in the plan if the run passed over batches before.

    Raises:
        ValueError: if the recipe is wrong, or ``--step`` is not a step of the run.
        RuntimeError: if the run's storage cannot be read.
    """
    from raysde.checkpoints import storage
    from raysde.config import loading
    from raysde.runs.run import open_run

    run = open_run(loading.load_recipe(args.recipe, args.overrides))
    if not 0 <= args.step < run.steps:
        raise ValueError(f"--step must be from 0 to {run.steps - 1}, got {args.step}")
    reader = run.sources.open_reader(frozenset())
    for line in describe_shares(run):
        print(line)
    found = storage.find_newest_checkpoint(run.config.storage, run.config.name)
    position = args.step if found is None or found.description is None else found.description.bad.position(args.step)
    shifted = "" if position == args.step else f", plan position {position}"
    print(
        f"# step {args.step} of {run.steps}{shifted}, epoch {run.plan.epoch(position):.3f}, "
        f"{amount(run.plan.batch, 'row')}"
    )
    print("# microbatch  row  shard  key  label  captions")
    for index in range(run.plan.microbatches):
        for row in run.feed.rows[run.plan.rows_of(position, index)].tolist():
            about = reader.about(row)
            said = " | ".join(about["captions"])  # type: ignore[arg-type]
            shard = about["shard"] if "source" not in about else f"{about['source']}/{about['shard']}"
            print(index, row, shard, about["key"], about["label"] or "-", said or "-", sep="\t")


def describe_shares(run: "Run") -> Iterator[str]:
    """Yield a line for each of several data sets of a run: its share, and the epochs of it in the whole run."""
    sources = run.sources
    if sources.is_plain:
        return
    total = sum(sources.shares)
    for source, share in zip(sources.sources, sources.shares, strict=True):
        rows = run.steps * run.plan.batch * share / total
        yield (
            f"# {source.manifest.path}: {share} of {total} rows, {amount(source.manifest.rows, 'row')} seen about "
            f"{rows / max(1, source.manifest.rows_in('train')):.3g} times in the run"
        )
