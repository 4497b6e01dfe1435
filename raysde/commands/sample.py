"""The command `raysde sample`."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from raysde.commands import SOURCES, tracking_option


def sample_options(command: argparse.ArgumentParser) -> None:
    """Describes the command's options."""
    command.description = (
        "Draws images and writes image-000.png, ... and grid.png. Image i depends on the seed and i alone."
    )
    command.add_argument("model", help=SOURCES)
    command.add_argument(
        "--prompt", action="append", default=[], help="caption to draw; repeat it for several prompts, taken in turn"
    )
    command.add_argument(
        "--label", action="append", type=int, default=[], help="class to draw; repeat it for several, taken in turn"
    )
    command.add_argument("-n", type=int, help="number of images (default: one for each prompt or label, otherwise 16)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--solver",
        default="heun",
        help="euler_maruyama, reverse_diffusion, ancestral, pc, euler, heun, rk4, rk45, edm, ddim, dpmpp_2m, dpmpp_3m, "
        "dpmpp_2m_sde, dpmpp_3m_sde, deis, unipc (default %(default)s); docs/choosing.md compares them",
    )
    command.add_argument("--steps", type=int, default=20, help="solver steps (default %(default)s)")
    command.add_argument(
        "--grid",
        choices=("time", "log_snr", "edm", "quadratic"),
        help="spacing of the steps (default: what suits the solver)",
    )
    command.add_argument(
        "--guidance", type=float, help="classifier-free guidance; 1 for none (default: 2 with a prompt or label)"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further settings of the solver: corrector, corrector_steps, target_snr, eta, order, churn, churn_low, "
        "churn_high, churn_noise, rho, rtol, atol, denoise; for example --solver ddim --set eta=1",
    )
    command.add_argument("--batch-size", type=int, default=256, help="images drawn at a time (default %(default)s)")
    command.add_argument("--out", default="samples", help="folder for the images (default %(default)s)")
    command.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    command.add_argument(
        "--allow-code", action="store_true", help="import the network class that the checkpoint names, if it names one"
    )
    tracking_option(command)
    command.set_defaults(run=run_sample)


def run_sample(args: argparse.Namespace) -> None:
    """raysde sample."""
    import torch
    from tqdm import tqdm

    from raysde.registry import load
    from raysde.sampler import Method

    settings = {"solver": args.solver, "steps": args.steps, "grid": args.grid, **solver_settings(args.set)}
    Method(**settings)
    count = args.n if args.n is not None else max(len(args.prompt), len(args.label)) or 16
    prompts = [args.prompt[i % len(args.prompt)] for i in range(count)] if args.prompt else None
    labels = [args.label[i % len(args.label)] for i in range(count)] if args.label else None
    guidance = args.guidance if args.guidance is not None else 2.0 if prompts or labels else 1.0
    try:
        device = None if args.device is None else torch.device(args.device)
    except RuntimeError:
        raise ValueError(f"--device {args.device!r} is no device") from None
    model = load(args.model, tracking_uri=args.tracking_uri, allow_code=args.allow_code, device=device)
    with tqdm(unit="step", desc="sampling", file=sys.stderr, delay=0.5) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        drawn = model.sample(
            prompts=prompts,
            labels=labels,
            n=count,
            seed=args.seed,
            guidance=guidance,
            batch_size=args.batch_size,
            progress=progress,
            **settings,
        )
    paths = drawn.save(args.out)
    print(f"{len(paths) - 1} images and {paths[-1]} ({drawn.nfe} network evaluations each)")


def solver_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``--set KEY=VALUE`` as keyword arguments of a sampler.

    Raises:
        ValueError: naming a pair whose key is no setting, or whose value is not one of its kind.
    """
    from raysde.sampler import Settings

    known = set(Settings.__annotations__) - {"solver", "steps", "grid"}
    settings = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in known:
            raise ValueError(f"--set {pair!r}: the settings of a solver are {', '.join(sorted(known))}")
        try:
            settings[key] = text if key == "corrector" else json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(f"--set {pair!r}: {text!r} is no number, true or false") from None
        wanted = {"corrector": str, "denoise": bool, "order": int, "corrector_steps": int}.get(key, float)
        given = type(settings[key])
        if given is not wanted and not (given is int and wanted is float):
            raise ValueError(f"--set {pair!r}: {key} takes a value like {wanted(1)!r}")
    return settings
