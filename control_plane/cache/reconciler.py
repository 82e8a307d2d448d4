"""Sees to it that Valkey knows each tenant, and nobody else.

Users are soft state: Valkey begins with the platform's own, whatever there was before. So each pass reads who is there,
and then the whole registry, and makes the one like the other. It depends on nothing that was done before, may run any
number of times and in several processes at once, and is over in a second for ten thousand tenants. A pass follows the
start, each loss of Valkey, each hint, and each half a minute.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

import structlog

from control_plane.cache.acl import PLATFORM, User, control_plane_user, tenant_user
from control_plane.cache.connection import Command, Connection, ConnectionGoneError, RefusedError, Reply, strings
from control_plane.cache.handles import LIBRARY, login
from control_plane.cache.users import CacheUsers
from control_plane.errors import UnavailableError
from control_plane.postgres.placement import Placement

_EVERY: Final = timedelta(seconds=30)
# Whether those that are there may do what they ought to is not asked, which takes Valkey long, but said again.
_WHOLE_EVERY: Final = timedelta(minutes=10)
# So soon a loss is noticed. Nobody waits for it: whoever comes meanwhile has a miss.
_LOOK_EVERY: Final = timedelta(milliseconds=250)
_RETRY_S: Final = (0.1, 0.2)
_ANSWERS_WITHIN: Final = timedelta(seconds=2)
# Valkey serves others in between.
_AT_A_TIME: Final = 100
_LIBRARY_NAME: Final = "bulkhead_cache"

_log: Final = structlog.get_logger("cache.reconciler")

Everyone = Callable[[], AsyncIterator[Placement]]
"""Goes through all tenants of the registry, in whatever state. Raises UnavailableError."""


class Reconciler:
    """Keeps Valkey's users like the registry, as long as `run` runs. Opened by `open`."""

    def __init__(self, socket: Path, secret: bytes, everyone: Everyone, *, users: CacheUsers) -> None:
        """Reach the Valkey behind `socket` as the control plane, whose password comes from the cell's `secret`."""
        self.users: Final = users
        """For whoever cannot wait for the next pass."""
        self._socket = socket
        self._secret = secret
        self._everyone = everyone
        self._login = login(control_plane_user(secret))
        self._library = LIBRARY.read_text()
        self._hinted = asyncio.Event()
        self._is_away = False
        # When all users were last told what they may; None where Valkey may have forgotten it since.
        self._whole_at_s: float | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, socket: Path, secret: bytes, everyone: Everyone) -> AsyncIterator[Self]:
        """Use the Valkey behind `socket` until the block ends, whether or not it is there."""
        async with CacheUsers.open(socket, secret) as users:
            yield cls(socket, secret, everyone, users=users)

    def hint(self) -> None:
        """Say that something may be otherwise than it ought to be."""
        self._hinted.set()

    async def run(self) -> None:
        """Reconcile until cancelled, through every loss of Valkey and of the database."""
        while True:
            try:
                async with asyncio.timeout(_ANSWERS_WITHIN.total_seconds()):
                    connection = await Connection.open(self._socket)
                try:
                    await self._keep(connection)
                finally:
                    await connection.close()
            except (ConnectionGoneError, RefusedError, TimeoutError) as error:
                self._whole_at_s = None
                self._say_away(error)
                await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 replicas are to come one by one, no secret
            except UnavailableError as error:
                self._say_away(error)
                await asyncio.sleep(_LOOK_EVERY.total_seconds())

    async def _keep(self, connection: Connection) -> None:
        """Reconcile as long as the connection lives: another one may lead to another Valkey."""
        while True:
            self._hinted.clear()
            await self.reconcile(connection)
            self._say_there()
            await self._wait(connection)

    async def reconcile(self, connection: Connection) -> None:
        """Bring the functions, make the users that are missing, and remove those that are strange.

        Raises:
            ConnectionGoneError, TimeoutError: Valkey is away.
            RefusedError: it does not let the control plane do that.
            UnavailableError: the database is away.
        """
        is_whole = self._whole_at_s is None or time.monotonic() - self._whole_at_s > _WHOLE_EVERY.total_seconds()
        await self._bring_functions(connection)
        # Before the registry: of who is there and then not in the registry, nothing can be in the making.
        there = await self._names(connection)
        wanted: set[str] = set()
        missing: list[User] = []
        async for placement in self._everyone():
            try:
                user = tenant_user(placement, self._secret)
            except ValueError as error:
                # No pattern may be made of it; the others are let in all the same.
                _log.error("cache_user_impossible", uid=str(placement.uid), why=str(error))
                continue
            wanted.add(user.name)
            if is_whole or user.name not in there:
                missing.append(user)
        strange = sorted(there - wanted - PLATFORM)
        await self._send(connection, [("ACL", "SETUSER", user.name, *user.rules) for user in missing])
        await self._send(connection, [("ACL", "DELUSER", name) for name in strange])
        if is_whole:
            self._whole_at_s = time.monotonic()
        made = {user.name for user in missing} - there
        if made or strange:
            _log.info("cache_users", made=len(made), removed=len(strange), tenants=len(wanted))

    async def _bring_functions(self, connection: Connection) -> None:
        (libraries,) = await self._send(connection, [("FUNCTION", "LIST", "LIBRARYNAME", _LIBRARY_NAME, "WITHCODE")])
        if self._library in strings(libraries):
            return
        try:
            await self._send(connection, [("FUNCTION", "LOAD", "REPLACE", self._library)])
        except RefusedError as error:
            if not error.is_passing:
                raise
            # Memory is short. It is no reason to keep tenants out, nor those in whom nobody knows any more.
            _log.warning("cache_functions_refused", why=str(error))
        else:
            _log.info("cache_functions_loaded")

    async def _names(self, connection: Connection) -> set[str]:
        (names,) = await self._send(connection, [("ACL", "USERS")])
        return set(strings(names))

    async def _send(self, connection: Connection, commands: Sequence[Command]) -> list[Reply]:
        """Send them some at a time; raise the first refusal."""
        replies: list[Reply] = []
        for first in range(0, len(commands), _AT_A_TIME):
            async with asyncio.timeout(_ANSWERS_WITHIN.total_seconds()):
                for reply in await connection.call(self._login, *commands[first : first + _AT_A_TIME]):
                    if isinstance(reply, RefusedError):
                        raise reply
                    replies.append(reply)
        return replies

    async def _wait(self, connection: Connection) -> None:
        """Return when the next pass is due. Raises ConnectionGoneError or TimeoutError once Valkey is away."""
        due_s = time.monotonic() + _EVERY.total_seconds()
        while time.monotonic() < due_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY.total_seconds()):
                    await self._hinted.wait()
                    return
            await self._send(connection, [("PING",)])

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            _log.warning("cache_unkept", why=repr(error))
        self._is_away = True

    def _say_there(self) -> None:
        if self._is_away:
            _log.info("cache_kept")
        self._is_away = False
