"""What a command that made a model prints at its end: the command that draws from it."""

import shlex
from pathlib import Path
from typing import Any


def suggest_sample_command(source: str, folder: Path, *options: str) -> str:
    """Return the command that draws from a model, with a prompt or a label that it was trained on.

    Args:
        source: the model, as `raysde sample` takes it.
        folder: its checkpoint.
        options: further words of the command.
    """
    from raysde.checkpoints import checkpoint
    from raysde.io.own_code import External

    found = checkpoint.read_description(folder)
    parts = (found.spec.sde, found.spec.network, found.spec.text)
    allowed = ["--allow-code"] if any(isinstance(part, External) for part in parts) else []
    asked = suggest_condition(found.spec, found.recipe, found.data)
    return shlex.join(["raysde", "sample", source, *allowed, *options, *asked, "-n", "16"])


def suggest_condition(spec: Any, recipe: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """Return the option that asks a model for something: of its recipe's sample grid, otherwise of its data."""
    from raysde.data.dataset.manifest import read_manifest
    from raysde.data.dataset.shards import distinct_captions

    if spec.text is not None:
        known = recipe.get("sampling.prompts") or distinct_captions(read_manifest(data["path"]), 1)
        return ["--prompt", known[0]] if known else []
    if spec.classes:
        known = recipe.get("sampling.labels") or spec.class_names or ["0"]
        return ["--label", str(known[0])]
    return []
