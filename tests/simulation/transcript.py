"""What the engineer reads: the store's writes as words, and a history without what only repeats itself."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from actors.rules.model import Job, Machine, Task
from actors.rules.states import JobState
from actors.store.commit import Commit

SHOWN: Final = 150
"""Lines of a history that are shown where nobody has asked for the whole."""
HEAD: Final = 20
LISTED: Final = 6
REMEMBERED: Final = 3
QUIET: Final = ("read", "ping", "forget_machines")
WHO: Final = slice(11, 26)
"""Where in a line the name of the process stands."""
KEPT: Final = ("✗", "activate ", "admit ", "WRONG:")
"""How lines begin that no story can be told without."""
ALARM: Final = "its alarm alone"

_decode_commit = msgspec.msgpack.Decoder(Commit).decode
_decode_activation = msgspec.msgpack.Decoder(tuple[Job, msgspec.Raw]).decode
_decode_job_and_whether = msgspec.msgpack.Decoder(tuple[Job, bool]).decode
_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_machines = msgspec.msgpack.Decoder(list[Machine]).decode


def line(now_s: float, who: str, words: Iterable[object]) -> str:
    """Seconds since the begin of the world, the process, what it did."""
    return f"{now_s:9.3f}  {who:<15} {' '.join(str(word) for word in words if word != '')}"


# ---- a history


def readable(history: Sequence[str], *, most: int | None = None) -> list[str]:
    """Without repetitions; with `most`, only its begin and its end, which is where it goes wrong, and of what is
    between them the faults and who took over what."""
    folded = list(_folded(history))
    if most is None or len(folded) <= most:
        return folded
    after = len(folded) - most + HEAD
    return [*folded[:HEAD], *_thinned(folded[HEAD:after]), *folded[after:]]


def _thinned(lines: Iterable[str]) -> Iterator[str]:
    left_out = 0
    for one in lines:
        if one[WHO.stop + 1 :].startswith(KEPT):
            yield from _left_out(left_out)
            left_out = 0
            yield one
        else:
            left_out += 1
    yield from _left_out(left_out)


def _left_out(lines: int) -> Iterator[str]:
    if lines:
        yield f"{'':<{WHO.start}}… {lines} line{'s are' if lines > 1 else ' is'} left out"


def _folded(history: Iterable[str]) -> Iterator[str]:
    """What a process has logged as one of its last few lines is not said again, only counted; nor are its commits that
    have moved an alarm."""
    said: dict[str, list[str]] = {}
    again: list[str] = []
    for one in history:
        who, what = one[WHO], one[WHO.stop + 1 :]
        if ALARM in what:
            what = what.partition(" e")[0]  # whichever commit it was
            own = said.setdefault(who, [])
        else:
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
    jobs = {job_id: book.job for job_id, book in books.items()}
    for request, answer in zip(requests, answers, strict=True):
        op = request["op"]
        refused = f"REFUSED: {type(answer).__name__}" if isinstance(answer, BaseException) else ""
        if op == "commit":
            commit = _decode_commit(request["commit"])
            old = jobs.get(commit.job.id)
            yield f"{_job(commit, old)} {refused}".rstrip()
            if not refused:
                yield from _tasks(commit, books[commit.job.id].rows if commit.job.id in books else {})
                placement = None if commit.rerun or old is None else old.placement
                jobs[commit.job.id] = replace(commit.job, placement=placement)
        elif op == "commit_machines":
            changed = list(_machines(_decode_machines(request["machines"]), machines))
            if changed or refused:
                yield f"commit machines e{request['epoch']}.{request['seq']}: {', '.join(changed)} {refused}".rstrip()
        elif refused:
            yield f"{op} {_about(request)} {refused}"
        elif op not in QUIET:
            yield _operation(request, answer, jobs)


def _about(request: dict[str, Any]) -> str:
    """The job, or who else it is about."""
    if "job" in request:
        return _decode_job(request["job"]).id
    return str(request.get("job_id") or request.get("name", ""))


def _operation(request: dict[str, Any], answer: Any, jobs: dict[str, Job]) -> str:
    """What it has led to. `jobs` are as they were before, and then as they are."""
    op, about = request["op"], _about(request)
    if op == "activate_singleton":
        return f"activate {about}: epoch {answer}"
    old = jobs.get(about)
    if op == "activate":
        jobs[about] = _decode_activation(answer)[0]
        return f"activate {about}: epoch {jobs[about].epoch}"
    if op == "recreate":
        new = jobs[about] = _decode_job_and_whether(answer)[0]
        is_same = old is not None and old.run == new.run
        return f"recreate {about}: {'its intake goes on, ' if is_same else ''}run {new.run}, epoch {new.epoch}"
    if op == "create" and old is None:
        jobs[about] = _decode_job(request["job"])
    elif op == "queue" and old is not None:
        return f"queue {about}: {_queued(request, old, jobs)}"
    elif op == "admit" and old is not None:
        return f"admit {about}: {_admitted(answer, old, jobs)}"
    return f"{op} {about}".rstrip()


def _queued(request: dict[str, Any], old: Job, jobs: dict[str, Job]) -> str:
    if old.state is not JobState.RECEIVING:
        return "it was already"
    new = _decode_job(request["job"])
    jobs[old.id] = replace(new, epoch=old.epoch + 1, seq=0, placement=old.placement)
    return f"epoch {old.epoch + 1}"


def _admitted(place: str | None, old: Job, jobs: dict[str, Job]) -> str:
    if place is None:
        return "no slot is free"
    if old.placement is not None:
        return f"{place} as before"
    jobs[old.id] = replace(old, epoch=old.epoch + 1, seq=0, placement=place)
    return f"epoch {old.epoch + 1}, {place}"


def _job(commit: Commit, old: Job | None) -> str:
    new = commit.job
    title = f"commit {new.id} e{new.epoch}.{new.seq}"
    alarm = f"alarm in {(new.alarm_at - new.updated_at) / 1000:.1f} s" if new.alarm_at is not None else "no alarm"
    if old is not None and not commit.tasks and _differs_by_alarm(old, new):
        return f"{title}: {ALARM}, {alarm.removeprefix('alarm ')}"
    changes = [] if old is None else list(_job_changes(old, new))
    counts = (
        ("done", "tasks_completed"), ("failed", "tasks_failed"), ("in flight", "tasks_in_flight"),
        ("of", "tasks_total"),
    )  # fmt: skip
    counted = ", ".join(_count(name, getattr(old or new, field), getattr(new, field)) for name, field in counts)
    return f"{title}: {', '.join([*changes, alarm])}; {counted.replace(', of', ' of')}"


def _count(name: str, before: int, after: int) -> str:
    return f"{name} {after}" if before == after else f"{name} {before} → {after}"


def _differs_by_alarm(old: Job, new: Job) -> bool:
    """And is not the same commit again."""
    if (old.epoch, old.seq) == (new.epoch, new.seq):
        return False
    as_before = {"seq": old.seq, "epoch": old.epoch, "alarm_at": old.alarm_at, "updated_at": old.updated_at}
    return bool(replace(new, placement=old.placement, **as_before) == old)


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
