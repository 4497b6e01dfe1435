"""The command `raysde precompute`: run frozen encoders over a data set, once for all runs."""

import argparse

from raysde.io.amounts import amount


def add_precompute_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde precompute` to its parser."""
    command.description = (
        "Runs a frozen text encoder over all captions of a data set, or an autoencoder over all images, on Ray, and "
        "writes the outputs beside the shards, where training finds them. After an interruption, the same command "
        "resumes."
    )
    command.add_argument("shards", help="folder or URI with a manifest.json")
    command.add_argument("--text", metavar="PATH_OR_NAME", help="text encoder, the value of text.path in a recipe")
    command.add_argument("--vae", metavar="PATH_OR_NAME", help="diffusers AutoencoderKL, the value of latent.vae")
    command.add_argument("--flip", action="store_true", help="with --vae: also encode the mirror images (latent.flip)")
    crops = "with --vae: also encode this many random crops of each image (latent.crops; default %(default)s)"
    command.add_argument("--crops", type=int, default=0, metavar="N", help=crops)
    scale = "smallest and largest side of the crops, as a share of the image (latent.scale; default 0.8 1)"
    command.add_argument("--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help=scale)
    command.add_argument("--max-tokens", type=int, default=77, help="value of text.max_tokens (default %(default)s)")
    command.add_argument("--batch-size", type=int, default=64, help="rows per forward pass (default %(default)s)")
    command.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16", help="stored type (default %(default)s)")
    command.set_defaults(run=run_precompute)


def run_precompute(args: argparse.Namespace) -> None:
    """Run `raysde precompute`: encode captions, images or both, and store the results beside the shards.

    Raises:
        ValueError: naming the option that is missing or wrong, or what does not fit the data set.
    """
    from raysde.cluster.precompute import precompute
    from raysde.data.dataset.manifest import read_manifest
    from raysde.data.dataset.precomputed import LatentViews
    from raysde.io.filesystems import absolute_location
    from raysde.precompute.jobs import Job, LatentsJob, TextJob

    if args.text is None and args.vae is None:
        raise ValueError("give --text, --vae or both")
    if args.vae is None and (args.flip or args.crops or args.scale):
        raise ValueError("--flip, --crops and --scale are of latents; give --vae")
    views = LatentViews(
        flip=args.flip, crops=args.crops, scale=tuple(args.scale or ((0.8, 1.0) if args.crops > 0 else (1.0, 1.0)))
    )
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    manifest = read_manifest(absolute_location(args.shards))
    how, jobs = {"dtype": args.dtype, "batch_size": args.batch_size}, list[Job]()
    if args.text is not None:
        jobs.append(TextJob.of(manifest, args.text, max_tokens=args.max_tokens, **how))
    if args.vae is not None:
        jobs.append(LatentsJob.of(manifest, args.vae, views=views, **how))
    for job in jobs:
        made = precompute(job, manifest)
        megabytes = sum(file.bytes for file in made.all_files) / 1e6
        print(f"{made.kind} of {amount(manifest.rows, 'row')}, {megabytes:.1f} MB in {made.path}")
