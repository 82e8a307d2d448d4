"""Denied calls: counted in memory, written beside the transactions that they never had.

A denial is told in the log of the caller's own tenant where its credential was verified, never in that of the tenant
it asked for; where no tenant's credential stands behind the call, in `csm_system.denied_calls`. Whoever refuses a call
for a cause that the caller may not read puts it into the error's metadata as `cause`, and into `tenants` the ids,
joined by commas, of those to be told.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from control_plane.audit import store
from control_plane.audit.model import Entry, Outcome, neutral
from control_plane.audit.recorder import Touched
from control_plane.errors import ConflictError, DomainError, PolicyDeniedError, UnavailableError
from control_plane.ids import TenantId, new_uuid
from control_plane.postgres.database import Database, Isolation, SystemTransaction, TenantTransaction
from control_plane.postgres.directory import SEALED, Directory
from control_plane.serving.call import Call
from control_plane.tally import Kind, Tallies, Tally

_EVERY: Final = timedelta(seconds=1)
_log: Final = structlog.get_logger("audit.denials")


class Denials:
    """Takes note of denied calls, and writes them each second while `run` runs."""

    def __init__(
        self, database: Database, directory: Directory, *, touched: Touched, now: Callable[[], datetime] | None = None
    ) -> None:
        """Write with the rights of the tenants' own runtime roles; tell `touched` whose log grows."""
        self._database = database
        self._directory = directory
        self._touched = touched
        self._now = now or (lambda: datetime.now(UTC))
        self._tallies = Tallies()
        # Taken, and perhaps written: written again under the same ids until that is known.
        self._unwritten: dict[UUID, Tally] = {}
        self._flushing = asyncio.Lock()

    def note(self, call: Call, error: DomainError) -> None:
        """Count a denied call. Never blocks; what it costs in memory is bounded whatever callers do."""
        for kind in _kinds(call, error):
            self._tallies.note(kind, request_id=call.request_id, now=self._now())

    async def run(self) -> None:
        """Write what is due, each second, until cancelled; then call `close`."""
        while True:
            await asyncio.sleep(_EVERY.total_seconds())
            await self.flush()

    async def flush(self) -> None:
        """Write what is due. What cannot be written for the moment is kept for the next time."""
        async with self._flushing:
            if not self._unwritten:
                self._unwritten = {new_uuid(): tally for tally in self._tallies.take_due(self._now())}
            await self._write()

    async def close(self) -> None:
        """Write everything that was noted."""
        async with self._flushing:
            self._unwritten |= {new_uuid(): tally for tally in self._tallies.take_all()}
            await self._write()

    async def write(self, tallies: Mapping[UUID, Tally]) -> None:
        """Write what somebody else has counted: each once, however often it comes under the same id.

        Raises:
            UnavailableError, ConflictError: not all is written; it is to come again.
        """
        for tenant, log in _logs(tallies).items():
            await self._write_log(tenant, log)

    async def _write(self) -> None:
        for tenant, log in _logs(self._unwritten).items():
            try:
                await self._write_log(tenant, log)
            except (UnavailableError, ConflictError) as error:
                _log.warning("denials_kept", tenant=tenant, reason=error.code)
                continue
            for tally_id in log:
                del self._unwritten[tally_id]

    async def _write_log(self, tenant: TenantId | None, log: Mapping[UUID, Tally]) -> None:
        """Write into one log. One that is broken must neither stop the others' nor fill the memory: it loses them."""
        try:
            entry = None if tenant is None else await self._directory.find(tenant)
            # What a sealed tenant's own role would write, the database refuses.
            if entry is None or entry.state == SEALED:
                await self._database.system().run(lambda tx: _write_platform(tx, log))
                return
            handle = self._database.tenant(entry.placement, isolation=Isolation.READ_COMMITTED)
            await handle.run(lambda tx: _write_tenant(tx, log))
            self._touched(entry.placement)
        except (UnavailableError, ConflictError):
            raise
        except Exception:  # noqa: BLE001 whatever it is
            _log.exception("denials_lost", tenant=tenant, count=sum(tally.count for tally in log.values()))


def _logs(tallies: Mapping[UUID, Tally]) -> dict[TenantId | None, dict[UUID, Tally]]:
    logs: dict[TenantId | None, dict[UUID, Tally]] = defaultdict(dict)
    for tally_id, tally in tallies.items():
        logs[tally.kind.tenant][tally_id] = tally
    return logs


async def _write_tenant(tx: TenantTransaction, log: Mapping[UUID, Tally]) -> None:
    for tally_id, tally in log.items():
        await store.insert_once(tx, _entry(tally_id, tally))


async def _write_platform(tx: SystemTransaction, log: Mapping[UUID, Tally]) -> None:
    for tally_id, tally in log.items():
        await store.insert_denied_call(tx, tally_id, tally=tally)


def _kinds(call: Call, error: DomainError) -> Iterator[Kind]:
    tenant = call.principal.tenant if call.principal else None
    kind = Kind(
        tenant=tenant,
        actor=neutral(call.actor),
        method=call.method,
        resource=error.resource if isinstance(error, PolicyDeniedError) else call.tenant_name,
        reason=error.metadata.get("cause", error.code),
        peer=_address(call.peer),
    )
    told = [TenantId(name) for name in error.metadata.get("tenants", "").split(",") if name]
    if not told:
        yield kind
    for name in told:
        # What the call named besides is not for those who are merely told.
        yield replace(kind, tenant=name, resource=f"tenants/{name}")


def _address(peer: str) -> str:
    """Leave out the port of `ipv4:192.0.2.1:4711`: each connection has another."""
    scheme, _, rest = peer.partition(":")
    return f"{scheme}:{rest.rpartition(':')[0]}" if scheme in {"ipv4", "ipv6"} else scheme


def _entry(tally_id: UUID, tally: Tally) -> Entry:
    details = {"peer": tally.kind.peer} if tally.kind.peer else {}
    if tally.count > 1:
        details["last_time"] = tally.last_time.isoformat()
    return Entry(
        id=tally_id,
        create_time=tally.first_time,
        actor=tally.kind.actor,
        method=tally.kind.method,
        resource=tally.kind.resource,
        outcome=Outcome.DENIED,
        reason=tally.kind.reason,
        request_id=tally.request_id,
        count=tally.count,
        details=details,
    )
