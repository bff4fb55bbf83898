"""What the engineer reads: the store's writes as words, and a history without what only repeats itself."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from actors.rules.model import Job, Machine, Task
from actors.store.commit import Commit

SHOWN: Final = 150
"""Lines of a history that are shown where nobody has asked for the whole."""
HEAD: Final = 20
LISTED: Final = 6
REMEMBERED: Final = 3
QUIET: Final = ("read", "ping", "forget_machines")
WHO: Final = slice(11, 26)
"""Where in a line the name of the process stands."""

_decode_commit = msgspec.msgpack.Decoder(Commit).decode
_decode_machines = msgspec.msgpack.Decoder(list[Machine]).decode


def line(now_s: float, who: str, words: Iterable[object]) -> str:
    """Seconds since the begin of the world, the process, what it did."""
    return f"{now_s:9.3f}  {who:<15} {' '.join(str(word) for word in words if word != '')}"


# ---- a history


def readable(history: Sequence[str], *, most: int | None = None) -> list[str]:
    """Without repetitions; with `most`, only its begin and its end, which is where it goes wrong."""
    folded = list(_folded(history))
    if most is None or len(folded) <= most:
        return folded
    left_out = len(folded) - most
    return [*folded[:HEAD], f"           … {left_out} lines are left out", *folded[HEAD + left_out :]]


def _folded(history: Iterable[str]) -> Iterator[str]:
    """What a process has logged as one of its last few lines is not said again, only counted."""
    said: dict[str, list[str]] = {}
    again: list[str] = []
    for one in history:
        who, what = one[WHO], one[WHO.stop + 1 :]
        own = said.setdefault(who, []) if what.startswith("[") else []
        if what in own:
            again.append(one)
            continue
        yield from _counted(again)
        again = []
        own.append(what)
        del own[:-REMEMBERED]
        yield one
    yield from _counted(again)


def _counted(again: list[str]) -> Iterator[str]:
    if len(again) == 1:
        yield again[0]
    elif again:
        whose = " ".join(sorted({one[WHO].strip() for one in again}))
        yield f"{again[-1][: WHO.start]}{'':<15} … the same again, {len(again)} lines of {whose}"


# ---- what is written


def writes(
    requests: Sequence[dict[str, Any]],
    answers: Sequence[Any],
    books: Mapping[str, Any],
    machines: Mapping[str, Machine],
) -> Iterator[str]:
    """A line or more for each request of a transaction, compared with what was there before."""
    for request, answer in zip(requests, answers, strict=True):
        op = request["op"]
        refused = f"REFUSED: {type(answer).__name__}" if isinstance(answer, BaseException) else ""
        if op == "commit":
            commit = _decode_commit(request["commit"])
            book = books.get(commit.job.id)
            yield f"{_job(commit, book.job if book else None)} {refused}".rstrip()
            if not refused:
                yield from _tasks(commit, book.rows if book else {})
        elif op == "commit_machines":
            changed = list(_machines(_decode_machines(request["machines"]), machines))
            if changed or refused:
                yield f"commit machines e{request['epoch']}.{request['seq']}: {', '.join(changed)} {refused}".rstrip()
        elif refused or op not in QUIET:
            yield f"{_operation(request, answer, books)} {refused}".rstrip()


def _operation(request: dict[str, Any], answer: Any, books: Mapping[str, Any]) -> str:
    op, job_id = request["op"], request.get("job_id")
    if op == "activate_singleton":
        return f"activate {request['name']}: epoch {answer}"
    if op == "activate" and job_id is not None and job_id in books:
        return f"activate {job_id}: epoch {books[job_id].job.epoch + 1}"
    if job_id is None and "job" in request:
        job_id = msgspec.msgpack.decode(request["job"], type=Job).id
    return f"{op} {job_id or request.get('name', '')}"


def _job(commit: Commit, old: Job | None) -> str:
    new = commit.job
    changes = [] if old is None else list(_job_changes(old, new))
    alarm = f"alarm in {(new.alarm_at - new.updated_at) / 1000:.1f} s" if new.alarm_at is not None else "no alarm"
    return (
        f"commit {new.id} e{new.epoch}.{new.seq}: {', '.join([*changes, alarm])}; {new.tasks_completed} done, "
        f"{new.tasks_failed} failed, {new.tasks_in_flight} in flight of {new.tasks_total}"
    )


def _job_changes(old: Job, new: Job) -> Iterator[str]:
    if (old.epoch, old.seq) == (new.epoch, new.seq):
        yield "sent again"
    for name in ("run", "state", "phase", "delivery", "code"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield f"{name} {before} → {after}"


def _tasks(commit: Commit, rows: Mapping[str, Task]) -> Iterator[str]:
    for task in commit.tasks[:LISTED]:
        yield f"    {_task(task, rows.get(task.task_id), commit.job.updated_at)}"
    if len(commit.tasks) > LISTED:
        yield f"    … and {len(commit.tasks) - LISTED} tasks more"


def _task(new: Task, old: Task | None, now: int) -> str:
    before = f"{old.status} → " if old is not None and old.status is not new.status else ""
    words = [f"{new.task_id} {before}{new.status} #{new.attempt}"]
    if old is not None and old.run != new.run:
        words.append(f"run {old.run} → {new.run}")
    if new.machine is not None and (old is None or old.machine != new.machine):
        words.append(f"on {new.machine}")
    if new.deadline_at is not None and (old is None or old.deadline_at != new.deadline_at):
        words.append(f"deadline in {(new.deadline_at - now) / 1000:.1f} s")
    if new.error is not None and (old is None or old.error != new.error):
        words.append(f"try {new.tries}: {new.error}")
    return " ".join(words)


def _machines(rows: Iterable[Machine], known: Mapping[str, Machine]) -> Iterator[str]:
    for new in rows:
        old = known.get(new.id)
        if old is None or old.state is not new.state:
            before = f"{old.state} → " if old is not None else ""
            named = f" as {new.name}" if new.name and (old is None or old.name != new.name) else ""
            yield f"{new.id} {before}{new.state}{named}"
        elif old.task_id != new.task_id:
            yield f"{new.id} now has {new.task_id}"


# ---- what is on its way


class Frame:
    """A frame of `actors.wire`, read only if somebody wants to see it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = bytes(raw)

    def __str__(self) -> str:
        try:
            items = msgspec.msgpack.decode(self._raw[4:])
        except msgspec.DecodeError:
            return f"{len(self._raw)} bytes"
        return f"[{', '.join(_item(item) for item in items[:LISTED])}{', …' if len(items) > LISTED else ''}]"


