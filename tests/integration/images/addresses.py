"""A stand-in for the addresses of the schemas: a proxy that answers for all of them, with certificates of its own.

So the step of the Dockerfile runs as it is, with the real addresses; only where they lead is this computer.
"""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from worker.kinds.mods.fetching import FILES

SECONDS: Final = 20.0


@contextlib.contextmanager
def answered(folder: Path, bodies: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """The variables with which a client believes that it speaks to the addresses; `bodies` by URL."""
    hosts = sorted({str(urlsplit(file.url).hostname) for file in FILES})
    certificate, key = _certificate(folder, hosts)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_serve, args=(listener, context, bodies), daemon=True)
    thread.start()
    try:
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        here = {"https_proxy": proxy, "HTTPS_PROXY": proxy, "no_proxy": "", "NO_PROXY": ""}
        yield here | {"SSL_CERT_FILE": str(certificate)}
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(SECONDS)


def _certificate(folder: Path, hosts: list[str]) -> tuple[Path, Path]:
    certificate, key = folder / "addresses.crt", folder / "addresses.key"
    names = ",".join(f"DNS:{host}" for host in hosts)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", "/CN=addresses",
         "-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def _serve(listener: socket.socket, context: ssl.SSLContext, bodies: Mapping[str, bytes]) -> None:
    """One connection after the other: CONNECT, then one request over TLS."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain, contextlib.suppress(OSError):
            plain.settimeout(SECONDS)
            host = _head(plain).split()[1].partition(":")[0]
            plain.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with context.wrap_socket(plain, server_side=True) as secured:
                body = bodies.get(f"https://{host}{_head(secured).split()[1]}")
                status = "404 Not Found" if body is None else "200 OK"
                body = body or b""
                head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                secured.sendall(head.encode() + body)


def _head(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(4096)
        if not part:
            raise ConnectionError("closed before the request was whole")
        received += part
    return received.decode("latin-1")
