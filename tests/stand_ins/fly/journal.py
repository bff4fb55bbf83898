"""What happened, one entry for each thing, so that a test can account for every machine and every task.

| `what` | |
| --- | --- |
| create, pull, prepared, start, stop, suspend, update, exit, destroy, destroyed, vanish | a machine's life |
| fault | a fault struck: of a request, of a start, or of the task that it names |
| refused | a request was refused as the API does, or a callback by the orchestrator |
| task | a machine took a task: `by` env, next or claim |
| callback, sign_of_life, garbage, claim | a request of a machine, and the `status` of its answer |
| unwanted, unreported | a task was given up when told so; its report did not get through |
| lost | a task's machine ended before it was reported: killed, destroyed, or by a fault, maybe of another task |
| next_lost | a task came with the second answer to a callback that was sent twice; nobody takes it |
| retired, undelivered, refused_to_run | why a machine ends |
| switched, bug | fault switches were changed; the stand-in itself is wrong |
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Entry = dict[str, Any]


class Journal:
    """Entries have `n` (1, 2, …), `at` (seconds since the stand-in began), `what`, and what is known of `app`,
    `machine` (its name), `id`, `task`, `run`, `attempt`, `fault`, `code`, `status`. Counters count entries by `what`,
    faults by name."""

    def __init__(self, told: Callable[[Entry], None] | None = None) -> None:
        self.entries: list[Entry] = []
        self.counters: Counter[str] = Counter()
        self._told = told
        self._begun = time.monotonic()
        self._waiting: list[tuple[Entry, asyncio.Future[Entry]]] = []

    def note(self, what: str, **known: Any) -> None:
        """Write down one thing; values that are None are left out."""
        entry = {"n": len(self.entries) + 1, "at": round(time.monotonic() - self._begun, 4), "what": what}
        entry |= {name: value for name, value in known.items() if value is not None}
        self.entries.append(entry)
        self.counters[f"fault.{entry['fault']}" if what == "fault" else what] += 1
        if self._told is not None:
            self._told(entry)
        for wanted, future in self._waiting:
            if not future.done() and _fits(entry, wanted):
                future.set_result(entry)

    def find(self, **wanted: Any) -> list[Entry]:
        """The entries that have all these values."""
        return [entry for entry in self.entries if _fits(entry, wanted)]

    async def until(self, **wanted: Any) -> Entry:
        """The first entry that has all these values, now or when it comes."""
        found = self.find(**wanted)
        if found:
            return found[0]
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        waiter = (wanted, future)
        self._waiting.append(waiter)
        try:
            return await future
        finally:
            self._waiting.remove(waiter)

    def lines(self, after: int = 0) -> str:
        """JSON lines of the entries from number `after` + 1."""
        return "".join(json.dumps(entry) + "\n" for entry in self.entries[after:])


def task_of(env: Mapping[str, str]) -> dict[str, Any]:
    """What an environment tells of its task, as entries have it: the attempt is in the signed callback URL."""
    told: dict[str, Any] = {}
    if env.get("TASK_ID"):
        told["task"] = env["TASK_ID"]
    query = parse_qs(urlsplit(env.get("CALLBACK_URL", "")).query)
    for name in ("run", "attempt"):
        if query.get(name, [""])[0].isdecimal():
            told[name] = int(query[name][0])
    return told


def _fits(entry: Entry, wanted: Mapping[str, Any]) -> bool:
    return wanted.items() <= entry.items()
