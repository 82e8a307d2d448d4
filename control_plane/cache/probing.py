"""Tries what a tenant's user can do in Valkey that it must not, and reads what every user may.

Whatever is tried does no harm where it is let through: it reads, or it writes only where there is something already,
under names that nobody has. So nothing of others is changed.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from control_plane.cache.acl import (
    CONTROL_PLANE,
    DEFAULT,
    EDGE,
    NO_RIGHTS,
    PLATFORM,
    Rights,
    control_plane_user,
    edge_user,
    tenant_user,
)
from control_plane.cache.connection import Command, Connection, ConnectionGoneError, Login, RefusedError, Reply, strings
from control_plane.cache.handles import Caches, Derive, cache_keys, login, root
from control_plane.cache.model import digest, key_prefix
from control_plane.cache.reconciler import Everyone
from control_plane.errors import UnavailableError
from control_plane.ids import TenantId
from control_plane.postgres.placement import Placement

_ABSENT: Final = "probe"
_FIRST_NAME: Final = "isolation/probe"
_SECOND_NAME: Final = "isolation/moved"
_TEXT: Final = b"isolation probe"
_LIFETIME: Final = timedelta(minutes=1)
# Valkey serves others in between.
_AT_A_TIME: Final = 100
_WAYS_OUT: Final[Sequence[Command]] = (
    ("ACL", "WHOAMI"),
    ("ACL", "LIST"),
    ("CLIENT", "LIST"),
    ("CONFIG", "GET", "maxmemory"),
    ("DBSIZE",),
    ("EVAL", "return 1", 0),
    ("FUNCTION", "LIST"),
    ("INFO", "keyspace"),
    ("OBJECT", "HELP"),
    ("PUBLISH", _ABSENT, _ABSENT),
    ("PUBSUB", "CHANNELS"),
    ("RANDOMKEY",),
    ("SCAN", 0, "COUNT", 1),
    ("SELECT", 1),
)


class Prober:
    """Asks Valkey as whoever is in question. Opened by `open`."""

    def __init__(self, socket: Path, derive: Derive, secret: bytes, *, caches: Caches) -> None:
        """Reach the Valkey behind `socket` as users whose passwords come from the cell's `secret`."""
        self._socket = socket
        self._derive = derive
        self._secret = secret
        self._caches = caches

    @classmethod
    @asynccontextmanager
    async def open(cls, socket: Path, derive: Derive, secret: bytes) -> AsyncIterator[Self]:
        """Probe the Valkey behind `socket` until the block ends, whether or not it is there."""
        async with Caches.open(socket, derive, secret) as caches:
            yield cls(socket, derive, secret, caches=caches)

    async def foreign_keys(self, own: Placement, other: TenantId) -> list[str]:
        """Try each kind of command on another tenant's keys; return those that are let through.

        Raises:
            UnavailableError: Valkey is away, or does not know the tenant's user yet.
        """
        # By the first word alone: the key's name is another tenant's.
        return [f"{command[0]!s} is let through" for command in await self._let_through(own, _on_keys_of(other))]

    async def ways_out(self, own: Placement) -> list[str]:
        """Try what shows others' names, or leads to another user or database; return what is let through.

        Raises:
            UnavailableError: as above.
        """
        return [f"{' '.join(map(str, way))} is let through" for way in await self._let_through(own, _WAYS_OUT)]

    async def moved(self, own: Placement) -> bool:
        """Put what was sealed for one name in another one's place; say whether it is taken for that one's.

        Raises:
            UnavailableError: as above; or nothing can be kept, or the tenant's key is out of reach.
        """
        cache, keys = self._caches.of(own), await cache_keys(own, self._derive)
        try:
            if not await cache.put(_FIRST_NAME, _TEXT, _LIFETIME) or not await cache.put(_SECOND_NAME, b"", _LIFETIME):
                raise UnavailableError("nothing can be kept")
            first, second = (f"{root(own)}:v:{digest(keys, name).decode()}" for name in (_FIRST_NAME, _SECOND_NAME))
            async with self._connection() as connection:
                (sealed,) = await _answers(connection, self._tenant(own), ("GET", first))
                if not isinstance(sealed, bytes):
                    raise UnavailableError("it was not kept for long enough")
                await _answers(connection, self._tenant(own), ("SET", second, sealed, "XX", "KEEPTTL"))
            return await cache.get(_SECOND_NAME) is not None
        finally:
            await cache.delete(_FIRST_NAME)
            await cache.delete(_SECOND_NAME)

    async def strange_rights(self, everyone: Everyone) -> tuple[int, list[str]]:
        """Hold what each user may against what it ought to; return how many tenants' there are, and what differs.

        As each tenant's keys are those below a prefix that is no other's and begins no other's, users that are as they
        ought to be are apart, for all pairs.

        Raises:
            UnavailableError: Valkey or the database is away.
        """
        async with self._connection() as connection:
            # Before the registry: whoever is there and then not in the registry is nobody's.
            names = strings(*await _answers(connection, self._control_plane, ("ACL", "USERS")))
            wanted = {
                DEFAULT: NO_RIGHTS,
                EDGE: Rights.of(edge_user(self._secret)),
                CONTROL_PLANE: Rights.of(control_plane_user(self._secret)),
            }
            async for placement in everyone():
                wanted[str(placement.uid)] = Rights.of(tenant_user(placement, self._secret))
            strange: list[str] = []
            for first in range(0, len(names), _AT_A_TIME):
                some = names[first : first + _AT_A_TIME]
                asked = [("ACL", "GETUSER", name) for name in some]
                for name, told in zip(some, await _answers(connection, self._control_plane, *asked), strict=True):
                    # Whoever was removed meanwhile is told as nothing.
                    if told is not None and _rights(told) != wanted.get(name):
                        strange.append(f"the user {name} may do what it ought not to")
        return len(set(names) - PLATFORM), strange

    async def _let_through(self, own: Placement, commands: Sequence[Command]) -> list[Command]:
        """Send commands as the tenant's user; return those that it is not forbidden."""
        async with self._connection() as connection:
            # Whoever is not even let in here would be refused anything.
            await _answers(connection, self._tenant(own), ("FCALL", "cache_usage", 1, root(own)))
            answers = await _call(connection, self._tenant(own), *commands)
        return [
            command
            for command, answer in zip(commands, answers, strict=True)
            if not (isinstance(answer, RefusedError) and answer.is_forbidden)
        ]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Connect for this question alone: what is tried on it must not become somebody else's."""
        try:
            connection = await Connection.open(self._socket)
        except ConnectionGoneError:
            raise _away() from None
        try:
            yield connection
        finally:
            await connection.close()

    def _tenant(self, placement: Placement) -> Login:
        return login(tenant_user(placement, self._secret))

    @property
    def _control_plane(self) -> Login:
        return login(control_plane_user(self._secret))


