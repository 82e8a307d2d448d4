"""One connection to Valkey, which speaks for one user at a time.

Commands for another user than the last begin with RESET, which makes the connection nobody's, and AUTH, all in one
round trip. So where AUTH fails, what follows it is refused: it cannot run as whoever had the connection before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast

from redis.asyncio.connection import UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

Command = Sequence[str | bytes | int]
Reply = bytes | int | None | list["Reply"]

# Answers, which the library counts among the errors of a connection.
_ANSWERS: Final = (ResponseError, AuthenticationError, BusyLoadingError)
_PASSING: Final = (AuthenticationError, BusyLoadingError, OutOfMemoryError)
_FUNCTION_UNKNOWN: Final = "Function not found"
_WRONG_TYPE: Final = "WRONGTYPE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Whom a command is sent as."""

    user: str
    password: str = field(repr=False)


class ConnectionGoneError(Exception):
    """The commands may have been done or not; no answer will come."""


class RefusedError(Exception):
    """Valkey answered a command with an error."""

    def __init__(self, error: RedisError) -> None:
        """Keep what it said."""
        super().__init__(str(error))
        self.is_passing = isinstance(error, _PASSING) or _FUNCTION_UNKNOWN in str(error)
        """Whether it is to be expected: the user or the functions are not there yet, or memory is short."""
        self.is_forbidden = isinstance(error, NoPermissionError)
        """Whether the user may not do that, or not there."""
        self.is_wrong_type = str(error).startswith(_WRONG_TYPE)
        """Whether something else is where the functions keep what they know."""


def strings(*replies: Reply) -> list[str]:
    """Return every string in replies, however deep, but for the empty ones. What is no UTF-8 is no name of ours."""
    found: list[str] = []
    for reply in replies:
        if isinstance(reply, list):
            found += strings(*reply)
        elif isinstance(reply, bytes) and reply:
            found.append(reply.decode(errors="replace"))
    return found


class Connection:
    """Used by one caller at a time, and given up after a failure: a late answer must not become somebody else's."""

    def __init__(self, link: UnixDomainSocketConnection) -> None:
        """Take over a connection that is open."""
        self._link = link
        self.user: str | None = None
        """As whom Valkey takes what comes next; None is nobody."""

    @classmethod
    async def open(cls, socket: Path) -> Self:
        """Connect; nothing is sent yet.

        Raises:
            ConnectionGoneError: nobody listens.
        """
        link = UnixDomainSocketConnection(path=str(socket), protocol=2, driver_info=None, socket_timeout=None)
        try:
            await link.connect()  # type: ignore[no-untyped-call]  # the library does not annotate it
        except (RedisError, OSError) as error:
            raise ConnectionGoneError from error
        return cls(link)

    async def call(self, login: Login, *commands: Command) -> list[Reply | RefusedError]:
        """Send commands as that user, in one round trip; return what each was answered.

        Where the user is not known, or its password is another, all are refused.

        Raises:
            ConnectionGoneError: the connection broke.
        """
        entrance: list[Command] = []
        if self.user != login.user:
            self.user = None
            entrance = [("RESET",), ("AUTH", login.user, login.password)]
        try:
            await self._link.send_packed_command(self._link.pack_commands([*entrance, *commands]), check_health=False)
            answers = [await self._answer() for _ in (*entrance, *commands)]
        except (RedisError, OSError) as error:
            raise ConnectionGoneError from error
        if entrance and answers[1] == b"OK":
            self.user = login.user
        return answers[len(entrance) :]

    async def close(self) -> None:
        """Give the connection up."""
        await self._link.disconnect(nowait=True)

    async def _answer(self) -> Reply | RefusedError:
        try:
            answer: Any = await self._link.read_response(disconnect_on_error=False)
        except _ANSWERS as error:
            return RefusedError(error)
        return cast("Reply", answer)
