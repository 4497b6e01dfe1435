"""An evaluation from start to end; its measurements run in this process, or on the workers of a :data:`Measure`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raysde.conditioning.images import ColumnCondition
from raysde.data.dataset.manifest import read_manifest
from raysde.data.dataset.reader import Reader
from raysde.evaluation import compute, held_out, memorisation, pretrained
from raysde.evaluation.chunks import merge_parts
from raysde.evaluation.features.classifier import Judge, open_judge
from raysde.evaluation.features.networks import FeatureNetwork, open_network, wrap_as_network
from raysde.evaluation.generated import Drawer, describe_guide
from raysde.evaluation.held_out import HeldOut
from raysde.evaluation.metric import Metric, choose_direction
from raysde.evaluation.metrics.lpips import Perceptual, open_lpips
from raysde.evaluation.question import Answer, Question
from raysde.evaluation.real import Real, Reference, merge_drawn, open_real, open_reference
from raysde.evaluation.real_data import RealData, RealReader, choice_of
from raysde.evaluation.selection import ImageConditions, draw_conditions, draw_row_conditions, select_rows
from raysde.evaluation.workload import DRAWN, REAL, Bench, Measure, measure_here
from raysde.inference.model import Model
from raysde.inference.ranges import split_range
from raysde.io.progress import StageProgress, name_stage
from raysde.models.sampling_defaults import GUIDED, describe_overrides, resolve_settings
from raysde.models.second_images import check_column
from raysde.sampling.likelihood import TOLERANCE


def shape_of(model: Model) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images that a model draws."""
    return model.spec.image if model.spec.latent is None else model.spec.latent.pixels


def choose_network(
    reader: RealReader,
    model: Model,
    features: str,
    cache: Path,
    *,
    allow_code: bool,
    progress: StageProgress | None = None,
) -> FeatureNetwork:
    """Return the feature network called ``features``: "judge" for the judge of the data, else see :func:`open_network`.

    Raises:
        ValueError: if there is no such network, or it names code and ``allow_code`` is False.
    """
    if features != "judge":
        return open_network(features, allow_code=allow_code, device=model.device)
    training = name_stage(progress, "training the judge")
    judge = open_judge(reader, shape_of(model)[1:], cache, device=model.device, progress=training)
    return wrap_as_network("judge", judge.classifier, model.device)


def evaluate(
    model: Model,
    data: str | RealReader,
    question: Question,
    *,
    open_features: Callable[[RealReader], FeatureNetwork] | None = None,
    cache: Path,
    progress: StageProgress | None = None,
    measure: Measure = measure_here,
    guide: Model | None = None,
    autoguidance: float | None = None,
) -> Answer:
    """Draw images, compare them with real ones, and return the metrics asked for.

    Args:
        data: folder or URI of shards, for all rows of the newest version; or a reader of other real images, see
            :mod:`raysde.evaluation.real_data`.
        open_features: function that opens the feature network, for the metrics that need one.
        cache: folder of reference statistics and judges, which later evaluations reuse.
        progress: callback, called with the name of the stage, the amount done and the total.
        measure: function that measures, here or on workers; the metrics are the same.
        guide, autoguidance: smaller or less trained model that drawn images are led away from, and the scale, see
            ``autoguide`` and ``autoguidance`` of the model's ``sample``.

    Raises:
        ValueError: if the model, the data, the metrics and the guide do not fit together.
    """
    reader, shape = Reader(read_manifest(data)) if isinstance(data, str) else data, shape_of(model)[1:]
    spec, given = model.spec, question.settings
    guides = {} if guide is None else {"autoguide": guide, "autoguidance": autoguidance}
    settings = resolve_settings(
        spec.generation, given | guides, spec.conditional, usual=spec.default_solver, scale=GUIDED
    )
    question = replace(question, settings={name: settings[name] for name in settings if name not in guides})
    if guide is not None and set(question.metrics) <= {"bpd"}:
        raise ValueError("autoguide has no effect: none of the metrics is of drawn images; leave it out")
    away = describe_guide(model, guide, autoguidance, question.settings)
    conditions = choose_conditions(model, reader, question)
    lpips = open_lpips(question.lpips, model.device) if question.perceives else None
    judge, network, drawer = None, None, None
    found: dict[str, Tensor] = {}
    drawn: dict[str, Reference] = {}
    networks = pretrained.open_networks(question.metrics, question.folders, shape_of(model), model.device)
    if question.compares or question.memorises:
        assert open_features is not None
        network = open_features(reader)
        probe_network(network, shape_of(model), question)
    comparing = {REAL: network} if network is not None and question.compares else {}
    reals = open_real(reader, question.split, question.reference, shape, {**comparing, **networks.others})
    rows = memorisation.open_rows(reader, shape, network) if network is not None and question.memorises else {}
    if "accuracy" in question.metrics:
        training = name_stage(progress, "training the judge")
        judge = open_judge(reader, shape, cache, device=model.device, progress=training)
    if judge is not None or network is not None or networks.used:
        measured = (network, judge, networks.others, networks.scorer, question.memorises)
        drawer = Drawer(model, conditions, question.seed, settings, *measured)
    held = open_held_out(model, reader, question, settings, lpips)
    others = {name: real for name, real in reals.items() if name != REAL}
    bench = Bench(reals.get(REAL), drawer, held, {**others, **rows})
    references = read_references(bench, reals, cache, measure, progress)
    if drawer is not None:
        parts = measure(bench, DRAWN, split_range(question.samples), name_stage(progress, "drawing images"))
        found, drawn = merge_drawn(parts, networks.others, question.kept)
    found |= measure_held_out(bench, question, measure, progress)
    about = describe_question(data if isinstance(data, str) else reader.manifest.path, reader, shape, question, network)
    about["sampling"] |= {**question.settings, **away}
    about["sampling"] |= {} if conditions.seconds is None else {"condition_images": len(conditions.seconds.rows)}
    about["overrides"] = describe_overrides(spec.generation, given | away, spec.conditional, usual=spec.default_solver)
    about |= {"pretrained": networks.describe()} if networks.used else {}
    scores, few = found.get("clip_score"), question.allow_few
    made = pretrained.compute_metrics(
        question.metrics, networks, scores, references, drawn, question.seed, allow_few=few
    )
    pairs = None
    if question.memorises:
        assert network is not None
        close = memorisation.measure_memorisation(bench, found, question.seed, measure, progress)
        made[memorisation.NAME] = close.figure(question.seed, network.hash)
        about["memorisation"], pairs = close.dump(), memorisation.show_pairs(close, bench, measure)
    return Answer(compute_figures(question, found, references.get(REAL), network, judge, lpips, made), about, pairs)


