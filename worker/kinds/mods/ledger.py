"""What was changed, left out or could not be read, each with its reason: an account that goes into the metrics."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Counts by reason. `changes`: of texts and values, such as "control characters removed"; `warnings`: of parts of
    entities, such as "cheimarros.json could not be fetched: 404 Not Found". Reasons hold no values of the data, so
    that there are few."""

    changes: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def changed(self, reason: str, count: int = 1) -> None:
        """Something is not written as it was given."""
        self.changes[reason] += count

    def warn(self, reason: str) -> None:
        """A part is missing from a record that is written all the same."""
        self.warnings[reason] += 1
