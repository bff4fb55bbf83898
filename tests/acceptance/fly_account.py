"""What the stand-in of Fly's API has seen, machine by machine and attempt by attempt."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

import httpx

Entry = Mapping[str, Any]

FOR_GOOD: Final = "bad_input"
HARMLESS: Final = frozenset({"callback_twice", "create_times_out", "start_times_out"})
"""What the service and the worker see to: the attempt succeeds all the same."""
UNDECIDED: Final = frozenset({"callback_late"})
"""Whether the callback still counts depends on which comes first."""


class Try(NamedTuple):
    """One attempt of a task."""

    task: str
    run: int
    attempt: int


class Api:
    """The pages of the stand-in for whoever tests."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url.removesuffix("/v1"), headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60
        )

    def switch(self, rates: Mapping[str, float]) -> None:
        """Change faults."""
        self._http.post("/_faults", json=rates).raise_for_status()

    def alive(self) -> int:
        """How many machines are not destroyed."""
        states = self._http.get("/_counters").json()["states"]
        return sum(number for state, number in states.items() if state != "destroyed")

    def log(self, after: int = 0) -> list[Entry]:
        """The entries behind this number."""
        lines = self._http.get("/_log").text.splitlines()
        return [httpx.Response(200, content=line).json() for line in lines[after:]]

    def close(self) -> None:
        self._http.close()


class Account:
    """The journal of one batch, summed up."""

    def __init__(self, log: Iterable[Entry]) -> None:
        self.log = list(log)

    def of(self, *whats: str) -> list[Entry]:
        """The entries of these kinds."""
        return [entry for entry in self.log if entry["what"] in whats]

    @cached_property
    def created(self) -> list[str]:
        """The names of the machines that were made."""
        return [entry["machine"] for entry in self.of("create")]

    def made_twice(self) -> list[str]:
        """The machines that were made although one of their name was there. One that has vanished before the answer to
        its creation came can only be made again."""
        made, vanished = Counter(self.created), Counter(entry["machine"] for entry in self.of("vanish"))
        return [name for name, times in made.items() if times > 1 + vanished[name]]

    @cached_property
    def begun(self) -> set[Try]:
        """The attempts that a machine took up."""
        return {_try_of(entry) for entry in self.of("task") if "attempt" in entry}

    @cached_property
    def struck(self) -> dict[Try, set[str]]:
        """The attempts that met a fault, also one of another task on the same machine ("lost")."""
        found: dict[Try, set[str]] = {}
        for entry in self.of("fault", "lost", "unreported"):
            if "attempt" in entry:
                found.setdefault(_try_of(entry), set()).add(entry.get("fault", entry["what"]))
        return {key: faults - HARMLESS for key, faults in found.items() if faults - HARMLESS}

    def struck_for_good(self) -> set[str]:
        """The tasks that no other try could cure."""
        return {key.task for key, faults in self.struck.items() if FOR_GOOD in faults}

    def struck_tries(self) -> Counter[str]:
        """For each task how many of its attempts met a fault."""
        return Counter(key.task for key in self.struck)


def _try_of(entry: Entry) -> Try:
    return Try(entry["task"], int(entry.get("run", 1)), int(entry["attempt"]))
