"""What older versions of a tenant's key for objects have sealed is sealed anew, a part at a time, while all is served.

A part takes about a second, and between two the tenant's neighbours have theirs: an operation that pauses is taken up
again a second later at the soonest, behind all that wait. So a tenant takes half of one of the worker's four places at
most, and as much of the disk, the network and the processor as one object after another does. Where it stopped is kept
after each part; what a killed process has done since is seen by its version, and not done again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog

from control_plane.errors import (
    ConflictError,
    InvalidArgumentError,
    KeyRetiredError,
    NotFoundError,
    PreconditionError,
)
from control_plane.keyring.model import Found, Resealing
from control_plane.keys.model import IntegrityError
from control_plane.keys.service import TenantKeys
from control_plane.objects.paths import ObjectName
from control_plane.objects.store import ObjectStore, TenantObjects
from control_plane.postgres.database import TenantHandle
from control_plane.postgres.placement import Placement
from control_plane.secrets.service import BEFORE_ALL, reseal_versions

_PART: Final = timedelta(seconds=1)
_TOO_LARGE: Final = "OBJECT_TOO_LARGE"

_log: Final = structlog.get_logger("keyring.rotations.resealing")


class Resealer:
    """Goes through what a tenant has stored. Every method raises UnavailableError when that, or the key, is away."""

    def __init__(self, objects: ObjectStore, keys: TenantKeys, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Look into `objects`, and seal with the newest of `keys`."""
        self._objects = objects
        self._keys = keys
        self._clock = clock

    async def begin(self, placement: Placement) -> int:
        """Count the tenant's objects, by their names alone."""
        count = 0
        async for _ in self._objects.of(placement).list():
            count += 1
        return count

    async def objects(self, placement: Placement, so_far: Resealing, *, key_version: int) -> Resealing:
        """Go on for a part: seal anew whatever a version before `key_version` has sealed. Return how far that is.

        Raises:
            PreconditionError: the bucket cannot replace an object safely (`BUCKET_UNCONDITIONAL`).
        """
        own, until = self._objects.of(placement), self._clock() + _PART.total_seconds()
        progress = so_far
        async for name in own.list(after=so_far.after):
            progress = await self._object(own, name, progress, key_version=key_version)
            if self._clock() >= until:
                return progress
        return replace(progress, is_whole=True)

    async def rows(self, tenant: TenantHandle, *, key_version: int) -> tuple[int, bool]:
        """Do the same with the tenant's rows, batch after batch; return how many, and whether those were all."""
        until, after, resealed = self._clock() + _PART.total_seconds(), BEFORE_ALL, 0
        while True:
            count, last = await reseal_versions(tenant, keys=self._keys, key_version=key_version, after=after)
            resealed += count
            if last is None or self._clock() >= until:
                return resealed, last is None
            after = last

    async def _object(
        self, own: TenantObjects, name: ObjectName, progress: Resealing, *, key_version: int
    ) -> Resealing:
        sealed_by = 0
        try:
            sealed_by = await own.sealed_by(name.path, version=name.version)
            if sealed_by >= key_version:
                return progress.past(name, Found.NEW)
            size = await own.reseal(name.path, version=name.version)
        except NotFoundError:
            return progress.past(name, Found.NEW)
        except ConflictError:
            # Whoever wrote it has sealed it, maybe still with an older version: the next look says so.
            return progress.past(name, Found.OLD)
        except (IntegrityError, InvalidArgumentError, KeyRetiredError) as error:
            # Nothing opens it as it is, nor is anything sealed by what is about to be retired.
            _log.warning("object_not_resealed", path=name.path, version=name.version, why=str(error))
            return progress.past(name, Found.SHUT)
        except PreconditionError as error:
            if error.code != _TOO_LARGE:
                raise
            _log.warning("object_not_resealed", path=name.path, version=name.version, why=error.message)
            return progress.past(name, Found.KEPT, sealed_by=sealed_by)
        return progress.past(name, Found.OLD, size=size)
