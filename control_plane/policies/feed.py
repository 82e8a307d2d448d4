"""Tells all followers of each change: read once, however many they are.

The publisher's own position moves on with each look at the database. Whoever joins is caught up by a reading of its
own, which begins after the publisher knew its position, and is told of everything that the publisher finds from then
on; what both contain is left out of the latter. So nothing is missing, and nothing comes twice.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from control_plane.errors import DomainError, UnavailableError
from control_plane.policies import store
from control_plane.policies.model import Changes, Position
from control_plane.postgres.database import Database, SystemTransaction

# Without a change, too: whoever follows is told each time that there is nothing newer. Twice in what is promised.
_EVERY: Final = timedelta(milliseconds=500)
# Between two looks, also where changes come faster.
_LEAST: Final = timedelta(milliseconds=5)
_RETRY: Final = timedelta(seconds=1)
_QUEUE: Final = 256
# A snapshot is shared by those who come at once, such as all agents after a fault.
_SNAPSHOT_GOOD_FOR: Final = timedelta(seconds=2)
_log: Final = structlog.get_logger("policies.feed")

Notified = Callable[[], AsyncIterator[object]]
"""Yields when it may be worth to look; raises UnavailableError."""


class _Follower:
    """What one follower has not been told yet. Bounded: who is too slow is cut off, and resumes by its revision."""

    def __init__(self) -> None:
        self._untold: asyncio.Queue[Changes | DomainError] = asyncio.Queue(_QUEUE)

    def tell(self, changes: Changes) -> bool:
        """Queue the changes; False where there is no room left."""
        if changes.is_empty and not self._untold.empty():
            # It has not even seen what was there before: a later time will tell it more.
            return True
        try:
            self._untold.put_nowait(changes)
        except asyncio.QueueFull:
            return False
        return True

    def end(self, reason: DomainError) -> None:
        """Have the follower read nothing more but this."""
        while not self._untold.empty():
            self._untold.get_nowait()
        self._untold.put_nowait(reason)

    async def next(self) -> Changes:
        """Wait for changes. Raises what `end` was given."""
        told = await self._untold.get()
        if isinstance(told, DomainError):
            raise told
        return told


class Publisher:
    """Follows the database while `run` runs, and is followed."""

    def __init__(self, database: Database, notified: Notified, *, now: Callable[[], datetime] | None = None) -> None:
        """Look when `notified` says so, and twice a second."""
        self._database = database
        self._notified = notified
        self._now = now or (lambda: datetime.now(UTC))
        self._woken = asyncio.Event()
        self._begun = asyncio.Event()
        self._closed = asyncio.Event()
        self._followers: set[_Follower] = set()
        # Where everything was told up to; None before the first look.
        self._position: Position | None = None
        self._is_away = False
        self._reading = asyncio.Lock()
        self._snapshot: Changes | None = None

    @property
    def followers(self) -> int:
        """How many there are."""
        return len(self._followers)

    async def run(self) -> None:
        """Publish until cancelled. While the database is away nobody is told anything."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._look())

    async def follow(self, known: Position) -> AsyncGenerator[Changes, None]:
        """Yield what leads from `known` to now, or everything where that is not part of the history; then each change.

        Raises:
            UnavailableError: the follower was too slow, the history is another one, or the process ends. It is to come
                again with what it has.
        """
        await self._begun.wait()
        if self._closed.is_set():
            raise _draining()
        follower = _Follower()
        self._followers.add(follower)
        try:
            told = await self._patiently(known)
            yield told
            while True:
                changes = await follower.next()
                # A look that began before this one caught up may end after it: time does not go back for that.
                if changes.head.revision >= told.head.revision:
                    told = changes.beyond(told.head.revision, not_before=told.as_of)
                    yield told
        finally:
            self._followers.discard(follower)

    def close(self) -> None:
        """End all streams, for a process that drains."""
        self._closed.set()
        self._begun.set()
        self._end_all(_draining())

    async def _patiently(self, known: Position) -> Changes:
        """Catch up; a database that is away is waited for."""
        while True:
            try:
                return await self._catch_up(known)
            except UnavailableError:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY.total_seconds()):
                        await self._closed.wait()
                if self._closed.is_set():
                    raise _draining() from None

    async def _catch_up(self, known: Position) -> Changes:
        # One at a time: a hundred agents that come back at once must not take all connections.
        async with self._reading:
            as_of = self._now()

            async def read(tx: SystemTransaction) -> Changes:
                head = await store.head(tx)
                is_known = known.feed == head.feed and 0 < known.revision <= head.revision
                if not is_known and (shared := self._shared(head, as_of)):
                    return shared
                return await store.changes(tx, known.revision if is_known else None, to=head, as_of=as_of)

            changes = await self._database.snapshot().run(read)
            if changes.is_snapshot:
                self._snapshot = changes
            return changes

    def _shared(self, head: Position, now: datetime) -> Changes | None:
        """Return the snapshot that another one has read, where what came since has not been told yet."""
        kept, told = self._snapshot, self._position
        if kept is None or told is None or not _is_fresh(kept, now):
            return None
        return kept if kept.head.feed == head.feed and kept.head.revision >= told.revision else None

    async def _listen(self) -> None:
        while True:
            with suppress(UnavailableError):
                async for _ in self._notified():
                    self._woken.set()
            await asyncio.sleep(_RETRY.total_seconds())

    async def _look(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._publish()
                self._say_away(is_away=False)
            except UnavailableError:
                self._say_away(is_away=True)
            await asyncio.sleep(_LEAST.total_seconds())
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY.total_seconds()):
                    await self._woken.wait()

    async def _publish(self) -> None:
        """Look once, and tell everybody."""
        as_of, before = self._now(), self._position

        async def read(tx: SystemTransaction) -> Changes:
            head = await store.head(tx)
            if before is None or before.feed != head.feed or head.revision < before.revision:
                return Changes(head=head, is_snapshot=True, policies=(), revocations=(), as_of=as_of)
            return await store.changes(tx, before.revision, to=head, as_of=as_of)

        changes = await self._database.snapshot().run(read)
        self._position = changes.head
        self._begun.set()
        if self._snapshot and not _is_fresh(self._snapshot, as_of):
            self._snapshot = None
        if changes.is_snapshot:
            # Nobody follows before the first look. Later it is another history, such as that of a backup.
            self._end_all(UnavailableError("the feed is another one", reason="FEED_REPLACED"))
            return
        for follower in [follower for follower in self._followers if not follower.tell(changes)]:
            self._followers.discard(follower)
            follower.end(UnavailableError("the follower is too slow", reason="FOLLOWER_TOO_SLOW"))
            _log.warning("follower_cut_off", revision=changes.head.revision)

    def _end_all(self, reason: DomainError) -> None:
        while self._followers:
            self._followers.pop().end(reason)

    def _say_away(self, *, is_away: bool) -> None:
        if is_away != self._is_away:
            _log.warning("feed_silent" if is_away else "feed_goes_on", followers=len(self._followers))
        self._is_away = is_away


def _is_fresh(snapshot: Changes, now: datetime) -> bool:
    return now - snapshot.as_of < _SNAPSHOT_GOOD_FOR


def _draining() -> UnavailableError:
    return UnavailableError("the process ends", reason="DRAINING")