def read_references(
    bench: Bench, reals: Mapping[str, Real], cache: Path, measure: Measure, progress: StageProgress | None
) -> dict[str, Reference]:
    """Return the features of real images by the name of their work, from the cache where it has them.

    Raises:
        OSError: naming the file of the cache, if it cannot be written.
    """
    found = {}
    for name, real in reals.items():
        stage = "reading real images" if name == REAL else f"reading real images by {name}"
        parts = measure(bench, name, split_range(len(real.rows)), name_stage(progress, stage))
        found[name] = open_reference(real.source, cache, parts)
    return found


def describe_question(
    data: str, reader: RealReader, shape: tuple[int, int], question: Question, network: FeatureNetwork | None
) -> dict[str, Any]:
    """Return the report's description of a question: data, images, features and versions of the programs."""
    found = {"path": data, "fingerprint": reader.manifest.fingerprint, "split": question.split, "shape": list(shape)}
    if isinstance(reader, RealData) and (choice := choice_of(reader)):
        found |= {"choice": choice, "sources": reader.describe()}
    return {
        "data": found,
        "sampling": {"samples": question.samples, "seed": question.seed},
        "overrides": None,
        "held_out": {"rows": question.rows, "t": question.t},
        "features": None if network is None else {"name": network.name, "hash": network.hash},
        "versions": {name: version(name) for name in ("raysde", "torch")},
    }


def choose_conditions(model: Model, reader: RealReader, question: Question) -> ImageConditions:
    """Return the conditions of the images to draw, after checking that model, data and metrics fit together.

    Raises:
        ValueError: if they do not.
    """
    channels, manifest, taken = shape_of(model)[0], reader.manifest, model.score_model.conditioner
    if manifest.channels != channels:
        raise ValueError(
            f"the model draws {channels} channels, the images at {manifest.path} have {manifest.channels}"
            "; use data with the model's channels"
        )
    held_out.check_image_condition(model.spec.image_condition, question.metrics)
    draw = partial(draw_conditions, reader, question.split)
    if isinstance(model.spec.image_condition, ColumnCondition):
        check_column(model.spec.image_condition, manifest, "the model takes a condition image")
        draw = partial(draw_row_conditions, reader, question.split, shape_of(model)[1:])
    conditions = draw(
        classes=taken.classes,
        captions=taken.tokenizer is not None,
        names=model.spec.class_names,
        attributes=[each.name for each in model.spec.attributes],
    )
    if "accuracy" in question.metrics and not conditions.labels:
        raise ValueError(
            "accuracy: needs a model with labels, or with captions of labelled images; leave it out of --metrics"
        )
    if "clip_score" in question.metrics and not conditions.captions:
        raise ValueError("clip_score: needs a model that takes captions; leave it out of --metrics")
    if question.memorises:
        memorisation.choose_rows(reader)
    if question.compares or set(question.metrics) & set(pretrained.COMPARING):
        question.enough("real images", len(select_rows(reader, question.split, question.reference)))
    if any(name in held_out.METRICS for name in question.metrics):
        held_out.check_measurable(model, reader, question.metrics, question.t)
    return conditions


