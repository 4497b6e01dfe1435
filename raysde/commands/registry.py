"""The commands `raysde register`, `raysde promote` and `raysde models`: names, versions, aliases and figures."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysde.commands import SOURCES, tracking_option

if TYPE_CHECKING:
    from raysde.registry import ModelVersion

REPORT = "figures that an evaluation of this model wrote, or a JSON list of figures"


def register_options(command: argparse.ArgumentParser) -> None:
    """Describes the options of `raysde register`."""
    command.description = "Registers a checkpoint as a new version, or gives a registered version an alias or figures."
    command.add_argument("model", help=SOURCES)
    command.add_argument("--name", help="name to register it under (default: the one of its recipe)")
    command.add_argument("--alias", help="alias to move to it (default: candidate for a new version)")
    command.add_argument("--report", help=f"{REPORT}, to keep with the version")
    tracking_option(command)
    command.set_defaults(run=run_register)


def promote_options(command: argparse.ArgumentParser) -> None:
    """Describes the options of `raysde promote`."""
    command.description = (
        "Moves the alias champion to a version whose figure is better than the champion's, beyond both intervals; the "
        "figure, the margin and the version before are kept as tags. docs/registry.md explains the gate."
    )
    command.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    command.add_argument("--report", help=f"{REPORT} (default: those kept with the version)")
    command.add_argument("--metric", help="the figure that decides, such as fid; needed if there are several")
    command.add_argument("--better", choices=("lower", "higher"), help="for a metric that raysde does not know")
    command.add_argument("--alias", default="champion", help="alias to move (default %(default)s)")
    command.add_argument("--force", action="store_true", help="promote it whatever the figures say")
    command.add_argument("--reason", help="why it is forced, kept as a tag")
    tracking_option(command)
    command.set_defaults(run=run_promote)


def models_options(command: argparse.ArgumentParser) -> None:
    """Describes the options of `raysde models`."""
    command.description = (
        "Lists registered models: names, versions, aliases, figures with their intervals, and what they draw by."
    )
    command.add_argument("name", nargs="?", help="a registered model (default: all)")
    tracking_option(command)
    command.set_defaults(run=run_models)


def run_register(args: argparse.Namespace) -> None:
    """raysde register."""
    from raysde.evaluation.report import read_report, read_subject
    from raysde.registry import register
    from raysde.registry.promotion import record
    from raysde.tracking import answering, client_for, default_uri

    if args.alias == "champion":
        raise ValueError("--alias champion: raysde promote moves it, after comparing figures")
    uri = args.tracking_uri or default_uri()
    figures = {} if args.report is None else read_report(args.report)
    subject = None if args.report is None else read_subject(args.report)
    client = client_for(uri)
    alias = args.alias or (None if args.model.startswith("models:") else "candidate")
    with answering(uri):
        version = register(client, args.model, name=args.name, alias=alias, subject=subject)
        record(client, version, figures)
    print(f"models:/{version.name}/{version.version}{f' is {alias}' if alias else ''}")
    for figure in figures.values():
        print(figure)


def run_promote(args: argparse.Namespace) -> None:
    """raysde promote."""
    from raysde.evaluation.report import read_report, read_subject
    from raysde.registry.promotion import promote
    from raysde.tracking import answering, client_for, default_uri

    reason = (args.reason or "").strip()
    if args.force != bool(reason):
        raise ValueError("--force needs --reason, which says why" if args.force else "--reason is for --force")
    uri = args.tracking_uri or default_uri()
    figures = None if args.report is None else read_report(args.report)
    subject = None if args.report is None else read_subject(args.report)
    client = client_for(uri)
    with answering(uri):
        done = promote(
            client,
            args.model,
            found=figures,
            subject=subject,
            metric=args.metric,
            better=args.better,
            alias=args.alias,
            reason=reason or None,
        )
    print(f"models:/{done.version.name}/{done.version.version} is {args.alias}")
    if done.figure is not None:
        print(done.figure)
    if done.before is not None:
        print(f"in place of version {done.before.version}{f', margin {done.margin}' if done.margin else ''}")


def run_models(args: argparse.Namespace) -> None:
    """raysde models."""
    from raysde.registry import aliases_of, registered_models, versions
    from raysde.tracking import answering, client_for, default_uri

    uri = args.tracking_uri or default_uri()
    client = client_for(uri)
    with answering(uri):
        names = [args.name] if args.name else [model.name for model in registered_models(client)]
        aliases = {name: aliases_of(client, name) for name in names}
        rows = [_row(version, aliases[name]) for name in names for version in versions(client, name)]
    if not rows:
        print(f"nothing is registered at {uri}")
        return
    print(columns([("name", "version", "aliases", "step", "figures", "draws by"), *rows]))


def _row(version: "ModelVersion", aliases: dict[str, str]) -> tuple[str, ...]:
    from raysde.models.sampling_defaults import sentence
    from raysde.registry import generation_of
    from raysde.registry.promotion import recorded

    own = sorted(alias for alias, number in aliases.items() if number == str(version.version))
    figures = ", ".join(str(figure) for figure in recorded(version).values())
    step, draws = version.tags.get("raysde.step", ""), sentence(generation_of(version))
    return (version.name, str(version.version), " ".join(own), step, figures, draws)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under each other; an empty cell shows as -."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join((cell or "-").ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
