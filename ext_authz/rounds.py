"""How a change becomes enforced: workers first, then proxies, then it is told.

Workers come first so that no route names an epoch which no worker has. Whoever hangs keeps the telling back, for what
is told is enforced everywhere; the others go on after a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.model import Index

_PATIENCE_S: Final = 1.0

_log: Final = structlog.get_logger("rounds")


class Workers(Protocol):
    """Who decides."""

    async def applied(self, index: Index) -> None:
        """MUST return when every worker that runs decides by this index or a later one."""


class Proxies(Protocol):
    """Who routes."""

    def use(self, index: Index) -> None:
        """MUST NOT block. Sends what is different to the proxies that are connected."""

    async def applied(self, revision: int) -> None:
        """MUST return when every proxy that may be serving has answered for all that was sent up to that revision."""

    def statuses(self) -> Iterable[policies_pb2.ProxyStatus]:
        """Tell how each proxy is."""


class Rounds:
    """Takes each new index around. Changes that come during a round make the next one together."""

    def __init__(self, workers: Workers, proxies: Proxies, *, told: Callable[[], None]) -> None:
        """Call `told` whenever `applied` is another index."""
        self.decided: Index | None = None
        """Every worker decides by this one, or a later one."""
        self.applied: Index | None = None
        """And every proxy routes by it."""
        self._workers = workers
        self._proxies = proxies
        self._told = told
        self._newest: Index | None = None
        self._pushed: Index | None = None
        self._news = asyncio.Event()
        self._pushes = asyncio.Event()

    def use(self, index: Index) -> None:
        """Take this index around next, unless it differs in its time alone."""
        self._newest = index
        if not _same(index, self._pushed):
            self._news.set()

    async def run(self) -> None:
        """Go round, until cancelled."""
        async with asyncio.TaskGroup() as group:
            confirming = group.create_task(self._confirm())
            while True:
                await self._news.wait()
                self._news.clear()
                index = self._newest
                if index is None or _same(index, self._pushed):
                    continue
                if self._pushed and self._pushed.feed != index.feed:
                    # Nobody will ever apply what is still awaited of a feed that is no more.
                    confirming.cancel()
                    confirming = group.create_task(self._confirm())
                await _patiently(self._workers.applied(index), "workers", index)
                self._proxies.use(index)
                self._pushed = index
                self._pushes.set()
                await _patiently(self._proxies.applied(index.revision), "proxies", index)

    async def _confirm(self) -> None:
        while True:
            await self._pushes.wait()
            self._pushes.clear()
            if (index := self._pushed) is None:
                continue
            await self._workers.applied(index)
            self.decided = index
            await self._proxies.applied(index.revision)
            self.applied = index
            self._told()


def _same(index: Index, other: Index | None) -> bool:
    return other is not None and (index.feed, index.revision) == (other.feed, other.revision)


async def _patiently(applied: Awaitable[None], who: str, index: Index) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            await applied
            return
    _log.warning("round_lags", waits_for=who, revision=index.revision)
