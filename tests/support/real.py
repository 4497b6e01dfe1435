"""Real data and real pretrained networks, for the tests that want them: the folders that RAYSDE_DATA holds."""

import os
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def real(name: str) -> Path:
    """A folder or file of RAYSDE_DATA (by default data/ in the project); the test is skipped without it."""
    place = Path(os.environ.get("RAYSDE_DATA", ROOT / "data"))
    if not (place / name).exists():
        pytest.skip(f"needs {name} in the folder that RAYSDE_DATA names, which is {place}")
    return place / name
