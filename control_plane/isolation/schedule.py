"""Has every tenant verified each day, and a new one at once; in whichever replica comes first."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from control_plane.errors import DomainError
from control_plane.isolation import store
from control_plane.isolation.service import Verifier
from control_plane.keys.platform import PlatformKeys
from control_plane.postgres.database import Database
from control_plane.postgres.directory import Directory, Entry

_EVERY: Final = timedelta(seconds=10)
# For whom a replica that died was at work, and for whom not everything passed.
_AGAIN: Final = timedelta(minutes=10)
# Less than a day, so that no day is without one though each comes a little late; by up to an hour less, so that tenants
# of one morning do not all come at once for ever.
_DAILY: Final = timedelta(hours=23, minutes=30)
_SPREAD: Final = timedelta(hours=1)
# A fourth of one core at most: 100,000 tenants take less than a day.
_REST: Final = 3

_log: Final = structlog.get_logger("isolation")


class Schedule:
    """Verifies whoever is due, one tenant after another, while `run` runs."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        *,
        verifier: Verifier,
        keys: PlatformKeys,
        random: Callable[[], float],
    ) -> None:
        """Keep the times in the registry; `random` is from 0 up to 1."""
        self._keys = keys
        self._database = database
        self._directory = directory
        self._verifier = verifier
        self._random = random

    async def run(self) -> None:
        """Verify whoever is due, until cancelled. What goes wrong is logged, and tried again."""
        while True:
            try:
                # Made the first time, so that no caller waits for it.
                await self._keys.attestation_signer()
                begun = time.monotonic()
                is_somebody_due = await self.verify_next()
                rest_s = _REST * (time.monotonic() - begun) if is_somebody_due else _EVERY.total_seconds()
            except DomainError as error:
                _log.warning("verification_put_off", reason=error.code)
                rest_s = _EVERY.total_seconds()
            await asyncio.sleep(rest_s)

    async def verify_next(self) -> bool:
        """Verify the tenant that is due for longest; tell whether there was one.

        Raises:
            DomainError: it could not be verified now, and comes again in ten minutes.
        """
        system = self._database.system()
        taken = await system.run(partial(store.take_due, put_off=_AGAIN))
        if taken is None:
            await system.run(store.enrol)
            taken = await system.run(partial(store.take_due, put_off=_AGAIN))
        entry = await self._directory.find_uid(taken) if taken is not None else None
        if entry is None:
            return False
        await self._verify(entry)
        return True

    async def _verify(self, entry: Entry) -> None:
        system = self._database.system()
        attestation = await self._verifier.verify_tenant(entry.placement, system)
        if attestation.passed:
            later = _DAILY - _SPREAD * self._random()
            await system.run(partial(store.put_off, tenant_uid=entry.placement.uid, by=later))
