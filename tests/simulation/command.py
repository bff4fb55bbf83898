"""The command `python -m tests.simulation`.

What takes long to load is loaded where it is used, so that Ctrl-C is understood from the beginning.
"""

import argparse
import math
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from itertools import count, takewhile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from tests.simulation.chance import FAULTS, Happened

if TYPE_CHECKING:
    from tests.simulation.runs import Tally
    from tests.simulation.world import Outcome

SEEDS: Final = 1000
ENOUGH: Final = 200
"""Seeds that fail, after which no further ones are begun."""
LISTED: Final = 20
ACTS: Final = (
    "cancel", "reset", "retry", "create_again", "create_other", "redeliver", "new", "clock", "outage", "kill",
    "kill_all", "long_outage",
)  # fmt: skip
"""What people do (`outside.Operators`): in a history it is `plan.cancel:0`."""
DIED: Final = 2


def _command() -> str:
    """As it is typed in the project's folder: by the python that runs now, which has what it takes."""
    own = Path(__file__).parents[2] / ".venv"
    python = ".venv/bin/python" if Path(sys.prefix) == own else shlex.quote(sys.executable or "python")
    return f"{python} -m tests.simulation"


COMMAND: Final = _command()
HELP: Final = """\
Runs the whole engine in simulation: one seed is one service with its batches, machines and faults, from the first
request until everything has come to its end, with time, order and chance made from the seed.
"""
EXAMPLES: Final = f"""\
examples
  {COMMAND}
      seeds 0 to 999, on all cores
  {COMMAND} --seeds 5000 --first 10000
      other seeds
  {COMMAND} --minutes 30
      as many as half an hour allows
  {COMMAND} --seed 42
      one, with all that happens in it
  {COMMAND} --seed 42 --at-most 2 --only store.dies:6,plan.cancel:0
      of seed 42 these two events alone, batches of 2 tasks

A seed fails when an invariant is broken, when the engine logs a fault, or when it does not come to its end. Then the
exit code is 1, and for the first of each kind the shortest history that was found is shown, with the command that
shows it again. How to read it: docs/explanation/simulation.md
"""


class Stop:
    """Ctrl-C and SIGTERM: an exception wherever the command is, and remembered, since it may be lost on its way."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.is_loading = True

    def listen(self) -> None:
        """From now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def was_heard(self) -> bool:
        """Whether there was one."""
        return self.code is not None

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.code = 128 + number
        if self.is_loading:
            # Nothing is there yet that had to be removed, and not every import lets an exception through.
            os._exit(self.code)
        sys.unraisablehook = lambda _: None  # where it cannot be raised, `was_heard` is asked
        raise KeyboardInterrupt

    def loaded(self) -> None:
        """From now on there is something to remove."""
        self.is_loading = False

    def listen_no_more(self) -> None:
        """All is told, and the process is about to end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Ends with exit code 0, 1 where a seed fails, 2 where the command was not understood or a process died, 130 after
    Ctrl-C, 143 after SIGTERM, 141 when nobody reads any more."""
    stop = Stop()
    try:
        stop.listen()
        warnings.simplefilter("ignore")  # a killed process leaves coroutines that nobody awaits
        arguments = parse(sys.argv[1:])
        code = _one(arguments, stop) if arguments.seed is not None else _many(arguments, stop)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    stop.listen_no_more()
    sys.exit(code if stop.code is None else stop.code)


# ---- what was asked for


