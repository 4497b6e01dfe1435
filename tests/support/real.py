"""Real data and pretrained networks in the folder RAYSDE_DATA, for tests that need them."""

import os
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def real(name: str) -> Path:
    """Return a folder or file in RAYSDE_DATA (default: data/ in the project), or skip the test if it is missing."""
    place = Path(os.environ.get("RAYSDE_DATA", ROOT / "data"))
    if not (place / name).exists():
        pytest.skip(f"needs {name} in the folder that RAYSDE_DATA names, which is {place}")
    return place / name
