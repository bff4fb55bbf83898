"""`python -m tests.stand_ins.arke_api`: serve the sample archive, or a large one, until Ctrl-C or a command ends."""

import argparse
import asyncio
import os
import signal
import sys

from tests.stand_ins.arke_api.app import ArkeStandIn, serving
from tests.stand_ins.arke_api.archive import Archive
from tests.stand_ins.arke_api.large import Large
from tests.stand_ins.arke_api.sample import ROOT, sample


def main() -> int:
    """Exit code: the command's, or 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.stand_ins.arke_api", description=__doc__)
    parser.add_argument("--port", type=int, default=4281, help="0: any that is free  [4281]")
    parser.add_argument("--latency-ms", type=float, default=0, help="before each answer  [0]")
    parser.add_argument("--fault", type=float, default=0, metavar="RATE", help="share of 503s; they heal  [0]")
    parser.add_argument("--entities", type=int, help="a made-up archive of so many entities instead of the sample")
    parser.add_argument("command", nargs="*", help="run it with ARKE_API_URL and IPFS_GATEWAY set; ROOT names the root")
    asked = parser.parse_args()
    archive: Archive = Large(asked.entities) if asked.entities else sample()
    root = archive.root if isinstance(archive, Large) else ROOT
    stand_in = ArkeStandIn(archive, latency_s=asked.latency_ms / 1000, fault_rate=asked.fault)
    return asyncio.run(_run(stand_in, root, asked.port, asked.command))


async def _run(stand_in: ArkeStandIn, root: str, port: int, command: list[str]) -> int:
    async with serving(stand_in, port) as url:
        sys.stdout.write(f"Root {root}. Set IPFS_GATEWAY={url} ARKE_API_URL={url}\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if not command:
            await stop.wait()
            return 0
        env = {**os.environ, "ARKE_API_URL": url, "IPFS_GATEWAY": url}
        running = await asyncio.create_subprocess_exec(*(root if word == "ROOT" else word for word in command), env=env)
        ended = asyncio.create_task(running.wait())
        await asyncio.wait([ended, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():  # a Ctrl-C has reached it as well; a SIGTERM has not
            running.terminate()
        return await ended


if __name__ == "__main__":
    sys.exit(main())
