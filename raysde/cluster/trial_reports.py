"""Messages from workers to the trial that waits for them: one actor for a whole sweep, a slot for each trial.

Ray Train's own way, a report that its controller passes on, waits for all workers, is polled every two seconds, and
needs a queue actor for each trial.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Message = dict[str, Any]


class Mailbox:
    """Keeps messages until they are taken."""

    def __init__(self) -> None:
        self.messages: dict[int, list[Message]] = defaultdict(list)

    def put(self, slot: int, message: Message) -> None:
        """Adds a message."""
        self.messages[slot].append(message)

    def take(self, slot: int) -> list[Message]:
        """The messages of a slot in their order, which are then gone."""
        return self.messages.pop(slot, [])


@dataclass(frozen=True)
class Slot:
    """One trial's place in the mailbox."""

    mailbox: ActorHandle
    number: int

    def send(self, message: Message) -> None:
        """Adds a message, and waits until it is there."""
        ray.get(self.mailbox.put.remote(self.number, message))

    def take(self) -> list[Message]:
        """The messages that came since the last time."""
        return ray.get(self.mailbox.take.remote(self.number))  # type: ignore[no-any-return]


def open_mailbox() -> ActorHandle:
    """A mailbox beside the driver, which lives as long as it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0)(Mailbox)
    mailbox: ActorHandle = remote.options(scheduling_strategy=here).remote()
    return mailbox
