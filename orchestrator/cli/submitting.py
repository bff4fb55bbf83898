"""`arke submit`: a batch from a message, a manifest, keys, a prefix, or local files."""

import filecmp
import json
import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import click

from actors.settings import Settings
from orchestrator.cli.remote import LONG_PATIENCE_S, Remote, as_json, show_json, visible
from orchestrator.cli.remote import batch_id as check_batch_id
from orchestrator.cli.watching import finish, follow
from orchestrator.client import new_id

Body = dict[str, Any]


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--files", "are_keys", is_flag=True, help="The SOURCEs are keys of objects that are there already.")
@click.option("--prefix", help="Every object whose key begins with this is a file.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder of the service, for local SOURCEs.")
@click.option("--batch-id", callback=check_batch_id, help="Id of the batch; made up when not given.")
@click.option("--watch", "and_watch", is_flag=True, help="Show the progress until the batch ends.")
@as_json
@click.pass_obj
def submit(
    remote: Remote,
    sources: tuple[str, ...],
    are_keys: bool,
    prefix: str | None,
    data_dir: Path | None,
    batch_id: str | None,
    and_watch: bool,
    as_json: bool,
) -> None:
    """Create a batch, and print its id.

    SOURCE is a JSON file with a queue message or a manifest; keys with --files; or, with --data-dir,
    files and folders of this machine, which are copied into the service's object folder.

    \b
      arke submit message.json --watch
      arke submit --prefix staging/my-scans/
      arke submit --files staging/a/p1.tif staging/a/p2.tif
      arke submit --data-dir data ~/scans --batch-id my-scans

    With --watch the exit code is 1 when the batch ends in ERROR.
    """
    if sum((prefix is not None, are_keys, data_dir is not None)) > 1:
        raise click.UsageError("--prefix, --files and --data-dir exclude each other.")
    if data_dir is not None and not batch_id:
        batch_id = new_id()
    body = _body(sources, are_keys, prefix, data_dir, f"uploads/{batch_id}")
    body = body | {"batch_id": batch_id} if batch_id else body
    with remote.client(LONG_PATIENCE_S) as arke:
        status = arke.create(body)
        if as_json:
            show_json(status)
        else:
            click.echo(visible(status["batch_id"]))
        ended = follow(arke, status["batch_id"]) if and_watch else None
    if ended is not None:
        finish(ended)


def _body(sources: tuple[str, ...], are_keys: bool, prefix: str | None, data_dir: Path | None, folder: str) -> Body:
    """What is sent, without the id. Local files are copied in under `folder`."""
    if prefix is not None:
        return _from_prefix(prefix, sources)
    if not sources:
        raise click.UsageError(
            "Say what to convert: a JSON file, --files KEY..., --prefix P, or --data-dir DIR PATH..."
        )
    if are_keys:
        return {"files": [file_entry(key) for key in sources]}
    if data_dir is not None:
        return {"files": copy_in(_folder_of_service(data_dir), sources, folder)}
    return _from_json(sources)


def _folder_of_service(data_dir: Path) -> Settings:
    """The settings with this data folder. Raises UsageError where no service reads objects from it."""
    settings = Settings.load(os.environ, data_dir=data_dir)
    if settings.uses_s3:
        raise click.UsageError("The service's objects are on S3 or R2: copy the files there, then use --prefix.")
    if not settings.objects_dir.joinpath(settings.r2_bucket).is_dir():
        raise click.UsageError(f"{data_dir} is not the data folder of a service: name the one that `arke serve` uses.")
    return settings


def file_entry(key: str, size: int | None = None) -> Body:
    """An object as a file of a batch: `size` in bytes where it is known."""
    guessed, _ = mimetypes.guess_type(key)
    entry: Body = {
        "r2_key": key,
        "logical_path": "/" + key,
        "file_name": PurePosixPath(key).name,
        "content_type": guessed or "application/octet-stream",
    }
    return entry if size is None else entry | {"file_size": size}


def copy_in(settings: Settings, sources: Sequence[str], folder: str) -> list[Body]:
    """Copy local files into the object folder, under `folder`; their entries, in the order of the names."""
    from worker.objects.local import LocalObjects

    objects = LocalObjects(settings.objects_dir, settings.r2_bucket)
    entries = []
    for path, name in _local_files(sources):
        entry = file_entry(f"{folder}/{name}", path.stat().st_size) | {"logical_path": "/" + name}
        if not _is_there(settings.objects_dir / settings.r2_bucket / entry["r2_key"], path):
            objects.put_file(entry["r2_key"], path, entry["content_type"])
        entries.append(entry)
    if not entries:
        raise click.UsageError("There is no file in what was named.")
    return entries


def _is_there(target: Path, source: Path) -> bool:
    """Whether a former call has copied this file. Raises UsageError where another batch's file would be lost."""
    if not target.exists():
        return False
    if not filecmp.cmp(source, target, shallow=False):
        raise click.UsageError(f"A batch of this id has another {source.name}; choose another --batch-id.")
    return True


def _local_files(sources: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Each file with its name below the source. Raises UsageError for what is missing or would collide."""
    seen: set[str] = set()
    for source in map(Path, sources):
        if not source.exists():
            raise click.UsageError(f"{source} does not exist.")
        paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        for path in paths:
            name = path.relative_to(source).as_posix() if source.is_dir() else path.name
            if name in seen:
                raise click.UsageError(f"Two files are called {name}; submit them in two batches.")
            seen.add(name)
            yield path, name


def _from_prefix(prefix: str, sources: tuple[str, ...]) -> Body:
    if sources:
        raise click.UsageError("With --prefix no SOURCE is given.")
    if not prefix:
        raise click.UsageError("--prefix is empty: name the folder, as in --prefix staging/my-scans/.")
    return {"r2_prefix": prefix}


def _from_json(sources: tuple[str, ...]) -> Body:
    if len(sources) > 1 or not sources[0].lower().endswith(".json"):
        raise click.UsageError("Name one JSON file, or say with --files or --data-dir what the SOURCEs are.")
    try:
        body = json.loads(Path(sources[0]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.UsageError(f"{sources[0]} does not exist.") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{sources[0]} is not JSON: it is not UTF-8 text.") from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{sources[0]} is not JSON that can be read: {error}.") from None
    if not isinstance(body, dict):
        raise click.UsageError(f"{sources[0]} must contain one JSON object.")
    return _from_manifest(body) if "directories" in body else body


def _from_manifest(manifest: Body) -> Body:
    """A manifest that is a local file: its files, each with the processing_config of its directory."""
    try:
        files = [
            {"processing_config": directory.get("processing_config")} | file
            for directory in manifest["directories"]
            for file in directory["files"]
        ]
    except (TypeError, KeyError, AttributeError):
        raise click.UsageError("The manifest's directories must be objects with a list of files.") from None
    kept = {name: manifest[name] for name in ("batch_id",) if name in manifest}
    return kept | {"files": files}
