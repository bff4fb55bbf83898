"""The command line."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from tests.stand_ins.fly.chance import Duration
from tests.stand_ins.fly.faults import FAULTS
from tests.stand_ins.fly.journal import Entry
from tests.stand_ins.fly.settings import Settings
from tests.stand_ins.fly.stand_in import FlyStandIn, serving

DESCRIPTION: Final = """\
A stand-in of Fly.io's Machines API on 127.0.0.1: the documented endpoints, checks and rate limits, machines that are
simulated or real `python -m worker` processes, and faults on demand. Set FLY_API_URL to the address that it prints.

Token and apps are those of FLY_API_TOKEN and FLY_APP_NAMES or FLY_APP_NAME, as the service has them; without these, and
without --token and --app, they are fly-stand-in and arke-tiff-worker.

Durations are seconds: 3, 2..4 (uniform), exp:2 (mean), log:2,0.5 (lognormal: median, sigma).
"""
DURATIONS: Final = {
    "work": "a task of a simulated machine, from its environment to its callback",
    "cpu": "the processor's part of that",
    "boot": "from `starting` to `started`",
    "pull": "an image pull, once for each host",
    "update": "an update",
    "destroy": "a destruction",
    "suspend": "a suspension",
    "late": "how much too late a late callback comes",
}
NUMBERS: Final = {
    "cpu_quota": "share of a core that a shared vCPU may always use",
    "cpu_burst_s": "balance of a shared vCPU to begin with",
    "cpu_most_s": "most that it saves",
    "stop_timeout_s": "from a stop's signal to the kill",
    "remember_s": "how long a destroyed machine is shown as such",
    "unanswered_s": "how long a request whose answer is lost hangs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        rates = {name: float(rate) for name, _, rate in (text.partition("=") for text in options.fault)}
        return asyncio.run(_serve(_settings(options), rates, options.port, quiet=options.quiet))
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.stand_ins.fly",
        description=DESCRIPTION,
        epilog="faults:\n" + "\n".join(f"  {name:18}{what}" for name, what in FAULTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    standard = Settings()
    parser.add_argument("--port", type=int, default=4280)
    parser.add_argument("--app", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--token", default=os.environ.get("FLY_API_TOKEN") or standard.token)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[@REGION]=RATE", help="may be repeated")
    parser.add_argument("--no-limits", action="store_true", help="without the documented rate limits")
    parser.add_argument("--quiet", action="store_true", help="do not print what happens")
    parser.add_argument("--machines", choices=("simulated", "processes"), default=standard.machines)
    parser.add_argument("--logs", type=Path, metavar="DIR", help="what real workers print")
    parser.add_argument("--hosts", type=int, default=standard.hosts, help="of a region; default %(default)s")
    parser.add_argument("--pull-always", action="store_true", help="each creation pulls its image")
    parser.add_argument("--fresh-balance", action="store_true", help="each start has the balance of the first")
    parser.add_argument("--prepared-state", choices=("stopped", "created"), default=standard.prepared_state)
    parser.add_argument("--name-taken-status", type=int, choices=(409, 422), default=standard.name_taken_status)
    parser.add_argument("--oom-cured-mb", type=int, metavar="MB", help="machines with so much never run out of memory")
    for name, what in DURATIONS.items():
        parser.add_argument(f"--{name}", type=Duration.parse, metavar="S", help=what)
    for name, what in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="N", help=what)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    known = {field.name for field in fields(Settings)}
    given = {name: value for name, value in vars(options).items() if name in known and value is not None}
    named = os.environ.get("FLY_APP_NAMES") or os.environ.get("FLY_APP_NAME") or ""
    apps = options.app or [name.strip() for name in named.split(",") if name.strip()]
    if apps:
        given["apps"] = tuple(apps)
    return replace(Settings(), **given, limits=not options.no_limits, keep_balance=not options.fresh_balance)


async def _serve(settings: Settings, rates: dict[str, float], port: int, *, quiet: bool) -> int:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with serving(FlyStandIn(settings, rates, None if quiet else _say), port) as url:
        sys.stdout.write(f"Machines API at FLY_API_URL={url}\n")
        sys.stdout.flush()
        await over.wait()
    return 0


def _say(entry: Entry) -> None:
    sys.stderr.write(json.dumps(entry) + "\n")
