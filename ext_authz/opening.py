"""Proxies that take a while to be made, for parts that need not wait for them.

Envoy's messages are long in loading, and Envoy itself is asked about what it will be told. An agent that comes back has
workers to start meanwhile: its Envoy still runs with what it was told before, and waits for answers.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol

import grpc
from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2
from ext_authz import rounds
from ext_authz.policies.model import Index


class Proxies(rounds.Proxies, Protocol):
    """Envoys, and what they are told."""

    async def reload(self) -> None:
        """MUST send what is made from files, such as certificates, where it has changed. MAY raise: nothing changes."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve Envoys on that server."""


class Opening(rounds.Proxies):
    """Stands for proxies until there are any, and passes everything on afterwards."""

    def __init__(self) -> None:
        """Stand for none yet."""
        self._made: asyncio.Future[Proxies] = asyncio.get_running_loop().create_future()
        self._newest: Index | None = None

    async def open(self, making: Awaitable[Proxies]) -> Proxies:
        """Wait until they are made, and tell them what they have missed."""
        proxies = await making
        if self._newest is not None:
            proxies.use(self._newest)
        self._made.set_result(proxies)
        return proxies

    @override
    def use(self, index: Index) -> None:
        self._newest = index
        if self._made.done():
            self._made.result().use(index)

    @override
    async def applied(self, revision: int) -> None:
        # Nothing is applied everywhere while nobody knows which proxies there are.
        proxies = await asyncio.shield(self._made)
        await proxies.applied(revision)

    @override
    def statuses(self) -> Sequence[policies_pb2.ProxyStatus]:
        return tuple(self._made.result().statuses()) if self._made.done() else ()
