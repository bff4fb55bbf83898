"""`arke submit`: a batch from a message, a manifest, keys, a prefix, or local files."""

import json
import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import click

from actors.settings import Settings
from orchestrator.cli.remote import Remote, as_json, show_json
from orchestrator.cli.watching import finish, follow
from orchestrator.client import new_id

Body = dict[str, Any]


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--files", "are_keys", is_flag=True, help="The SOURCEs are keys of objects that are there already.")
@click.option("--prefix", help="Every object whose key begins with this is a file.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder of the service, for local SOURCEs.")
@click.option("--batch-id", help="Id of the batch; made up when not given.")
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
    """
    batch_id = batch_id or None
    if sum((bool(prefix), are_keys, data_dir is not None)) > 1:
        raise click.UsageError("--prefix, --files and --data-dir exclude each other.")
    if prefix is not None:
        body = _from_prefix(prefix, sources)
    elif not sources:
        raise click.UsageError(
            "Say what to convert: a JSON file, --files KEY..., --prefix P, or --data-dir DIR PATH..."
        )
    elif are_keys:
        body = {"files": [file_entry(key) for key in sources]}
    elif data_dir is not None:
        batch_id = batch_id or new_id()
        body = {"files": copy_in(Settings.load(os.environ, data_dir=data_dir), sources, f"uploads/{batch_id}")}
    else:
        body = _from_json(sources)
    body = body if batch_id is None else body | {"batch_id": batch_id}
    with remote.client() as arke:
        status = arke.create(body)
        if as_json:
            show_json(status)
        else:
            click.echo(status["batch_id"])
        ended = follow(arke, status["batch_id"]) if and_watch else None
    if ended is not None:
        finish(ended)


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
        objects.put_file(entry["r2_key"], path, entry["content_type"])
        entries.append(entry)
    if not entries:
        raise click.UsageError("There is no file in what was named.")
    return entries


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
    return {"r2_prefix": prefix}


def _from_json(sources: tuple[str, ...]) -> Body:
    if len(sources) > 1 or not sources[0].lower().endswith(".json"):
        raise click.UsageError("Name one JSON file, or say with --files or --data-dir what the SOURCEs are.")
    try:
        body = json.loads(Path(sources[0]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.UsageError(f"{sources[0]} does not exist.") from None
    except ValueError as error:
        raise click.UsageError(f"{sources[0]} is not JSON: {error}.") from None
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
