"""The sample command that is printed after a command made a model."""

import shlex
from pathlib import Path
from typing import Any


def suggest_sample_command(source: str, folder: Path, *options: str) -> str:
    """Return the command that samples from a model, with a prompt or label that it was trained on.

    Args:
        source: the model, as an argument of `raysde sample`.
        folder: checkpoint folder of the model.
        options: further arguments of the command.
    """
    from raysde.checkpoints import checkpoint
    from raysde.io.own_code import External

    found = checkpoint.read_description(folder)
    parts = (found.spec.sde, found.spec.network, found.spec.text)
    allowed = ["--allow-code"] if any(isinstance(part, External) for part in parts) else []
    asked = suggest_condition(found.spec, found.recipe, found.data)
    return shlex.join(["raysde", "sample", source, *allowed, *options, *asked, "-n", "16"])


def suggest_condition(spec: Any, recipe: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """Return --prompt or --label with the first value of the recipe's sample grid, else of the training data; without
    both, --attribute with the middle of each range.

    Raises:
        ValueError: as :func:`raysde.data.dataset.manifest.read_manifest`.
    """
    from raysde.data.dataset.manifest import read_manifest
    from raysde.data.dataset.shards import distinct_captions

    if spec.text is not None:
        paths = [each["path"] for each in data.get("sources", ())] or [data["path"]]
        captions = (distinct_captions(read_manifest(path), 1) for path in paths)
        known = recipe.get("sampling.prompts") or next(filter(None, captions), [])
        return ["--prompt", known[0]] if known else []
    if spec.classes:
        known = recipe.get("sampling.labels") or spec.class_names or ["0"]
        return ["--label", str(known[0])]
    return [
        part for each in spec.attributes for part in ("--attribute", f"{each.name}={0.5 * (each.low + each.high):.4g}")
    ]
