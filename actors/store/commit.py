"""What one turn of a job writes."""

import msgspec

from actors.rules.model import Job, Task


class Commit(msgspec.Struct):
    """One turn of a job, written as a whole or not at all.

    `job` is the whole new row: its `epoch` is the caller's, its `seq` the last one plus 1. What was given
    at creation (id, kind, message, body_digest, owner, created_at), `placement`, what intake counts
    (files_total, source_cursor), and the ids and keys of tasks are not written: no turn changes them, and
    their indexes would cost half of the time.
    """

    job: Job
    tasks: list[Task] = []  # changed rows, whole; each exists
    rerun: bool = False  # a new run of what failed begins: its place is given back; its tasks need no write
