"""What a phase is: pure functions over the files and tasks it is given, and nothing about durability."""

from collections.abc import Callable

import msgspec

from actors.rules.model import Job, Task
from worker.contract import Environment, FileRef


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of a batch. A file in `actors/phases/` with a `PHASE` of this type is found by itself."""

    name: str
    """What `status` shows while it runs."""
    kind: str
    """The kind of task, as `worker/kinds/` has it; the prefix of its machines' names."""
    wants: Callable[[FileRef], bool]
    """Whether this file becomes a task; others pass through."""
    output_key: Callable[[FileRef], str]
    """Where the output would go if no other file were in the way."""
    environment: Callable[[Job, Task], Environment]
    """What a worker is told, without CALLBACK_URL."""
    files_after: Callable[[FileRef, Task], tuple[FileRef, ...]]
    """What a file becomes when its task is terminal."""
    is_of_batches: bool = True
    """Whether a batch of files may ask for it. The tasks of other jobs are made with them, and from no files."""