def parse(words: list[str]) -> argparse.Namespace:
    """Ends the process with a sentence where that cannot be done."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=HELP, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    many = parser.add_argument_group("many seeds")
    many.add_argument("--seeds", type=_positive, metavar="N", help=f"how many ({SEEDS}; with --minutes: no bound)")
    many.add_argument("--first", type=_whole, metavar="K", help="the first of them (0)")
    many.add_argument("--minutes", type=_minutes, metavar="M", help="begin no further seeds after this time")
    many.add_argument("--jobs", type=_positive, metavar="N", help="processes (one per core)")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the shortest history of a failure")
    one = parser.add_argument_group("one seed, with its transcript")
    one.add_argument("--seed", type=_whole, metavar="K", help="this one")
    one.add_argument("--only", type=_events, metavar="EVENTS", help="nothing happens but these: a:1,b:2 or none")
    one.add_argument("--at-most", type=_positive, metavar="N", help="tasks of a batch")
    arguments = parser.parse_args(words)
    given = {name for name, value in vars(arguments).items() if value is not None}
    if arguments.seed is None and (lonely := given & {"only", "at_most"}):
        parser.error(f"{_options(lonely)} is about one seed: say which one with --seed")
    if arguments.seed is not None and (other := given & {"seeds", "first", "minutes", "jobs"}):
        parser.error(f"{_options(other)} is about many seeds, --seed about one: leave one of them out")
    return arguments


def _options(names: set[str]) -> str:
    return " ".join("--" + name.replace("_", "-") for name in sorted(names))


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def _positive(text: str) -> int:
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return number


def _minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of minutes above 0, not {text!r}")
    return number


def _events(text: str) -> tuple[Happened, ...]:
    return () if text == "none" else tuple(_event(one.strip()) for one in text.split(","))


def _event(text: str) -> Happened:
    fault, _, n = text.rpartition(":")
    if not fault or not n.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form frame.lost:17 or plan.cancel:0")
    known = (*FAULTS, *(f"plan.{act}" for act in ACTS))
    if fault not in known:
        raise argparse.ArgumentTypeError(f"nothing is called {fault!r}; there are {', '.join(known)}")
    return Happened(fault, int(n))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---- one seed


def _one(arguments: argparse.Namespace, stop: Stop) -> int:
    from tests.simulation import runs, transcript
    from tests.simulation.world import Simulator

    stop.loaded()
    with closing(Simulator()) as simulator:
        case = runs.Case(arguments.seed, arguments.only, arguments.at_most)
        outcome = runs.run_case(simulator, case, traced=True)
        for line in transcript.readable(outcome.history):
            _say(line)
        _say(end_of(outcome, arguments.only or ()))
        if outcome.wrong is not None and not arguments.no_shrink and case == runs.Case(case.seed) and not stop.code:
            _say("\nLooking for the shortest history of it …")
            _say("\n" + runs.explain(simulator, case.seed, is_over=stop.was_heard))
        return int(outcome.wrong is not None)


def end_of(outcome: "Outcome", wanted: tuple[Happened, ...] = ()) -> str:
    """What happened, what of the wanted did not, and what came of it."""
    lines = [f"\nFaults and acts: {', '.join(map(str, outcome.happened)) or 'none'}"]
    missing = [str(event) for event in dict.fromkeys(wanted) if event not in outcome.happened]
    lines += [f"Did not happen: {', '.join(missing)}"] if missing else []
    size = f"{outcome.tasks} tasks, {outcome.steps} steps, {outcome.virtual_s:.0f} virtual seconds"
    return "\n".join([*lines, f"Seed {outcome.seed}, {size}: {outcome.wrong or 'all is well.'}"])


# ---- many


def _many(arguments: argparse.Namespace, stop: Stop) -> int:
    from tests.simulation import runs

    stop.loaded()
    since, tally, progress, died = time.monotonic(), runs.Tally(), Progress(), ""
    jobs = arguments.jobs or runs.cores()
    try:
        with closing(runs.run_all(_seeds(arguments), jobs=jobs)) as tallies:
            for some in tallies:
                tally = tally.plus(some)
                progress.show(tally, time.monotonic() - since)
                if len(tally.failures) >= ENOUGH or stop.code:
                    break
    except KeyboardInterrupt:
        pass  # what is known so far is told
    except runs.Died as error:
        died = str(error)
    progress.end()
    _say(summary(tally, time.monotonic() - since, jobs))
    if died:
        _say(died)
    if tally.failures:
        _tell_failures(tally, stop, shrinks=not arguments.no_shrink and not died)
    return DIED if died else int(bool(tally.failures))


def _seeds(arguments: argparse.Namespace) -> Iterator[int]:
    until = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    first, number = arguments.first or 0, arguments.seeds or (SEEDS if until is None else None)
    seeds: Iterator[int] = count(first) if number is None else iter(range(first, first + number))
    return seeds if until is None else takewhile(lambda _: time.monotonic() < until, seeds)


def summary(tally: "Tally", took_s: float, jobs: int) -> str:
    """What was run, and what happened in it."""
    lines = [
        f"{tally.seeds:,} seeds, {tally.tasks:,} tasks, {tally.virtual_s / 3600:,.1f} virtual hours in {took_s:.0f} s; "
        f"{tally.seeds_a_minute:,.0f} seeds a minute per core (of {jobs})",
        "",
        "what happened" if tally.faults else "nothing happened",
    ]
    width = max(map(len, tally.faults), default=0)
    often_first = sorted(tally.faults.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"  {fault:<{width}}  {times:>9,}" for fault, times in often_first]
    return "\n".join([*lines, "", f"{len(tally.failures)} of {tally.seeds:,} seeds fail."])


def _tell_failures(tally: "Tally", stop: Stop, *, shrinks: bool) -> None:
    from tests.simulation import runs
    from tests.simulation.world import Simulator

    for failure in sorted(tally.failures)[:LISTED]:
        _say(f"  {failure.seed:>8}  {failure.wrong}")
    if len(tally.failures) > LISTED:
        _say(f"  … and {len(tally.failures) - LISTED} more")
    was_stopped = stop.code
    with closing(Simulator()) as simulator:
        for failure in runs.told_first(tally.failures):
            told = runs.explain(simulator, failure.seed, shrinks=shrinks and not stop.code, is_over=stop.was_heard)
            _say("\n" + "-" * 100 + "\n" + told)
            if stop.code != was_stopped:
                break


class Progress:
    """One line that changes in place on a terminal; else a line now and then."""

    EVERY_S: Final = 15.0

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._said_s = 0.0

    def show(self, tally: "Tally", took_s: float) -> None:
        """After each few seeds."""
        text = f"{tally.seeds:,} seeds, {len(tally.failures)} fail, {took_s:.0f} s"
        if self._on_terminal:
            sys.stdout.write(f"\r\x1b[K{text}")
            sys.stdout.flush()
        elif took_s - self._said_s >= self.EVERY_S:
            self._said_s = took_s
            _say(text)

    def end(self) -> None:
        """The line goes; what follows begins at its place."""
        if self._on_terminal:
            sys.stdout.write("\r\x1b[K")
