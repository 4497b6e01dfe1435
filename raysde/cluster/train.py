"""Training on Ray, driver side: launch a worker group, and launch it again after a failure."""

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import ray
import ray.exceptions
import ray.train
from pyarrow.fs import FileType
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig

from raysde.checkpoints import storage
from raysde.checkpoints.loading import DamagedCheckpointError
from raysde.cluster.connection import tell_driver
from raysde.cluster.elastic import DataTasks, TorchTrainer
from raysde.cluster.entry import train_worker
from raysde.cluster.leaving import Departure, SaveBeforeResize
from raysde.cluster.refusals import RefusedError
from raysde.cluster.resources import (
    Share,
    actors_share,
    assign_share,
    check_data_nodes,
    check_resources,
    release_orphaned_placement_groups,
    survey_cluster,
)
from raysde.cluster.trial_reports import Slot
from raysde.io.amounts import amount
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.own_code import OwnCodeError
from raysde.io.progress import say
from raysde.runs.data_record import record_data
from raysde.runs.lease import Lease
from raysde.runs.run import Run
from raysde.tracking.spool import spool_folder

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints reported to it."""
RAISED = re.compile(r"^([\w.]+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that names the exception."""
DAMAGED = re.compile(rf"{DamagedCheckpointError.__name__}: checkpoint (\S+) is damaged: (.+)")
"""The error of workers that loaded a damaged checkpoint."""
FINAL = re.compile(rf"([\w.]+\.)?(?:{OwnCodeError.__name__}|{RefusedError.__name__}): ")
"""The prefix of an error that another worker group would meet too: of the user's own code, or a refusal."""


def resume_step(run: Run, speak: Callable[[str], None] | None = None, damaged: Mapping[str, str] | None = None) -> int:
    """Return the step at which a worker group started now begins, read from the descriptions of the checkpoints.

    Args:
        speak: called with a message for each newer checkpoint that is damaged and skipped.
        damaged: faults of checkpoints that workers found when they loaded them, by name.
    """
    found = storage.find_newest_checkpoint(run.config.storage, run.config.name, speak, damaged)
    return 0 if found is None else found.step


def own_share(run: Run) -> Share:
    """Return the share of each worker of a run that has the cluster for itself.

    Raises:
        ValueError: if the cluster was started by raysde and has too few resources for the fewest workers, or no node
            with the labels of ``data.nodes``.
    """
    cluster = survey_cluster(run.config.data.nodes)
    check_data_nodes(run.config, cluster)
    share = assign_share(run.config, cluster)
    lower = "resources.workers or resources.cpus_per_worker"
    check_resources(run.config, cluster, share, run.config.resources.least, lower)
    return share


def run_worker_group(
    run: Run,
    *,
    tracking_uri: str,
    run_id: str,
    started: float,
    share: Share | None = None,
    reports: Slot | None = None,
    lease: Lease | None = None,
    departure: Departure | None = None,
) -> None:
    """Run the worker group to the end of the recipe, or until its command wants to end; Ray must be initialised.

    Anything that ends the group early counts as a failure: an error or the death of a worker, also during start-up, and
    the death of the controller, which Ray Train does not restart. A new trainer then resumes from the newest
    checkpoint. So it does after a group left on purpose, because a node goes away, which is no failure.

    Args:
        started: time.time() when the command began, for the start-up metrics.
        share: resources of each worker; None for its part of the whole cluster, see :func:`own_share`.
        reports: mailbox slot to which rank 0 also sends its validation metrics.
        lease: this command's lease of the run; None for none, as for the trials of a sweep.
        departure: this command's wish to end early; None for none.

    Raises:
        ValueError: as :func:`own_share`, or if the user's own code or a worker's refusal ended the run.
        RuntimeError: if the run failed more than ``resources.max_failures`` times, with the last error.
        TakenOver: if another command took the run over.
    """
    share = share or own_share(run)
    speak = say if reports is None else tell_driver  # a process of the cluster launches the trials of a sweep
    if reports is None:  # a sweep shows its trials on a line of its own
        say(f"starting {amount(run.config.resources.least, 'worker')}")
    settings = {
        "recipe": run.config.model_dump(mode="json"),
        "threads": share.cpus,
        "tracking_uri": tracking_uri,
        "run_id": run_id,
        "spool": str(spool_folder(run.config.name, run_id)),
        "started": started,
        "reports": reports,
        "lease": None if lease is None else lease.word,
        "damaged": dict[str, str](),
    }
    repeat_groups(run, settings, share, speak, lease, departure)


