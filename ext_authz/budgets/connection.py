"""One connection to Valkey for many small commands, each answered by one line.

A client library spends ten times what the command itself costs. Here, an answer is a line that is handed to whoever
waits longest, and a command goes out at once where none is on its way, else with all that come until the last one is
answered: the busier the worker, the fewer its writes and reads. A server that says nothing for a tenth of a second
counts as gone, and the connection is given up as a whole: nobody waits any more for what it may still answer.
"""

import asyncio
from collections import deque
from typing import Final, cast

from typing_extensions import override

_END: Final = b"\r\n"
_TICK_S: Final = 0.05
# Ticks rather than a deadline: while the loop itself is held up, they are too, and answers are read between them.
_SILENT_TICKS: Final = 3


class ConnectionGoneError(Exception):
    """The command may have been done or not; no answer will come."""


class LineConnection(asyncio.Protocol):
    """Sends commands, and returns each one's line. Used by one event loop."""

    def __init__(self) -> None:
        """Wait to be connected by `loop.create_unix_connection`."""
        self._loop: Final = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []
        # Who waits, and since which tick; in the order of the commands.
        self._waiting: deque[tuple[asyncio.Future[bytes], int]] = deque()
        self._rest = b""
        self._ticks = 0
        # At which tick something was last heard: a server that answers one after the other is not silent.
        self._heard = 0
        self._is_ticking = False
        self.gone: Final[asyncio.Future[None]] = self._loop.create_future()
        """Done once the connection is no more."""

    def send(self, command: bytes) -> asyncio.Future[bytes]:
        """Send a command, as written by `packed`; the future is its line.

        Raises:
            ConnectionGoneError: at once where there is no connection any more; else from the future.
        """
        if self.gone.done():
            raise ConnectionGoneError
        if not self._waiting:
            # Not now: others may ask in the same turn of the loop.
            self._loop.call_soon(self._flush)
        self._unsent.append(command)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append((answer, self._ticks))
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(_TICK_S, self._tick)
        return answer

    def close(self) -> None:
        """Give the connection up; whoever waits is told."""
        if self.gone.done():
            return
        self.gone.set_result(None)
        if self._transport is not None:
            self._transport.abort()
        self._unsent.clear()
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ConnectionGoneError())

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(_END)
        if lines:
            self._heard = self._ticks
        for line in lines:
            if not self._waiting:
                self.close()
                return
            answer, _ = self._waiting.popleft()
            # Whoever asked may have gone.
            if not answer.done():
                answer.set_result(line)
        if len(self._waiting) == len(self._unsent):
            self._flush()

    @override
    def connection_lost(self, _exc: Exception | None) -> None:
        self.close()

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _tick(self) -> None:
        self._ticks += 1
        if self._waiting and self._ticks - max(self._waiting[0][1], self._heard) >= _SILENT_TICKS:
            self.close()
        self._is_ticking = bool(self._waiting)
        if self._is_ticking:
            self._loop.call_later(_TICK_S, self._tick)


def packed(*words: bytes) -> bytes:
    """Write a command as Valkey reads it (RESP)."""
    return b"*%d\r\n%b" % (len(words), bulk(*words))


def bulk(*words: bytes) -> bytes:
    """Write some of a command's words."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
