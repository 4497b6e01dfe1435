"""An evaluation spread over Ray: actors that hold the model, the feature network and the judge, and measure stretches.

The bench is sent once, through Ray's object store, so that every worker has the weights that the name meant when the
evaluation began, and needs neither the registry nor the folder that they came from; shards are read by each.
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
"""Times that a stretch is measured anew after its worker was lost."""
LOST = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)

Stretch = tuple[int, int]


class Measurer:
    """An actor with a copy of the bench.

    Args:
        held: reference to the bench.
        place: what the actor takes.
    """

    def __init__(self, held: list[ray.ObjectRef], place: Share) -> None:
        self.held, self.place = held, place
        self.bench: Bench | None = None

    def ready(self) -> None:
        """Loads the bench."""
        if self.bench is None:
            torch.set_num_threads(self.place.threads)
            self.bench = move_bench(ray.get(self.held[0]), self.place.device)

    def part(self, work: str, first: int, count: int) -> MeasuredRange:
        """A stretch of some work."""
        assert self.bench is not None
        return self.bench.part(work, first, count)


class Workers:
    """Measures on actors: a :data:`raysde.evaluation.workload.Measure`. A context that ends them.

    Actors start with the first stretch, keep their bench for all work, and get their next stretch when one is done. One
    that is lost is replaced, and its stretch is measured anew.

    Args:
        count: of actors.
        device: cpu, cuda, ...; None for GPUs if the cluster has some.
        told: called with what is being done, how many actors have started and how many there are to be.

    Raises:
        ValueError: if there is none to be.
    """

    def __init__(
        self, count: int, *, device: str | None = None, told: Callable[[str, float, float], None] | None = None
    ) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        self.count, self.device, self.told = count, device, told
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
        self, bench: Bench, work: str, stretches: Sequence[Stretch], told: Progress | None = None
    ) -> Iterator[MeasuredRange]:
        """The parts of some work in the order of its stretches.

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
        if told is not None:
            told(done, total)
        for first, _ in stretches:
            while first not in found:
                part = self._next(work, left)
                if part is None:
                    continue
                found[part.first] = part
                done += part.count
                if told is not None:
                    told(done, total)
            yield found.pop(first)

    def _start(self, bench: Bench) -> None:
        assert self.bench is None, "these workers hold another bench"
        if self.told is not None:
            self.told("starting workers", 0, self.count)
        connect()
        register_serializer(torch.jit.RecursiveScriptModule, serializer=pack_script, deserializer=unpack_script)
        self.bench, self.held = bench, ray.put(bench)
        self.place = worker_share(self.count, self.device)
        for _ in range(self.count):
            self._hire()

    def _hire(self) -> None:
        """Starts an actor."""
        assert self.place is not None
        options = {"num_cpus": self.place.cpus, "num_gpus": self.place.gpus}
        actor: Any = ray.remote(Measurer).options(**options).remote([self.held], self.place)
        self.busy[actor.ready.remote()] = (actor, None)

    def _next(self, work: str, left: "deque[Stretch]") -> MeasuredRange | None:
        """Hands out what is left, waits for an actor, and gives the part that it measured, if it did."""
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
            if self.told is not None:
                self.told("starting workers", self.started, self.count)
        return part

    def _replace(self, actor: Any, stretch: Stretch | None, error: Exception) -> None:
        """Starts another actor for one that was lost.

        Raises:
            RuntimeError: if that was done often enough.
        """
        ray.kill(actor)
        self.started -= stretch is not None
        self.lost[stretch] += 1
        if self.lost[stretch] > (RETRIES if stretch is not None else RETRIES * self.count):
            when = "starting" if stretch is None else f"at images {stretch[0]} to {sum(stretch) - 1}"
            said = " ".join(str(error).split())[:300]
            raise RuntimeError(f"workers were lost {self.lost[stretch]} times {when}, the last one so: {said}")
        self._hire()


def move_bench(bench: Bench, device: str) -> Bench:
    """The bench with its networks on a device."""
    for each in (bench.drawer, bench.held):
        if each is not None:
            each.model.to(device)
    if bench.real is not None:
        bench.real.network.module.to(device)
    if bench.held is not None and bench.held.lpips is not None:
        bench.held.lpips.module.to(device)
    if bench.drawer is not None and bench.drawer.judge is not None:
        bench.drawer.judge.classifier.to(device)
    return bench


def pack_script(module: torch.jit.ScriptModule) -> bytes:
    """TorchScript as its file, which is how it travels."""
    file = BytesIO()
    torch.jit.save(module, file)
    return file.getvalue()


def unpack_script(content: bytes) -> torch.jit.ScriptModule:
    """The module in a TorchScript file."""
    return torch.jit.load(BytesIO(content), map_location="cpu").eval()
