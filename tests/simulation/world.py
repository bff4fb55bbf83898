"""One run: a service, its machines, its callers and everything that goes wrong, from one seed.

The engine is the real one, down to `actors.wire` and SQLite. Not real are time, the sockets, the machines with their
workers, the objects, the receiver, and Ray. First faults happen; from a moment on none does any more, what is down
comes back, and then everything has to come to its end.
"""

import asyncio
import gc
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from actors.rules.model import Job
from actors.rules.states import TERMINAL_JOBS, Delivery, MachineState
from actors.settings import Settings
from actors.store.engine import open_file
from actors.store.tables import metadata
from actors.store.writer import Writer
from tests.simulation import phases, transcript
from tests.simulation.archiving import small_chunks
from tests.simulation.chance import Chance, Happened
from tests.simulation.checks.archives import ARCHIVE_KEPT_S
from tests.simulation.checks.checker import Checker
from tests.simulation.checks.jobs import EXPORT_KEPT_S
from tests.simulation.disk import FaultyDisk
from tests.simulation.front import Front
from tests.simulation.log import Log, as_it_was
from tests.simulation.loop import GoesRound, SleepsForever, VirtualLoop, current
from tests.simulation.objects import SimObjects
from tests.simulation.outside import Operators, Receiver
from tests.simulation.pipes import Network
from tests.simulation.processes import FRONTS, SWEEP_MS, TICK_MS, UPLOADS_S, Service
from tests.simulation.provider import PacedProvider, SimProvider

SETTLED_WITHIN_S: Final = 400.0
"""After the last fault everything must have ended, in virtual seconds. One batch in a hundred takes 30, one in a
thousand 130: where clocks differ by an hour, a batch without a place is looked at after WAITS_FOR_PLACE_MS."""
MOST_STEPS: Final = 300_000
SECRET: Final = "a-secret-of-the-simulation"
SHARED_MEMORY: Final = Path("/dev/shm")
ROOM: Final = 32 * 1024 * 1024
"""Bytes, below which there is no room. The file of a large run has a tenth of it."""
LONG_FULL_S: Final = 300.0
"""How long a disk may stay full until somebody makes room."""
FOLDERS: Final = "arke-simulation-"
"""How the names of all our folders begin."""
AT_REST: Final = frozenset({MachineState.GONE, MachineState.READY})
STANDING: Final = ("store", "fleet", "maintenance", *FRONTS)


class Outcome(NamedTuple):
    """How a run ended."""

    seed: int
    wrong: str | None
    happened: tuple[Happened, ...]
    history: tuple[str, ...]
    tasks: int
    steps: int
    virtual_s: float


class WatchedWriter(Writer):
    """The real writer, in this thread. Each transaction is shown to the checker."""

    watch: Callable[[list[dict[str, Any]], list[Any]], None]
    begins: Callable[[], None]

    def __init__(self, path: Path) -> None:
        super().__init__(path, inline=True)
        self._db.close()
        self.disk = FaultyDisk(path)
        self._db = self.disk
        self._db.control("PRAGMA synchronous=OFF")  # what a failing current does is not simulated

    def execute(self, requests: list[dict[str, Any]]) -> list[Any]:
        """As in `Writer`."""
        self.begins()
        answers = super().execute(requests)
        self.watch(requests, answers)
        return answers

    def leave(self) -> None:
        """Nobody watches any more."""
        del self.watch, self.begins

    def forget_all(self) -> None:
        """As a new file is: a hundred times as quick as to make one."""
        self.disk.is_full = self.disk.fails_next = False
        if self._db.in_transaction:
            self._db.control("ROLLBACK")
        self._is_refused = False
        self._db.control("BEGIN IMMEDIATE")
        for table in metadata.sorted_tables:
            self._db.control(f"DELETE FROM {table.name}")
        self._db.control("COMMIT")


class Simulator:
    """Runs seeds one after the other on one file."""

    def __init__(self, within: Path | None = None) -> None:
        """`within`: a folder for its own one, which somebody else removes whatever happens."""
        self._folder = make_folder(within)
        self.path = Path(self._folder.name) / "arke.db"
        self.writer = WatchedWriter(self.path)
        self.reader = open_file(self.path, read_only=True)
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        """Remove the file."""
        self.reader.close()
        self.writer.close()
        self._folder.cleanup()

    def run(
        self, seed: int, *, without: Collection[Happened] = (), only: Collection[Happened] | None = None,
        at_most: int | None = None, traced: bool = False,
    ) -> Outcome:  # fmt: skip
        """One run. The same arguments give the same outcome, and `traced` changes nothing but the history.

        `without`, `only`: which events may happen; `at_most`: tasks of a batch, where the seed wants more.
        """
        self.writer.forget_all()
        with as_it_was(), _uncollected(), phases.known(), small_chunks():
            try:  # neither of the two gets a name here: the chance knows the world too
                return World(self, Chance(seed, without=without, only=only), at_most=at_most, traced=traced).outcome()
            except BaseException as error:
                _forget_frames(error)
                raise
            finally:
                self.writer.leave()  # nothing refers to the world any more, so it is collected here


