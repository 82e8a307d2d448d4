"""How far the edges are: they say so, and others wait for it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from control_plane.errors import UnavailableError
from control_plane.policies import store
from control_plane.policies.model import Position, Standing
from control_plane.postgres.database import Database, SystemTransaction

# For what edges say to other processes; what they say to this one is known at once.
_EVERY: Final = timedelta(milliseconds=100)
_PRUNED_EVERY: Final = timedelta(minutes=10)
_RETRY: Final = timedelta(seconds=1)
_log: Final = structlog.get_logger("policies.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of waiting."""

    revision: int
    lagging: list[str]
    live_edges: int


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    revision: int
    # The edges that lagged when the waiting began: one that falls silent since may still decide by what it had.
    expected: frozenset[str]
    outcome: "asyncio.Future[Outcome]"


class Edges:
    """Keeps how far each edge is, in the database: every process of the control plane knows the same.

    However many wait, the database is asked once for all of them, while `run` runs.
    """

    def __init__(self, database: Database) -> None:
        """Know nothing yet."""
        self._database = database
        self._waiters: set[_Waiter] = set()
        # Somebody waits, or an edge has said something.
        self._woken = asyncio.Event()

    async def acknowledge(self, name: str, *, position: Position, proxies: bytes) -> None:
        """Keep what the edge says of itself."""
        await self._database.system().run(
            lambda tx: store.acknowledge(tx, name, position=position, proxies=proxies),
        )
        self._woken.set()

    async def standing(self, *, with_proxies: bool = False) -> Standing:
        """Say how far all edges are."""

        async def read(tx: SystemTransaction) -> Standing:
            return Standing(head=await store.head(tx), edges=await store.edges(tx, with_proxies=with_proxies))

        return await self._database.system().run(read)

    async def wait_applied(self, revision: int, *, within: timedelta) -> Outcome:
        """Wait until every live edge has applied the revision, or time is up; 0 is the newest that is committed.

        An edge that was live when this began is waited for, though it falls silent.

        Raises:
            UnavailableError: the database is away when the waiting begins, or when it ends in vain.
        """
        standing = await self.standing()
        revision = revision or standing.head.revision
        lagging = standing.lagging(revision)
        if not lagging:
            return Outcome(revision=revision, lagging=[], live_edges=standing.live_edges)
        waiter = _Waiter(
            revision=revision, expected=frozenset(lagging), outcome=asyncio.get_running_loop().create_future()
        )
        self._waiters.add(waiter)
        self._woken.set()
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await waiter.outcome
        except TimeoutError:
            return _outcome(await self.standing(), waiter)
        finally:
            self._waiters.discard(waiter)

    async def run(self) -> None:
        """Look out for those who wait, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY.total_seconds() if self._waiters else None):
                    await self._woken.wait()
            self._woken.clear()
            if self._waiters:
                await self._tell_waiters()

    async def _tell_waiters(self) -> None:
        try:
            standing = await self.standing()
        except UnavailableError:
            await asyncio.sleep(_EVERY.total_seconds())
            return
        for waiter in self._waiters:
            outcome = _outcome(standing, waiter)
            if not outcome.lagging and not waiter.outcome.done():
                waiter.outcome.set_result(outcome)

    async def prune(self) -> None:
        """Forget edges that are gone, revocations that have outlived their tokens, and accesses of long ago.

        Until cancelled.
        """
        while True:
            try:
                await self._database.system().run(store.forget_edges)
                await self._database.system().run(store.forget_revocations)
                await self._database.system().run(store.forget_accesses)
            except UnavailableError as error:
                _log.info("pruning_put_off", reason=error.code)
                await asyncio.sleep(_RETRY.total_seconds())
                continue
            await asyncio.sleep(_PRUNED_EVERY.total_seconds())


def _outcome(standing: Standing, waiter: _Waiter) -> Outcome:
    lagging = standing.lagging(waiter.revision, expected=waiter.expected)
    return Outcome(revision=waiter.revision, lagging=lagging, live_edges=standing.live_edges)
