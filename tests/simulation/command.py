"""The command `python -m tests.simulation`."""

import argparse
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from itertools import count, takewhile
from typing import Final

from tests.simulation import runs, transcript
from tests.simulation.chance import Happened
from tests.simulation.runs import Case, Tally
from tests.simulation.world import Outcome, Simulator

SEEDS: Final = 1000
ENOUGH: Final = 200
"""Seeds that fail, after which no further ones are begun."""
LISTED: Final = 20

HELP: Final = """\
Runs the whole engine in simulation: one seed is one service with its batches, machines and faults, from the first
request until everything has come to its end, with time, order and chance made from the seed.
"""
EXAMPLES: Final = f"""\
examples
  {runs.COMMAND}                             seeds 0 to 999, on all cores
  {runs.COMMAND} --seeds 5000 --first 10000  other seeds
  {runs.COMMAND} --minutes 30                as many as half an hour allows
  {runs.COMMAND} --seed 42                   one, with all that happens in it
  {runs.COMMAND} --seed 42 --at-most 2 --only kill.after:3,plan.cancel:0
                                                          of seed 42 these two events alone, batches of 2 tasks

A seed fails when an invariant is broken, when the engine logs a fault, or when it does not come to its end. Then the
exit code is 1, and for the first of each kind the shortest history that was found is shown, with the command that
shows it again. How to read it: docs/explanation/simulation.md
"""


def main() -> None:
    """Ends with exit code 0, 1 where a seed fails, 2 where the command was not understood, 130 after Ctrl-C."""
    warnings.simplefilter("ignore")  # a killed process leaves coroutines that nobody awaits
    arguments = _parser().parse_args()
    sys.exit(_one(arguments) if arguments.seed is not None else _many(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=runs.COMMAND, description=HELP, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=_positive, metavar="N", help=f"how many ({SEEDS}; with --minutes: no bound)")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first of them (0)")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no further seeds after this time")
    parser.add_argument("--jobs", type=_positive, default=runs.cores(), metavar="N", help="processes (one per core)")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the shortest history of a failure")
    one = parser.add_argument_group("one seed, with its transcript")
    one.add_argument("--seed", type=int, metavar="K", help="this one")
    one.add_argument("--only", type=_events, metavar="EVENTS", help="nothing happens but these: a:1,b:2 or none")
    one.add_argument("--at-most", type=_positive, metavar="N", help="tasks of a batch")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _events(text: str) -> tuple[Happened, ...]:
    try:
        return () if text == "none" else tuple(map(Happened.parse, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form frame.lost:17,plan.cancel:0") from error


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---- one seed


def _one(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it
    simulator = Simulator()
    case = Case(arguments.seed, arguments.only, arguments.at_most)
    outcome = runs.run_case(simulator, case, traced=True)
    for line in transcript.readable(outcome.history):
        _say(line)
    _say(_end_of(outcome))
    if outcome.wrong is not None and not arguments.no_shrink and case == Case(case.seed):
        _say("\n" + runs.explain(simulator, case.seed))
    simulator.close()
    return int(outcome.wrong is not None)


def _end_of(outcome: Outcome) -> str:
    happened = f"\nFaults and acts: {', '.join(map(str, outcome.happened)) or 'none'}"
    size = f"{outcome.tasks} tasks, {outcome.steps} steps, {outcome.virtual_s:.0f} virtual seconds"
    return f"{happened}\nSeed {outcome.seed}, {size}: {outcome.wrong or 'all is well.'}"


# ---- many


def _many(arguments: argparse.Namespace) -> int:
    since, tally, progress, was_stopped = time.monotonic(), Tally(), Progress(), False
    with closing(runs.run_all(_seeds(arguments), jobs=arguments.jobs)) as tallies:
        try:
            for some in tallies:
                tally = tally.plus(some)
                progress.show(tally, time.monotonic() - since)
                if len(tally.failures) >= ENOUGH:
                    break
        except KeyboardInterrupt:
            was_stopped = True
    progress.end()
    _say(summary(tally, time.monotonic() - since, arguments.jobs))
    if tally.failures:
        _tell_failures(tally, shrinks=not arguments.no_shrink and not was_stopped)
    return 130 if was_stopped else int(bool(tally.failures))


def _seeds(arguments: argparse.Namespace) -> Iterator[int]:
    first, until = arguments.first, None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    number = arguments.seeds or (SEEDS if until is None else None)
    seeds: Iterator[int] = count(first) if number is None else iter(range(first, first + number))
    return seeds if until is None else takewhile(lambda _: time.monotonic() < until, seeds)


def summary(tally: Tally, took_s: float, jobs: int) -> str:
    """What was run, and what happened in it."""
    lines = [
        f"{tally.seeds:,} seeds, {tally.tasks:,} tasks, {tally.virtual_s / 3600:,.1f} virtual hours in {took_s:.0f} s; "
        f"{tally.seeds_a_minute:,.0f} seeds a minute per core (of {jobs})",
        "",
        "what happened" if tally.faults else "nothing happened",
    ]
    width = max(map(len, tally.faults), default=0)
    lines += [f"  {fault:<{width}}  {times:>9,}" for fault, times in tally.faults.most_common()]
    return "\n".join([*lines, "", f"{len(tally.failures)} of {tally.seeds:,} seeds fail."])


def _tell_failures(tally: Tally, *, shrinks: bool) -> None:
    for failure in sorted(tally.failures)[:LISTED]:
        _say(f"  {failure.seed:>8}  {failure.wrong}")
    if len(tally.failures) > LISTED:
        _say(f"  … and {len(tally.failures) - LISTED} more")
    simulator = Simulator()
    for failure in runs.told_first(tally.failures):
        _say("\n" + "-" * 100 + "\n" + runs.explain(simulator, failure.seed, shrinks=shrinks))
    simulator.close()


class Progress:
    """One line that changes in place on a terminal; else a line now and then."""

    EVERY_S: Final = 15.0

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._said_s = 0.0

    def show(self, tally: Tally, took_s: float) -> None:
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
