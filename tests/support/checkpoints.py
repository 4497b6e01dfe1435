"""Checkpoints of untrained models, and changes of their descriptions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from raysde.checkpoints import checkpoint
from raysde.checkpoints.description import content_hash
from raysde.models.spec import save_text
from tests.support.models import caption_spec, filled_model


def write_model(folder: Path, step: int = 0, /, **changes) -> str:
    """Write a checkpoint of an untrained model as `raysde train` does, and return its path."""
    model = filled_model(**changes)
    folder.mkdir()
    save_file(checkpoint.complete_weights(model), folder / "ema.safetensors")
    save_text(model, folder / "text")
    checkpoint.write_description(folder, caption_spec(**changes), {"step": step}, {}, {})
    return str(folder)


@contextmanager
def description_of(folder: Path) -> Iterator[dict]:
    """Yield the content of checkpoint.json for changes; its hash is updated afterwards."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    yield content
    content["sha256"] = content_hash(content)
    path.write_text(json.dumps(content))
