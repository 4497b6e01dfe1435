"""The command `raysde ingest`: convert captioned images into shards."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from raysde.commands import parse_size_option
from raysde.commands.duplicates import add_criterion_options, describe_left_out, read_criterion
from raysde.data.condition_column import RESAMPLES
from raysde.images.choices import ENCODINGS, FITS
from raysde.images.sizes import Size, format_size
from raysde.io.amounts import amount

DIGITS = "sklearn:digits"
EMOJI = ("emoji", "all-emoji")


def add_ingest_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde ingest` to its parser."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = """Reads images with their captions and labels, and writes Parquet shards and manifest.json.

A source is the path or URI (s3://, gs://, hdfs://) of
  a folder of images      captions from metadata.jsonl, one other table (file_name, text, label), COCO's captions, EDM's
                          dataset.json, or a .txt, .caption or .json beside each image;
                          without labels there, folders' names are labels
  WebDataset tars         one tar, a folder of them, or a pattern such as 'data/train-*.tar'
  Parquet                 image bytes (as Hugging Face keeps them) or paths, with captions and labels
  arrays                  .npy, .npz, or the idx files of MNIST and Fashion-MNIST
  sklearn:digits          the digits data set of scikit-learn; its stroke thickness with --attributes thickness, and
                          its edges with --condition-image edges
  emoji:FONT              twelve emoji of a colour font such as NotoColorEmoji.ttf, 32 x 32 or of --size;
                          all-emoji:FONT for all of them, captioned by their Unicode names
After an interruption, the same command resumes."""
    command.add_argument("source", help="path or URI of the images, see above")
    command.add_argument("out", help="folder or URI for the data set")
    add_image_options(command.add_argument_group("images"))
    said = command.add_argument_group("captions and labels")
    template = "caption for images without one, such as 'a photo of a {label}'"
    said.add_argument("--caption-template", metavar="TEXT", help=template)
    names = "text file with the names of the classes 0, 1, ..., one per line; or the name of a built-in one"
    said.add_argument("--label-names", metavar="FILE", help=names)
    column = "column or JSON key of the captions; default: text, caption, prompt or captions"
    said.add_argument("--caption-column", metavar="NAME", help=column)
    column = "column or JSON key of the labels; default: label, class or labels"
    said.add_argument("--label-column", metavar="NAME", help=column)
    numbers = "columns or JSON keys of numbers to store, such as thickness,age, which models may take as conditions"
    said.add_argument("--attributes", metavar="NAME,...", type=split_names, default=(), help=numbers)
    keep = "columns or JSON keys to keep for data.filter, such as score,url; width and height are the source image's"
    said.add_argument("--keep-columns", metavar="NAMES", help=keep)
    add_condition_options(command.add_argument_group("second images as conditions"))
    said.add_argument("--images", metavar="ROOT", help="folder that image paths in Parquet are relative to")
    add_shard_options(command.add_argument_group("shards"))
    near = command.add_argument_group("near duplicates")
    drop = "leave out images that are resized, recompressed, or slightly cropped copies of another, and list them"
    near.add_argument("--drop-duplicates", action="store_true", help=drop)
    add_criterion_options(near)
    command.set_defaults(run=run_ingest)


def add_condition_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of second images, such as depth maps."""
    name = (
        "a second image of each row, such as depth, which models may take as a condition: a column of images or paths, "
        "or files 0001.depth.png beside 0001.png"
    )
    group.add_argument("--condition-image", metavar="NAME", help=name)
    colours = "1 grey, 3 colour; default: 1 if the first second images are grey"
    group.add_argument("--condition-channels", type=int, choices=(1, 3), help=colours)
    group.add_argument("--condition-resample", choices=RESAMPLES, help=list_choices(RESAMPLES) + " (default: smooth)")


def add_image_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of size, crop and encoding."""
    size = "side length, or height and width; default: size of the first images, or their short side if they differ"
    group.add_argument("--size", metavar="N|HxW", help=size)
    group.add_argument("--fit", choices=FITS, default="crop", help=list_choices(FITS))
    buckets = "aspect-ratio buckets: about SIZE x SIZE pixels in the nearest of 11 ratios, sides multiples of MULTIPLE"
    group.add_argument("--buckets", type=int, default=0, metavar="MULTIPLE", help=buckets)
    group.add_argument(
        "--channels", type=int, choices=(1, 3), help="1 grey, 3 colour; default: 1 if all inspected images are grey"
    )
    group.add_argument("--encode", choices=ENCODINGS, default="auto", help=list_choices(ENCODINGS))
    group.add_argument("--quality", type=int, default=95, help="JPEG quality (default %(default)s)")
    background = "grey level of transparent pixels and of padding, 0 to 255 (default %(default)s)"
    group.add_argument("--background", type=int, default=255, help=background)


def add_shard_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of the validation split, row order and shard size."""
    validation = "fraction of images in the validation split, selected by a hash of their content"
    group.add_argument("--validation", type=float, default=0.0, metavar="SHARE", help=validation)
    order = "order of a folder's images: by a hash of their names, or by name (default %(default)s)"
    group.add_argument("--order", choices=("random", "source"), default="random", help=order)
    group.add_argument("--shard-rows", type=int, default=8192, help="maximum rows per shard (default %(default)s)")
    group.add_argument("--row-group", type=int, help="rows per row group; default: 1 to 2 MB, at most 1024 rows")
    group.add_argument("--licence", default="", help="licence of the images; stored in the manifest")
    append = "add the source to the data set in OUT as its next version; runs on earlier versions stay on them"
    group.add_argument("--append", action="store_true", help=append)
    skip = "skip unusable images and list them in report.json, instead of stopping"
    group.add_argument("--skip-bad", action="store_true", help=skip)


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a list that is separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def list_choices(meanings: dict[str, str]) -> str:
    """Return the choices with their meanings as one string."""
    return "; ".join(f"{name}: {text}" for name, text in meanings.items())


def run_ingest(args: argparse.Namespace) -> None:
    """Run `raysde ingest`: write the images of a source as Parquet shards.

    Raises:
        ValueError: naming the option, or what is wrong with the source.
    """
    from raysde.cluster.ingest import ingest
    from raysde.config.builtin import resolve_builtin
    from raysde.data.dataset.manifest import read_manifest
    from raysde.data.ingest.append import check_appendable, follow_order
    from raysde.data.ingest.kept_values import SIZES, parse_kept_names
    from raysde.data.ingest.probe import choose_rules
    from raysde.data.ingest.sources import attribute_names, open_source

    size, near = check_options(args), read_criterion(args, "--drop-duplicates")
    check_apart(args.source, args.out)
    base = read_manifest(args.out, "--append: the folder") if args.append else None
    keep, attributes = parse_kept_names(args.keep_columns), attribute_names(args.attributes)
    second = None if base is None else base.condition
    if base is not None:
        size = size or base.size
        keep = keep or (() if base.kept is None else tuple(base.kept.types))
        attributes = follow_order(attributes, [each.name for each in base.attributes])
    found = open_source(
        prepare_source(args.source, Path(args.out).expanduser(), size, attributes, args.condition_image),
        part_rows=args.shard_rows,
        order=args.order,
        images=args.images,
        label_names=args.label_names and str(resolve_builtin("list of class names", args.label_names)),
        caption_template=args.caption_template,
        caption_column=args.caption_column,
        label_column=args.label_column,
        attributes=attributes,
        keep=tuple(name for name in keep if name not in SIZES),
        condition=args.condition_image or (None if second is None else second.name),
        missing="bad" if args.skip_bad else "refuse",
    )
    for note in found.notes:
        print(note)
    rules = choose_rules(
        found,
        size=size,
        channels=args.channels or (None if base is None else base.channels),
        fit=args.fit,
        bucket_multiple=args.buckets,
        encode=args.encode,
        quality=args.quality,
        background=args.background,
        validation=args.validation,
        row_group=args.row_group or (None if base is None else base.row_group),
        shard_rows=args.shard_rows,
        keep=keep,
        near=near,
        condition_channels=args.condition_channels or (None if second is None else second.channels),
        condition_resample=args.condition_resample or ("smooth" if second is None else second.resample),
    )
    if base is not None:
        check_appendable(base, rules)
    if size is None and rules.shape is not None and not rules.bucket_multiple:
        print(
            f"images become {format_size(rules.shape)} (height x width), the size of the first images; see --size and "
            "--fit"
        )
    about = {"name": args.source, "licence": args.licence, "skip_bad": args.skip_bad}
    manifest = ingest(found, args.out, rules, **about, base=base)
    print_summary(manifest, args.out)


def check_apart(source: str, out: str) -> None:
    """Refuse an output folder inside the source folder, where a later ingest would take the shards for sources.

    Raises:
        ValueError: if ``out`` lies in the source.
    """
    folder, target = Path(source).expanduser().resolve(), Path(out).expanduser().resolve()
    if folder.is_dir() and target.is_relative_to(folder):
        raise ValueError(f"{out} lies in the source {source}, which would mix shards with images: name another folder")


def prepare_source(
    source: str, out: Path, size: Size | None, attributes: Sequence[str] = (), condition: str | None = None
) -> str:
    """Return the source; digits and emoji are first written as an image folder beside ``out``, whose path is returned.

    Raises:
        ValueError: if a font cannot be read.
    """
    kind, _, font = source.partition(":")
    if source != DIGITS and kind not in EMOJI:
        return source
    folder = out.with_name(out.name + "-images")
    if source == DIGITS:
        from raysde.data.ingest.digits import write_digits

        write_digits(folder, thickness="thickness" in attributes, edges=condition == "edges")
    else:
        from raysde.data.ingest.emoji import CHOSEN, write_emoji

        write_emoji(folder, font, size=max(size or (32,)), only=tuple(CHOSEN) if kind == "emoji" else ())
    return str(folder)


def check_options(args: argparse.Namespace) -> Size | None:
    """Check the numeric options, and return the size, None if it is not given.

    Raises:
        ValueError: naming the option.
    """
    for name in ("shard_rows", "row_group"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    for name in ("channels", "resample"):
        if getattr(args, f"condition_{name}") is not None and args.condition_image is None and not args.append:
            raise ValueError(f"--condition-{name} has no effect without --condition-image; give both, or leave it out")
    if args.buckets and (args.fit != "crop" or args.buckets < 0):
        raise ValueError(f"--buckets {args.buckets} must be positive and goes with --fit crop alone, not {args.fit}")
    for name, low, high in (("validation", 0.0, 0.999), ("quality", 1, 100), ("background", 0, 255)):
        if not low <= getattr(args, name) <= high:
            raise ValueError(f"--{name} must be from {low} to {high}, got {getattr(args, name)}")
    return parse_size_option(args.size)


def print_summary(manifest: "object", out: str) -> None:
    """Print a summary of the new data set, and remarks that need attention."""
    import json

    from raysde.data.classes import join_names as listed_names
    from raysde.data.dataset.manifest import Manifest
    from raysde.data.dataset.versions import versioned_name
    from raysde.data.ingest.left_out import LIST
    from raysde.images.remarks import Remarks
    from raysde.io.filesystems import child_path, read_bytes

    assert isinstance(manifest, Manifest)
    shape = format_size(manifest.size) if manifest.size else "many sizes"
    colour = "grey" if manifest.channels == 1 else "RGB"
    print(
        f"{amount(manifest.rows, f'{colour} image')} of {shape}, {amount(manifest.captions, 'caption')}, "
        f"{amount(manifest.classes, 'class')}, {amount(len(manifest.shards), 'shard')} in {out}"
    )
    counts = manifest.statistics["labels"]
    if manifest.classes and (bare := manifest.rows - sum(counts.values())):
        print(f"{bare} of the {manifest.rows} images {'has' if bare == 1 else 'have'} no label")
    if empty := [name for name in manifest.labels if not counts.get(name)]:
        print(
            f"{len(empty)} of the {manifest.classes} classes have no rows, so that nothing can be learned of them: "
            f"{listed_names(empty)}"
        )
    for each in manifest.attributes:
        count = manifest.statistics["attributes"][each.name]["rows"]
        bare = f", {manifest.rows - count} images without a value" if count < manifest.rows else ""
        print(f"attribute {each.name}: {each.low:g} to {each.high:g}{bare}")
    if manifest.condition is not None:
        print(f"condition image {manifest.condition.describe()}, in every row")
    if held := manifest.rows_in("validation"):
        print(f"{held} of them are in the validation split")
    if manifest.version > 1:
        print(f"this is version {manifest.version} of the data set; runs on earlier versions stay on them")
    if manifest.kept is not None:
        columns = [f"{name} ({kind})" for name, kind in manifest.kept.types.items()]
        print(f"columns for data.filter: {', '.join(columns)}")
    report = json.loads(read_bytes(child_path(manifest.path, versioned_name("report.json", manifest.version))))
    if report["skipped"]:
        more = " ..." if len(report["skipped"]) > 1 else ""
        print(f"{len(report['skipped'])} skipped: {report['skipped'][0]['reason']}{more}")
    if "near_duplicates" in report:
        print(describe_left_out(report["near_duplicates"], versioned_name(LIST, manifest.version)))
    if report["unread"]:
        kinds = [f"{what} ({count})" for what, count in report["unread"].items()]
        more = f" and {len(kinds) - 8} more, see report.json" if len(kinds) > 8 else ""
        print(f"beside the images, not read: {', '.join(kinds[:8])}{more}")
    for sentence in Remarks.from_json(report["remarks"]).sentences(manifest.rows):
        print(sentence)
    changed = Remarks.from_json(report.get("condition_remarks", {}))
    for sentence in changed.sentences(manifest.rows, "condition image", "--condition-channels"):
        print(sentence)
    if manifest.path.startswith("s3://") and not manifest.etags_of:
        print(
            "no entity tags are recorded, since boto3 is not installed (pip install 'raysde[s3]'): before a run, sizes "
            "of shards are compared, and a replaced shard of the same size is not noticed"
        )
    for key, what in (("duplicates", "have the same content as another"), ("repeated_keys", "have another's key")):
        if count := report[key]["rows"]:
            print(f"{count} {what}: {' = '.join(report[key]['groups'][0][:3])}; see report.json")
