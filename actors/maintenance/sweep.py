"""Sweep: machines without a row are ended (by the fleet, which alone may), logs of machines long gone are removed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from actors import telemetry
from actors.errors import ArkeError
from actors.maintenance.base import Report

LOGS_KEPT_MS: Final = 7 * 24 * 60 * 60 * 1000
LIMIT: Final = 1_000

CallFleet = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def run_once(
    call_fleet: CallFleet, logs: Path, *, now: int, kept_ms: int = LOGS_KEPT_MS, limit: int = LIMIT
) -> Report:
    """Ask the fleet to sweep; remove at most `limit` logs not written to for `kept_ms` before `now`."""
    failed = 0
    ended = 0
    try:
        ended = int((await call_fleet({"op": "sweep"}))["destroyed"])
    except (ArkeError, OSError) as failure:
        failed = 1
        telemetry.warning("duty.not_swept", why=failure)
    removed = await asyncio.to_thread(_remove_logs, logs, now - kept_ms, limit)
    return Report(duty="sweep", done=ended + removed, failed=failed, more=removed == limit)


def _remove_logs(logs: Path, before: int, limit: int) -> int:
    removed = 0
    for path in logs.glob("machine-*.log"):
        if removed == limit:
            break
        try:
            if path.stat().st_mtime * 1000 < before:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue  # another round was quicker
    return removed
