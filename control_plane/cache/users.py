"""The tenants' users in Valkey, made and removed one by one. `reconciler.py` sees to it that there are all of them."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import structlog

from control_plane.cache.acl import User, control_plane_user, tenant_user
from control_plane.cache.connection import Login, RefusedError, Reply
from control_plane.cache.handles import login, root
from control_plane.cache.pool import AwayError, Pool
from control_plane.errors import UnavailableError
from control_plane.postgres.placement import Placement

_PASSWORD_BYTES: Final = 32
_MORE: Final = 1

_log: Final = structlog.get_logger("cache.users")


class CacheUsers:
    """Makes and removes tenants' users, with the rights of the control plane. Opened by `open`."""

    def __init__(self, pool: Pool, secret: bytes) -> None:
        """Reach Valkey through `pool`; all passwords come from the cell's `secret`."""
        self._pool = pool
        self._secret = secret
        self._login = login(control_plane_user(secret))

    @classmethod
    @asynccontextmanager
    async def open(cls, socket: Path, secret: bytes) -> AsyncIterator[Self]:
        """Use the Valkey behind `socket` until the block ends, whether or not it is there."""
        async with Pool.open(socket) as pool:
            yield cls(pool, secret)

    async def make(self, placement: Placement) -> None:
        """Let the tenant into its part of Valkey. Safe to call again.

        Raises:
            UnavailableError: it cannot be told whether it is let in.
        """
        await self._set(tenant_user(placement, self._secret))

    async def remove(self, placement: Placement) -> None:
        """Shut the tenant out, whatever it is doing, and remove all that it has kept. Safe to call again.

        Raises:
            UnavailableError: something may be left.
        """
        user = tenant_user(placement, self._secret)
        # Closes its connections, so that nobody adds anything; what is left is removed under a password of the moment.
        await self._call(self._login, "ACL", "DELUSER", user.name)
        cleaner = replace(user, password=secrets.token_hex(_PASSWORD_BYTES))
        await self._set(cleaner)
        while await self._call(login(cleaner), "FCALL", "cache_clear", "1", root(placement)) == _MORE:
            continue
        await self._call(self._login, "ACL", "DELUSER", user.name)

    async def knows(self, placement: Placement) -> bool:
        """Say whether the tenant is let in. Raises UnavailableError where that cannot be told."""
        return await self._call(self._login, "ACL", "GETUSER", tenant_user(placement, self._secret).name) is not None

    async def _set(self, user: User) -> None:
        await self._call(self._login, "ACL", "SETUSER", user.name, *user.rules)

    async def _call(self, who: Login, *command: str) -> Reply:
        try:
            return await self._pool.call(who, *command)
        except AwayError:
            raise UnavailableError("Valkey is away", reason="CACHE_UNAVAILABLE") from None
        except RefusedError as error:
            _log.warning("valkey_refused", command=command[0], why=str(error))
            raise UnavailableError("Valkey refuses", reason="CACHE_UNAVAILABLE") from error
