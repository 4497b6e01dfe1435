"""The records that img2dataset writes beside what it downloads: 00000_stats.json and 00000.parquet."""

import re
from pathlib import PurePosixPath

from raysde.data.ingest.sources.listing import Listing

STATS = re.compile(r"(.*/)?(\d+)_stats\.json")


def find_pieces(listing: Listing) -> frozenset[str]:
    """Return the pieces of a download, as paths without a suffix: those that have statistics, and those that have a
    table beside a folder or an archive of the same number."""
    names = [file.name for file in listing.files]
    found = {(match[1] or "") + match[2] for name in names if (match := STATS.fullmatch(name))}
    kept = {str(PurePosixPath(name).parent) for name in names}
    kept |= {name.removesuffix(".tar") for name in names if name.endswith(".tar")}
    tables = {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
    return frozenset(found | {name for name in tables & kept if PurePosixPath(name).name.isdecimal()})


def is_record(name: str, found: frozenset[str]) -> bool:
    """Return True for the statistics of one of the pieces, and for the table of what was asked for in it."""
    return STATS.fullmatch(name) is not None or (name.endswith(".parquet") and name.removesuffix(".parquet") in found)