def _item(item: Any) -> str:
    if not isinstance(item, dict):
        return "?"
    if "op" not in item:
        return "error" if "error" in item else "ok"
    if item["op"] == "commit":
        job = _decode_commit(item["commit"]).job
        return f"commit {job.id} e{job.epoch}.{job.seq}"
    about = next((item[name] for name in ("job_id", "name", "job", "question") if isinstance(item.get(name), str)), "")
    return f"{item['op']} {about}".rstrip()


def callback(task: str, query: Mapping[str, Sequence[str]], body: bytes) -> str:
    """A callback as it is sent."""
    try:
        said = msgspec.json.decode(body)
        what = said["status"] + (f" ({said['error']})" if said.get("error") else "")
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        what = f"garbage {body!r}"
    return f"callback {task} run {query['run'][0]} #{query['attempt'][0]} {what}"


def answer(status: int, told: Any) -> str:
    """What somebody is answered."""
    if status == 0:
        return "→ no answer"
    words = [f"→ {status}"]
    if isinstance(told, dict):
        words += [str(told["code"])] if told.get("code") else []
        words += ["stop"] if told.get("stop") else []
        given = [*told.get("tasks", ()), *([told["next"]] if told.get("next") else [])]
        words += [f"gives {env['TASK_ID']} #{_attempt(env)}" for env in given]
    return " ".join(words)


def _attempt(env: Mapping[str, str]) -> str:
    return env["CALLBACK_URL"].partition("attempt=")[2].partition("&")[0]
