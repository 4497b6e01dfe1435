"""Results of measurements that came after their checkpoint was written, added to its description."""

import json
from collections.abc import Mapping
from typing import Any

from raysde.checkpoints.description import FILE, OWN, checkpoint_name, content_hash, parse_description
from raysde.io.filesystems import child_path, read_bytes, write_bytes
from raysde.training.beside import KEY, storable


def add_metrics(folder: str, step: int, metrics: Mapping[str, float]) -> None:
    """Add metrics of the averaged weights to a checkpoint, by which it is then ranked.

    Args:
        folder: folder or URI of the run.
        step: step of the checkpoint.

    Raises:
        ValueError: if the checkpoint's description is damaged.
        OSError: naming the file, if it cannot be written.
    """
    state = _read_state(folder, step)
    _write_state(folder, step, {**state, "metrics": {**state.get("metrics", {}), **storable(metrics)}})


def read_metrics(folder: str, step: int) -> dict[str, float | None]:
    """Return the metrics that a checkpoint records; empty if it has none.

    Raises:
        ValueError: if there is no checkpoint of that step, or its description is damaged.
    """
    return dict(_read_state(folder, step).get("metrics", {}))


def close_measurements(folder: str, step: int, values: Mapping[str, Any]) -> None:
    """Replace the open measurements of a run's last checkpoint by those with results.

    Args:
        folder: folder or URI of the run.
        step: step of the checkpoint.
        values: see :meth:`raysde.training.beside.OpenMeasurements.values`.

    Raises:
        ValueError: if the checkpoint's description is damaged.
        OSError: naming the file, if it cannot be written.
    """
    _write_state(folder, step, {**_read_state(folder, step), KEY: dict(values)})


def _read_state(folder: str, step: int) -> dict[str, Any]:
    place = _place(folder, step)
    try:
        return dict(parse_description(read_bytes(place), place).state)
    except FileNotFoundError:
        raise ValueError(
            f"{place} is missing, and the metrics of its step are not measured yet; restore the checkpoint, or choose "
            "another name to start anew"
        ) from None


def _write_state(folder: str, step: int, state: Mapping[str, Any]) -> None:
    place = _place(folder, step)
    content = {**json.loads(read_bytes(place)), "state": dict(state)}
    if OWN in content:
        content[OWN] = content_hash(content)
    write_bytes(place, (json.dumps(content, indent=1) + "\n").encode())


def _place(folder: str, step: int) -> str:
    """Return the path or URI of a checkpoint's description."""
    return child_path(folder, checkpoint_name(step), FILE)
