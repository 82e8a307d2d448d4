"""Gives entries their places in the chain, after the transactions that wrote them.

A reconciler: it takes no input but hints, reads what is there, and may be killed, repeated, or run beside others at any
moment. What it seals can no longer change its order, and of two sealers at one tenant the second insert fails as a
whole, so the chain has neither a gap nor a fork.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from control_plane.audit import store
from control_plane.audit.model import Chain
from control_plane.errors import ConflictError, UnavailableError
from control_plane.postgres.database import Database, TenantTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement

# Hashing is Python, some 40 µs an entry: larger batches would hold up the calls that this process serves.
_BATCH: Final = 200
# Often enough for an entry to be sealed about a second after its effect.
_ROUND: Final = timedelta(milliseconds=500)
# A touch comes before the commit, and an older transaction holds back what is newer: so look again, ever more seldom.
_FIRST_WAIT: Final = timedelta(seconds=1)
_LONGEST_WAIT: Final = timedelta(seconds=8)
# For the entries whose touch was lost, with the process that made them.
_SWEEP_EVERY: Final = timedelta(minutes=10)
_log: Final = structlog.get_logger("audit.sealer")


Sealed = Callable[[Placement], None]
"""Told whose log has got links: `Notary.touch`. Must not block, must not raise."""


def _nobody_listens(_: Placement) -> None:
    """Leave the log unsigned."""


@dataclass(slots=True, kw_only=True)
class _Dirty:
    placement: Placement
    due_s: float
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one transaction sealed, and whether entries are left, sealable by now or not."""

    sealed: int
    has_more: bool


class Sealer:
    """Seals the logs of all tenants of a cell, as the role `csm_sealer`, while `run` runs."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        *,
        sealed: Sealed = _nobody_listens,
        monotonic_s: Callable[[], float] | None = None,
    ) -> None:
        """Find all tenants in `directory`; tell `sealed` of each log that got links, or may have got some elsewhere."""
        self._sealed = sealed
        self._database = database
        self._directory = directory
        self._monotonic_s = monotonic_s or time.monotonic
        self._dirty: dict[UUID, _Dirty] = {}

    def touch(self, placement: Placement) -> None:
        """Have a look at this tenant's log soon. A hint: what is not touched is found by the sweep."""
        self._dirty[placement.uid] = _Dirty(
            placement=placement, due_s=self._monotonic_s(), wait_s=_FIRST_WAIT.total_seconds()
        )

    async def run(self) -> None:
        """Seal until cancelled. Outlives every fault, and logs it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_rounds())
            group.create_task(self._run_sweeps())

    async def round(self) -> None:
        """Seal what is due of the touched tenants."""
        now_s = self._monotonic_s()
        for dirty in [dirty for dirty in self._dirty.values() if dirty.due_s <= now_s]:
            has_more = await self._try(dirty.placement)
            if self._dirty.get(dirty.placement.uid) is not dirty:
                # Touched again meanwhile.
                continue
            dirty.due_s = now_s + dirty.wait_s
            dirty.wait_s *= 2
            if dirty.wait_s > _LONGEST_WAIT.total_seconds():
                if not has_more:
                    del self._dirty[dirty.placement.uid]
                dirty.wait_s = _LONGEST_WAIT.total_seconds()

    async def sweep(self) -> None:
        """Seal what can be sealed of every tenant."""
        async for placement in self._directory.placements():
            if await self._try(placement):
                self.touch(placement)
            self._sealed(placement)

    async def seal(self, placement: Placement) -> bool:
        """Seal what can be sealed of one tenant. Return whether entries are left, that may not be sealed yet.

        Raises:
            ConflictError: when another sealer is at it; what that one does not finish is left.
        """
        while True:
            progress = await self._database.sealer(placement).run(lambda tx: _seal_batch(tx, placement))
            if progress.sealed:
                self._sealed(placement)
            if not progress.sealed or not progress.has_more:
                return progress.has_more

    async def _try(self, placement: Placement) -> bool:
        try:
            return await self.seal(placement)
        except (ConflictError, UnavailableError) as error:
            _log.info("sealing_put_off", tenant=placement.tenant_id, reason=error.code)
        except Exception:  # noqa: BLE001 one tenant's broken log must not stop the others'
            _log.exception("sealing_failed", tenant=placement.tenant_id)
        return True

    async def _run_rounds(self) -> None:
        while True:
            await self.round()
            await asyncio.sleep(_ROUND.total_seconds())

    async def _run_sweeps(self) -> None:
        while True:
            try:
                await self.sweep()
            except UnavailableError as error:
                _log.warning("sweep_cut_short", reason=error.code)
                await asyncio.sleep(_LONGEST_WAIT.total_seconds())
                continue
            await asyncio.sleep(_SWEEP_EVERY.total_seconds())


async def _seal_batch(tx: TenantTransaction, placement: Placement) -> Progress:
    chain = Chain(placement.uid, await store.last_seal(tx))
    records = await store.sealable(tx, chain.position, limit=_BATCH)
    if records:
        await store.insert_seals(tx, [chain.extend(record) for record in records])
    return Progress(sealed=len(records), has_more=await store.has_waiting(tx, chain.position))
