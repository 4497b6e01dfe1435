"""Metrics of held-out images: likelihood, and how well a model denoises and inpaints them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysde import rng
from raysde.conditioning.images import ImageCondition
from raysde.data.classes import match_classes
from raysde.data.dataset.reader import Columns
from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.metric import Metric
from raysde.evaluation.metrics.intervals import mean_and_error, normal_interval
from raysde.evaluation.metrics.lpips import SMALLEST, Perceptual
from raysde.evaluation.real_data import RealReader
from raysde.evaluation.selection import known_numbers, read_images, select_rows, to_image_tensor
from raysde.inference.model import Model
from raysde.rng import noise_from
from raysde.sampling.likelihood import TOLERANCE
from raysde.sampling.method import Method, drop_grid_settings
from raysde.sampling.sampler import Samples, sample
from raysde.sde import Score

PART = 16
"""Rows of a part, which share the probe noise of the likelihood."""
WINDOW = 11
"""Side of SSIM's window in pixels (Wang et al. 2004)."""
ROUNDING = 10.0 * np.log10(12.0 * 255.0**2).item()
"""PSNR in dB of an image that differs by rounding alone, of variance 1/12: higher values cannot be told apart."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows and the model that is measured on them; result i depends on the seed, i and row i alone.

    Attributes:
        model, reader: the model, and the data set of the rows.
        rows: row numbers, int64 [N].
        shape: (height, width) of the model's images.
        t: time to which rows are noised, 0 for data and 1 for noise.
        metrics: names from METRICS.
        settings: keyword arguments of the model's ``sample``.
        lpips: distance of the LPIPS metrics; None if there are none.
        rtol, atol: tolerances of the ODE solver of likelihoods.
    """

    model: Model
    reader: RealReader
    rows: np.ndarray
    shape: tuple[int, int]
    seed: int
    t: float
    metrics: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    lpips: Perceptual | None = None
    rtol: float = TOLERANCE
    atol: float = TOLERANCE

    def part(self, measure: str, first: int, count: int) -> MeasuredRange:
        """Apply one of MEASURES to ``count`` rows from position ``first`` on."""
        columns = read_images(self.reader, self.rows[first : first + count], self.shape)
        return MeasuredRange(first, MEASURES[measure](self, columns, first))

    def model_arguments(self, columns: Columns) -> dict[str, Any]:
        """Return the conditions of these rows that the model takes: captions as ``prompts``, class numbers as
        ``labels``, numeric ``attributes``.

        Raises:
            ValueError: if the model's classes do not match the data's.
        """
        taken, manifest = self.model.score_model.conditioner, self.reader.manifest
        prompts = columns.captions if taken.tokenizer is not None else None
        conditions: dict[str, Any] = {"prompts": prompts}
        if columns.attributes is not None and taken.attributes:
            values = dict(zip(self.reader.attributes, columns.attributes.T, strict=True))
            conditions["attributes"] = {
                each.name: list(known_numbers(values[each.name])) for each in self.model.spec.attributes
            }
        if not taken.classes:
            return {**conditions, "labels": None}
        numbers = match_classes(manifest.labels, manifest.path, taken.classes, self.model.spec.class_names)
        # the appended entry is for rows without a label, whose number is -1
        return {**conditions, "labels": np.append(numbers, -1)[columns.labels].tolist()}


def check_measurable(model: Model, reader: RealReader, metrics: tuple[str, ...], t: float) -> None:
    """Check before measuring that the model and the data fit the metrics.

    Args:
        t: time to which denoising adds noise, above the SDE's sample floor and at most its ceiling.

    Raises:
        ValueError: naming the metric, the data without held-out rows, or the time outside the SDE's domain.
    """
    sde, wanted = model.sde, [name for name in metrics if name in METRICS]
    model.need_pixels(wanted[0])
    choose_unseen_rows(reader, 1)
    small = min(model.spec.image[1:])
    for name in wanted:
        if name.endswith("ssim") and small < WINDOW:
            raise ValueError(f"{name}: SSIM needs images of at least {WINDOW} pixels a side, the model draws {small}")
        if name.endswith("lpips") and small < SMALLEST:
            raise ValueError(f"{name}: LPIPS needs images of at least {SMALLEST} pixels a side, the model has {small}")
    if any(METRICS[name] == "denoised" for name in wanted) and not sde.sample_floor < t <= sde.ceiling:
        raise ValueError(f"t must lie above {sde.sample_floor} and not above {sde.ceiling}, got {t}")


