"""What can go wrong with a task, as the callback reports it: one sentence, and whether another try can help.

WorkerError          retried
├── BadInput         never retried: the file or the request itself is wrong
│   └── ObjectMissing    the object does not exist ("404 Not Found")
├── Unavailable      retried: a server or the network did not answer
├── LimitExceeded    retried: needs a machine with more memory
└── Cancelled        not reported: the task was given back, or is no longer wanted
Undelivered          a callback or claim that did not get through: logged, exit code 1
└── Refused          the orchestrator answered that it does not take it
Retired              the service asked this machine to exit
"""

import re
from typing import ClassVar, Final

MAX_MESSAGE_CHARS = 2000
FOREIGN_CHARS: Final = 200
"""So much is passed on of what a server said."""
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_PATH: Final = re.compile(r"(?<![\w.])/[^\s/'\"<>]+(?:/[^\s/'\"<>]*)*")


class WorkerError(Exception):
    """The task failed."""

    retryable: ClassVar[bool] = True


class BadInput(WorkerError):
    """The input cannot be converted, today or tomorrow."""

    retryable = False


class ObjectMissing(BadInput):
    """The object does not exist. The message contains "404 Not Found", as the originals' does."""

    def __init__(self, message: str = "404 Not Found") -> None:
        super().__init__(message)


class Unavailable(WorkerError):
    """A server or the network did not answer as expected; another try may succeed."""


class LimitExceeded(WorkerError):
    """The task needs more memory than this machine may use; a larger one can do it."""


class Cancelled(WorkerError):
    """The task was given back, or is no longer wanted; nothing more is reported about it."""


class Undelivered(Exception):
    """A request to the orchestrator did not get through within its time, or was refused."""


class Refused(Undelivered):
    """The orchestrator answered, and does not take the request; another try cannot help."""


class Retired(Exception):
    """The orchestrator answered 410: this machine is retired and exits."""


def sentence(error: BaseException) -> str:
    """The text that the callback carries: what a `WorkerError` says, else the class and its message. At most 2,000
    characters."""
    text = str(error).strip()
    if not isinstance(error, WorkerError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:MAX_MESSAGE_CHARS]


def one_line(text: str) -> str:
    """What a server said, fit to be passed on: one line without control characters, URLs and paths, and not long."""
    plain = "".join(character if character.isprintable() else " " for character in text[:MAX_MESSAGE_CHARS])
    shown = " ".join(_PATH.sub("(path)", _URL.sub("(URL)", plain)).split())
    return shown if len(shown) <= FOREIGN_CHARS else f"{shown[: FOREIGN_CHARS - 1]}…"
