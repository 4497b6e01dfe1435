"""Training on Ray, driver side: launch a worker group, and launch it again after a failure."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import ray
import ray.data
import ray.exceptions
import ray.train
from pyarrow.fs import FileType
from ray.train import DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raysde.checkpoints import checkpoint, storage
from raysde.cluster.backpressure import set_up_data
from raysde.cluster.connection import tell_driver
from raysde.cluster.resources import (
    Share,
    assign_share,
    check_resources,
    release_orphaned_placement_groups,
    survey_cluster,
)
from raysde.cluster.stream import make_stream_dataset, stream_spec
from raysde.cluster.trial_reports import Slot
from raysde.config import loading
from raysde.io.amounts import amount
from raysde.io.filesystems import child_path, open_filesystem
from raysde.io.own_code import OwnCodeError
from raysde.io.progress import say
from raysde.runs.resume import follow_order
from raysde.runs.run import Run, open_run
from raysde.tracking.spool import spool_folder

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints reported to it."""
RAISED = re.compile(r"^([\w.]+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that names the exception."""
OWN = re.compile(rf"([\w.]+\.)?{OwnCodeError.__name__}: ")
"""The prefix of an error in the user's own code, which another worker group would meet too."""


def resume_step(run: Run, speak: Callable[[str], None] | None = None) -> int:
    """Return the step at which a worker group started now begins.

    Args:
        speak: called with a message for each newer checkpoint that is damaged and skipped.
    """
    return resume_point(run, speak)[1]


def resume_point(run: Run, speak: Callable[[str], None] | None = None) -> tuple[Run, int]:
    """Return the run in the order of rows that its newest checkpoint records, and the step at which it resumes.

    Args:
        speak: see :func:`resume_step`.

    Raises:
        ValueError: if there are checkpoints and none is whole, or its order is of a newer version of raysde.
    """
    found = storage.fetch_newest_checkpoint(run.config.storage, run.config.name, speak)
    if found is None:
        return run, 0
    description = checkpoint.read_description(found)
    storage.discard_copy(found)
    return follow_order(run, description.data), description.step


def data_factory(recipe: dict[str, Any]) -> Callable[[], ray.data.Dataset]:
    """Return a function that makes the stream from the newest checkpoint's step; each worker group calls it."""

    def make() -> ray.data.Dataset:
        set_up_data()
        return make_stream_dataset(stream_spec(*resume_point(open_run(loading.parse_recipe(recipe)))))

    return make


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the loop of one Ray Train worker; the import is here, since the controller does not need it."""
    from raysde.cluster.worker import run_worker

    return run_worker(settings)


def own_share(run: Run) -> Share:
    """Return the share of each worker of a run that has the cluster for itself.

    Raises:
        ValueError: if the cluster was started by raysde and has too few resources for the fewest workers.
    """
    cluster = survey_cluster()
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
) -> None:
    """Run the worker group to the end of the recipe; Ray must be initialised.

    Anything that ends the group early counts as a failure: an error or the death of a worker, also during start-up, and
    the death of the controller, which Ray Train does not restart. A new trainer then resumes from the newest
    checkpoint.

    Args:
        started: time.time() when the command began, for the start-up metrics.
        share: resources of each worker; None for its part of the whole cluster, see :func:`own_share`.
        reports: mailbox slot to which rank 0 also sends its validation metrics.

    Raises:
        ValueError: as :func:`own_share`, or if the user's own code ended the run.
        RuntimeError: if the run failed more than ``resources.max_failures`` times, with the last error.
    """
    recipe = run.config.model_dump(mode="json")
    share = share or own_share(run)
    speak = say if reports is None else tell_driver  # a process of the cluster launches the trials of a sweep
    if reports is None:  # a sweep shows its trials on a line of its own
        say(f"starting {amount(run.config.resources.least, 'worker')}")
    settings = {
        "recipe": recipe,
        "tracking_uri": tracking_uri,
        "run_id": run_id,
        "threads": share.cpus,
        "spool": str(spool_folder(run.config.name, run_id)),
        "started": started,
        "reports": reports,
    }
    most, said = run.config.resources.max_failures, ""
    for failures in itertools.count():
        step = prepare_folder(run, speak)
        if failures:
            release_orphaned_placement_groups()
            speak(f"{said}; starting again from step {step} ({failures} of {most} times)")
        try:
            result = make_trainer(run, settings, share).fit()
            break
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            said = f"run {run.config.name!r} failed: {root_cause(error)}"
            if OWN.search(said):
                raise ValueError(OWN.sub("", said, count=1)) from error
            if failures == most:
                raise RuntimeError(said) from error
    returned: dict[str, Any] = result.return_value or {}  # type: ignore[attr-defined]
    if returned.get("failed"):
        raise RuntimeError(f"run {run.config.name!r} failed: {returned['failed']}")


def prepare_folder(run: Run, speak: Callable[[str], None]) -> int:
    """Prepare a run's folder for a new trainer, and return the step at which it begins.

    Ray Train keeps a list of checkpoints in the folder and refuses to start if list and folder differ: after a deleted
    checkpoint, a torn file, or a resume from an older checkpoint. raysde does not read that list and deletes it, so
    that only the checkpoints count.

    Args:
        speak: called with a message for each newer checkpoint that is damaged and skipped.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    step = resume_step(run, speak)
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
    recipe, wanted = settings["recipe"], run.config.resources
    return TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if share.gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=wanted.workers,  # type: ignore[arg-type]
            use_gpu=share.gpu,
            resources_per_worker=_worker_bundle(share),
            elastic_resize_monitor_interval_s=wanted.resize_every,
        ),
        run_config=RunConfig(
            name=run.config.name,
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
            storage_path=storage.absolute_location(run.config.storage),
            failure_config=FailureConfig(max_failures=0),
        ),
        datasets={"train": data_factory(recipe)} if run.config.data.stream == "ray" else {},
        dataset_config=DataConfig(execution_options=ordered_execution()),
    )


def root_cause(error: Exception) -> str:
    """Return the error that ended a worker group as one line.

    An error in the user's own code comes first, then that of the lowest rank, then the controller's. In a chain of
    exceptions, the last one that is not a Ray wrapper counts.
    """
    if isinstance(error, ray.exceptions.RayActorError):
        return "the process that watches the workers (Ray Train's controller) died"
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    told = [_describe_failure(rank, failure) for rank, failure in sorted(failures.items())]
    return next(filter(OWN.search, told), told[0])


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


def ordered_execution() -> ray.data.ExecutionOptions:
    """Return execution options that keep the blocks in the order of the plan."""
    options = ray.data.ExecutionOptions()
    options.preserve_order = True
    return options
