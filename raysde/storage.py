"""Where runs keep their checkpoints: a local folder, or a URI that pyarrow reaches (s3://, gs://).

STORAGE/NAME/step_000000100/   one folder for each checkpoint
"""

import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from raysde import checkpoint
from raysde.data.filesystems import child, filesystem, location


def is_local(storage: str) -> bool:
    """Whether ``storage`` is a folder rather than a URI."""
    return "://" not in storage


def newest_checkpoint(storage: str, name: str) -> Path | None:
    """The newest whole checkpoint of a run; one in remote storage is copied to a temporary folder first.

    A torn checkpoint, left by a process that was killed while it wrote, is passed over.
    """
    if is_local(storage):
        return checkpoint.newest(Path(location(storage)) / name)
    system, root = filesystem(child(location(storage), name))
    entries = system.get_file_info(pafs.FileSelector(root, allow_not_found=True))
    for entry in sorted(entries, key=lambda entry: entry.base_name, reverse=True):
        if entry.type == pafs.FileType.Directory and entry.base_name.startswith("step_"):
            copy = Path(tempfile.mkdtemp(prefix="raysde-")) / entry.base_name
            copy.mkdir()
            pafs.copy_files(
                entry.path, str(copy), source_filesystem=system, destination_filesystem=pafs.LocalFileSystem()
            )
            if checkpoint.is_whole(copy):
                return copy
    return None


def prune(storage: Path, keep: int) -> None:
    """Deletes all but the ``keep`` newest checkpoints of a local run folder."""
    import shutil

    for path in sorted(storage.glob("step_*"))[:-keep]:
        shutil.rmtree(path)
