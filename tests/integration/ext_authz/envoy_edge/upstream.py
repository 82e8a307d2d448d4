"""A service behind the edge, read frame by frame: it keeps every header and trailer as it came."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from typing_extensions import override

from ext_authz.settings import EdgeSettings

Headers = list[tuple[str, str]]
EMPTY_MESSAGE = bytes(5)


@dataclass(slots=True)
class Seen:
    """One request."""

    headers: Headers
    trailers: Headers = field(default_factory=list)
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def starting(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value in [*self.headers, *self.trailers] if key.startswith(prefix)}


class Upstream:
    """Answers every call with an empty message, and with what it is told to add."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.status = "200"
        self.grpc_status = "0"
        self.more_headers: Headers = []
        self.more_trailers: Headers = []
        self.body = EMPTY_MESSAGE

    def answers(self, *, headers: Sequence[tuple[str, str]] = (), trailers: Sequence[tuple[str, str]] = ()) -> None:
        self.more_headers, self.more_trailers = list(headers), list(trailers)


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._streams: dict[int, Seen] = {}
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    @override
    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._streams[event.stream_id] = Seen(_text(event.headers))
            elif isinstance(event, h2.events.TrailersReceived):
                self._streams[event.stream_id].trailers = _text(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self._streams[event.stream_id].body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id)
        self._flush()

    def _answer(self, stream: int) -> None:
        upstream = self._upstream
        upstream.seen.append(self._streams.pop(stream))
        first = [(":status", upstream.status), ("content-type", "application/grpc"), *upstream.more_headers]
        self._h2.send_headers(stream, first)
        if upstream.body:
            self._h2.send_data(stream, upstream.body)
        self._h2.send_headers(stream, [("grpc-status", upstream.grpc_status), *upstream.more_trailers], end_stream=True)

    def _flush(self) -> None:
        assert self._transport is not None
        self._transport.write(self._h2.data_to_send())


def _text(headers: Sequence[tuple[str | bytes, str | bytes]] | None) -> Headers:
    return [(str(name), str(value)) for name, value in headers or ()]


@asynccontextmanager
async def serving_upstream(
    settings: EdgeSettings, identity: str = "certificates", *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[tuple[Upstream, asyncio.Server]]:
    """Serve it over mutual TLS, of no newer version than that, as whom `edge_settings` calls so."""
    folder, port = settings.state_dir, int(settings.upstream.rpartition(":")[2])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{identity}.pem", folder / f"{identity}.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = newest
    context.set_alpn_protocols(["h2"])
    upstream = Upstream()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(upstream), "127.0.0.1", port, ssl=context)
    try:
        yield upstream, server
    finally:
        server.close()
