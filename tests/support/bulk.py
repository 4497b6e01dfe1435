"""Sampling jobs for files of prompts."""

from pathlib import Path

from raysde.inference.bulk import Bulk
from raysde.inference.prompt_file import Requests

METHOD = {"guidance": 2.0, "guidance_interval": None, "autoguide": None, "solver": "ddim", "steps": 2, "grid": None}


def bulk(model, out, *, rows=20, form="parquet", seed=3, batch=4, part=8, requests=None, **settings) -> Bulk:
    asked = requests or Requests("rows", rows, labels=[row % 10 for row in range(rows)])
    return Bulk(model, asked, str(out), form, seed, None, {**METHOD, "batch_size": batch, **settings}, part)


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
