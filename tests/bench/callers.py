"""Those who call as fast as they are answered: requests rendered before, answers read no further than is needed.

A library would spend more on a request than what is measured does. What is left costs this process some 15 µs for each
request, on a core that it shares with nobody it measures, where there is more than one.
"""

import asyncio
import itertools
import re
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from typing_extensions import override

_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_ADMITTED: Final = b"HTTP/1.1 200 "

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD: Final = 9
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK: Final = 1
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_FIRST_WINDOW: Final = 65_535
_CHECK: Final = b"/envoy.service.auth.v3.Authorization/Check"


class UnexpectedAnswerError(Exception):
    """What is measured does not do what it is measured at."""


REQUEST_ID: Final = b"018f4b5e-dc9e-71df-9005-7f0cc3861685"
"""Where a request has this id, each time that it is sent it has another one of the same length."""


class Load:
    """Requests, taken in turn by some callers until as many were answered as are wanted."""

    def __init__(self, requests: Sequence[bytes], wanted: int) -> None:
        """Begin counting when the first caller begins."""
        self._requests = itertools.cycle(requests)
        self._unsent = wanted
        self._unanswered = wanted
        self._refused = 0
        self._bearable = wanted // 50
        self._begun = 0.0
        self.seconds: list[float] = []
        """How long each answer took."""
        self.done: Final[asyncio.Future[float]] = asyncio.get_running_loop().create_future()
        """How long all of them took together."""

    def next(self) -> bytes | None:
        """Return the next request; None where all were sent."""
        if self._unsent == 0:
            return None
        self._begun = self._begun or time.perf_counter()
        self._unsent -= 1
        # A request that is asked about twice is counted once, which would cost less.
        return next(self._requests).replace(REQUEST_ID, b"%036d" % self._unsent)

    def answered(self, begun: float) -> None:
        """Count an answer."""
        now = time.perf_counter()
        self.seconds.append(now - begun)
        self._unanswered -= 1
        if self._unanswered == 0 and not self.done.done():
            self.done.set_result(now - self._begun)

    def refused(self, begun: float, answer: bytes) -> None:
        """Count an answer that was not what is measured: a busy machine may miss a deadline, but not often."""
        self._refused += 1
        if self._refused > self._bearable:
            self.fail(answer)
        self.answered(begun)

    def fail(self, answer: bytes) -> None:
        """Give up."""
        if not self.done.done():
            self.done.set_exception(UnexpectedAnswerError(repr(answer[:1000])))


class Caller(Protocol):
    """One connection."""

    def call(self, load: Load) -> None:
        """MUST send requests of the load until there is none left."""

    def close(self) -> None:
        """MUST close the connection."""


class HttpCaller(asyncio.Protocol):
    """One connection of HTTP/1.1, kept alive: one request after the other, to be answered with 200."""

    def __init__(self) -> None:
        self._load: Load | None = None
        self._begun = 0.0
        self._read = b""

    def call(self, load: Load) -> None:
        """Begin."""
        self._load = load
        self._next(load)

    def close(self) -> None:
        """End."""
        self._load = None
        self._transport.close()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._read += data
        head = self._read.find(b"\r\n\r\n") + 4
        if self._load is None or head < len(b"\r\n\r\n"):
            return
        length = _LENGTH.search(self._read)
        if length is None:
            self._load.fail(self._read)
        elif len(self._read) >= head + int(length[1]):
            answer, self._read = self._read, b""
            if answer.startswith(_ADMITTED):
                self._load.answered(self._begun)
            else:
                self._load.refused(self._begun, answer)
            self._next(self._load)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._load is not None:
            self._load.fail(b"the connection was closed")

    def _next(self, load: Load) -> None:
        request = load.next()
        if request is not None:
            self._begun = time.perf_counter()
            self._transport.write(request)


class Flood:
    """The same request at a pace that waits for no answer; what no connection was free for is sent when one is."""

    def __init__(self, request: bytes, rps: float) -> None:
        """Send nothing yet."""
        self._request = request
        self._rps = rps
        self._idle: deque[_FloodCaller] = deque()
        self._overdue = 0
        self.sent = 0
        """How many requests were sent."""

    async def run(self, address: str, *, sources: Sequence[str], connections: int, seconds: float) -> None:
        """Send it on so many connections, from these addresses by turns."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        opened = [
            await loop.create_connection(lambda: _FloodCaller(self), host, int(port), local_addr=(source, 0))
            for source in itertools.islice(itertools.cycle(sources), connections)
        ]
        due = time.perf_counter()
        ends = due + seconds
        while due < ends:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            self._overdue += 1
            if self._idle:
                self.send(self._idle.popleft())
            due += 1 / self._rps
        for transport, _ in opened:
            transport.close()

    def send(self, caller: "_FloodCaller") -> None:
        """Have the caller send what is due, or wait for the next."""
        if self._overdue:
            self._overdue -= 1
            self.sent += 1
            caller.transport.write(self._request)
        else:
            self._idle.append(caller)


class _FloodCaller(asyncio.Protocol):
    """One connection of a flood, one request after the other."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._read = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._flood.send(self)

    @override
    def data_received(self, data: bytes) -> None:
        self._read += data
        head = self._read.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._read) if head >= len(b"\r\n\r\n") else None
        if length is not None and len(self._read) >= head + int(length[1]):
            self._read = b""
            self._flood.send(self)


