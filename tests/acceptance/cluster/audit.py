"""Who wrote what in which order: triggers in the database that the service does not know of, and what they have seen.

A row's lock is held until its transaction ends. So the numbers that a trigger draws for one row are in the order of the
commits, and what was rolled back leaves nothing. The times are Postgres's own.
"""

from typing import Any, Final, NamedTuple

import psycopg

INSTALL: Final = """
CREATE SCHEMA audit;
CREATE TABLE audit.owners (n bigserial PRIMARY KEY, owner text, epoch int, seq bigint, tx bigint, by_ms bigint);
CREATE TABLE audit.completions
    (n bigserial PRIMARY KEY, job text, task text, run int, done boolean, tx bigint, at float8);

CREATE FUNCTION audit.job_written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit.owners (owner, epoch, seq, tx, by_ms) VALUES ('job ' || NEW.id, NEW.epoch, NEW.seq,
        txid_current(), LEAST(NEW.updated_at, NEW.alarm_at) - 1000 * extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER audited AFTER UPDATE ON jobs FOR EACH ROW
    WHEN ((OLD.epoch, OLD.seq) IS DISTINCT FROM (NEW.epoch, NEW.seq)) EXECUTE FUNCTION audit.job_written();

CREATE FUNCTION audit.singleton_written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit.owners (owner, epoch, seq, tx) VALUES ('the ' || NEW.name, NEW.epoch, NEW.seq, txid_current());
    RETURN NULL;
END $$;
CREATE TRIGGER audited AFTER UPDATE ON singletons FOR EACH ROW EXECUTE FUNCTION audit.singleton_written();

CREATE FUNCTION audit.task_written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit.completions (job, task, run, done, tx, at) VALUES (NEW.job_id, NEW.task_id, NEW.run,
        NEW.status = 'completed', txid_current(), extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER audited AFTER UPDATE ON tasks FOR EACH ROW
    WHEN (OLD.status <> NEW.status AND 'completed' IN (OLD.status, NEW.status)) EXECUTE FUNCTION audit.task_written();
"""


class Owned(NamedTuple):
    """One commit of whoever owns a job, or of the fleet."""

    owner: str
    epoch: int
    seq: int
    tx: int


class Completion(NamedTuple):
    """A task became completed, or (not `done`) is so no longer. `at`: seconds since 1970."""

    job: str
    task: str
    run: int
    done: bool
    tx: int
    at: float


class Job(NamedTuple):
    """What the checker needs of a job's row."""

    id: str
    state: str
    total: int
    completed: int
    failed: int
    in_flight: int
    delivery: str
    error: str | None


class Task(NamedTuple):
    """The same of a task's."""

    job: str
    id: str
    status: str
    output: str
    mark: str | None


def install(url: str) -> None:
    """Once, in a database whose tables are there."""
    with psycopg.connect(url) as database:
        database.execute(INSTALL)


def owners(url: str) -> list[Owned]:
    """All commits, each owner's in their order."""
    return [Owned(*row) for row in _rows(url, "SELECT owner, epoch, seq, tx FROM audit.owners ORDER BY n")]


def by_other_clocks(url: str, most_s: int) -> int:
    """How many commits were written by somebody whose clock was more than that wrong."""
    # A job that is activated keeps its times: only what is written then has the clock of who writes it. The time of the
    # last write never goes back, the alarm does.
    question = f"SELECT count(*) FROM audit.owners WHERE seq > 0 AND abs(by_ms) > {most_s * 1000}"
    return int(_rows(url, question)[0][0])


def completions(url: str) -> list[Completion]:
    """Each task's in their order."""
    columns = "job, task, run, done, tx, at"
    return [Completion(*row) for row in _rows(url, f"SELECT {columns} FROM audit.completions ORDER BY n")]


def standing_still(url: str, job: str) -> list[str]:
    """For people: a job's row and those of its tasks that are not over, with times in ms from now."""
    ago = "- (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    of_task = f"task_id, status, attempt, machine, claim, assigned_at {ago}, deadline_at {ago}, not_before {ago}"
    questions = (
        f"SELECT state, delivery, placement, epoch, seq, alarm_at {ago}, updated_at {ago} FROM jobs WHERE id = '{job}'",
        f"SELECT {of_task} FROM tasks WHERE job_id = '{job}' AND status NOT IN ('completed', 'failed') LIMIT 20",
    )
    return [" ".join(map(str, row)) for question in questions for row in _rows(url, question)]


def jobs(url: str) -> list[Job]:
    """All."""
    columns = "id, state, tasks_total, tasks_completed, tasks_failed, tasks_in_flight, delivery, error"
    return [Job(*row) for row in _rows(url, f"SELECT {columns} FROM jobs")]


def tasks(url: str) -> list[Task]:
    """All."""
    columns = "job_id, task_id, status, output_r2_key, performance::json->>'mark'"
    return [Task(*row) for row in _rows(url, f"SELECT {columns} FROM tasks")]


def _rows(url: str, question: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, connect_timeout=5) as database:
        return database.execute(question).fetchall()  # type: ignore[call-overload]
