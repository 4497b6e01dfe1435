"""A sweep of a recipe on Ray Tune, from its checks to the ranking: `raysde tune` and jobs/tune.py.

Tune starts the trials, a few at a time, and stops those that early stopping ends.
:class:`raysde.tuning.training.sweep.Sweep` decides both from its ledger. A killed sweep therefore resumes without
Tune's pickled state, which goes to a temporary folder and is never read.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial as TuneTrial

from raysde import tracking
from raysde.checkpoints import storage
from raysde.cluster.connection import connect, quiet_tune
from raysde.cluster.job import reject_local_store
from raysde.cluster.resources import (
    Cluster,
    Share,
    assign_share,
    check_resources,
    count_concurrent_runs,
    survey_cluster,
)
from raysde.cluster.trial import make_trainable
from raysde.cluster.trial_reports import open_mailbox
from raysde.cluster.tune_callbacks import Asked, Children, Judged, Refusal
from raysde.cluster.verify import verify_data
from raysde.config import loading
from raysde.config.names import check_sweep_name
from raysde.config.places import drop_data_places, resolve_places
from raysde.io.errors import Interrupted
from raysde.io.filesystems import child_path, write_bytes
from raysde.io.progress import say
from raysde.runs import identity
from raysde.runs.data_record import pin_sweep, record_data
from raysde.runs.run import Run, check_model, check_run, list_remarks, open_run
from raysde.tuning.training.ledger import VERSION, Ledger, Trial, read_definition
from raysde.tuning.training.progress import SweepLine
from raysde.tuning.training.ranking import best_recipe, best_trial, format_csv, format_ranking
from raysde.tuning.training.search import count_trials, plan_trials
from raysde.tuning.training.settings import SweepSettings, halving_for
from raysde.tuning.training.space import (
    Space,
    Values,
    check_recipes,
    describe_values,
    read_space,
    vary_recipe,
)
from raysde.tuning.training.sweep import Sweep

WAITING = {"node:__internal_head__": 0.001}
"""Resources of the process that waits for a trial's workers: a place on the head node, which outlives other nodes. It
reserves no CPU, since on a small machine that would be the CPU that data tasks need."""
INDIFFERENT = (
    "name",
    "storage",
    "data.path",
    "data.verify",
    "data.block_",
    "resources.",
    "tracking.",
    "sampling.",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep.newest",
    "keep.best",
    "keep.every",
    "publish",
)
"""Prefixes of the recipe keys that may change when a sweep is resumed."""


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        tracking_uri: MLflow store that holds the run.
        table: the ranking as text.
        best: the best trial, None if no trial has a metric value.
        recipe, checkpoint, csv: paths of the best trial's recipe and newest checkpoint, and of the ranking as CSV.
        run_id: MLflow run of the sweep.
    """

    table: str
    best: Trial | None
    recipe: str
    checkpoint: Path | None
    csv: str
    run_id: str
    tracking_uri: str


def tune_job(tree: Mapping[str, Any], settings: SweepSettings, name: str) -> SweepResult:
    """Run a sweep to its end, or resume it.

    Args:
        tree: the recipe that trials vary, as read from YAML.
        name: name of the sweep, of its folder in the recipe's storage and of its MLflow run.

    Raises:
        ValueError: for anything wrong that shows before trials start, or a metric that the first trial does not report.
        RuntimeError: if Ray failed, or every trial did.
        Interrupted: on Ctrl-C or SIGTERM; the message says how to resume.
    """
    check_sweep_name(name, "--name")
    recipe, space = resolve_places(loading.parse_recipe({**tree, "name": name})), read_space(settings.space)
    began = read_definition(child_path(recipe.storage, name)).get("data", {}).get("fingerprint")
    tree = pin_sweep(tree, recipe, began)  # a data set may grow while the sweep runs
    recipe = resolve_places(loading.parse_recipe({**tree, "name": name}))
    count = count_trials(space, settings.search, settings.trials)
    plan = plan_trials(space, settings.search, settings.seed, count)
    check_recipes(tree, space, space.corners() if plan is None else plan)
    run = open_run(recipe)
    remarks = check_run(run, verify_data)
    check_measured(run, settings.metric)
    check_networks(tree, space, space.corners() if plan is None else plan)
    every, key = recipe.validation.interval_of(settings.metric), recipe.validation.interval_key(settings.metric)
    halving = halving_for(settings, run.steps, every, recipe.train.batch, key)
    uri = tracking.store_uri(recipe.tracking.uri)
    client = tracking.connect_client(uri)
    ledger = Ledger(child_path(recipe.storage, name), sweep_definition(run, settings), recipe.default)
    record_data(recipe, run.sources.sources)
    sweep = Sweep(space, ledger, count=count, seed=settings.seed, metric=settings.metric, plan=plan, halving=halving)
    for remark in [*remarks, *list_remarks(run)]:
        say(remark)
    room = check_cluster(sweep, recipe, uri, settings.concurrent) if sweep.left else None
    word = identity.settle_word(ledger.folder, {}, begun=bool(ledger.trials))
    with tracking.report_server_errors(uri):
        parent = open_parent(client, run, settings, uri, word)
    children = Children(client, uri, recipe, tree, space, parent, settings.metric)
    if room is not None:
        left = Interrupted(f"sweep {name!r} was interrupted; the same command resumes it")
        with tracking.mark_runs(client, lambda: list_running(sweep, parent), lambda: left):
            run_trials(sweep, children, *room)
    with tracking.report_server_errors(uri):
        outcome = conclude_sweep(sweep, children, tree)
    identity.note_end(ledger.folder)
    return outcome


