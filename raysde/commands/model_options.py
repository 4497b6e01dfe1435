"""Options shared by the commands that sample: the model, prompts, guidance and the solver."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from raysde.commands import SOURCES, add_tracking_option
from raysde.sampling.method import SETTINGS, Method, Setting, no_setting

Options = argparse.ArgumentParser | argparse._ArgumentGroup
"""A parser or option group that options are added to."""


SOLVER_HELP = (
    "{} (default: the choice of raysde tune-sampler for this model, else unipc; heun with a corrector or --resample, "
    "and for models from before unipc was the default); docs/choosing.md compares the solvers"
)


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that select and load the model."""
    command.add_argument("model", help=SOURCES)
    command.add_argument("--device", help="torch device, such as cpu or cuda (default: a GPU if there is one)")
    command.add_argument(
        "--allow-code", action="store_true", help="allow the checkpoint to import your own network, SDE or text encoder"
    )
    add_tracking_option(command)


def add_prompt_options(command: argparse.ArgumentParser) -> None:
    """Add the options for prompts, labels and guidance."""
    command.add_argument(
        "--prompt", action="append", default=[], help="caption to sample; if repeated, images take the prompts in turn"
    )
    command.add_argument(
        "--label",
        action="append",
        default=[],
        help="class to sample: its name, or its number if the model stores no names; if repeated, images take the "
        "labels in turn",
    )
    command.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="numeric attribute to sample, such as age=30; if a name is repeated, images take its values in turn",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")
    command.add_argument(
        "--guidance",
        type=float,
        help="classifier-free guidance scale; 1 disables guidance (default: the choice of raysde tune-sampler for this "
        "model, else 2 with a prompt, label, --negative or --autoguide alone, else 1)",
    )
    command.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="apply guidance only at noise levels sigma / alpha from LOW to HIGH, such as 0.2 5; this gives sharper "
        "images and halves the cost of the other steps",
    )
    command.add_argument("--negative", metavar="TEXT", help="negative prompt, in place of the empty caption")
    command.add_argument(
        "--autoguide",
        metavar="MODEL",
        help="guide away from a smaller or less trained model of the same SDE instead of the empty caption",
    )
    command.add_argument(
        "--autoguidance",
        type=float,
        metavar="SCALE",
        help="guidance scale of --autoguide; --guidance then applies to the empty or negative prompt as well",
    )


def add_solver_options(command: Options) -> None:
    """Add an option for each setting of a sampling method.

    The options have no defaults: a missing setting takes the model's value if it has one, otherwise the method's.
    """
    for name, each in SETTINGS.items():
        values = ", ".join(each.choices) if each.choices else f"default {each.default}"
        said = f"{each.meaning} ({values})"
        if name == "solver":
            said = SOLVER_HELP.format(", ".join(other for other in each.choices if other != "none"))
        how: dict[str, Any] = {"type": partial(parse_setting, each)}
        if each.kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        command.add_argument(f"--{name.replace('_', '-')}", help=said, **how)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any of these settings by its recipe name: --set eta=1 equals --eta 1",
    )
    command.add_argument("--batch-size", type=int, default=256, help="images per batch (default %(default)s)")


def parse_setting(setting: Setting, text: str) -> Any:
    """Return the value of a setting's option; argparse prints the setting's own message if the type is wrong.

    Raises:
        argparse.ArgumentTypeError: if the text is not of the setting's type.
    """
    try:
        return setting.kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(setting.describe_refusal(text)) from None


def add_workers_option(command: argparse.ArgumentParser) -> None:
    """Add --workers."""
    command.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="number of Ray workers that share the work, on the cluster of RAY_ADDRESS or of the surrounding job, "
        "otherwise on this machine; each gets a GPU if there are some, otherwise an equal part of the CPUs (default: "
        "this process, without Ray)",
    )


def check_drawing_options(args: argparse.Namespace) -> None:
    """Check the solver settings and guidance scales before a model is loaded.

    Raises:
        ValueError: naming the setting or option.
    """
    from raysde.models.sampling_defaults import check_scale

    Method(**parse_method(args))
    check_scale(args.guidance, "--guidance")
    check_scale(args.autoguidance, "--autoguidance")


