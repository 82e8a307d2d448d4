"""Tells breaches at once: to the log, and to the database, where they are kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from control_plane.breaches import store
from control_plane.breaches.model import Breach, Kind
from control_plane.canary import BreachError
from control_plane.errors import UnavailableError
from control_plane.ids import new_uuid
from control_plane.postgres.database import Database
from control_plane.serving.call import Call

_RETRY: Final = timedelta(milliseconds=200)
# Of one process. A hole through which thousands of kinds come is told by the first of them.
_MOST_KINDS: Final = 1_000

_log: Final = structlog.get_logger("breaches")


class Breaches:
    """Takes note of breaches, and writes them while `run` runs. The same kind is one breach, with a count."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] | None = None) -> None:
        """Write to the registry."""
        self._database = database
        self._now = now or (lambda: datetime.now(UTC))
        # The last counting of each kind, so that what comes again is added to it.
        self._known: OrderedDict[Kind, UUID] = OrderedDict()
        self._unwritten: dict[Kind, Breach] = {}
        self._woken = asyncio.Event()

    def note_call(self, call: Call, error: BreachError) -> None:
        """Note what a call would have let through."""
        self.note(error, method=call.method, request_id=call.request_id)

    def note(self, error: BreachError, *, method: str, request_id: str = "") -> None:
        """Note a breach, and have it written at once. Never blocks."""
        kind = Kind(owner_uid=error.owner_uid, finder_uid=error.finder_uid, channel=error.channel, method=method)
        _log.critical(
            "breach", owner=str(kind.owner_uid), finder=str(kind.finder_uid), channel=kind.channel, method=method
        )
        now = self._now()
        before = self._unwritten.get(kind)
        if before is not None:
            self._unwritten[kind] = replace(before, count=before.count + 1, last_time=now)
            return
        if kind not in self._known:
            self._known[kind] = new_uuid()
            if len(self._known) > _MOST_KINDS:
                self._known.popitem(last=False)
        if len(self._unwritten) < _MOST_KINDS:
            self._unwritten[kind] = Breach(
                id=self._known[kind], kind=kind, count=1, request_id=request_id, first_time=now, last_time=now
            )
        self._woken.set()

    async def run(self) -> None:
        """Write each as it comes, until cancelled; then call `flush` for the rest."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if not await self.flush():
                await asyncio.sleep(_RETRY.total_seconds())
                self._woken.set()

    async def flush(self) -> bool:
        """Write everything that was noted; return whether it is all written."""
        taken, self._unwritten = self._unwritten, {}
        for kind, breach in taken.items():
            try:
                await self._database.system().run(partial(store.add, breach=breach))
            except UnavailableError:
                self._keep(kind, breach)
        return not self._unwritten

    def _keep(self, kind: Kind, breach: Breach) -> None:
        # It may have been written all the same: better told once more than not at all.
        more = self._unwritten.get(kind)
        if more is not None:
            breach = replace(breach, count=breach.count + more.count, last_time=more.last_time)
        self._unwritten[kind] = breach