def check_cluster(sweep: Sweep, recipe: loading.RunConfig, uri: str, concurrent: int | None) -> tuple[int, Share]:
    """Connect to Ray; return concurrent trials and each worker's share, before anything is logged to MLflow.

    Raises:
        ValueError: naming the setting that the cluster cannot satisfy.
        RuntimeError: if Ray does not start.
    """
    connect("ERROR")  # Ray Train would warn of every trial that is stopped
    reject_local_store(uri)
    return assign_shares(recipe, survey_cluster(recipe.data.nodes), sweep.count, concurrent)


def list_running(sweep: Sweep, parent: str) -> list[str]:
    """Return the ids of the active MLflow runs: the sweep's own and those of its running trials."""
    return [parent, *(trial.run_id for trial in sweep.trials if trial.run_id and trial.state == "running")]


def sweep_definition(run: Run, settings: SweepSettings) -> dict[str, Any]:
    """Return the settings that must not change when a sweep is resumed."""
    flat = {
        key: drop_data_places(key, value) for key, value in run.config.flat().items() if not key.startswith(INDIFFERENT)
    }
    flat.pop(VERSION, None)
    if run.config.train.microbatch is None:  # the microbatches of all trials then depend on the number of workers
        flat["resources.workers"] = run.config.resources.most
    data = {key: value for key, value in run.data_identity.items() if key not in ("path", "sources")}
    # a list of pairs, since a grid depends on the order of its axes
    space = list(settings.space.items())
    return {"recipe": flat, "data": data, "space": space, "search": settings.search, "seed": settings.seed}


def check_measured(run: Run, metric: str) -> None:
    """Refuse a recipe that measures nothing to compare trials by.

    Raises:
        ValueError: if the metric is none of drawn images, and the recipe never validates or has no held-out rows.
    """
    if metric in run.config.validation.quality_names:
        return
    if not len(run.held_out) or not run.config.validation.every:
        raise ValueError("a sweep compares trials on held-out rows: set validation.rows and validation.every")


def check_networks(tree: Mapping[str, Any], space: Space, combinations: list[Values]) -> None:
    """Build the network of every combination without its weights, for the recipe's data.

    Raises:
        ValueError: naming the first combination that does not fit.
    """
    for values in combinations:
        try:
            check_model(open_run(loading.parse_recipe(vary_recipe(tree, space, values))).spec)
        except ValueError as error:
            raise ValueError(f"the space holds {describe_values(values)}, which does not fit: {error}") from None


def open_parent(client: tracking.MlflowClient, run: Run, settings: SweepSettings, uri: str, word: str) -> str:
    """Return the id of the sweep's MLflow run, the parent of its trials' runs; create the run if it is new."""
    asked = settings.model_dump(mode="json", exclude={"recipe", "space"})
    axes = {f"space.{name.replace(',', ' ')}": values for name, values in settings.space.items()}
    data = tracking.Input(run.manifest.path, run.manifest.fingerprint, run.manifest.rows)
    recipe, place = run.config, tracking.default_artifact_root(uri)
    experiment = recipe.tracking.experiment
    return tracking.open_mlflow_run(client, experiment, recipe.name, {**axes, **asked}, place, data, word=word)


