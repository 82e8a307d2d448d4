"""The handle that is bound to a tenant: without it, nothing reaches the cache.

A value is sealed under a key that only its tenant has, for its name. Whatever else lies in its place (another tenant's
value, another name's, an altered one, another type) is told as an event, thrown away, and counts as a miss.
"""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import structlog

from control_plane.cache.acl import User, tenant_user
from control_plane.cache.connection import Login, RefusedError, Reply
from control_plane.cache.model import (
    LARGEST_VALUE,
    CacheKeys,
    Shares,
    Usage,
    checked_lifetime,
    checked_name,
    digest,
    key_prefix,
    open_value,
    seal_value,
)
from control_plane.cache.pool import AwayError, Pool
from control_plane.errors import UnavailableError
from control_plane.keys.model import NONCE_BYTES, IntegrityError, MissingKeyError
from control_plane.postgres.placement import Placement

LIBRARY: Final = Path(__file__).with_name("cache.lua")
"""The functions that have to be in Valkey; `reconciler.py` brings them there."""
_VALUES_LABEL: Final = b"cache 1"
_NAMES_LABEL: Final = b"cache names 1"
_SHARED: Final = frozenset({"cache_get", "cache_put", "cache_usage"})
UNITS_PER_SECOND: Final = 500
"""Of one tenant in one process: more than its callers get served, and a thirtieth of the server's time."""
_MILLISECOND: Final = timedelta(milliseconds=1)

Derive = Callable[[Placement, bytes], Awaitable[bytes]]
"""Gives 32 secret bytes for a label, that only the tenant has: `TenantKeys.derive`."""

_log: Final = structlog.get_logger("cache")


def login(user: User) -> Login:
    """Return how that user logs in."""
    return Login(user=user.name, password=user.password)


def root(placement: Placement) -> str:
    """Return the key that each function is given. There is nothing in it: all is below."""
    return f"{key_prefix(placement.tenant_id)}cache"


async def cache_keys(placement: Placement, derive: Derive) -> CacheKeys:
    """Derive the tenant's keys for what it keeps. Raises whatever `derive` does."""
    return CacheKeys(
        values=await derive(placement, _VALUES_LABEL),
        names=await derive(placement, _NAMES_LABEL),
    )


def _size(*arguments: str | bytes | int) -> int:
    return sum(len(argument) for argument in arguments if isinstance(argument, bytes))


