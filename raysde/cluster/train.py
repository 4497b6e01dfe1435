"""Training on Ray: the driver that launches a worker group, and what each worker does."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.data
import ray.train
from ray.train import CheckpointConfig, DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raysde import checkpoint, config, storage
from raysde.cluster.mailbox import Slot
from raysde.cluster.session import tell
from raysde.cluster.shares import Share, check_room, share_out, survey
from raysde.cluster.stream import stream, stream_spec
from raysde.progress import say
from raysde.run import Run, open_run
from raysde.spool import spool_of

RAISED = re.compile(r"^([\w.]+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that says what was raised."""


def resume_step(run: Run) -> int:
    """The step that a worker group started now begins at."""
    found = storage.newest_checkpoint(run.config.storage, run.config.name)
    return 0 if found is None else checkpoint.read(found).step


def data_factory(recipe: dict[str, Any]) -> Callable[[], ray.data.Dataset]:
    """Makes the rest of the stream; called anew for each worker group, so that a restart begins at the cursor."""

    def make() -> ray.data.Dataset:
        ray.data.DataContext.get_current().enable_progress_bars = False
        run = open_run(config.parse(recipe))
        return stream(stream_spec(run, resume_step(run)))

    return make


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker runs; imported there, since the controller needs none of it."""
    from raysde.cluster.worker import work

    return work(settings)


class Retold(ray.train.UserCallback):
    """Tells the person at the driver's terminal that workers failed and are started again.

    Args:
        most: failures after which the run ends, with an error that the driver reports.
    """

    def __init__(self, most: int) -> None:
        self.most, self.failures = most, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell why, in a line."""
        self.failures += 1
        if self.failures <= self.most:
            again = f"starting again from the newest checkpoint (failure {self.failures} of at most {self.most})"
            tell(f"{cause(worker_exceptions)}; {again}")


def own_share(run: Run) -> Share:
    """What each worker gets of a cluster that a run has for itself.

    Raises:
        ValueError: if the cluster was started here and has too little for the fewest workers.
    """
    cluster = survey()
    share = share_out(run.config, cluster)
    lower = "resources.workers or resources.cpus_per_worker"
    check_room(run.config, cluster, share, run.config.resources.least, lower)
    return share


def launch(
    run: Run,
    *,
    tracking_uri: str,
    run_id: str,
    started: float,
    share: Share | None = None,
    reports: Slot | None = None,
) -> None:
    """Runs the worker group to the end of the recipe; Ray must be initialised.

    Args:
        started: time.time() when the command began, for the start-up metrics.
        share: what each worker gets; None for its part of the whole cluster, see :func:`own_share`.
        reports: where the first worker also sends what it validates.

    Raises:
        ValueError: as :func:`own_share`.
        RuntimeError: if the run failed for good, with the last error.
    """
    recipe = run.config.model_dump(mode="json")
    wanted, share = run.config.resources, share or own_share(run)
    if reports is None:  # a sweep shows its trials in a line of its own
        say(f"starting {wanted.least} worker{'s' if wanted.least > 1 else ''}")
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config={
            "recipe": recipe,
            "tracking_uri": tracking_uri,
            "run_id": run_id,
            "threads": share.cpus,
            "spool": str(spool_of(run.config.name, run_id)),
            "started": started,
            "reports": reports,
        },
        torch_config=TorchConfig(backend="nccl" if share.gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=wanted.workers,  # type: ignore[arg-type]
            use_gpu=share.gpu,
            resources_per_worker=_bundle(share),
            elastic_resize_monitor_interval_s=wanted.resize_every,
        ),
        run_config=RunConfig(
            name=run.config.name,
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
            storage_path=storage.location(run.config.storage),
            failure_config=FailureConfig(max_failures=wanted.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=run.config.keep_checkpoints),
            callbacks=[Retold(wanted.max_failures)] if reports is None else None,  # type: ignore[list-item]
        ),
        datasets={"train": data_factory(recipe)} if run.config.data.stream == "ray" else {},
        dataset_config=DataConfig(execution_options=in_order()),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"run {run.config.name!r} failed: {root_cause(error)}") from error
    returned: dict[str, Any] = result.return_value or {}  # type: ignore[attr-defined]
    if returned.get("failed"):
        raise RuntimeError(f"run {run.config.name!r} failed: {returned['failed']}")


def root_cause(error: ray.train.TrainingFailedError) -> str:
    """The first worker's or the controller's error, in a line; of a chain, the last that is not Ray's wrapping."""
    return cause(getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)})


def cause(failures: Mapping[int, Any]) -> str:
    """The error of the first of some workers, in a line; of a chain, the last that is not Ray's wrapping."""
    rank, failure = sorted(failures.items())[0]
    raised = [f"{name}: {message}" for name, message in RAISED.findall(str(failure)) if not name.startswith("ray.")]
    if raised:
        return f"worker {rank}: {raised[-1]}"
    cause = getattr(failure, "cause", None) or failure
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"worker {rank}: {type(cause).__name__}: {lines[-1] if lines else ''}"


def _bundle(share: Share) -> dict[str, float]:
    return {"CPU": share.cpus, "GPU": 1} if share.gpu else {"CPU": share.cpus}


def in_order() -> ray.data.ExecutionOptions:
    """Blocks come in the order of the plan."""
    options = ray.data.ExecutionOptions()
    options.preserve_order = True
    return options
