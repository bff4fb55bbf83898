"""Connections to one server, in several small pools.

For each request, and again at its end, httpx's pool looks at every connection that it has, with a system call for those
that rest: with 200 in one, hundreds of requests at once cost seconds of a core. In small ones that is a small part.
"""

import functools
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx


class Pools:
    """Clients that are alike; each request goes to the one that has the fewest under way."""

    def __init__(
        self, headers: Mapping[str, str], timeout: httpx.Timeout, transport: httpx.AsyncBaseTransport | None,
        *, pools: int, connections: int, follow_redirects: bool = False,
    ) -> None:  # fmt: skip
        """So many pools, at most, of so many connections each; a pool is made when there is something for it."""
        self._headers, self._timeout, self._transport = headers, timeout, transport
        self._limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._follow_redirects = follow_redirects
        self._clients: list[httpx.AsyncClient | None] = [None] * pools
        self._under_way = [0] * pools

    @contextmanager
    def client(self) -> Iterator[httpx.AsyncClient]:
        """The one to use for a request, while inside. Of several that have nothing to do always the first: its
        connections are open already."""
        number = self._under_way.index(min(self._under_way))
        self._under_way[number] += 1
        try:
            yield self._clients[number] or self._open(number)
        finally:
            self._under_way[number] -= 1

    def _open(self, number: int) -> httpx.AsyncClient:
        opened = self._clients[number] = httpx.AsyncClient(
            headers=self._headers, timeout=self._timeout, limits=self._limits, verify=_context(),
            transport=self._transport, follow_redirects=self._follow_redirects,
        )  # fmt: skip
        return opened

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            if client is not None:
                await client.aclose()


@functools.cache
def _context() -> ssl.SSLContext:
    """The one of this process: to make it takes 20 ms."""
    return httpx.create_ssl_context()
