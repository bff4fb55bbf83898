"""Many seeds, on all cores: each process has a `Simulator`, takes a few seeds at a time, and sends back counts."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from multiprocessing import connection, resource_tracker
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, NamedTuple

from tests.simulation import shrink, transcript
from tests.simulation.chance import Happened
from tests.simulation.command import COMMAND
from tests.simulation.world import Outcome, Simulator, make_folder

CHUNK: Final = 20
"""Seeds that a process takes at a time: about a second."""
CI_SEEDS: Final = range(1000)
"""What runs with each change: some 40 s of one core."""


class Died(RuntimeError):
    """One of the processes is gone, and with it what it had been given."""


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

    Raises Died when one of the processes dies, after what the others have done.
    """
    chunks = _chunks(seeds)
    jobs = jobs or cores()
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # it would let the signals through that are held back below
    with make_folder() as folder:
        ends = context.Event()
        pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(Path(folder), ends))
        running: dict[Future[Tally], list[int]] = {}
        try:
            while True:
                with _signals_held_back():  # whoever is started here never sees Ctrl-C
                    running |= {pool.submit(run_some, some): some for some in islice(chunks, jobs + 1 - len(running))}
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                good = [one for one in done if one.exception() is None]
                yield from [one.result() for one in good if running.pop(one)]
                for one in done.difference(good):
                    one.result()
        except BrokenProcessPool as error:
            yield from [one.result() for one in running if one.done() and one.exception() is None]
            raise Died(_gone([some for one, some in running.items() if not one.done() or one.exception()])) from error
        finally:
            ends.set()
            _shut_down(pool)


def _gone(chunks: list[list[int]]) -> str:
    which = ", ".join(f"{some[0]} to {some[-1]}" for some in sorted(chunks))
    return f"A process died while these seeds were run: {which}." if which else "A process died."


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What comes meanwhile is heard at the end. Processes and threads that begin meanwhile hear nothing at all."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _shut_down(pool: ProcessPoolExecutor) -> None:
    """Each process ends after its present seed; at once, where somebody has no patience."""
    try:
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.kill()
        raise


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    each = iter(seeds)
    while chunk := list(islice(each, CHUNK)):
        yield chunk


_mine: list[tuple[Simulator, Event]] = []


def _begin(folder: Path, ends: Event) -> None:
    """In each process. Ctrl-C is for the one that waits for them; without that one there is nothing to do."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    warnings.simplefilter("ignore")
    _mine.append((Simulator(folder), ends))


def _end_with_parent(folder: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def run_some(seeds: list[int]) -> Tally:
    """In one of the processes."""
    since = time.process_time()
    tally = Tally()
    simulator, ends = _mine[0]
    for seed in seeds:
        if ends.is_set():
            break
        tally = tally.plus(_tally(run_case(simulator, Case(seed))))
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


def explain(
    simulator: Simulator, seed: int, *, shrinks: bool = True, seconds: float = shrink.MOST_S,
    is_over: Callable[[], bool] = lambda: False,
) -> str:  # fmt: skip
    """A seed that fails, as a person reads it: the sentence, the shortest history, the command that shows it again.

    `is_over`: whether to look no further for a shorter one.
    """
    whole = run_case(simulator, Case(seed))
    if whole.wrong is None:
        return f"Seed {seed} does not fail any more."
    case, found = Case(seed), "It was not shortened."
    if shrinks:  # Ctrl-C ends that, and what it has found is told
        case, found = _shortened(simulator, whole, whole.wrong, seconds, is_over)
    outcome = run_case(simulator, case, traced=True)
    lines = transcript.readable(outcome.history, most=transcript.SHOWN)
    again = f"Show it again, whole:\n  {case.command}"
    return "\n".join((f"Seed {seed} fails. {whole.wrong}", "", found, *_sentence_of(outcome, whole), *lines, "", again))


def _sentence_of(outcome: Outcome, whole: Outcome) -> Iterator[str]:
    if outcome.wrong != whole.wrong:
        yield f"There the sentence is: {outcome.wrong}"
    yield ""


def _shortened(
    simulator: Simulator, whole: Outcome, wrong: str, seconds: float, is_over: Callable[[], bool]
) -> tuple[Case, str]:
    seed, kind = whole.seed, shrink.kind_of(wrong)

    def fails(only: Collection[Happened], at_most: int) -> bool:
        if is_over():
            raise KeyboardInterrupt  # it was lost where nothing can be raised
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
