"""Options and reports of near duplicates, for `raysde inspect --duplicates` and `raysde ingest --drop-duplicates`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysde.io.amounts import amount

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from raysde.data.dataset.duplicates import Criterion, Duplicates
    from raysde.data.dataset.manifest import Manifest
    from raysde.data.dataset.reader import Reader

SHOWN = 16
"""Number of closest pairs on the picture."""
GROUPS = 5
"""Number of largest groups that are printed."""
COLUMNS = 4


def add_criterion_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that say which images are near duplicates."""
    distance = "largest distance of near duplicates, above 0 and at most 0.5 (default: 0.03)"
    group.add_argument("--duplicate-distance", type=float, metavar="D", help=distance)
    mirrored = "count an image and its mirror image as duplicates, too"
    group.add_argument("--mirrored-duplicates", action="store_true", help=mirrored)


def read_criterion(args: argparse.Namespace, option: str) -> Criterion | None:
    """Return the criterion of near duplicates that the options give; None if ``option`` is not set.

    Args:
        option: option that asks for near duplicates, such as ``--duplicates``.

    Raises:
        ValueError: if the distance is out of range, or an option is given without ``option``.
    """
    from raysde.data.dataset.duplicates import Criterion
    from raysde.images.perceptual import THRESHOLD

    given, mirrored = args.duplicate_distance, args.mirrored_duplicates
    if not getattr(args, option.removeprefix("--").replace("-", "_")):
        if given is not None or mirrored:
            name = "--mirrored-duplicates" if given is None else "--duplicate-distance"
            raise ValueError(f"{name} goes with {option}; add it, or leave {name} out")
        return None
    try:
        return Criterion(THRESHOLD if given is None else given, mirrored)
    except ValueError as error:
        raise ValueError(f"--duplicate-distance: {error}") from None


def add_feature_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of the feature network that confirms near duplicates."""
    network = "network whose features must confirm each pair: inception, or another that `raysde evaluate` takes"
    group.add_argument("--features", metavar="NETWORK", help=network)
    similar = "least cosine of the features of two duplicates, above 0 and at most 1 (default: 0.9)"
    group.add_argument("--feature-similarity", type=float, metavar="C", help=similar)
    group.add_argument("--allow-code", action="store_true", help="allow --features to run code of yours")


def check_feature_options(args: argparse.Namespace) -> None:
    """Refuse options of the feature network that go with others, which are not given.

    Raises:
        ValueError: naming the option.
    """
    if args.features is not None and not args.duplicates:
        raise ValueError("--features goes with --duplicates; add it, or leave --features out")
    for name, given in (("--feature-similarity", args.feature_similarity), ("--allow-code", args.allow_code or None)):
        if given is not None and args.features is None:
            raise ValueError(f"{name} goes with --features; add it, or leave {name} out")


def inspect_duplicates(
    manifest: Manifest,
    criterion: Criterion,
    sheet: Path,
    *,
    features: str | None = None,
    similarity: float | None = None,
    allow_code: bool = False,
) -> list[str]:
    """Find the near duplicates of a data set, write a picture of the closest pairs, and return lines about them.

    Args:
        features: network whose features must confirm each pair; None for none.
        similarity: least cosine of the features of a pair; None for the default.
        allow_code: allow the network to run code.

    Raises:
        ValueError: naming the shard that is missing or damaged, or if there is no such network.
        OSError: naming the picture, if it cannot be written.
    """
    from raysde.data.dataset.duplicates import find_duplicates
    from raysde.data.dataset.reader import Reader
    from raysde.images.tensors import save_picture

    reader, confirm = Reader(manifest), None
    if features is not None:
        from raysde.evaluation.feature_similarity import SIMILAR, FeatureSimilarity
        from raysde.evaluation.features.networks import open_network

        network = open_network(features, allow_code=allow_code)
        confirm = FeatureSimilarity(reader, network, SIMILAR if similarity is None else similarity)
    found = find_duplicates(manifest, criterion, confirm)
    lines = describe_duplicates(reader, found)
    if len(found.pairs):
        save_picture(draw_pairs(reader, found), sheet)
        lines.append(f"closest pairs  {sheet}")
    return lines


def describe_duplicates(reader: Reader, found: Duplicates) -> list[str]:
    """Return the lines of text about the near duplicates of a data set: their number, and the largest groups."""
    groups = found.groups()
    training = reader.manifest.rows_in("train")
    split = sum(bool((group < training).any() and (group >= training).any()) for group in groups)
    lines = [
        f"duplicates     {amount(int(found.dropped.sum()), 'row')} of {reader.manifest.rows} nearly repeat another, in "
        f"{amount(len(groups), 'group')} of {amount(len(found.rows), 'row')}"
    ]
    if split:
        lines.append(f"               {amount(split, 'group')} with rows in both training and validation")
    for group in groups[:GROUPS]:
        keys = [str(reader.about(row)["key"]) for row in group[:3].tolist()]
        lines.append(f"  {len(group):>4} rows    {' = '.join(keys)}{' ...' if len(group) > 3 else ''}")
    return lines


def draw_pairs(reader: Reader, found: Duplicates) -> Image.Image:
    """Draw the closest pairs side by side, under their keys and distances."""
    import torch

    from raysde.data.dataset.contact_sheet import CELL, make_thumbnail
    from raysde.images.codec import decode_image
    from raysde.images.tensors import make_grid

    images, captions = [], []
    for (first, second), length in zip(found.pairs[:SHOWN].tolist(), found.lengths[:SHOWN].tolist(), strict=True):
        for row, said in ((first, f"{length:.4f}"), (second, "")):
            shown = decode_image(reader.image_file(row), reader.manifest.channels)
            images.append(torch.from_numpy(_on_square(make_thumbnail(shown), CELL)).permute(2, 0, 1))
            captions.append(f"{said} {reader.about(row)['key']}".strip())
    return make_grid(torch.stack(images), COLUMNS, captions=captions)


def _on_square(picture: Image.Image, side: int) -> np.ndarray:
    """Return a picture in the middle of a white square, uint8 [side, side, 3]."""
    import numpy as np
    from PIL import ImageOps

    return np.array(ImageOps.pad(picture, (side, side), color="white"))


def describe_left_out(entry: dict[str, Any], listed: str) -> str:
    """Return the sentence of an ingest about near duplicates.

    Args:
        entry: entry ``near_duplicates`` of report.json.
        listed: name of the file that lists them.
    """
    if not entry["rows"]:
        return "no near duplicates"
    old = f", {entry['of_earlier_versions']} of them of an earlier version's" if entry["of_earlier_versions"] else ""
    first = " = ".join(entry["largest"][0][:3])
    return f"{amount(entry['rows'], 'near duplicate')} left out{old}: {first}; all are in {listed}"
