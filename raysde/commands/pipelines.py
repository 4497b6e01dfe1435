"""The commands `raysde import` and `raysde export`: convert models from and to diffusers pipelines."""

import argparse
from pathlib import Path

from raysde.commands import SOURCES, add_tracking_option


def add_import_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde import`."""
    command.description = (
        "Converts the folder of a diffusers pipeline into a checkpoint for sampling. Supports ScoreSdeVePipeline, "
        "DDPMPipeline and DDIMPipeline, with weights in safetensors format."
    )
    command.add_argument("folder", help="local folder of the pipeline, with model_index.json")
    command.add_argument("out", help="folder of the new checkpoint, which must not exist")
    command.set_defaults(run=run_import)


def add_export_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde export`."""
    command.description = (
        "Converts a model whose network is of kind diffusers into a folder for DiffusionPipeline.from_pretrained; "
        "docs/diffusers.md lists the models."
    )
    command.add_argument("model", help=SOURCES)
    command.add_argument("out", help="folder of the new pipeline, which must not exist")
    command.add_argument(
        "--solver",
        help="ddim, ancestral or dpmpp_2m for VP, pc for VE (default: the scheduler of the imported folder, else ddim "
        "or pc)",
    )
    command.add_argument(
        "--target-snr", type=float, help="step size of pc's corrector (default: the imported folder's, else 0.16)"
    )
    add_tracking_option(command)
    command.set_defaults(run=run_export)


def run_import(args: argparse.Namespace) -> None:
    """Run `raysde import`: write a pipeline of diffusers as a checkpoint."""
    from raysde import interop

    out = Path(args.out).expanduser()
    imported = interop.convert(Path(args.folder).expanduser(), out)
    spec = imported.model.spec
    print(f"checkpoint {out} of a {imported.pipeline}: sde.kind={spec.sde.kind}, target={spec.target}")
    for name in ("clip_sample", "thresholding"):
        if imported.scheduler.get(name):
            print(f"{name}: the scheduler clips the predicted image at each step, which raysde's solvers do not do")
    print(f"draw from it:  raysde sample {out} {imported.settings}")


def run_export(args: argparse.Namespace) -> None:
    """Run `raysde export`: write a model as a pipeline of diffusers.

    Raises:
        ValueError: if there is no such model, ``--out`` exists, or diffusers has no pipeline for the model.
        OSError: if ``--out`` cannot be written.
    """
    from raysde import interop
    from raysde.registry import load

    out = Path(args.out).expanduser()
    model = load(args.model, tracking_uri=args.tracking_uri, device="cpu")
    pipeline = interop.export(model, out, solver=args.solver, target_snr=args.target_snr)
    print(f"{pipeline} in {out}: diffusers.DiffusionPipeline.from_pretrained({str(out)!r})")
