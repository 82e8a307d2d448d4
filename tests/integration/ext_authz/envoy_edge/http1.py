"""HTTP/1.1 byte by byte: what no well-behaved client would send."""

import asyncio
import re
import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back until the connection was closed, or the body was whole: Envoy lingers over what it refused."""

    raw: bytes

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def normalised(self) -> bytes:
        """Itself, but for what differs in every answer: the request's id and the date."""
        ids = re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"ID", self.raw)
        return re.sub(rb"date: [^\r]*", b"date: D", ids)


async def send(
    port: int,
    request: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    sni: str | None = None,
    source: str = "127.0.0.1",
) -> Answer:
    """Send the bytes and close our side; return all that comes."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname=sni, local_addr=(source, 0)
    )
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(10):
            return Answer(await _whole(reader))
    finally:
        writer.close()


async def _whole(reader: asyncio.StreamReader) -> bytes:
    raw = b""
    while (chunk := await reader.read(65536)) and not _is_whole(raw := raw + chunk):
        pass
    return raw


def _is_whole(raw: bytes) -> bool:
    head, ended, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return bool(ended and length) and len(body) >= int(length[1] if length else 0)


async def send_all(port: int, data: bytes) -> Answer:
    """Send the bytes; return everything until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return Answer(await reader.read())
    finally:
        writer.close()


def request(
    path: str | bytes,
    *headers: tuple[str, str],
    host: str = "api.csm.example.com",
    method: str = "GET",
    version: str = "HTTP/1.1",
) -> bytes:
    """Put a request together; the connection is closed after it."""
    target = path.encode("latin-1") if isinstance(path, str) else path
    lines = [f"{method} ".encode() + target + f" {version}".encode()]
    lines += [f"host: {host}".encode()] if host else []
    lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
    return b"\r\n".join([*lines, b"connection: close", b"", b""])