def parse_method(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given solver settings as keyword arguments of a sampler (ValueError if one is given twice)."""
    named = {name: getattr(args, name) for name in SETTINGS}
    given = {name: value for name, value in named.items() if value is not None}
    further = parse_solver_settings(args.set)
    for name in further:
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} and --set {name} are both given; keep one of them")
    return given | further


def make_loader(args: argparse.Namespace, workers: int = 0) -> Callable[[str], Any]:
    """Return a function that loads a model by name with the given options.

    Args:
        workers: number of Ray workers that will hold copies of the model; if any, the model here stays on the CPU.

    Raises:
        ValueError: if the device does not exist.
    """
    import torch

    from raysde.registry import load

    try:
        device = None if args.device is None else torch.device(args.device)
    except RuntimeError:
        raise ValueError(
            f"--device {args.device!r} is no device; name one of torch's, such as cpu, cuda or cuda:1"
        ) from None
    place = "cpu" if workers else device
    return lambda name: load(name, tracking_uri=args.tracking_uri, allow_code=args.allow_code, device=place)


@contextmanager
def show_progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (units done, units in total) that updates a bar on stderr if the work takes over half a
    second."""
    from tqdm import tqdm

    with tqdm(unit=unit, desc=what, file=sys.stderr, delay=0.5) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@contextmanager
def drawing_arguments(
    args: argparse.Namespace, model: Any, count: int, load: Callable[[str], Any], *, own: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield the keyword arguments of every sampling function for ``count`` images, and show a progress bar.

    Args:
        own: False for tasks that ignore the model's own sampler settings.

    Raises:
        ValueError: naming an option without effect, or a label that is no class of the model.
    """
    prompts = [args.prompt[i % len(args.prompt)] for i in range(count)] if args.prompt else None
    asked = parse_labels(args.label, model.spec)
    labels = [asked[i % len(asked)] for i in range(count)] if asked else None
    values = parse_attributes(args.attribute, model.spec)
    attributes = {name: [given[i % len(given)] for i in range(count)] for name, given in values.items()}
    conditional = bool(prompts or labels or attributes)
    guided = guidance_arguments(args, model.spec, load, conditional=conditional, own=own)
    with show_progress_bar("drawing", "step") as progress:
        yield {
            "prompts": prompts,
            "labels": labels,
            "attributes": attributes,
            "seed": args.seed,
            "batch_size": args.batch_size,
            "progress": progress,
            **guided,
            **parse_method(args),
        }


def parse_labels(texts: Sequence[str], spec: Any) -> list[Any]:
    """Return the labels as the model stores classes: names if it has names, otherwise numbers.

    Raises:
        ValueError: naming a label that is no class of the model.
    """
    from raysde.data.classes import label_from_text

    try:
        return [label_from_text(text, spec.classes, spec.class_names) for text in texts]
    except ValueError as error:
        raise ValueError(f"--label {error}") from None


def parse_attributes(texts: Sequence[str], spec: Any) -> dict[str, list[float]]:
    """Return the values of each attribute in ``NAME=VALUE`` texts, in their order.

    Raises:
        ValueError: naming the text that is no number, or the attribute that the model lacks.
    """
    from raysde.data.attributes import choose_attributes, parse_number

    found: dict[str, list[float]] = {}
    for text in texts:
        name, equals, written = text.partition("=")
        try:
            value = parse_number(written)
        except ValueError:
            value = None
        if not equals or value is None:
            raise ValueError(f"--attribute {text!r}: write a name and a number, such as age=30")
        found.setdefault(name.strip(), []).append(value)
    try:
        choose_attributes(found, spec.attributes, "the model")
    except ValueError as error:
        raise ValueError(f"--attribute: {error}") from None
    return found


def guidance_arguments(
    args: argparse.Namespace, spec: Any, load: Callable[[str], Any], *, conditional: bool, own: bool = True
) -> dict[str, Any]:
    """Return the guidance options as keyword arguments of every sampling function.

    Args:
        conditional: True if there are prompts, labels or attributes.
        own: False for tasks that ignore the model's own sampler settings.

    Raises:
        ValueError: naming an option without effect.
    """
    from raysde.models.sampling_defaults import GUIDED, resolve_settings

    apart = args.autoguidance is not None
    if apart and args.autoguide is None:
        raise ValueError("--autoguidance has no effect without --autoguide; give both, or leave it out")
    if args.autoguidance == 1.0:
        raise ValueError("--autoguidance has no effect at 1: give --autoguidance 2 or so")
    guide = None if args.autoguide is None else load(args.autoguide)
    given = {"guidance": args.guidance, "negative": args.negative, "autoguide": guide}
    given |= {"autoguidance": args.autoguidance} if apart else {}
    generation = spec.generation if own else {}
    found = resolve_settings(generation, given, conditional, usual=spec.default_solver, scale=GUIDED)
    for name in ("negative",) if apart else ("guidance_interval", "negative", "autoguide"):
        if found["guidance"] == 1.0 and getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} has no effect at guidance 1: give --guidance 2 or so")
    interval = None if args.guidance_interval is None else tuple(args.guidance_interval)
    if interval is None and args.guidance is None:
        interval = found.get("guidance_interval")
    return {**given, "guidance": found["guidance"], "guidance_interval": interval}


def parse_solver_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the pairs of ``--set KEY=VALUE`` as keyword arguments of a sampler.

    Raises:
        ValueError: naming a pair with an unknown key or a value of the wrong type.
    """
    known = set(SETTINGS) - {"solver", "steps", "grid"}
    settings = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in known:
            raise ValueError(f"--set {pair!r}: {no_setting(key, sorted(known))}")
        if key in settings:
            raise ValueError(f"--set {key} is given twice; keep one of them")
        try:
            settings[key] = text if SETTINGS[key].kind is str else json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(f"--set {pair!r}: {SETTINGS[key].describe_refusal(text)}") from None
        wanted, given = SETTINGS[key].kind, type(settings[key])
        if given is not wanted and not (given is int and wanted is float):
            raise ValueError(f"--set {pair!r}: {SETTINGS[key].describe_refusal(text)}")
    return settings
