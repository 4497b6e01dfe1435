"""Files of tensors that are whole or not there."""

from pathlib import Path
from uuid import uuid4

from safetensors.torch import save_file
from torch import Tensor

from raysde.io.errors import writing


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Writes a safetensors file with what is said about it, under a name of its own first.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    with writing("what was measured", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, about)
        temporary.replace(path)
