"""Records that img2dataset writes beside downloaded images: 00000_stats.json and 00000.parquet."""

import re
from pathlib import PurePosixPath

from raysde.data.ingest.sources.listing import Listing

STATS = re.compile(r"(.*/)?(\d+)_stats\.json")


def find_pieces(listing: Listing) -> frozenset[str]:
    """Return the pieces of an img2dataset download, as paths without a suffix.

    A piece has a file of statistics, or a table beside a folder or archive of the same number."""
    names = [file.name for file in listing.files]
    found = {(match[1] or "") + match[2] for name in names if (match := STATS.fullmatch(name))}
    kept = {str(PurePosixPath(name).parent) for name in names}
    kept |= {name.removesuffix(".tar") for name in names if name.endswith(".tar")}
    tables = {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
    return frozenset(found | {name for name in tables & kept if PurePosixPath(name).name.isdecimal()})


def is_record(name: str, found: frozenset[str]) -> bool:
    """Return True if a file holds statistics, or is the table of requested images of a piece in ``found``."""
    return STATS.fullmatch(name) is not None or (name.endswith(".parquet") and name.removesuffix(".parquet") in found)