def repeat_groups(
    run: Run,
    settings: dict[str, Any],
    share: Share,
    speak: Callable[[str], None],
    lease: Lease | None,
    departure: Departure | None,
) -> None:
    """Launch worker groups until one is the last, see :func:`run_worker_group`.

    Raises:
        ValueError: if no checkpoint is whole, code of the user is at fault, or a worker refuses the recipe or its data.
        RuntimeError: if the workers failed more than ``resources.max_failures`` times, or a loss is not finite.
        TakenOver: if another command has the run.
    """
    most, failures, said, counted = run.config.resources.max_failures, 0, "", ""
    damaged: dict[str, str] = settings["damaged"]
    while True:
        step = prepare_folder(run, speak, damaged)
        if said:
            release_orphaned_placement_groups()
            speak(f"{said}; starting again from step {step}{counted}")
        try:
            returned = launch(run, settings, share, departure)
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            if lease is not None:
                lease.confirm()
            said = f"run {run.config.name!r} failed: {root_cause(error)}"
            fault = DAMAGED.search(said)
            if fault is not None and fault[1] not in damaged:
                damaged[fault[1]] = fault[2]
                said = ""
                continue  # from an older checkpoint; this is no failure, and ends with the last checkpoint
            if FINAL.search(said):
                raise ValueError(FINAL.sub("", said, count=1)) from error
            if departure is not None and departure.should_stop():
                return
            if failures == most:
                raise RuntimeError(said) from error
            failures += 1
            counted = f" ({failures} of {most} times)"
            continue
        if returned.get("failed"):
            raise RuntimeError(f"run {run.config.name!r} failed: {returned['failed']}")
        if not returned.get("left") or (departure is not None and departure.should_stop()):
            return
        said, counted = f"run {run.config.name!r} saved its state, since a node goes away", ""


def launch(run: Run, settings: dict[str, Any], share: Share, departure: Departure | None) -> dict[str, Any]:
    """Run one worker group and return the answer of its first worker, see :func:`raysde.cluster.worker.run_worker`."""
    word = uuid4().hex
    trainer = make_trainer(run, {**settings, "leaving": word}, share)
    with contextlib.nullcontext() if departure is None else departure.passed_on(word):
        return trainer.fit().return_value or {}  # type: ignore[attr-defined]


def prepare_folder(run: Run, speak: Callable[[str], None], damaged: Mapping[str, str] | None = None) -> int:
    """Prepare a run's folder for a new trainer, and return the step at which it begins.

    The run's data are recorded there, so that every worker reads the same rows.

    Ray Train keeps a list of checkpoints in the folder and refuses to start if list and folder differ: after a deleted
    checkpoint, a torn file, or a resume from an older checkpoint. raysde does not read that list and deletes it, so
    that only the checkpoints count.

    Args:
        speak: called with a message for each newer checkpoint that is damaged and skipped.
        damaged: faults of checkpoints that workers found when they loaded them, by name.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    step = resume_step(run, speak, damaged)
    record_data(run.config, run.sources.sources)
    system, root = open_filesystem(child_path(storage.absolute_location(run.config.storage), run.config.name, SNAPSHOT))
    found = system.get_file_info(root).type
    if found == FileType.Directory:
        system.delete_dir(root)
    elif found != FileType.NotFound:
        system.delete_file(root)
    return step


def make_trainer(run: Run, settings: dict[str, Any], share: Share) -> TorchTrainer:
    """Return a trainer of one worker group.

    Args:
        settings: for each worker, see :func:`raysde.cluster.worker.run_worker`.
    """
    wanted = run.config.resources
    return TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=settings,
        tasks=DataTasks(run.config.data.stream, run.config.data.nodes, actors_share(run.config).cpus),
        torch_config=TorchConfig(backend="nccl" if share.gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=wanted.workers,  # type: ignore[arg-type]
            use_gpu=share.gpu,
            resources_per_worker=_worker_bundle(share),
            label_selector=_avoid_data_nodes(run),
            elastic_resize_monitor_interval_s=wanted.resize_every,
        ),
        run_config=RunConfig(
            name=run.config.name,
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
            storage_path=storage.absolute_location(run.config.storage),
            # raysde counts failures; Ray Train alone starts again after a node that was announced to go away
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=-1),  # type: ignore[call-arg]
            callbacks=[] if isinstance(wanted.workers, int) else [SaveBeforeResize(settings["leaving"])],  # type: ignore[list-item]
        ),
    )


def root_cause(error: Exception) -> str:
    """Return the error that ended a worker group as one line.

    An error in the user's own code and a refusal come first, then that of the lowest rank, then the controller's. In a
    chain of exceptions, the last one that is not a Ray wrapper counts.
    """
    if isinstance(error, ray.exceptions.RayActorError):
        return "the process that watches the workers (Ray Train's controller) died"
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    described = [_describe_failure(rank, failure) for rank, failure in sorted(failures.items())]
    return next(filter(FINAL.search, described), described[0])


def _describe_failure(rank: int, failure: object) -> str:
    """Return the error of one worker as one line."""
    raised = [f"{name}: {message}" for name, message in RAISED.findall(str(failure)) if not name.startswith("ray.")]
    if raised:
        return f"worker {rank}: {raised[-1]}"
    cause = getattr(failure, "cause", None) or failure
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"worker {rank}: {type(cause).__name__}: {lines[-1] if lines else ''}"


def _worker_bundle(share: Share) -> dict[str, float]:
    return {"CPU": share.cpus, "GPU": 1} if share.gpu else {"CPU": share.cpus}


def _avoid_data_nodes(run: Run) -> dict[str, str] | None:
    """Return the label selector of workers: the nodes without the labels of ``data.nodes``."""
    labels = run.config.data.nodes if run.config.data.stream == "ray" else None
    return {key: f"!{value}" for key, value in labels.items()} if labels else None
