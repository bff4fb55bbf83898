"""One task of the kind "mods": what the environment says, into a file, into the object store."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec

from worker import space
from worker.errors import BadInput, Cancelled, WorkerError
from worker.kinds.base import Context, Outcome
from worker.kinds.mods import schemas
from worker.kinds.mods.arke_api import API_URL, GATEWAY, ArkeApi
from worker.kinds.mods.crosswalk import Sites
from worker.kinds.mods.entity import is_pi
from worker.kinds.mods.export import Metrics, Progress, export
from worker.kinds.mods.options import FORMATS, Format, Options
from worker.kinds.mods.writers import CONTENT_TYPE, FILE_ENDING
from worker.objects.base import check_key

log = logging.getLogger("worker.kinds.mods")

LOOK_EVERY_S: Final = 0.2


def run(context: Context) -> Outcome:
    """Exports PI and uploads the file. Raises WorkerError."""
    env = context.env
    pi, format, options = _asked(env)
    found = schemas.find(env)
    if found is None:
        log.warning("[Mods] the records are not validated: there are no schemas; `arke schemas fetch` brings them")
    key = check_key(env.get("OUTPUT_R2_KEY") or f"exports/{env['TASK_ID']}/{pi}{FILE_ENDING}")
    path = context.folder / "records.xml"

    async def exported() -> Metrics:
        async with ArkeApi(env.get("ARKE_API_URL") or API_URL, env.get("IPFS_GATEWAY") or GATEWAY) as archive:
            with space.writing(), path.open("wb") as target:
                return await export(
                    pi, format=format, options=options, archive=archive, sites=_sites(env), schemas=found,
                    target=target, tell=lambda progress: context.tell(_told(progress)),
                )  # fmt: skip

    metrics = asyncio.run(_unless_cancelled(exported, context))
    context.check_wanted()
    try:
        stored = context.objects.put_file(key, path, CONTENT_TYPE, context.until())
    except Cancelled:
        raise
    except WorkerError as error:
        error.args = (f"Failed to upload the export: {error}",)
        raise
    return Outcome(
        output_r2_key=key,
        output_file_name=key.rpartition("/")[2],
        output_file_size=stored.size,
        performance=msgspec.to_builtins(metrics),
    )


async def _unless_cancelled(exporting: Callable[[], Coroutine[Any, Any, Metrics]], context: Context) -> Metrics:
    task = asyncio.get_running_loop().create_task(exporting())
    while not task.done():
        await asyncio.wait([task], timeout=LOOK_EVERY_S)
        if context.cancelled.is_set() and not task.done():
            task.cancel()
            await asyncio.wait([task])
            raise Cancelled("the task is no longer wanted")
    return task.result()


def _asked(env: Mapping[str, str]) -> tuple[str, Format, Options]:
    pi = env["PI"]
    if not is_pi(pi):
        raise BadInput(f"PI is no entity id: {pi[:40]!r}")
    wanted = env.get("EXPORT_FORMAT") or "mods"
    format = next((each for each in FORMATS if each == wanted), None)
    if format is None:
        raise BadInput(f"EXPORT_FORMAT must be one of {', '.join(FORMATS)}, not {wanted[:40]!r}")
    try:
        return pi, format, msgspec.json.decode(env.get("EXPORT_OPTIONS") or "{}", type=Options)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"EXPORT_OPTIONS is not valid: {error}") from error


def _sites(env: Mapping[str, str]) -> Sites:
    return Sites(ipfs_gateway=(env.get("IPFS_GATEWAY") or GATEWAY).rstrip("/"))


def _told(progress: Progress) -> dict[str, int]:
    told: dict[str, int] = msgspec.to_builtins(progress)
    return told
