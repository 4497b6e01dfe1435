"""A disk on which there is no room."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow beyond 4096 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