def probe_network(network: FeatureNetwork, image: tuple[int, int, int], question: Question) -> None:
    """Run the network on two black images (C, H, W), so that a mismatch is found before any image is drawn.

    Raises:
        ValueError: if the channels do not fit, or the network gives no features, or no logits and a metric needs them.
    """
    try:
        _, logits = network(torch.zeros(2, *image, dtype=torch.uint8))
    except RuntimeError as error:
        size, said = " x ".join(str(side) for side in image), str(error).strip().split("\n")[-1]
        raise ValueError(f"the feature network {network.name} cannot take images of {size}: {said}") from error
    if "is" in question.metrics and logits is None:
        raise ValueError(
            f"is: the inception score needs class logits, and {network.name} gives features alone"
            "; leave is out, or choose other --features"
        )


def open_held_out(
    model: Model, reader: RealReader, question: Question, settings: dict[str, Any], lpips: Perceptual | None
) -> HeldOut | None:
    """Return the held-out rows, or None if no metric needs them."""
    if not any(name in held_out.METRICS for name in question.metrics):
        return None
    rows, shape = held_out.choose_unseen_rows(reader, question.rows), shape_of(model)[1:]
    tolerances = {"rtol": question.rtol, "atol": question.atol}
    return HeldOut(
        model, reader, rows, shape, question.seed, question.t, question.metrics, settings, lpips, **tolerances
    )


def measure_held_out(
    bench: Bench, question: Question, measure: Measure, progress: StageProgress | None
) -> dict[str, Tensor]:
    """Return the measurements of the held-out rows by metric, each [N]."""
    if bench.held is None:
        return {}
    found: dict[str, Tensor] = {}
    for work in dict.fromkeys(held_out.METRICS[name] for name in question.metrics if name in held_out.METRICS):
        places = split_range(len(bench.held.rows), held_out.PART)
        found |= merge_parts(measure(bench, work, places, name_stage(progress, f"measuring {work}")))
    return found


def compute_figures(
    question: Question,
    found: dict[str, Tensor],
    reference: Reference | None,
    network: FeatureNetwork | None,
    judge: Judge | None,
    lpips: Perceptual | None,
    others: Mapping[str, Metric],
) -> list[Metric]:
    """Compute the metrics from measurements by name, each [N, ...], in the order asked for.

    Args:
        others: metrics that are computed already, by name.
    """
    made, seed = [], question.seed
    for name in dict.fromkeys(question.metrics):
        if name in others:
            made.append(others[name])
        elif name == "accuracy":
            assert judge is not None
            made.append(compute.accuracy(found["read"], found["asked"], judge, seed))
        elif name in held_out.METRICS:
            seen_by = lpips.hash if lpips is not None and name.endswith("lpips") else ""
            asked = (question.rtol, question.atol)
            tolerances = None if asked == (TOLERANCE, TOLERANCE) else asked
            made.append(held_out.average_metric(name, found[name], seed, question.t, seen_by, tolerances))
        else:
            assert reference is not None
            assert network is not None
            seen = compute.Measured(found["features"], found.get("logits"), reference, seed, network.hash)
            few = question.allow_few
            made.append(compute.fid(seen, allow_few=few) if name == "fid" else compute.FEATURE_METRICS[name](seen))
    return made


def format_figures(found: Sequence[Metric]) -> str:
    """Format metrics as a table for the terminal."""
    lines = [f"{'':15} {'value':>10}   {'95% interval':23} {'better':7} {'images':>7} {'real':>7}  seed  network"]
    for each in found:
        interval = f"[{each.low:.5g}, {each.high:.5g}]"
        lines.append(
            f"{each.name:15} {each.value:10.5g}   {interval:23} {choose_direction(each.name):7} {each.samples:7d} "
            f"{each.reference or '-':>7}  {each.seed:<4}  {each.features or '-'}"
        )
    return "\n".join(lines)