def check_image_condition(condition: ImageCondition | None, metrics: Sequence[str]) -> None:
    """Check that a model with an image condition is measured by the task that it was trained for.

    Args:
        condition: image condition of the model; None for a model without one.

    Raises:
        ValueError: naming the metric whose images are drawn without such an image.
    """
    if condition is None:
        return
    for name in metrics:
        # drawn images take the second images of rows, measurements on held-out images take none
        if condition.kind == "column" and name not in METRICS:
            continue
        if condition.kind != "inpaint" or METRICS.get(name) != "inpainted":
            raise ValueError(
                f"{name}: the model has an image condition (image_condition.kind={condition.kind}), and this metric "
                "draws without it; leave the metric out"
            )


def choose_unseen_rows(reader: RealReader, count: int) -> np.ndarray:
    """Return up to ``count`` random row numbers, int64 [N], of the validation split, which training never saw.

    Raises:
        ValueError: if the data has no validation split.
    """
    if not reader.manifest.rows_in("validation"):
        raise ValueError(
            f"the data at {reader.manifest.path} has no validation split, whose rows this metric needs"
            "; ingest it with --validation"
        )
    return select_rows(reader, "validation", count)


def measure_likelihoods(held: HeldOut, columns: Columns, first: int) -> dict[str, Tensor]:
    """Return upper bounds on -log2 P / D in bits per dimension, [N], each from one dequantisation and one probe.

    ``first`` is the number of the first row among the held-out rows, which the random numbers depend on.

    Raises:
        ValueError: if the model's classes do not match the data's, or a tolerance is not positive.
    """
    seed = rng.key(held.seed, rng.EVALUATION, 4, first)
    images, conditions = to_image_tensor(columns), held.model_arguments(columns)
    found = held.model.bits_per_dim(images, seed=seed, repeats=1, rtol=held.rtol, atol=held.atol, **conditions)
    return {"bpd": found.value.double().cpu()}


def measure_denoising(held: HeldOut, columns: Columns, first: int) -> dict[str, Tensor]:
    """Return PSNR, MSE, SSIM and LPIPS, each [N], of images that were noised to ``t`` and denoised by the solver.

    ``first`` is as for :func:`measure_likelihoods`.

    Raises:
        ValueError: if the model's classes do not match the data's, or a setting is out of range.
    """
    model, images = held.model, to_image_tensor(columns)
    sde = model.sde
    alpha, sigma = (value.item() for value in sde.marginal(torch.tensor(held.t, dtype=torch.float64)))
    x0 = model.floats(images)

    def run(score: Score, rows: slice, *, generator: list[torch.Generator], callback: object, **given: Any) -> Samples:
        start = alpha * x0[rows] + sigma * noise_from(generator)(x0[rows])
        method = Method(**given)
        grid = method.times(sde)
        times = torch.cat([grid.new_tensor([held.t]), grid[grid < held.t]])
        given = drop_grid_settings(given) | {"generator": generator, "device": model.device}
        if method.churn:
            given["churn"] = method.churn_of(len(times) - 1)
        return sample(score, sde, start.shape, times=times, start=start, **given)

    drawn = model.drawn(run, len(images), seed=held.seed, first=first, **held.model_arguments(columns), **held.settings)  # type: ignore[arg-type]
    return compare_images(held, "denoised", drawn.images, images, (...,))


