"""`arke zip`: a folder, the objects below a prefix or a list of keys become an archive, here, without a service."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TextIO

import click

from actors.archives import TYPES
from orchestrator.cli.archiving import there
from orchestrator.cli.export_report import Display
from orchestrator.cli.output import STDOUT, shown, written
from orchestrator.cli.remote import Remote, visible
from worker import objects
from worker.errors import WorkerError
from worker.kinds.zip import stored
from worker.kinds.zip.archive import REMOTE_THREADS, Progress, Summary, write
from worker.kinds.zip.codec import CODECS, Codec, codec
from worker.kinds.zip.folder import Folder
from worker.kinds.zip.manifest import MANIFEST, README, About
from worker.kinds.zip.names import Names
from worker.kinds.zip.source import Member, Reads
from worker.limits import cores

TOLD: Final = 20
MEGABYTE: Final = 1_000_000


@click.command("zip")
@click.argument("source", required=False, metavar="[DIR|PREFIX]")
@click.option(
    "--keys",
    "list_of_keys",
    type=click.File(),
    help="File with the key of an object on each line; - is standard input.",
)
@click.option("-o", "--output", help="File that is written; - is standard output.")
@click.option("--level", type=click.IntRange(0, 9), default=6, show_default=True, help="0 stores, 9 packs tightest.")
@click.option(
    "--codec", "name", type=click.Choice(CODECS), default=CODECS[0], show_default=True,
    help="isal is faster, its archives are some percent larger.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 256), help="Files at once.  [one per core; 64 for objects]")
@click.option("--title", help="First line of README.txt.  [the source]")
@click.option("--server", help="Have the service at this address do it: of its objects, or of a user's files.")
@click.option("--user", help="With --server: the files that this user has in the catalog.")
@click.option("--type", "type_", type=click.Choice(TYPES), help="Of the user's files.  [full]")
@click.option("--category", help="Of the user's files: those of this category.")
@click.pass_obj
def zip_(
    remote: Remote, source: str | None, list_of_keys: TextIO | None, output: str | None, level: int, name: str,
    jobs: int | None, title: str | None, server: str | None, user: str | None, type_: str | None, category: str | None,
) -> None:  # fmt: skip
    """Make an archive of the folder DIR, or of the objects whose keys begin with PREFIX.

    \b
      arke zip ~/scans -o scans.zip
      OBJECTS_DIR=data/objects arke zip staging/my-scans/ -o scans.zip
      arke zip --keys keys.txt -o - | ssh …
      arke zip --server http://127.0.0.1:8787 staging/my-scans/ -o scans.zip
      arke zip --server http://127.0.0.1:8787 --user u-7 --category trips -o trips.zip

    Objects are those of OBJECTS_DIR, or of R2_ENDPOINT_URL or R2_ACCOUNT_ID with R2_ACCESS_KEY_ID,
    R2_SECRET_ACCESS_KEY and R2_BUCKET. README.txt is the first file in the archive and manifest.json, with every
    file's checksums, the last. The same files give the same bytes; SOURCE_DATE_EPOCH sets the time of those two.
    With --server the service's machines make it, in several parts where it is large (scans-1.zip, scans-2.zip, …);
    without -o it is only asked to.

    The exit code is 0 when every file is in the archive, 1 when any is not: the manifest says why.
    """
    if server is not None and jobs is not None:
        raise click.UsageError("--jobs is for what is done here: the service has machines of its own.")
    if server is not None:
        body = _asked(source, list_of_keys, user, type_, category) | {"level": level, "codec": name, "name": title}
        if not there(replace(remote, server=server), body, output):
            raise SystemExit(1)
        return
    _check_local(source, list_of_keys, output, [user, type_, category])
    assert output is not None
    try:
        with written(output) as opened:
            summary = _zipped(source, list_of_keys, output, opened, codec(name, level), jobs, title)
    except WorkerError as error:
        raise click.ClickException(f"{visible(error)}.") from error
    _say(f"{shown(output)}: {_counted(summary.files, len(summary.missing))}, {summary.bytes / MEGABYTE:,.1f} MB in "
         f"{summary.size / MEGABYTE:,.1f} MB.")  # fmt: skip
    for missing in summary.missing[:TOLD]:
        _say(f"  left out: {visible(missing['r2_key'])}: {missing['reason']}")
    if len(summary.missing) > TOLD:
        _say(f"  and {len(summary.missing) - TOLD:,} more, which {MANIFEST} lists")
    if summary.missing:
        raise SystemExit(1)


def _check_local(
    source: str | None, list_of_keys: TextIO | None, output: str | None, of_users: list[str | None]
) -> None:
    """Raises UsageError for what only a service can do, or where something is missing."""
    if any(of_users):
        raise click.UsageError("--user, --type and --category are for --server: the catalog is there.")
    if (source is None) == (list_of_keys is None):
        raise click.UsageError("Name a folder, a prefix, or with --keys a file of keys.")
    if output is None:
        raise click.UsageError("-o is missing: the file that is written.")


def _asked(
    source: str | None, list_of_keys: TextIO | None, user: str | None, type_: str | None, category: str | None
) -> dict[str, Any]:
    """What the service is asked for. Raises UsageError."""
    if sum(given is not None for given in (source, list_of_keys, user)) != 1:
        raise click.UsageError("Name a prefix, with --keys a file of keys, or with --user whose files.")
    if user is None and (type_ or category):
        raise click.UsageError("--type and --category are for --user.")
    if category is not None and type_ not in (None, "category"):
        raise click.UsageError("--category is a --type of its own: leave the other out.")
    if source is not None:
        if source.startswith((".", "/", "~")):
            raise click.UsageError(f"{source} is a folder of this machine, which the service does not see: without "
                                   "--server it is zipped here.")  # fmt: skip
        return {"r2_prefix": source}
    if list_of_keys is not None:
        return {"keys": _some(_lines(list_of_keys))}
    if category is not None:
        return {"user_id": user, "export_type": "category", "filter_params": {"category": category}}
    return {"user_id": user, "export_type": type_ or "full"}


def _some(keys: list[str]) -> list[str]:
    if not keys:
        raise click.UsageError("--keys names a list without a key.")
    return keys


class _Input(NamedTuple):
    """What goes into the archive; `changed_s` is when the newest of it was changed, as far as that is known."""

    store: Reads
    members: list[Member]
    name: str
    threads: int
    changed_s: float


def _zipped(
    source: str | None, list_of_keys: TextIO | None, output: str, target: BinaryIO, packer: Codec, jobs: int | None,
    title: str | None,
) -> Summary:  # fmt: skip
    found = _folder(source, _own(output, target)) if _is_folder(source) else _stored(source, list_of_keys)
    about = About(title=visible(title or f"Archive of {found.name}"), created_at=_time(found.changed_s))
    with Display() as display:
        return write(
            lambda: found.members, found.store, _Target(target, may_restart=output != STDOUT), codec=packer,
            threads=jobs or found.threads, about=about,
            tell=partial(_show, display, sum(member.size for member in found.members)),
        )  # fmt: skip


def _folder(source: str | None, own: list[tuple[int, int]]) -> _Input:
    folder = Folder(Path(source or ""))
    members = folder.members(Names(README, MANIFEST), without=own)
    return _Input(folder, members, folder.root.resolve().name, cores(), folder.changed_s)


def _stored(source: str | None, list_of_keys: TextIO | None) -> _Input:
    names = Names(README, MANIFEST)
    found = objects.from_environment(os.environ) if _names_objects() else _no_folder(source)
    if source is not None:
        members, which = stored.below(found, source, names), f"whose key begins with {visible(source)}"
    else:
        members, which = stored.named(found, _lines(list_of_keys), names), "in the list"
    if not members:
        raise click.ClickException(f"There is no object {which}.")
    return _Input(found, members, source or "objects", REMOTE_THREADS, datetime.now(UTC).timestamp())


class _Target:
    """The file as a sink."""

    def __init__(self, target: BinaryIO, *, may_restart: bool) -> None:
        self._target, self._may_restart = target, may_restart
        self.write: Callable[[bytes], object] = target.write

    def mark(self, *state: object) -> None:
        """What was interrupted here is begun anew."""

    def restart(self) -> None:
        """Only a file of our own can be begun anew."""
        if not self._may_restart or not self._target.seekable():
            raise click.ClickException("A file has changed while it was read. Start again, or write to a file.")
        self._target.seek(0)
        self._target.truncate()


def _own(output: str, target: BinaryIO) -> list[tuple[int, int]]:
    """The archive itself and its draft, which may lie within the folder: device and inode of each."""
    found = []
    for which in (Path(output), target.fileno()):
        with suppress(OSError, io.UnsupportedOperation):
            known = os.stat(which)
            found.append((known.st_dev, known.st_ino))
    return found


def _is_folder(source: str | None) -> bool:
    """A folder, where a prefix of keys is not meant. Raises UsageError where both may be."""
    if not source or not Path(source).is_dir():
        return False
    if _names_objects() and not source.startswith((".", "/", "~")):
        raise click.UsageError(f"{source} is a folder here and may be a prefix of objects: ./{source} is the folder.")
    return True


def _names_objects() -> bool:
    return any(os.environ.get(name) for name in ("OBJECTS_DIR", "R2_ENDPOINT_URL", "R2_ACCOUNT_ID"))


def _no_folder(source: str | None) -> objects.ObjectStore:
    what = f"There is no folder {visible(source)}. " if source is not None else ""
    raise click.UsageError(f"{what}For objects set OBJECTS_DIR, R2_ENDPOINT_URL or R2_ACCOUNT_ID.")


def _lines(list_of_keys: TextIO | None) -> list[str]:
    return [line for each in list_of_keys or () if (line := each.rstrip("\r\n"))]


def _time(changed_s: float) -> str:
    """When the archive was made, for what is in it: the newest file, so that the same files give the same bytes."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(given) if given else changed_s, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise click.UsageError("SOURCE_DATE_EPOCH is no time: it must be seconds since 1970.") from error
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _show(display: Display, total: int, progress: Progress) -> None:
    percent = f"{100 * progress.bytes // total} %, " if total else ""
    display.show(f"{percent}{_counted(progress.files, progress.missing)}, {progress.bytes / MEGABYTE:,.0f} MB")


def _counted(files: int, missing: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}" + (f", {missing:,} left out" if missing else "")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