def _on_keys_of(other: TenantId) -> list[Command]:
    key = f"{key_prefix(other)}{_ABSENT}"
    return [
        ("GET", key),
        ("SET", key, "", "XX"),
        ("DEL", key),
        ("HGET", key, _ABSENT),
        ("HDEL", key, _ABSENT),
        ("PEXPIREAT", key, 1),
        ("ZADD", key, "XX", 0, _ABSENT),
        ("ZCARD", key),
        ("ZRANGE", key, 0, 0),
        ("ZREM", key, _ABSENT),
        ("ZSCORE", key, _ABSENT),
        ("MEMORY", "USAGE", key),
        ("FCALL", "cache_usage", 1, f"{key_prefix(other)}cache"),
        ("FCALL", "cache_get", 1, f"{key_prefix(other)}cache", _ABSENT),
    ]


async def _call(connection: Connection, who: Login, *commands: Command) -> list[Reply | RefusedError]:
    try:
        return await connection.call(who, *commands)
    except ConnectionGoneError:
        raise _away() from None


async def _answers(connection: Connection, who: Login, *commands: Command) -> list[Reply]:
    """Return what commands are answered that must be let through."""
    replies: list[Reply] = []
    for answer in await _call(connection, who, *commands):
        if isinstance(answer, RefusedError):
            raise UnavailableError("Valkey refuses", reason="CACHE_UNAVAILABLE") from answer
        replies.append(answer)
    return replies


def _rights(told: Reply) -> Rights:
    """Read `ACL GETUSER`: names and what they are, by turns."""
    parts = told if isinstance(told, list) else []
    named = {strings(name)[0]: strings(value) for name, value in zip(parts[::2], parts[1::2], strict=True)}
    return Rights.told(named)


def _away() -> UnavailableError:
    return UnavailableError("Valkey is away", reason="CACHE_UNAVAILABLE")
