"""Evaluation on Ray: actors that hold the model, the feature network and the judge measure ranges of images.

The driver sends the bench (these networks and their settings) once, through Ray's object store. Every worker therefore
has the weights that the model name referred to at the start, and needs no access to the registry. Each worker reads the
shards itself.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util import register_serializer

from raysde.cluster.connection import connect
from raysde.cluster.errors import describe_error
from raysde.cluster.resources import Share, worker_share
from raysde.evaluation.chunks import MeasuredRange
from raysde.evaluation.workload import Bench
from raysde.io.progress import Progress

RETRIES = 3
"""Maximum number of times that a range is measured again after its worker was lost."""
LOST = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)

Stretch = tuple[int, int]


class Measurer:
    """An actor with a copy of the bench.

    Args:
        held: one-element list with the object reference of the bench (Ray would resolve a bare reference).
        place: resources of the actor.
    """

    def __init__(self, held: list[ray.ObjectRef], place: Share) -> None:
        self.held, self.place = held, place
        self.bench: Bench | None = None

    def ready(self) -> None:
        """Load the bench onto the actor's device."""
        if self.bench is None:
            torch.set_num_threads(self.place.threads)
            self.bench = move_bench(ray.get(self.held[0]), self.place.device)

    def part(self, work: str, first: int, count: int) -> MeasuredRange:
        """Measure ``count`` images from index ``first`` for the named ``work``."""
        assert self.bench is not None
        return self.bench.part(work, first, count)


class Workers:
    """A pool of actors that measures: a :data:`raysde.evaluation.workload.Measure`, and a context that ends the actors.

    Actors start with the first call, keep their bench, and receive a new range of images when one is done. A lost actor
    is replaced, and its range is measured again.

    Args:
        count: number of actors.
        device: torch device such as cpu or cuda; None selects GPUs if the cluster has some.
        progress: callback, called with the activity, the number of actors started and ``count``.

    Raises:
        ValueError: if ``count`` is less than 1.
    """

    def __init__(
        self, count: int, *, device: str | None = None, progress: Callable[[str, float, float], None] | None = None
    ) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        self.count, self.device, self.progress = count, device, progress
        self.bench: Bench | None = None
        self.held: ray.ObjectRef | None = None
        self.place: Share | None = None
        self.idle: list[Any] = []
        self.busy: dict[ray.ObjectRef, tuple[Any, Stretch | None]] = {}
        self.lost: Counter[Stretch | None] = Counter()
        self.started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in [*self.idle, *(actor for actor, _ in self.busy.values())]:
            ray.kill(actor)
        self.idle, self.busy, self.bench = [], {}, None

    def __call__(
        self, bench: Bench, work: str, stretches: Sequence[Stretch], progress: Progress | None = None
    ) -> Iterator[MeasuredRange]:
        """Yield the measured parts of some work in the order of ``stretches``, ranges given as (first, count).

        Raises:
            ValueError: as the bench.
            OSError: as the bench.
            RuntimeError: if a worker fails, or is lost too often.
        """
        if bench is not self.bench:
            self._start(bench)
        left, found = deque(stretches), dict[int, MeasuredRange]()
        done, total = 0, sum(count for _, count in stretches)
        self.lost.clear()
        while not self.idle:
            self._next(work, deque())
        if progress is not None:
            progress(done, total)
        for first, _ in stretches:
            while first not in found:
                part = self._next(work, left)
                if part is None:
                    continue
                found[part.first] = part
                done += part.count
                if progress is not None:
                    progress(done, total)
            yield found.pop(first)

    def _start(self, bench: Bench) -> None:
        assert self.bench is None, "these workers hold another bench"
        if self.progress is not None:
            self.progress("starting workers", 0, self.count)
        connect()
        register_serializer(torch.jit.RecursiveScriptModule, serializer=pack_script, deserializer=unpack_script)
        self.bench, self.held = bench, ray.put(bench)
        self.place = worker_share(self.count, self.device)
        for _ in range(self.count):
            self._hire()

    def _hire(self) -> None:
        """Start an actor."""
        assert self.place is not None
        options = {"num_cpus": self.place.cpus, "num_gpus": self.place.gpus}
        actor: Any = ray.remote(Measurer).options(**options).remote([self.held], self.place)
        self.busy[actor.ready.remote()] = (actor, None)

    def _next(self, work: str, left: "deque[Stretch]") -> MeasuredRange | None:
        """Assign the remaining ranges, wait for one actor, and return its part; None if it started or was lost."""
        while self.idle and left:
            free, given = self.idle.pop(), left.popleft()
            self.busy[free.part.remote(work, *given)] = (free, given)
        (ref,), _ = ray.wait(list(self.busy), num_returns=1)
        actor, stretch = self.busy.pop(ref)
        try:
            part = ray.get(ref)
        except RayTaskError as error:
            self.idle.append(actor)
            raise describe_error(error) from None
        except LOST as error:
            self._replace(actor, stretch, error)
            if stretch is not None:
                left.appendleft(stretch)
            return None
        self.idle.append(actor)
        if stretch is None:
            self.started += 1
            if self.progress is not None:
                self.progress("starting workers", self.started, self.count)
        return part

    def _replace(self, actor: Any, stretch: Stretch | None, error: Exception) -> None:
        """Start another actor in place of a lost one.

        Raises:
            RuntimeError: if the limit of :data:`RETRIES` is exceeded.
        """
        ray.kill(actor)
        self.started -= stretch is not None
        self.lost[stretch] += 1
        if self.lost[stretch] > (RETRIES if stretch is not None else RETRIES * self.count):
            when = "starting" if stretch is None else f"at images {stretch[0]} to {sum(stretch) - 1}"
            said = " ".join(str(error).split())[:300]
            raise RuntimeError(f"workers were lost {self.lost[stretch]} times {when}; the last error: {said}")
        self._hire()


def move_bench(bench: Bench, device: str) -> Bench:
    """Move the networks of the bench to a device, and return the bench."""
    for each in (bench.drawer, bench.held):
        if each is not None:
            each.model.to(device)
    for network in bench.networks:
        network.module.to(device)
    if bench.held is not None and bench.held.lpips is not None:
        bench.held.lpips.module.to(device)
    if bench.drawer is not None and bench.drawer.judge is not None:
        bench.drawer.judge.classifier.to(device)
    return bench


def pack_script(module: torch.jit.ScriptModule) -> bytes:
    """Return a TorchScript module as the bytes of its file."""
    file = BytesIO()
    torch.jit.save(module, file)
    return file.getvalue()


def unpack_script(content: bytes) -> torch.jit.ScriptModule:
    """Return the module in the bytes of a TorchScript file, on the CPU."""
    return torch.jit.load(BytesIO(content), map_location="cpu").eval()
