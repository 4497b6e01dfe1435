"""The description of a registered version: its pictures, the command that samples, its data and its recipe."""

import json
from typing import Any
from urllib.parse import urlencode

from raysde.checkpoints import checkpoint

LONGEST = 5000
"""Largest length of a description in MLflow's databases, in characters."""
SHOWN = (
    "sde.",
    "target",
    "network.",
    "text.",
    "class_conditional",
    "attributes.",
    "latent.",
    "data.image_size",
    "train.",
    "seed",
)
"""Prefixes of the recipe's keys that are shown; ``checkpoint.json`` has all keys."""


def describe_version(
    name: str, version: str, found: checkpoint.Description, *, run_id: str | None = None, picture: str | None = None
) -> str:
    """Return the description of a version, in Markdown.

    Args:
        run_id: id of the MLflow run that it comes from.
        picture: path of its sample grid among the artifacts of that run.
    """
    recipe, data = found.recipe, found.data
    lines = [f"A score-based model ({found.spec.sde.kind}, {found.spec.target}) after {found.step} steps.", ""]
    if found.bad.count:
        lines += [f"{found.bad.summary()}.", ""]
    if run_id is not None and picture is not None:
        lines += [f"![samples](get-artifact?{urlencode({'path': picture, 'run_uuid': run_id})})", ""]
    lines += ["Draw from it:", "", f"    {sample_command(name, version, found)}", ""]
    if data:
        rows = f", {data['rows']} rows" if "rows" in data else ""
        lines += [f"Data: `{data.get('path')}`{rows}, fingerprint `{data.get('fingerprint')}`.", ""]
    shown = [key for key in sorted(recipe) if key.startswith(SHOWN) and recipe[key] not in (None, [], {}, "")]
    keys = [f"    {key}={json.dumps(recipe[key])}" for key in shown]
    return _cut_lines([*lines, *(["Recipe:", "", *keys] if keys else [])])


def sample_command(name: str, version: str, found: checkpoint.Description) -> str:
    """Return the command that samples from a version, with a valid prompt or label."""
    recipe, spec = found.recipe, found.spec
    words = ["raysde", "sample", f"models:/{name}/{version}", "-n", "16"]
    if spec.text is not None and (prompts := recipe.get("sampling.prompts")):
        words += ["--prompt", json.dumps(prompts[0], ensure_ascii=False)]
    if spec.classes and (labels := recipe.get("sampling.labels") or spec.class_names):
        words += ["--label", json.dumps(labels[0], ensure_ascii=False)]
    for each in spec.attributes:
        words += ["--attribute", f"{each.name}={0.5 * (each.low + each.high):.4g}"]
    if guidance := _unless_usual(recipe.get("sampling.guidance"), 1.0):
        words += ["--guidance", str(guidance)]
    return " ".join(words)


def _unless_usual(value: Any, usual: float) -> Any:
    return None if value in (None, usual) else value


def _cut_lines(lines: list[str]) -> str:
    """Join as many whole lines as the database accepts."""
    kept = "\n".join(lines)
    while len(kept) > LONGEST:
        lines = lines[:-1]
        kept = "\n".join([*lines, "    ..."])
    return kept
