"""Content hash and key of each row of a part, kept beside an unfinished ingest for its report.

The report needs them of all rows. They are in the shards too, but there a row group has them between images: one small
file for each part takes one request instead of one for each row group.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raysde.data.dataset.manifest import INGESTING
from raysde.io.filesystems import child_path, open_filesystem, read_bytes, write_bytes

COLUMNS = pa.schema([("hash", pa.uint64()), ("key_hash", pa.uint64()), ("key", pa.string())])


def identities_file(number: int) -> str:
    """Return the name of the file of part ``number``."""
    return f"rows-{number:06d}.arrow"


def write_identities(out: str, number: int, hashes: Sequence[str], keys: Sequence[str]) -> None:
    """Write the identities of the rows of part ``number``, in the order of its shards.

    Args:
        hashes: content hashes, 16 hexadecimal digits each.
        keys: keys of the rows.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    table = pa.table(
        [
            pa.array(np.array([int(value, 16) for value in hashes], dtype=np.uint64)),
            pa.array(np.array([hash_text(key) for key in keys], dtype=np.uint64)),
            pa.array(keys, pa.string()),
        ],
        schema=COLUMNS,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, COLUMNS, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    write_bytes(child_path(out, INGESTING, identities_file(number)), memoryview(sink.getvalue()))


def read_identities(out: str, number: int) -> pa.Table:
    """Return the identities of the rows of part ``number``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming the file, if it is damaged.
    """
    try:
        return pa.ipc.open_file(read_bytes(child_path(out, INGESTING, identities_file(number)))).read_all()
    except pa.ArrowException as error:
        raise ValueError(f"{identities_file(number)} in {out}/{INGESTING} is damaged: {error}") from error


def forget_unfinished(out: str) -> None:
    """Delete the folder of the unfinished ingest, once the manifest is written."""
    system, inside = open_filesystem(child_path(out, INGESTING))
    system.delete_dir(inside)


def hash_text(text: str) -> int:
    """Return a hash of a text below 2**64 that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())