class CheckCaller(asyncio.Protocol):
    """One connection to a worker, as Envoy has it: some Checks at a time, to be admitted.

    Speaks as much of HTTP/2 as a gRPC server that knows what it does needs to hear.
    """

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._load: Load | None = None
        self._read = b""
        self._stream = 1
        self._window = _FIRST_WINDOW
        self._unsent: deque[bytes] = deque()
        self._begun: dict[int, float] = {}
        self._admitted: set[int] = set()

    def call(self, load: Load) -> None:
        """Begin."""
        self._load = load
        for _ in range(self._at_a_time):
            self._next(load)

    def close(self) -> None:
        """End."""
        self._load = None
        self._transport.close()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Room for all answers that there will ever be, but for one stream's, which has enough.
        room = (2**31 - 1 - _FIRST_WINDOW).to_bytes(4)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, b"") + _frame(_WINDOW, 0, room))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._load is not None:
            self._load.fail(b"the connection was closed")

    @override
    def data_received(self, data: bytes) -> None:
        read = self._read + data
        at = 0
        while len(read) - at >= _FRAME_HEAD:
            end = at + _FRAME_HEAD + int.from_bytes(read[at : at + 3])
            if end > len(read):
                break
            stream = int.from_bytes(read[at + 5 : at + _FRAME_HEAD])
            self._hear(read[at + 3], read[at + 4], stream, payload=read[at + _FRAME_HEAD : end])
            at = end
        self._read = read[at:]

    def _hear(self, kind: int, flags: int, stream: int, *, payload: bytes) -> None:
        if kind == _DATA:
            if b"x-bulkhead-context" in payload:
                self._admitted.add(stream)
        elif kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, payload)
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._transport.write(_frame(kind, 0, payload if kind == _PING else b"", flags=_ACK))
        elif kind == _WINDOW and stream == 0:
            self._window += int.from_bytes(payload)
            self._flush()
        elif kind in {_RESET, _GO_AWAY} and self._load is not None:
            self._load.fail(payload)

    def _end(self, stream: int, trailers: bytes) -> None:
        if self._load is None:
            return
        begun = self._begun.pop(stream)
        if stream in self._admitted:
            self._admitted.discard(stream)
            self._load.answered(begun)
        else:
            self._load.refused(begun, b"not admitted: " + trailers)
        self._next(self._load)

    def _next(self, load: Load) -> None:
        request = load.next()
        if request is not None:
            self._unsent.append(request)
            self._flush()

    def _flush(self) -> None:
        while self._unsent and len(self._unsent[0]) <= self._window:
            request = self._unsent.popleft()
            self._window -= len(request)
            self._begun[self._stream] = time.perf_counter()
            headers = _frame(_HEADERS, self._stream, _CHECK_HEADERS, flags=_END_HEADERS)
            self._transport.write(headers + _frame(_DATA, self._stream, request, flags=_END_STREAM))
            self._stream += 2


def http_request(path: str, *, host: str, token: str) -> bytes:
    """Render a request."""
    lines = (f"GET {path} HTTP/1.1", f"host: {host}", f"authorization: Bearer {token}", "accept: */*", "", "")
    return "\r\n".join(lines).encode()


def check_request(message: bytes) -> bytes:
    """Render a Check as gRPC sends it."""
    return b"\0" + len(message).to_bytes(4) + message


async def http_callers(address: str, count: int) -> list[Caller]:
    """Open connections, each from a loopback address of its own: a source's rate is bounded."""
    host, _, port = address.rpartition(":")
    opened = [
        asyncio.get_running_loop().create_connection(HttpCaller, host, int(port), local_addr=(f"127.0.0.{number}", 0))
        for number in range(2, 2 + count)
    ]
    return [caller for _, caller in await asyncio.gather(*opened)]


async def check_callers(socket: Path, count: int, *, at_a_time: int) -> list[Caller]:
    """Open connections to a worker."""
    loop = asyncio.get_running_loop()
    opened = [loop.create_unix_connection(lambda: CheckCaller(at_a_time), str(socket)) for _ in range(count)]
    return [caller for _, caller in await asyncio.gather(*opened)]


async def run(callers: Sequence[Caller], load: Load) -> float:
    """Have them send the whole load; return how many requests a second were answered."""
    for caller in callers:
        caller.call(load)
    wanted = await load.done
    return len(load.seconds) / wanted


def _frame(kind: int, stream: int, payload: bytes, *, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Write a header that is not to be remembered (RFC 7541, 6.2.2). Both are shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


_CHECK_HEADERS: Final = b"".join(
    _literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", _CHECK),
        (b":authority", b"ext_authz"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)