def assign_shares(recipe: loading.RunConfig, cluster: Cluster, trials: int, given: int | None) -> tuple[int, Share]:
    """Return the number of concurrent trials, and the share of each of their workers.

    Args:
        trials: number of trials in the sweep, including ended ones, so that a resumed trial keeps its number of
            threads.
        given: concurrent trials that the user asked for; None for as many as fit.

    Raises:
        ValueError: if the cluster was started by raysde and has too few resources.
    """
    at_once = given or count_concurrent_runs(recipe, cluster, trials)
    share = assign_share(recipe, cluster, at_once)
    lower = "--concurrent, resources.workers or resources.cpus_per_worker"
    check_resources(recipe, cluster, share, at_once * recipe.resources.most, lower, at_once)
    return at_once, share


def run_trials(sweep: Sweep, children: Children, at_once: int, share: Share) -> None:
    """Run the remaining trials of a sweep.

    Args:
        sweep: the sweep; it chooses the trials and keeps their results.
        children: the trials as training runs.
        at_once: number of concurrent trials.
        share: resources of each worker.

    Raises:
        ValueError: if trials do not report the metric of the sweep.
        RuntimeError: if Ray Tune failed.
        Interrupted: on Ctrl-C, or if Ray Tune ended before all trials had.
    """
    recipe = children.recipe
    quiet_tune()
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")  # a sweep resumes from its ledger
    line = SweepLine(sweep, at_once)
    asked, judged = Asked(sweep, children, share, line), Judged(sweep, children, line)
    with tempfile.TemporaryDirectory(prefix="raysde-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(make_trainable(open_mailbox()), WAITING),
            tune_config=tune.TuneConfig(
                num_samples=sweep.left,
                max_concurrent_trials=at_once,
                search_alg=asked,
                scheduler=judged,
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name=recipe.name,
                storage_path=folder,
                stop=Refusal(judged),
                failure_config=tune.FailureConfig(max_failures=recipe.resources.max_failures),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError as error:  # for example if the ledger's disk is full: the text is a whole traceback
            said = str(error).strip().split("\n")[-1]
            raise RuntimeError(f"the sweep was interrupted: {said}; the same command resumes it") from error
        finally:
            line.close()
    if judged.refused is not None:
        raise judged.refused
    if any(trial.state == "running" for trial in sweep.trials) or sweep.left:
        raise Interrupted("the sweep was interrupted; the same command resumes it")


def trial_name(trial: TuneTrial) -> str:
    """Return the name of a trial in Tune."""
    return f"{trial.config['number']:03d}"


def close_children(sweep: Sweep, children: Children) -> None:
    """Deliver the metrics left by trials and close their MLflow runs; name trials whose runs are in another store.

    Raises:
        RuntimeError: if the server does not answer.
    """
    begun = [trial for trial in sweep.trials if trial.run_id]
    known = [trial for trial in begun if tracking.has_run(children.client, trial.run_id)]
    for trial in known:
        children.deliver_leftovers(trial)
        children.close_run(trial)
    if elsewhere := ", ".join(f"{trial.number:03d}" for trial in begun if trial not in known):
        print(
            f"MLflow at {children.uri} does not know the runs of trials {elsewhere}: they stay as they are", flush=True
        )


def conclude_sweep(sweep: Sweep, children: Children, tree: Mapping[str, Any]) -> SweepResult:
    """Write the ranking and the best recipe beside the trials and to MLflow, and close the MLflow runs.

    Raises:
        RuntimeError: if no trial has a metric value.
    """
    from raysde.tuning.training.plots import draw_plots

    trials, space, metric = sweep.trials, sweep.space, sweep.metric
    top, name = best_trial(trials, metric), children.recipe.name
    folder, found = sweep.ledger.folder, format_ranking(trials, space, metric)
    files = {"ranking.csv": format_csv(trials, space, metric).encode(), **draw_plots(trials, space, metric)}
    tags = {}
    if top is not None:
        files["best.yaml"] = best_recipe(tree, space, top, f"{name}-best", metric).encode()
        tags = {"raysde.best.trial": children.name(top.number), "raysde.best.value": str(top.value(metric))}
    for file, content in files.items():
        write_bytes(child_path(folder, file), content)
    close_children(sweep, children)
    tracking.log_files(children.client, children.parent, files, tags)
    if top is None:
        tracking.fail_run(children.client, children.parent)
        raise RuntimeError(f"no trial of sweep {name!r} has a value of {metric}:\n{found}")
    tracking.finish_run(children.client, children.parent)
    last = storage.fetch_newest_checkpoint(folder, children.name(top.number))
    places = {file: child_path(folder, file) for file in files}
    return SweepResult(found, top, places["best.yaml"], last, places["ranking.csv"], children.parent, children.uri)
