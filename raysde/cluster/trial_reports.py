"""Messages from workers to the trial that waits for them: one actor per sweep, one slot per trial.

Ray Train's own reports are not used: the controller waits for all workers, polls every two seconds, and needs a queue
actor per trial.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Message = dict[str, Any]


class Mailbox:
    """An actor that stores messages until they are taken."""

    def __init__(self) -> None:
        self.messages: dict[int, list[Message]] = defaultdict(list)

    def put(self, slot: int, message: Message) -> None:
        """Append a message to a slot."""
        self.messages[slot].append(message)

    def take(self, slot: int) -> list[Message]:
        """Return and remove the messages of a slot, oldest first."""
        return self.messages.pop(slot, [])


@dataclass(frozen=True)
class Slot:
    """One trial's slot in the mailbox.

    Attributes:
        number: number of the trial, from 0.
        metric: name of the metric that the sweep compares.
    """

    mailbox: ActorHandle
    number: int
    metric: str = ""

    def send(self, message: Message) -> None:
        """Append a message, and wait until the mailbox has stored it."""
        ray.get(self.mailbox.put.remote(self.number, message))

    def take(self) -> list[Message]:
        """Return and remove the messages that arrived since the last call."""
        return ray.get(self.mailbox.take.remote(self.number))  # type: ignore[no-any-return]


def open_mailbox() -> ActorHandle:
    """Start a mailbox on the driver's node; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0)(Mailbox)
    mailbox: ActorHandle = remote.options(scheduling_strategy=here).remote()
    return mailbox
