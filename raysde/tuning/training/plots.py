"""Plots of a sweep: trials as lines across all axes, and the best trial's error by noise level beside the rest."""

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raysde.tuning.training.direction import rank_by
from raysde.tuning.training.ledger import Trial
from raysde.tuning.training.ranking import has_finite_value, rank_trials
from raysde.tuning.training.space import Range, Space, format_value

Places = tuple[list[float], list[tuple[float, str]]]
"""Positions of trials on an axis from 0 to 1, and its labels."""


def draw_plots(trials: Sequence[Trial], space: Space, metric: str) -> dict[str, bytes]:
    """Return PNG files by name; none if no trial has a value."""
    known = [trial for trial in rank_trials(trials, metric) if has_finite_value(trial, metric)]
    if not known:
        return {}
    found = {"parallel-coordinates.png": plot_parallel(known, space, metric)}
    if bins_of(known[0], metric):
        found["error-by-log-snr.png"] = plot_by_log_snr(known, metric)
    return {name: figure_to_png(figure) for name, figure in found.items()}


def plot_parallel(trials: Sequence[Trial], space: Space, metric: str) -> Figure:
    """Plot a line for each trial across the axes and the metric; the best is drawn on top, stopped ones dashed."""
    figure, columns = Figure(figsize=(2.2 + 2.0 * len(space.axes), 4.5)), list[Places]()
    for axis in space.axes:
        columns.append(axis_places([trial.values[axis.name] for trial in trials], _is_log(axis.values)))
    values = [trial.value(metric) for trial in trials]
    columns.append(axis_places(values, False))
    axes = figure.add_subplot()
    for number, (trial, *line) in enumerate(zip(trials, *(column for column, _ in columns), strict=True)):
        best = number == 0
        style: dict[str, Any] = {"color": "C3" if best else "C0", "linewidth": 2.5 if best else 1.0}
        axes.plot(line, linestyle="-" if trial.state == "finished" else "--", zorder=3 if best else 2, **style)
    for x, (_, labels) in enumerate(columns):
        axes.axvline(x, color="0.6", linewidth=0.8)
        for y, label in labels:
            axes.annotate(label, (x, y), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center")
    better = "lower" if rank_by(metric).mode == "min" else "higher"
    names = [*(axis.name.replace(",", "\n") for axis in space.axes), f"{metric}\n({better} is better)"]
    axes.set_xticks(range(len(columns)), names, fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.5)
    axes.spines[:].set_visible(False)
    figure.tight_layout()
    return figure


def _is_log(values: Any) -> bool:
    if isinstance(values, Range):
        return values.kind == "log"
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values)
    return numeric and max(values) / min(values) >= 10.0


def axis_places(values: Sequence[Any], log: bool) -> Places:
    """Place numbers by their size, or by its logarithm if ``log``, and other values in alphabetical order.

    Returns:
        The place of each value in [0, 1], and the (place, text) pairs of the axis labels.
    """
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numeric:
        names = sorted({format_value(value) for value in values})
        at = {name: index / max(1, len(names) - 1) for index, name in enumerate(names)}
        return [at[format_value(value)] for value in values], [(at[name], name) for name in names]
    numbers = np.log(np.array(values, float)) if log else np.array(values, float)
    low, high = float(numbers.min()), float(numbers.max())
    scaled = (numbers - low) / ((high - low) or 1.0)
    ends = {0.0: format_value(float(np.min(values))), 1.0: format_value(float(np.max(values)))}
    return [float(value) for value in scaled], list(ends.items())


def bins_of(trial: Trial, metric: str) -> list[tuple[float, float, float]]:
    """Return (low, high, error) of each bin of log-SNR (natural logarithm) of a metric, ascending."""
    pattern = re.compile(re.escape(metric) + r"_snr_(-?\d+)_to_(-?\d+)")
    metrics = trial.last.metrics if trial.last else {}
    found = [(pattern.fullmatch(name), value) for name, value in metrics.items()]
    return sorted((float(match[1]), float(match[2]), value) for match, value in found if match)


def plot_by_log_snr(trials: Sequence[Trial], metric: str) -> Figure:
    """Plot each trial's error in each log-SNR bin; the best is drawn on top, stopped ones dashed."""
    figure = Figure(figsize=(7.0, 4.5))
    axes: Axes = figure.add_subplot()
    for number, trial in reversed(list(enumerate(trials))):
        bins = bins_of(trial, metric)
        label = f"trial {trial.number:03d}, the best" if number == 0 else "the others" if number == 1 else None
        style: dict[str, Any] = {"color": "C3", "linewidth": 2.5} if number == 0 else {"color": "0.6", "linewidth": 1.0}
        middle, errors = [(low + high) / 2.0 for low, high, _ in bins], [error for *_, error in bins]
        axes.plot(
            middle, errors, label=label, linestyle="-" if trial.state == "finished" else "--", marker=".", **style
        )
    axes.set_yscale("log")
    axes.set_xlabel("log-SNR")
    axes.set_ylabel(f"{metric} in a bin")
    axes.legend()
    figure.tight_layout()
    return figure


def figure_to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    out = BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()
