"""An object store that is far away, and who reads small objects from it: each in a process of its own.

python -m bench.distant serve FOLDER DELAY_MS        prints its port; the files of a folder are the objects
python -m bench.distant WHO FOLDER PORT TARGET       makes an archive of them, in TARGET; prints what it took

It imports what the named one needs only, so that the memory told is that of the one.
"""

import contextlib
import json
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

BUCKET: Final = "bucket"
KEYS: Final = {"access_key_id": "id", "secret": "secret"}
CREATED_AT: Final = "2026-01-01T00:00:00Z"
CHANGED: Final = "Tue, 14 Nov 2023 22:13:20 GMT"
PEER_THREADS: Final = 64


# ---- the store


def serve(folder: Path, delay_s: float) -> None:
    """For ever: answers a ranged GET of a presigned URL after so long, on connections that are kept."""
    import asyncio

    import uvloop

    bodies = {f"/{BUCKET}/{path.name}".encode(): path.read_bytes() for path in folder.iterdir()}

    async def run() -> None:
        loop = asyncio.get_running_loop()

        class Store(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport, self.received = transport, b""

            def data_received(self, data: bytes) -> None:
                *requests, self.received = (self.received + data).split(b"\r\n\r\n")
                for request in requests:
                    loop.call_later(delay_s, self.transport.write, _answer(bodies, request))

        server = await loop.create_server(Store, "127.0.0.1", 0, backlog=1024)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()

    uvloop.run(run())


def _answer(bodies: dict[bytes, bytes], request: bytes) -> bytes:
    path, _, query = request.split(b" ", 2)[1].partition(b"?")
    body = bodies.get(path)
    if body is None or not (b"X-Amz-Signature=" in query or b"\r\nAuthorization: AWS4" in request):
        status = b"404 Not Found" if body is None else b"403 Forbidden"
        return b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status
    size, first = len(body), 0
    status, more = b"200 OK", b""
    asked = request.find(b"ange: bytes=")
    if asked >= 0:
        start, _, end = request[asked + 12 :].partition(b"\r")[0].partition(b"-")
        first, body = int(start), body[int(start) : int(end) + 1]
        status, more = (
            b"206 Partial Content",
            b"Content-Range: bytes %d-%d/%d\r\n" % (first, first + len(body) - 1, size),
        )
    return (
        b'HTTP/1.1 %b\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Type: text/plain\r\nETag: "%x"\r\n'
        b"Last-Modified: %b\r\nAccept-Ranges: bytes\r\n%bContent-Length: %d\r\n\r\n%b"
        % (status, hash(path) & 0xFFFFFFFFFFFFFFFF, CHANGED.encode(), more, len(body), body)
    )


# ---- those who read it


def by_keys(folder: Path, port: int, target: Path) -> None:
    """A task of ours that has the keys of the store."""
    from worker.objects.s3 import S3Objects

    _task(folder, target, S3Objects(f"http://127.0.0.1:{port}", BUCKET, **KEYS), lambda name: "")


def by_urls(folder: Path, port: int, target: Path) -> None:
    """A task of ours whose list has presigned URLs."""
    _task(folder, target, None, _signed(port))


def _task(folder: Path, target: Path, objects: Any, url: Callable[[str], str]) -> None:
    """Objects are read from far away, list and archive are in a folder: the archive is uploaded in parts, as always."""
    import msgspec

    from worker.kinds.base import Context
    from worker.kinds.zip import run
    from worker.kinds.zip.source import Member
    from worker.limits import MemoryGate
    from worker.objects.local import LocalObjects

    class Near(LocalObjects):
        def read_part(self, key: str, start: int, length: int) -> Any:
            return objects.read_part(key, start, length)

    near, work = Near(target, BUCKET), target / "work"
    work.mkdir(parents=True)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    with (work / "list").open("wb") as lines:
        for name in sorted(sizes):
            member = Member(key=name, path=name, size=sizes[name], url=url(name))
            lines.write(msgspec.json.encode(member) + b"\n")
    near.put_file("list", work / "list", "application/jsonl")
    options = {"created_at": CREATED_AT, "bytes": sum(sizes.values())}
    env = {"INPUT_R2_KEY": "list", "OUTPUT_R2_KEY": "out.zip", "ARCHIVE_OPTIONS": json.dumps(options)}
    context: Any = Context(
        env=env, objects=near, folder=work, memory=MemoryGate(1 << 30), converters=None,  # type: ignore[arg-type]
        cancelled=threading.Event(),
    )  # fmt: skip
    with _measured():
        made = run(context)
    if made.performance["missing"]:
        raise SystemExit(f"left out: {made.performance['left_out'][:1]}")


def by_boto3(folder: Path, port: int, target: Path) -> None:
    """zipstream-ng, fed by boto3 on threads."""
    import boto3
    from botocore.config import Config

    client = boto3.session.Session().client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="id", aws_secret_access_key="secret",
        region_name="auto", config=Config(max_pool_connections=PEER_THREADS, s3={"addressing_style": "path"}),
    )  # fmt: skip
    _zipstream(folder, target, lambda name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read())


def by_httpx(folder: Path, port: int, target: Path) -> None:
    """zipstream-ng, fed by httpx on threads from presigned URLs."""
    import httpx

    client, url = httpx.Client(limits=httpx.Limits(max_connections=PEER_THREADS)), _signed(port)
    _zipstream(folder, target, lambda name: client.get(url(name)).content)


def _zipstream(folder: Path, target: Path, read: Callable[[str], bytes]) -> None:
    from zipfile import ZIP_DEFLATED

    from zipstream import ZipStream

    target.mkdir()
    names = sorted(path.name for path in folder.iterdir())
    with _measured(), ThreadPoolExecutor(PEER_THREADS) as pool, (target / "out.zip").open("wb") as out:
        stream = ZipStream(compress_type=ZIP_DEFLATED, compress_level=6)
        for name, body in _ahead(pool, read, names):
            stream.add(body, name)
            out.writelines(stream.all_files())
        out.writelines(stream.finalize())


def _ahead(pool: ThreadPoolExecutor, read: Callable[[str], bytes], names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Four objects a thread are under way."""
    under_way: deque[tuple[str, Future[bytes]]] = deque()
    for name in names:
        under_way.append((name, pool.submit(read, name)))
        if len(under_way) > 4 * PEER_THREADS:
            first, body = under_way.popleft()
            yield first, body.result()
    while under_way:
        first, body = under_way.popleft()
        yield first, body.result()


def _signed(port: int) -> Callable[[str], str]:
    from worker.objects.signing import Signer

    signer, now_s = Signer(f"http://127.0.0.1:{port}", BUCKET, **KEYS), int(time.time())
    return lambda name: signer.origin + signer.target("GET", name, now_s, 3600)


@contextlib.contextmanager
def _measured() -> Iterator[None]:
    """Prints seconds, processor seconds, and the most memory in MB: at first that of who made this process, so it is
    reset."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    begun, used = time.perf_counter(), _processor_s()
    yield
    took, used = time.perf_counter() - begun, _processor_s() - used
    (most,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(f"{json.dumps([took, used, int(most.split()[1]) / 1000])}\n")


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


READERS: Final[dict[str, Callable[[Path, int, Path], None]]] = {
    "keys": by_keys, "urls": by_urls, "boto3": by_boto3, "httpx": by_httpx,
}  # fmt: skip


def main() -> None:
    """Do what is named."""
    who, folder, number = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if who == "serve":
        serve(folder, float(number) / 1000)
    else:
        READERS[who](folder, int(number), Path(sys.argv[4]))


if __name__ == "__main__":
    main()
