"""Many seeds, on all cores: each process has a `Simulator`, takes a few seeds at a time, and sends back counts."""

import multiprocessing
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from hashlib import sha256
from itertools import islice
from typing import Final, NamedTuple

from tests.simulation import shrink, transcript
from tests.simulation.chance import Happened
from tests.simulation.world import Outcome, Simulator

CHUNK: Final = 20
"""Seeds that a process takes at a time: about a second."""
CI_SEEDS: Final = range(1000)
"""What runs with each change: some 40 s of one core."""
COMMAND: Final = "python -m tests.simulation"


class Failure(NamedTuple):
    """A seed that fails."""

    seed: int
    wrong: str
    tasks: int
    events: int


class Tally(NamedTuple):
    """What some seeds amount to. Tallies add up."""

    seeds: int = 0
    tasks: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    faults: "Counter[str]" = Counter()
    failures: tuple[Failure, ...] = ()

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(
            self.seeds + other.seeds, self.tasks + other.tasks, self.virtual_s + other.virtual_s,
            self.cpu_s + other.cpu_s, self.faults + other.faults, self.failures + other.failures,
        )  # fmt: skip

    @property
    def seeds_a_minute(self) -> float:
        """Of one core."""
        return 60 * self.seeds / self.cpu_s if self.cpu_s else 0.0


class Case(NamedTuple):
    """One history: a seed, and what is taken from it."""

    seed: int
    only: tuple[Happened, ...] | None = None
    at_most: int | None = None

    @property
    def command(self) -> str:
        """Shows it again."""
        words = [COMMAND, "--seed", str(self.seed)]
        if self.at_most is not None:
            words += ["--at-most", str(self.at_most)]
        if self.only is not None:
            words += ["--only", ",".join(map(str, self.only)) or "none"]
        return " ".join(words)


def run_case(simulator: Simulator, case: Case, *, traced: bool = False) -> Outcome:
    """Run it. What the simulation itself raises counts as a violation: then it is the simulation that is wrong."""
    try:
        return simulator.run(case.seed, only=case.only, at_most=case.at_most, traced=traced)
    except Exception as error:  # noqa: BLE001 - whatever it is, its seed must be known
        return Outcome(case.seed, f"the simulation raised: {error!r}", case.only or (), (), case.at_most or 0, 0, 0.0)


def digests(simulator: Simulator, seeds: Iterable[int]) -> list[str]:
    """Of the whole history of each seed, and of what it came to."""
    return [_digest(run_case(simulator, Case(seed), traced=True)) for seed in seeds]


def _digest(outcome: Outcome) -> str:
    return sha256("\n".join([*outcome.history, repr(outcome._replace(history=()))]).encode()).hexdigest()


# ---- many


def run_all(seeds: Iterable[int], *, jobs: int | None = None) -> Generator[Tally, None, None]:
    """A tally for each few of the seeds, as they are done. No more are begun when the generator is closed.

    Raises RuntimeError when one of the processes dies.
    """
    chunks = _chunks(seeds)
    jobs = jobs or cores()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_begin) as pool:
        running: dict[Future[Tally], list[int]] = {}
        try:
            while True:
                running |= {pool.submit(run_some, chunk): chunk for chunk in islice(chunks, jobs + 1 - len(running))}
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                yield from [_result(one, running.pop(one)) for one in done]
        finally:
            pool.shutdown(cancel_futures=True)


def _result(one: Future[Tally], chunk: list[int]) -> Tally:
    try:
        return one.result()
    except BrokenProcessPool as error:
        raise RuntimeError(f"A process died while seeds {chunk[0]} to {chunk[-1]} were run.") from error


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    each = iter(seeds)
    while chunk := list(islice(each, CHUNK)):
        yield chunk


_simulators: list[Simulator] = []


def _begin() -> None:
    """In each process. Ctrl-C is for the one that waits for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    _simulators.append(Simulator())


def run_some(seeds: list[int]) -> Tally:
    """In one of the processes."""
    since = time.process_time()
    tally = Tally()
    for seed in seeds:
        tally = tally.plus(_tally(run_case(_simulators[0], Case(seed))))
    return tally._replace(cpu_s=time.process_time() - since)


def _tally(outcome: Outcome) -> Tally:
    faults = Counter(event.fault for event in outcome.happened)
    failed = () if outcome.wrong is None else (_failure(outcome, outcome.wrong),)
    return Tally(1, outcome.tasks, outcome.virtual_s, 0.0, faults, failed)


def _failure(outcome: Outcome, wrong: str) -> Failure:
    return Failure(outcome.seed, wrong, outcome.tasks, len(outcome.happened))


# ---- one that fails


def told_first(failures: Collection[Failure], most: int = 3) -> list[Failure]:
    """The shortest of each kind: of a bug that fails a hundred seeds one is enough."""
    first: dict[str, Failure] = {}
    for failure in sorted(failures, key=lambda failure: (failure.events + failure.tasks, failure.seed)):
        first.setdefault(shrink.kind_of(failure.wrong), failure)
    return list(first.values())[:most]


def explain(simulator: Simulator, seed: int, *, shrinks: bool = True, seconds: float = shrink.MOST_S) -> str:
    """A seed that fails, as a person reads it: the sentence, the shortest history, the command that shows it again."""
    whole = run_case(simulator, Case(seed))
    if whole.wrong is None:
        return f"Seed {seed} does not fail any more."
    case, found = Case(seed), "It was not shortened."
    if shrinks:
        case, found = _shortened(simulator, whole, whole.wrong, seconds)
    outcome = run_case(simulator, case, traced=True)
    lines = transcript.readable(outcome.history, most=transcript.SHOWN)
    again = f"Show it again, whole:\n  {case.command}"
    return "\n".join((f"Seed {seed} fails. {whole.wrong}", "", found, *_sentence_of(outcome, whole), *lines, "", again))


def _sentence_of(outcome: Outcome, whole: Outcome) -> Iterator[str]:
    if outcome.wrong != whole.wrong:
        yield f"There the sentence is: {outcome.wrong}"
    yield ""


def _shortened(simulator: Simulator, whole: Outcome, wrong: str, seconds: float) -> tuple[Case, str]:
    seed, kind = whole.seed, shrink.kind_of(wrong)

    def fails(only: Collection[Happened], at_most: int) -> bool:
        outcome = run_case(simulator, Case(seed, tuple(only), at_most))
        return outcome.wrong is not None and shrink.kind_of(outcome.wrong) == kind

    short = shrink.shortest(whole.happened, whole.tasks, fails, seconds=seconds)
    case = Case(seed, short.only, short.at_most)
    tasks = run_case(simulator, case).tasks
    found = (
        f'Shortest history that breaks "{kind}", found in {short.runs} runs: '
        f"{len(short.only)} of {len(whole.happened)} faults and acts, {tasks} of {whole.tasks} tasks."
    )
    return case, found
