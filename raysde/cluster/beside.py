"""Measurements of a run's checkpoints on Ray actors, while its workers train on.

An actor has CPUs or a GPU of its own. It loads the averaged weights of a checkpoint and measures them by the function
that measures on the workers and in `raysde evaluate`.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raysde.checkpoints import checkpoint, storage
from raysde.checkpoints.late_results import add_metrics, close_measurements, read_metrics
from raysde.cluster.connection import quiet_ray
from raysde.cluster.errors import describe_error
from raysde.cluster.evaluate import LOST, RETRIES
from raysde.cluster.resources import Share
from raysde.config import loading
from raysde.distributed.world import World
from raysde.evaluation.shared import list_cache, write_cache
from raysde.evaluation.workload import measure_here
from raysde.inference.model import Model
from raysde.models.score import ScoreModel
from raysde.runs.keeping import make_retention
from raysde.runs.quality import cache_folder, measure_model, name_metrics, prepare_quality
from raysde.runs.run import Run, open_run
from raysde.runs.saving import Saver

START = 600.0
"""Longest wait in seconds for an actor to get its CPUs or GPU, after a decision needs it."""


class CheckpointMeasurer:
    """An actor that measures checkpoints of a run.

    Args:
        recipe: the run's recipe, with the versions of its data.
        cache: judges and statistics of real images, by file name, so that all machines measure alike.
        place: resources of the actor.
    """

    def __init__(self, recipe: dict[str, Any], cache: Mapping[str, bytes], place: Share) -> None:
        torch.set_num_threads(place.threads)
        quiet_ray()
        self.run, self.place = open_run(loading.parse_recipe(recipe)), place
        write_cache(cache_folder(), cache)

    def ready(self) -> None:
        """Return once the actor runs."""

    def measure(self, step: int) -> dict[str, float]:
        """Return the metrics of the checkpoint of a step.

        Raises:
            ValueError: if the checkpoint is missing or damaged, or lacks a condition of the metrics.
        """
        config = self.run.config
        folder = storage.fetch_checkpoint(config.storage, config.name, step)
        try:
            # the run's own recipe names its code
            model = checkpoint.load_model(folder, allow_code=True, device=self.place.device)
            return name_metrics(measure_model(self.run, model, measure_here))
        finally:
            storage.discard_copy(folder)


class CheckpointActors:
    """Actors that measure the checkpoints of a run, a :class:`raysde.training.beside.Beside`.

    The first rank starts them and talks to them; every rank makes this object and uses it as a context, whose end ends
    the actors. A lost actor is replaced, and its checkpoint is measured again.

    Args:
        model: the run's model, for which the judge and the statistics of real images are made first.
        saver: writes the run's checkpoints.
    """

    def __init__(self, run: Run, model: ScoreModel, world: World, saver: Saver) -> None:
        given = run.config.validation
        self.run, self.world, self.saver, self.aside = run, world, saver, world.beside()
        self.place = Share(given.cpus, given.gpus, "cuda" if given.gpus else "cpu")
        self.actors: list[tuple[Any, ray.ObjectRef]] = []
        self.busy: dict[int, tuple[int, ray.ObjectRef]] = {}
        self.submitted = 0
        self.lost: Counter[int] = Counter()
        if world.is_first:
            prepare_quality(run, Model(model, run.spec))
            fingerprint = run.sources.real_reader.manifest.fingerprint
            files = {path.name: path.read_bytes() for path in list_cache(cache_folder(), fingerprint)}
            self.held = ray.put(files)
            self.actors = [self._hire() for _ in range(given.actors)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor, _ in self.actors:
            ray.kill(actor)
        self.actors, self.busy = [], {}

    def submit(self, step: int) -> None:
        """Begin to measure the checkpoint of a step once it is written, unless it has its metrics."""
        self.saver.after_save(step, partial(self._start, step))

    def collect(self, step: int) -> dict[str, float]:
        """Return the metrics of the checkpoint of a step, equal on all ranks.

        Raises:
            ValueError: if the checkpoint is missing or damaged.
            RuntimeError: if no actor gets its resources, fails, or is lost too often.
        """
        found = self._wait(step) if self.world.is_first else {}
        return dict(json.loads(self.aside.share_text(json.dumps(found))))

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics into the checkpoint of a step, by which it is then ranked."""
        if self.world.is_first:
            self.saver.confirm()
            add_metrics(self.saver.folder, step, metrics)

    def finish(self, step: int, values: Mapping[str, Any]) -> None:
        """Write all results into the checkpoint of the run's last step, and delete checkpoints that do not stay."""
        if self.world.is_first:
            self.saver.writer.wait()
            self.saver.confirm()
            close_measurements(self.saver.folder, step, values)
            storage.prune_checkpoints(self.saver.folder, make_retention(self.run), step, self.saver.state.bad.base)

    def _hire(self) -> tuple[Any, ray.ObjectRef]:
        """Start an actor outside the workers' placement group; return it, and a reference that tells its start."""
        options: dict[str, Any] = {"num_cpus": self.place.cpus, "num_gpus": self.place.gpus}
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(None)  # type: ignore[arg-type]
        recipe = self.run.config.model_dump(mode="json")
        actor: Any = ray.remote(CheckpointMeasurer).options(**options).remote(recipe, self.held, self.place)
        return actor, actor.ready.remote()

    def _start(self, step: int) -> None:
        """Give the checkpoint of a step to the next actor, in turn, unless the checkpoint has its metrics."""
        self.busy.pop(step, None)
        if self._recorded(step) is not None:
            return
        number = self.submitted % len(self.actors)
        self.submitted += 1
        self.busy[step] = number, self.actors[number][0].measure.remote(step)

    def _recorded(self, step: int) -> dict[str, float] | None:
        """Return the metrics that the checkpoint of a step records; None if it lacks one of the recipe's.

        Raises:
            ValueError: if the checkpoint is missing or damaged.
        """
        known = read_metrics(self.saver.folder, step)
        names = self.run.config.validation.quality_names
        if not set(names) <= known.keys():
            return None
        mine = {name: value for name, value in known.items() if name in names or name.rpartition("/")[0] in names}
        return {name: float("nan") if value is None else value for name, value in mine.items()}

    def _wait(self, step: int) -> dict[str, float]:
        """Wait for the metrics of the checkpoint of a step; they are measured now if they were not submitted."""
        self.saver.writer.wait()
        while True:
            if step not in self.busy:
                found = self._recorded(step)
                if found is not None:
                    return found
                self._start(step)
            number, ref = self.busy[step]
            self._wait_for_start(number)
            try:
                return dict(ray.get(ref))
            except RayTaskError as error:
                raise describe_error(error) from None
            except LOST as error:
                self._replace(step, number, error)

    def _wait_for_start(self, number: int) -> None:
        """Wait until an actor has its resources and runs.

        Raises:
            RuntimeError: after ``START`` seconds.
        """
        begin = time.monotonic()
        ready, _ = ray.wait([self.actors[number][1]], timeout=START)
        if not ready:
            wanted = f"{self.place.gpus:g} GPUs" if self.place.gpus else f"{self.place.cpus:g} CPUs"
            raise RuntimeError(
                f"validation.where=beside: no node had {wanted} free for an actor in {time.monotonic() - begin:.0f} s; "
                "add nodes, lower resources.workers or resources.cpus_per_worker, or set validation.where=workers"
            )

    def _replace(self, step: int, number: int, error: Exception) -> None:
        """Start another actor in place of a lost one, and give it the lost one's checkpoints again.

        Raises:
            RuntimeError: if actors were lost more than ``RETRIES`` times at one checkpoint.
        """
        self.lost[step] += 1
        if self.lost[step] > RETRIES:
            said = " ".join(str(error).split())[:300]
            raise RuntimeError(f"actors were lost {self.lost[step]} times at the checkpoint of step {step}: {said}")
        ray.kill(self.actors[number][0])
        self.actors[number] = self._hire()
        for other, (place, _) in self.busy.items():
            if place == number:
                self.busy[other] = number, self.actors[number][0].measure.remote(other)
