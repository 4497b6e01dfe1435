"""Recipes of training jobs on Ray, and a network that kills its worker."""

from pathlib import Path

from tests.support.training import small_recipe

STEPS = 10


def job_recipe(digits, place: Path, uri: str, name: str = "small", **changes) -> dict:
    settings = {
        "name": name, "tracking__uri": uri, "resources__cpus_per_worker": 1, "validation__rows": 24, "validation__every": 5,
        "sampling": {"every": 5, "count": 4, "steps": 2, "prompts": ["two"]}, "train__length__steps": STEPS,
        "keep__newest": 1,
    }  # fmt: skip
    return small_recipe(digits, place / "runs", **{**settings, **changes})


def killed_network(place: Path, name: str, *, dies: bool) -> dict:
    marker = place / f"{name}-died"
    if not dies:
        marker.touch()
    return {
        "kind": "external",
        "factory": "tests.cluster.networks:Killed",
        "kwargs": {"at": 8, "marker": str(marker)},
    }
