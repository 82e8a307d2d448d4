"""Well-behaved callers: gRPC, and HTTP/2 frame by frame."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import h2.config
import h2.connection
import h2.events

Headers = list[tuple[str, str]]
LIST = "/bulkhead.v1.CertificateService/ListCertificates"


@dataclass(frozen=True, slots=True)
class GrpcAnswer:
    code: grpc.StatusCode
    message: str
    metadata: dict[str, str]


async def call(
    port: int, *metadata: tuple[str, str], path: str = LIST, host: str = "api.csm.example.com"
) -> GrpcAnswer:
    """Call it with an empty message."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.default_authority", host)]) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        made = method(b"", metadata=metadata, timeout=10)
        code, message = await made.code(), await made.details()
        last = dict(await made.initial_metadata()) | dict(await made.trailing_metadata())
        return GrpcAnswer(code, message or "", {str(key): str(value) for key, value in last.items()})


@dataclass(slots=True)
class Http2Answer:
    headers: Headers = field(default_factory=list)
    trailers: Headers = field(default_factory=list)
    reset: bool = False

    @property
    def status(self) -> str:
        return dict(self.headers).get(":status", "")


async def http2(
    port: int, headers: Sequence[tuple[str, str]], *, trailers: Sequence[tuple[str, str]] = ()
) -> Http2Answer:
    """Send one request as it stands, however wrong; return what comes."""
    config = h2.config.H2Configuration(
        header_encoding="utf-8",
        normalize_outbound_headers=False,
        validate_outbound_headers=False,
        validate_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, list(headers), end_stream=not trailers)
    if trailers:
        connection.send_data(stream, bytes(5))
        connection.send_headers(stream, list(trailers), end_stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = Http2Answer()
    try:
        writer.write(connection.data_to_send())
        async with asyncio.timeout(10):
            while data := await reader.read(65536):
                if _take(connection.receive_data(data), answer):
                    break
                writer.write(connection.data_to_send())
    finally:
        writer.close()
    return answer


async def streams_at_once(port: int) -> int:
    """Return how many streams one connection may have, as the server says it."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(connection.data_to_send())
        async with asyncio.timeout(10):
            while not any(
                isinstance(event, h2.events.RemoteSettingsChanged)
                for event in connection.receive_data(await reader.read(65536))
            ):
                pass
    finally:
        writer.close()
    return connection.remote_settings.max_concurrent_streams


def _take(events: Sequence[h2.events.Event], answer: Http2Answer) -> bool:
    for event in events:
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            answer.reset = True
            return True
        elif isinstance(event, h2.events.StreamEnded):
            return True
    return False


def grpc_headers(*more: tuple[str, str], tenant: str = "acme") -> Headers:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", LIST),
        (":authority", "api.csm.example.com"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-tenant-id", tenant),
        *more,
    ]