def make_folder(within: Path | None = None) -> "tempfile.TemporaryDirectory[str]":
    """For files that nobody wants to keep: in memory where there is room, else where temporary files belong."""
    if within is None and _has_room(SHARED_MEMORY):
        with suppress(OSError):  # not ours to write, or no more files
            return tempfile.TemporaryDirectory(prefix=FOLDERS, dir=SHARED_MEMORY)
    return tempfile.TemporaryDirectory(prefix=FOLDERS, dir=within)


def _has_room(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free >= ROOM
    except OSError:
        return False


def _forget_frames(error: BaseException | None) -> None:
    """What raised it knows the world, which shall be collected while the error is still on its way."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _uncollected() -> Iterator[None]:
    """What a killed process leaves must not be finalised while another step runs, nor complain when it is."""
    gc.disable()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    except KeyboardInterrupt:  # it may have kept something alive, and whoever ends a process hears no complaints
        hook = sys.unraisablehook
        raise
    finally:
        while gc.collect():  # a coroutine that is closed may refer once more to what was about to go
            pass
        sys.unraisablehook = hook
        gc.enable()


class World:
    """Everything of one run."""

    def __init__(self, simulator: Simulator, chance: Chance, *, at_most: int | None, traced: bool) -> None:
        self.chance, self.seed = chance, chance.seed
        self.at_most = sys.maxsize if at_most is None else at_most
        self.loop = VirtualLoop()
        self.loop.most_steps = MOST_STEPS
        self.lines: list[str] = []
        self.is_traced = traced
        self.trace: Callable[..., None] = self._trace if traced else _nothing
        self.wrong: str | None = None
        self.plan = chance.stream("plan")
        self.disk_has_failed = False
        self.has_long_outage = self.plan.random() < 0.01
        self.settings = self._settings(Path(simulator.path).parent)
        self.network = Network(self.loop, chance, self.trace)
        self.checker = Checker(
            simulator.reader, max_attempts=self.settings.max_retry_attempts, max_machines=self.settings.max_machines,
            sweep_s=(SWEEP_MS + 2 * TICK_MS) / 1000 + 25, now_s=self.loop.time, fail=self.fail,
        )  # fmt: skip
        self.writer = simulator.writer
        self.writer.watch, self.writer.begins = self.checker.stored, self._disk
        if traced:
            chance.on_hit, self.writer.watch = self._hit, self._written
        self.objects = SimObjects(chance, self.loop.time)
        self.checker.facts.objects = self.objects.objects
        self.objects.aborts = self.checker.archives.aborts
        self.checker.archives.written_at, self.checker.archives.begun = self.objects.written_at, self.objects.begun
        self.receiver = Receiver(chance, self.checker.deliveries, self.trace)
        self.front = Front(self)
        makes = PacedProvider if self.settings.machine_provider == "fly" else SimProvider
        self.provider = makes(self.loop, chance, self.front, self.checker.machines, self.trace)
        self.service = Service(
            loop=self.loop, chance=chance, network=self.network, settings=self.settings, writer=self.writer,
            path=simulator.path, provider=lambda: self.provider,
            objects=self.objects, channel=self.receiver.channel, activated=self.checker.deliveries.activated,
            overtaken=self.checker.machines.overtaken, gives=self.checker.machines.gives,
            trace=self.trace, slow=10.0 if self.has_long_outage else 1.0,
        )  # fmt: skip
        self.operators = Operators(self)

    def outcome(self) -> Outcome:
        """Run it to its end."""
        log = Log(self)
        try:
            with log.listening():
                self.loop.run_until_complete(self._run())
        except SleepsForever:
            self._note("5: everybody waits, and nothing will ever happen")
        except GoesRound:
            self._note(f"5: more than {MOST_STEPS} steps: it goes round in circles")
        except RuntimeError:
            if self.wrong is None:  # else `fail` has stopped the loop
                raise
        finally:
            self.loop.close()
        return Outcome(
            self.seed, self.wrong, tuple(self.chance.happened), tuple(self.lines), self.operators.tasks,
            self.loop.steps, self.loop.time(),
        )  # fmt: skip

    def _settings(self, folder: Path) -> Settings:
        plan, is_paced = self.plan, self.chance.stream("provider.paced").random() < 0.25
        division = self.chance.stream("archives.division")
        pool = self.chance.stream("pool").choice((0, 1, 3)) if is_paced else 0
        return Settings.load(
            {},
            machine_provider="fly" if is_paced else "subprocess", machine_pool_tiff=pool,
            data_dir=folder, callback_secret=SECRET, worker_url="http://receiver.invalid",
            # the folder has another name in each process, and would be in the environment of machines
            r2_account_id="simulated", r2_access_key_id="key", r2_secret_access_key="secret",
            max_machines=plan.choice((1, 2, 4, 8)), worker_concurrency=plan.choice((1, 1, 2)),
            max_retry_attempts=plan.choice((2, 3, 5)), max_active_batches=plan.choice((1, 2, 4)),
            small_batch_tasks=plan.choice((0, 10, 50)), shared_hosts=plan.choice((1, 2)),
            task_timeout_tiff_conversion=8_000, boot_timeout_ms=6_000, task_max_ms_tiff=40_000,
            alarm_delay_tiff_conversion=plan.choice((1_000, 3_000)),
            alarm_delay_error_retry=120_000 if self.has_long_outage else 5_000,
            spawn_give_up_s=300, hibernate_after_s=plan.choice((1, 2, 60)), intake_timeout_s=40,
            delivery_give_up_s=7 * 3600,
            task_timeout_mods=8_000, task_max_ms_mods=40_000, export_kept_s=EXPORT_KEPT_S, export_unfinished_s=200,
            task_timeout_zip=8_000, task_max_ms_zip=40_000, archive_kept_s=ARCHIVE_KEPT_S,
            part_size_limit=division.choice((2_048, 8_192, 10**6)), part_files_limit=division.choice((8, 20, 100)),
            zip_chunk_delay=division.choice((0, 0, 300, 1_500)),
        )  # fmt: skip

    async def _run(self) -> None:
        for name in STANDING:
            self.service.start(name)
        await self.operators.work()
        self.calm()
        self.trace("no more faults")
        await self._settle()
        if self.objects.begun:  # of archives that are over: nobody has looked since, perhaps
            await asyncio.sleep(2 * UPLOADS_S)
        self.checker.check_end(self.provider.alive)

    def calm(self) -> None:
        """From now on nothing goes wrong any more, but for what did."""
        self.chance.is_calm = True
        self.writer.disk.is_full = self.writer.disk.fails_next = False
        self.receiver.is_down = False
        for actor in self.service.actors.values():
            actor.process.go_on()

    async def _settle(self) -> None:
        until = self.loop.time() + SETTLED_WITHIN_S
        while not self.is_over():
            if self.loop.time() > until:
                self.checker.check_end(self.provider.alive)
                self.fail(f"5: not at its end {SETTLED_WITHIN_S:.0f} s after the last fault")
            await asyncio.sleep(1.0)

    def is_over(self) -> bool:
        facts = self.checker.facts
        return (
            all(
                book.job.state in TERMINAL_JOBS
                and book.job.delivery is not Delivery.PENDING
                and (book.job.kind == "batch" or facts.clock_has_jumped or _is_removed(book.job))
                for book in facts.books.values()
            )
            and all(row.state in AT_REST for row in facts.machines.values())
            and not self.provider.alive
        )

    def _disk(self) -> None:
        disk = self.writer.disk
        if not disk.is_full and self.chance.hits("disk.full"):
            disk.is_full = True
            for_s = LONG_FULL_S if self.chance.stream("disk.long").random() < 0.03 else 8.0
            self.loop.outside(for_s * self.chance.stream("disk").random(), self._room)
        disk.fails_next = self.chance.hits("disk.fails")
        self.disk_has_failed = self.disk_has_failed or disk.is_full or disk.fails_next

    def _room(self) -> None:
        self.writer.disk.is_full = False

    def fail(self, sentence: str) -> None:
        self._note(sentence)
        self.loop.stop()

    def _note(self, sentence: str) -> None:
        if self.wrong is None:
            self.wrong = sentence
            self._trace("WRONG:", sentence)

    def _trace(self, *words: object, who: str | None = None) -> None:
        process = current()
        name = who or (process.name if process is not None else "outside")
        self.lines.append(transcript.line(self.loop.time(), name, words))

    def _hit(self, event: Happened) -> None:
        self._trace("✗", event)

    def _written(self, requests: list[dict[str, Any]], answers: list[Any]) -> None:
        for words in transcript.writes(requests, answers, self.checker.facts.books, self.checker.facts.machines):
            self._trace(words)
        self.checker.stored(requests, answers)


def _is_removed(job: Job) -> bool:
    """What is over when it is removed. Of an export then nothing is left, of an archive its row."""
    return job.kind == "archive" and job.alarm_at is None


def _nothing(*_: object, who: str | None = None) -> None:
    """No history is asked for."""
