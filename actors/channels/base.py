"""What a channel is: it tells somebody outside that a run of a job has ended."""

from typing import Protocol

from actors.rules.events import DeliveryEnded
from actors.rules.model import Job


class Channel(Protocol):
    """Told any number of times, the receiver ends up with the same (invariant 6)."""

    async def send(self, job: Job, run: int) -> DeliveryEnded:
        """Tell once, and what became of it. Raises nothing."""