def measure_inpainting(held: HeldOut, columns: Columns, first: int) -> dict[str, Tensor]:
    """Return metrics, each [N], of images with an inpainted middle quarter.

    PSNR and MSE are those of the quarter, SSIM and LPIPS those of the whole image.
    ``first`` is as for :func:`measure_likelihoods`.

    Raises:
        ValueError: if the model's classes do not match the data's, or a setting is out of range.
    """
    images = to_image_tensor(columns)
    known = torch.ones(held.shape, dtype=torch.bool)
    top, left = held.shape[0] // 4, held.shape[1] // 4
    hole = (..., slice(top, top + held.shape[0] // 2), slice(left, left + held.shape[1] // 2))
    known[hole] = False
    drawn = held.model.inpaint(
        images, known, seed=held.seed, first=first, **held.model_arguments(columns), **held.settings
    )
    return compare_images(held, "inpainted", drawn.images, images, hole)


def compare_images(
    held: HeldOut, task: str, images: Tensor, truth: Tensor, place: tuple[Any, ...]
) -> dict[str, Tensor]:
    """Return metrics of pairs of uint8 images [B, C, H, W], float64 [B]; PSNR and MSE see only the region ``place``."""
    found = {}
    if f"{task}_mse" in held.metrics:
        found[f"{task}_mse"] = mse(images[place], truth[place])
    if f"{task}_psnr" in held.metrics:
        found[f"{task}_psnr"] = psnr(images[place], truth[place])
    if f"{task}_ssim" in held.metrics:
        found[f"{task}_ssim"] = ssim(images, truth)
    if f"{task}_lpips" in held.metrics:
        assert held.lpips is not None
        found[f"{task}_lpips"] = held.lpips(images, truth)
    return found


MEASURES: dict[str, Callable[[HeldOut, Columns, int], dict[str, Tensor]]] = {
    "bpd": measure_likelihoods,
    "denoised": measure_denoising,
    "inpainted": measure_inpainting,
}
METRICS = {
    "bpd": "bpd",
    "denoised_psnr": "denoised",
    "denoised_mse": "denoised",
    "denoised_ssim": "denoised",
    "denoised_lpips": "denoised",
    "inpainted_psnr": "inpainted",
    "inpainted_mse": "inpainted",
    "inpainted_ssim": "inpainted",
    "inpainted_lpips": "inpainted",
}
"""Name of each metric, and the measure that it comes from."""


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each pair of uint8 images [B, C, H, W], float64 [B]."""
    from torchmetrics.functional.image import peak_signal_noise_ratio  # loads scipy and transformers, for two seconds

    found = peak_signal_noise_ratio(images.double(), truth.double(), data_range=255.0, reduction="none", dim=(1, 2, 3))
    return found.clamp(max=ROUNDING)


def mse(images: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared difference of each pair of uint8 images [B, C, H, W], with pixels in [0, 1], float64 [B].

    PSNR is -10 log10 of it.
    """
    return ((images.double() - truth.double()) / 255.0).square().flatten(1).mean(dim=1)


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity of pairs of uint8 images [B, C, H, W] with sides from WINDOW on, float64 [B]."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # as in psnr

    found = structural_similarity_index_measure(images.double(), truth.double(), data_range=255.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(images))


def average_metric(
    name: str, values: Tensor, seed: int, t: float, network: str = "", tolerances: tuple[float, float] | None = None
) -> Metric:
    """Return the mean over rows [N] with its interval; ``network`` is the hash of the network behind the values.

    Args:
        t: time to which denoising added noise, for the description.
        tolerances: rtol and atol of likelihoods, if they are not the defaults.
    """
    solved = f", to rtol={tolerances[0]:g} and atol={tolerances[1]:g}" if tolerances else ""
    method = {
        "bpd": f"upper bound by one uniform dequantisation and one probe of each row{solved}",
        "denoised": f"rows noised to t = {t:g} and drawn back",
        "inpainted": "rows whose middle quarter was drawn anew",
    }[METRICS[name]]
    value, error = mean_and_error(values)
    interval = normal_interval(value, error)
    return Metric(name, value, *interval, len(values), seed, network or None, method=f"{method}; normal interval")
