"""The commands `raysde register`, `raysde promote` and `raysde models`: names, versions, aliases and metrics."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysde.commands import SOURCES, add_tracking_option
from raysde.io.passwords import hide_passwords

if TYPE_CHECKING:
    from raysde.registry import ModelVersion

REPORT = "report of raysde evaluate for this model, or a JSON list of metrics"


def add_register_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde register`."""
    command.description = "Registers a checkpoint as a new version, or gives a registered version an alias or metrics."
    command.add_argument("model", help=SOURCES)
    command.add_argument("--name", help="name of the registered model (default: the recipe's)")
    command.add_argument("--alias", help="alias to move to the version (default: candidate for a new version)")
    command.add_argument("--report", help=f"{REPORT}, to store with the version")
    add_tracking_option(command)
    command.set_defaults(run=run_register)


def add_promote_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde promote`."""
    command.description = (
        "Moves the alias champion to a version whose metric is better than the champion's, beyond both confidence "
        "intervals. Stores the metric, the margin and the previous version as tags. See docs/registry.md."
    )
    command.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    command.add_argument("--report", help=f"{REPORT} (default: the metrics stored with the version)")
    command.add_argument("--metric", help="metric to compare, such as fid; required if there are several")
    command.add_argument("--better", choices=("lower", "higher"), help="for a metric that raysde does not know")
    command.add_argument("--alias", default="champion", help="alias to move (default %(default)s)")
    command.add_argument("--force", action="store_true", help="ignore the metrics; needs --reason")
    command.add_argument("--reason", help="reason for --force, stored as a tag")
    add_tracking_option(command)
    command.set_defaults(run=run_promote)


def add_models_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `raysde models`."""
    command.description = "Lists registered models: names, versions, aliases, metrics and sampler settings."
    command.add_argument("name", nargs="?", help="a registered model (default: all)")
    add_tracking_option(command)
    command.set_defaults(run=run_models)


def run_register(args: argparse.Namespace) -> None:
    """Run `raysde register`: register a checkpoint as a version, with the figures of its report.

    Raises:
        ValueError: if ``--alias`` is champion, or the report is of another model.
    """
    from raysde.evaluation.report import read_report, read_subject
    from raysde.registry import register_model
    from raysde.registry.promotion import record_figures
    from raysde.tracking import connect_client, default_uri, report_server_errors

    if args.alias == "champion":
        raise ValueError(
            "--alias champion: raysde promote moves it, after comparing figures; choose another alias or promote"
        )
    uri = args.tracking_uri or default_uri()
    figures = {} if args.report is None else read_report(args.report)
    subject = None if args.report is None else read_subject(args.report)
    client = connect_client(uri)
    alias = args.alias or (None if args.model.startswith("models:") else "candidate")
    with report_server_errors(uri):
        version = register_model(client, args.model, name=args.name, alias=alias, subject=subject)
        record_figures(client, version, figures)
    print(f"models:/{version.name}/{version.version}{f' is {alias}' if alias else ''}")
    for figure in figures.values():
        print(figure)


def run_promote(args: argparse.Namespace) -> None:
    """Run `raysde promote`: move the alias if the version is better than its holder, or for a reason.

    Raises:
        ValueError: if ``--force`` and ``--reason`` are not given together, or the version is not better.
    """
    from raysde.evaluation.report import read_report, read_subject
    from raysde.registry.promotion import promote_version
    from raysde.tracking import connect_client, default_uri, report_server_errors

    reason = (args.reason or "").strip()
    if args.force != bool(reason):
        raise ValueError("--force needs --reason, which says why" if args.force else "--reason is for --force")
    uri = args.tracking_uri or default_uri()
    figures = None if args.report is None else read_report(args.report)
    subject = None if args.report is None else read_subject(args.report)
    client = connect_client(uri)
    with report_server_errors(uri):
        done = promote_version(
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
    """Run `raysde models`: print registered models with versions, aliases, metrics and sampler settings.

    Raises:
        ValueError: if the server does not answer, or there is no such model.
        RuntimeError: if the server fails.
    """
    from raysde.registry import list_aliases, list_registered_models, list_versions
    from raysde.tracking import connect_client, default_uri, report_server_errors

    uri = args.tracking_uri or default_uri()
    client = connect_client(uri)
    with report_server_errors(uri):
        names = [args.name] if args.name else [model.name for model in list_registered_models(client)]
        aliases = {name: list_aliases(client, name) for name in names}
        rows = [_version_row(version, aliases[name]) for name in names for version in list_versions(client, name)]
    if not rows:
        print(f"nothing is registered at {hide_passwords(uri)}")
        return
    print(align_columns([("name", "version", "aliases", "step", "figures", "draws by"), *rows]))


def _version_row(version: "ModelVersion", aliases: dict[str, str]) -> tuple[str, ...]:
    from raysde.models.sampling_defaults import describe_settings
    from raysde.registry import generation_of
    from raysde.registry.promotion import recorded_figures

    own = sorted(alias for alias, number in aliases.items() if number == str(version.version))
    figures = ", ".join(str(figure) for figure in recorded_figures(version).values())
    step, draws = version.tags.get("raysde.step", ""), describe_settings(generation_of(version))
    return (version.name, str(version.version), " ".join(own), step, figures, draws)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as aligned columns of text; an empty cell shows as -."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join((cell or "-").ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
