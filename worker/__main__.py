"""`python -m worker`: one machine. Only arguments, signals, and the exit code."""

import argparse
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from types import FrameType

from worker import loop, urls

DESCRIPTION = """\
Runs tasks of an Arke orchestrator: downloads, converts, uploads, reports.

Without --pull it runs the task that its environment names (TASK_ID, BATCH_ID, INPUT_R2_KEY, CALLBACK_URL, and
OBJECTS_DIR or R2_* for the objects), then others as long as there are any and CLAIM_URL is set.

With --pull it asks an orchestrator for work until it is stopped. It needs one of its WORKER_KEYS (--key or WORKER_KEY)
and brings its own access to the objects: OBJECTS_DIR, the orchestrator's folder of objects, or R2_ENDPOINT_URL or
R2_ACCOUNT_ID with R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_BUCKET. Without that it does not start.

Ctrl-C and SIGTERM give open tasks back; that costs them no try.
"""
EPILOG = """\
example:
  OBJECTS_DIR=data/objects python -m worker --pull http://127.0.0.1:8787 --key KEY --concurrency 4
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the worker; returns its exit code."""
    options = _parse(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    return loop.run(_environment(options), stop=stop, is_whole_process=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m worker",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pull", metavar="URL", help="address of the orchestrator to ask for work, until stopped")
    parser.add_argument("--key", help="one of its WORKER_KEYS (default: WORKER_KEY from the environment)")
    parser.add_argument("--name", help="name of this worker in the list of machines (default: made up)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="tasks at once (default: WORKER_CONCURRENCY, 2)")
    options = parser.parse_args(arguments)
    if options.pull is not None and not urls.is_valid(options.pull):
        parser.error("--pull needs an address such as http://127.0.0.1:8787")
    return options


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """The process's environment with what the options say."""
    env = dict(os.environ)
    if options.concurrency is not None:
        env["WORKER_CONCURRENCY"] = str(options.concurrency)
    if options.pull:
        for name in ("TASK_ID", "BATCH_ID", "INPUT_R2_KEY", "PI", "CALLBACK_URL"):
            env.pop(name, None)
        env["CLAIM_URL"] = f"{options.pull.rstrip('/')}/machines/claim"
        env["MACHINE_NAME"] = options.name or f"pull-{uuid.uuid4().hex[:12]}"
        env["MACHINE_TOKEN"] = options.key or env.get("WORKER_KEY", "")
        # A puller stays until it is stopped; age and number of tasks are the orchestrator's machines' concern.
        for name in ("WORKER_IDLE_S", "WORKER_MAX_AGE_S"):
            env.setdefault(name, "inf")
        env.setdefault("WORKER_MAX_TASKS", str(10**9))
        env.setdefault("WORKER_KINDS", "tiff,mods")
    return env


if __name__ == "__main__":
    sys.exit(main())
