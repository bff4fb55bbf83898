"""The checker itself: it says nothing of what is right, and names each fault that is put in."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.cluster import audit
from tests.acceptance.cluster.checker import Evidence, faults
from tests.acceptance.service import Report
from tests.stand_ins.receiver import Post


def right() -> Evidence:
    """Two jobs of two tasks; one of them has changed hands, and was delivered at the second try."""
    tasks = [audit.Task(job, f"{job}-{n}", "completed", f"{job}/{n}.jpg", f"mark-{n}") for job in "ab" for n in (1, 2)]
    return Evidence(
        created={"a": 2, "b": 2},
        reports=[Report("a-1", "mark-1", 0, "", 9.0), Report("a-1", "mark-1", 200, "", 10.2)],
        jobs=[audit.Job(job, "done", 2, 2, 0, 0, "delivered", None) for job in "ab"],
        tasks=tasks,
        owners=[audit.Owned("job a", 1, 1, 100), audit.Owned("job b", 1, 1, 101), audit.Owned("job a", 2, 0, 102),
                audit.Owned("job a", 2, 1, 103)],
        completions=[audit.Completion(task[0], task, 1, True, tx, 10.0)
                     for task, tx in (("a-1", 100), ("b-1", 101), ("b-2", 101), ("a-2", 103))],
        outputs={task.output for task in tasks},
        posts=[Post("a", "a:1", {"files": 1}, 500), Post("a", "a:1", {"files": 1}, 200), Post("b", "b:1", {}, 200)],
    )  # fmt: skip


def test_nothing_is_said_of_what_is_right() -> None:
    """Also when an owner was replaced, a report came twice, and the receiver failed once."""
    assert faults(right()) == []


def _without_job(found: Evidence) -> dict[str, Any]:
    return {"jobs": found.jobs[1:]}


def _job(**changed: Any) -> Callable[[Evidence], dict[str, Any]]:
    return lambda found: {"jobs": [found.jobs[0]._replace(**changed), *found.jobs[1:]]}


def _task(**changed: Any) -> Callable[[Evidence], dict[str, Any]]:
    return lambda found: {"tasks": [found.tasks[0]._replace(**changed), *found.tasks[1:]]}


def _completion(**changed: Any) -> Callable[[Evidence], dict[str, Any]]:
    return lambda found: {"completions": [found.completions[0]._replace(**changed), *found.completions[1:]]}


def _more(name: str, *values: Any) -> Callable[[Evidence], dict[str, Any]]:
    return lambda found: {name: [*getattr(found, name), *values]}


DOCTORED: dict[str, tuple[Callable[[Evidence], dict[str, Any]], str]] = {
    "a creation is lost": (_without_job, "a was acknowledged, and is not there"),
    "a job never ended": (_job(state="running"), "a is running with 2 tasks of 2"),
    "a job has fewer tasks": (_job(total=1), "a is done with 1 tasks of 2"),
    "a job counts what is not there": (_job(completed=3), "a counts (2, 3, 0, 0)"),
    "a task failed": (_task(status="failed"), "a has 1 tasks that failed"),
    "a task was counted twice": (
        _more("completions", audit.Completion("a", "a-1", 1, True, 103, 12.0)), "a-1 was counted 2 times",
    ),
    "a completion was taken back": (
        _more("completions", audit.Completion("a", "a-1", 1, False, 103, 12.0)), "a-1 was counted 2 times",
    ),
    "a task was written without its job": (_completion(tx=555), "a-1 was completed in a transaction that did not"),
    "a callback was acknowledged before it was on disk": (_completion(at=14.0), "a-1 was acknowledged, and was not"),
    "a callback was acknowledged and never counted": (
        _more("reports", Report("c-1", "mark", 200, "", 10.0)), "c-1 was acknowledged, and was not",
    ),
    "an output is missing": (lambda found: {"outputs": found.outputs - {"a/1.jpg"}}, "the output a/1.jpg of a-1"),
    "a delivery is pending": (_job(delivery="pending"), "the end of a is pending, and was taken 1 times"),
    "a delivery was not received": (lambda found: {"posts": found.posts[2:]}, "a is delivered, and was taken 0 times"),
    "a delivery was taken twice": (_more("posts", Post("b", "b:1", {}, 200)), "b is delivered, and was taken 2 times"),
    "bodies of one key differ": (_more("posts", Post("a", "a:1", {"files": 2}, 400)), "2 different bodies were sent"),
    "an old epoch wrote": (_more("owners", audit.Owned("job a", 1, 2, 104)), "commit 2 was written after epoch 2"),
    "a commit was written twice": (_more("owners", audit.Owned("job a", 2, 1, 104)), "commit 1 was written after"),
}  # fmt: skip


@pytest.mark.parametrize("what", DOCTORED)
def test_a_fault_is_named(what: str) -> None:
    """Each alone."""
    doctor, sentence = DOCTORED[what]
    found = right()
    said = faults(dataclasses.replace(found, **doctor(found)))
    assert any(sentence in each for each in said), said
