"""First on the path of a node whose clock a test moves: the service's processes there get their time from libfaketime.

Ray's own (gcs_server, raylet, the dashboard) keep the computer's clock: what they wait for in the kernel goes by that.
"""

import os
import select
import sys
import time

LIBRARY = os.environ.get("ARKE_TEST_LIBFAKETIME")


def _sleep(seconds: float) -> None:
    """`time.sleep` for who has libfaketime 0.9.10: its clock_nanosleep refuses every time that is absolute."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


if os.environ.get("LD_PRELOAD", "") == (LIBRARY or "-"):
    time.sleep = _sleep
elif LIBRARY and any(word.endswith("default_worker.py") for word in sys.orig_argv):
    os.environ["LD_PRELOAD"] = LIBRARY
    os.execv(sys.executable, sys.orig_argv)