class TenantCache:
    """One tenant's cache. Nobody may need it: what cannot be had, for whatever reason, is not there.

    That is so, too, for a tenant that asks for more than its share of the server, `UNITS_PER_SECOND` in this process.

    No method raises for anything that happens to Valkey, to the vault or to the database, nor waits for Valkey longer
    than 150 ms. All raise ValueError for a name that no value can have (`model.checked_name`), and those that have a
    name TenantSealedError for a sealed tenant, whose keys are not to be had.
    """

    def __init__(
        self,
        placement: Placement,
        pool: Pool,
        derive: Derive,
        *,
        shares: Shares,
        user: User,
        clock: Callable[[], datetime],
    ) -> None:
        """Be bound to a tenant; see `Caches`."""
        self._placement = placement
        self._pool = pool
        self._shares = shares
        self._derive = derive
        self._login = login(user)
        self._clock = clock

    async def get(self, name: str) -> bytes | None:
        """Return what this tenant kept under this name, or None."""
        checked_name(name)
        keys = await self._cache_keys()
        if keys is None:
            return None
        found = await self._call("cache_get", digest(keys, name))
        if found is None:
            return None
        if not isinstance(found, bytes):
            self._tell_refused(name, why="another type")
            return None
        try:
            return open_value(keys, found, tenant_uid=self._placement.uid, name=name, now=self._clock())
        except IntegrityError:
            self._tell_refused(name, why="sealed by somebody else, or for another name")
            await self._call("cache_delete", digest(keys, name))
            return None

    async def put(self, name: str, value: bytes, lifetime: timedelta) -> bool:
        """Keep the value, in place of what was there, for `lifetime` at most; what was used longest ago makes room.

        False where it is not kept, and then what was there may be there still. Raises ValueError for a lifetime of less
        than 1 ms or more than a week.
        """
        checked_name(name)
        checked_lifetime(lifetime)
        if len(value) > LARGEST_VALUE:
            await self.delete(name)
            return False
        keys = await self._cache_keys()
        if keys is None:
            return False
        sealed = seal_value(
            keys,
            value,
            tenant_uid=self._placement.uid,
            name=name,
            expires=self._clock() + lifetime,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        kept = await self._call(
            "cache_put", digest(keys, name), sealed, lifetime // _MILLISECOND, self._placement.cache_bytes
        )
        return kept == 1

    async def delete(self, name: str) -> bool:
        """Forget what was kept under this name. False where it may be found still, until its lifetime is over."""
        checked_name(name)
        keys = await self._cache_keys()
        return keys is not None and await self._call("cache_delete", digest(keys, name)) == 1

    async def usage(self) -> Usage | None:
        """Say how full it is, or None where that cannot be told."""
        match await self._call("cache_usage"):
            case [int(taken), int(values)]:
                return Usage(bytes=taken, values=values, limit_bytes=self._placement.cache_bytes)
            case _:
                return None

    async def _cache_keys(self) -> CacheKeys | None:
        try:
            return await cache_keys(self._placement, self._derive)
        except (UnavailableError, MissingKeyError, IntegrityError):
            return None

    async def _call(self, function: str, *arguments: str | bytes | int) -> Reply:
        user, now_s = self._login.user, time.monotonic()
        # What is to be forgotten is not put off.
        if function in _SHARED and not self._shares.has_some(user, now_s):
            return None
        self._shares.note_command(user, now_s, moved=_size(*arguments))
        try:
            answer = await self._pool.call(self._login, "FCALL", function, 1, root(self._placement), *arguments)
        except AwayError:
            return None
        except RefusedError as error:
            if error.is_passing:
                return None
            _log.warning("cache_failed", tenant=self._placement.tenant_id, function=function, why=str(error))
            if error.is_wrong_type and function != "cache_clear":
                await self._call("cache_clear")
            return None
        if isinstance(answer, bytes):
            self._shares.note_answer(user, time.monotonic(), moved=len(answer))
        return answer

    def _tell_refused(self, name: str, *, why: str) -> None:
        _log.warning("cache_refused", tenant=self._placement.tenant_id, name=name, why=why)


class Caches:
    """The caches of all tenants of a cell, each through its own handle. Opened by `open`."""

    def __init__(
        self, pool: Pool, derive: Derive, secret: bytes, *, shares: Shares, clock: Callable[[], datetime]
    ) -> None:
        """Reach Valkey through `pool`, as users whose passwords come from the cell's `secret`."""
        self._pool = pool
        self._shares = shares
        self._derive = derive
        self._secret = secret
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        socket: Path,
        derive: Derive,
        secret: bytes,
        *,
        units_per_second: float = UNITS_PER_SECOND,
        clock: Callable[[], datetime] | None = None,
    ) -> AsyncIterator[Self]:
        """Use the caches in the Valkey behind `socket` until the block ends, whether or not it is there.

        Each tenant has so much of the server; see `Shares`.
        """
        async with Pool.open(socket) as pool:
            shares = Shares(units_per_second)
            yield cls(pool, derive, secret, shares=shares, clock=clock or (lambda: datetime.now(UTC)))

    def of(self, placement: Placement) -> TenantCache:
        """Give the handle to one tenant's cache. Costs nothing.

        Raises:
            ValueError: the placement's id is none that a tenant can have.
        """
        user = tenant_user(placement, self._secret)
        return TenantCache(placement, self._pool, self._derive, shares=self._shares, user=user, clock=self._clock)
