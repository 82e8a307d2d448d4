"""A few connections to Valkey that all tenants of a process share, and what is done while it is away: nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

import structlog

from control_plane.cache.connection import Command, Connection, ConnectionGoneError, Login, RefusedError, Reply
from control_plane.cache.model import Outage

# What is kept is quickly made again: nobody waits for it longer than for that.
_ANSWERS_WITHIN: Final = timedelta(milliseconds=100)
_TURN_WITHIN: Final = timedelta(milliseconds=50)
_HELD_UP: Final = timedelta(milliseconds=20)
_PAUSE: Final = timedelta(milliseconds=250)
_MOST: Final = 8
# A tenant that asks for a thousand things at once leaves room for others, here and in the server's queue.
_MOST_OF_ONE: Final = 2

_log: Final = structlog.get_logger("cache")


class AwayError(Exception):
    """Valkey does not answer, or did not a moment ago; or the tenant asks for too much at once."""


@dataclass(slots=True)
class _Turns:
    """A user's share of the connections, and how many of its commands are under way or wait for them."""

    share: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_OF_ONE))
    commands: int = 0


class Pool:
    """Sends commands as whoever they are for. Nobody waits for longer than 150 ms, nor holds others up."""

    def __init__(self, socket: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Talk to the Valkey behind `socket`; see `open`."""
        self._socket = socket
        self._clock = clock
        self._turn_within_s = _TURN_WITHIN.total_seconds()
        self._patience_s = _ANSWERS_WITHIN.total_seconds()
        self._outage = Outage(_PAUSE)
        self._free = asyncio.Semaphore(_MOST)
        # Of those who have anything under way.
        self._turns: dict[str, _Turns] = {}
        # Those that nobody uses; the one that was used last stands last.
        self._idle: list[Connection] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, socket: Path) -> AsyncIterator[Self]:
        """Use the pool until the block ends, whether or not Valkey is there."""
        pool = cls(socket)
        try:
            yield pool
        finally:
            await pool.close()

    async def call(self, login: Login, *command: str | bytes | int) -> Reply:
        """Send a command, which MUST be one that can be sent twice.

        Raises:
            AwayError: it cannot be told whether it was done; at once where Valkey is known to be away.
            RefusedError: Valkey does not know the user, or does not do what it wants.
        """
        if self._outage.is_on(self._clock()):
            raise AwayError
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(self._turn_within_s):
                    await turn.enter_async_context(self._turn(login.user))
                    await turn.enter_async_context(self._free)
            except TimeoutError:
                # Whoever has not had its turn knows nothing of the server.
                raise AwayError from None
            if not self._outage.is_worth_asking(self._clock()):
                raise AwayError
            answer = await self._answer(login, command)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    async def close(self) -> None:
        """Close what nobody uses."""
        while self._idle:
            await self._idle.pop().close()

    async def _answer(self, login: Login, command: Command) -> Reply | RefusedError:
        limit = asyncio.timeout(self._patience_s)
        try:
            async with limit:
                answer = await self._ask(login, command)
        except (ConnectionGoneError, TimeoutError):
            if not _was_held_up(limit) and self._outage.begin(self._clock()):
                _log.warning("valkey_lost")
            await self.close()
            raise AwayError from None
        if self._outage.end():
            _log.info("valkey_found")
        return answer

    @asynccontextmanager
    async def _turn(self, user: str) -> AsyncIterator[None]:
        """Have the user's other commands wait where it has its share of the connections."""
        turns = self._turns.setdefault(user, _Turns())
        turns.commands += 1
        try:
            async with turns.share:
                yield
        finally:
            turns.commands -= 1
            if not turns.commands:
                del self._turns[user]

    async def _ask(self, login: Login, command: Command) -> Reply | RefusedError:
        if (kept := self._take(login.user)) is not None:
            try:
                return await self._ask_on(kept, login, command)
            except ConnectionGoneError:
                # Closed while nobody used it: its user was removed, or Valkey was started again.
                pass
        return await self._ask_on(await Connection.open(self._socket), login, command)

    async def _ask_on(self, connection: Connection, login: Login, command: Command) -> Reply | RefusedError:
        try:
            (answer,) = await connection.call(login, command)
        except BaseException:
            # Also where the caller is gone: the answer that it does not wait for is not for the next one.
            await connection.close()
            raise
        self._idle.append(connection)
        return answer

    def _take(self, user: str) -> Connection | None:
        """Take the connection that was this user's last, or else the one that was not used for longest."""
        for connection in reversed(self._idle):
            if connection.user == user:
                self._idle.remove(connection)
                return connection
        return self._idle.pop(0) if self._idle else None


def _was_held_up(limit: asyncio.Timeout) -> bool:
    """Whether our own loop had no time to look for the answer: then it may have been there all along."""
    ended_s = limit.when()
    late_s = 0.0 if ended_s is None else asyncio.get_running_loop().time() - ended_s
    return late_s > _HELD_UP.total_seconds()
