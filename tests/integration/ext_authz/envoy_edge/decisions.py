"""The agent's workers, as Envoy knows them: they keep what they were asked, and answer as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContextHttpRequest,
    AttributeContextPeer,
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.rpc import Status

CONTEXT = "1.context.signature"
_OK, _PERMISSION_DENIED = 0, 7


def admitted() -> CheckResponse:
    """What the agent says to the right caller."""
    return CheckResponse(
        status=Status(code=_OK),
        ok_response=OkHttpResponse(
            headers=headers({"x-bulkhead-context": CONTEXT}),
            response_headers_to_add=headers({"x-bulkhead-mark": "the agent's", "ratelimit": '"minute";r=9;t=60'}),
        ),
    )


def denied(status: int, body: str = "", more: dict[str, str] | None = None) -> CheckResponse:
    response = DeniedHttpResponse(status=HttpStatus(code=StatusCode(status)), body=body, headers=headers(more or {}))
    return CheckResponse(status=Status(code=_PERMISSION_DENIED), denied_response=response)


def headers(values: dict[str, str]) -> list[HeaderValueOption]:
    return [HeaderValueOption(header=HeaderValue(key=key, value=value)) for key, value in values.items()]


class Workers:
    """All of them. What they are asked is read when a test looks at it: reading takes a millisecond."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        # Each is given once, before `answer`.
        self.first: list[bytes] = []
        self.answer = bytes(admitted())
        self.slow_s = 0.0
        self.hung: set[Path] = set()

    @property
    def asked(self) -> list[CheckRequest]:
        return [CheckRequest.parse(one) for one in self.raw]

    def decide(self, response: CheckResponse) -> None:
        """Answer so from now on."""
        self.answer = bytes(response)

    def http(self, asked: CheckRequest | None = None) -> AttributeContextHttpRequest:
        """Return the request that they were asked about, the newest one unless said."""
        attributes = (asked or self._newest()).attributes
        assert attributes is not None
        assert attributes.request is not None
        assert attributes.request.http is not None
        return attributes.request.http

    def header(self, name: str, asked: CheckRequest | None = None) -> list[bytes]:
        """Return every value of a header, as it came."""
        sent = self.http(asked).header_map
        return [one.raw_value for one in sent.headers if one.key == name] if sent else []

    def source(self) -> AttributeContextPeer:
        """Return who the newest request came from."""
        attributes = self._newest().attributes
        assert attributes is not None
        assert attributes.source is not None
        return attributes.source

    def sni(self) -> str:
        attributes = self._newest().attributes
        assert attributes is not None
        assert attributes.tls_session is not None
        return attributes.tls_session.sni

    def epoch(self) -> str:
        attributes = self._newest().attributes
        assert attributes is not None
        return attributes.context_extensions["epoch"]

    def _newest(self) -> CheckRequest:
        return CheckRequest.parse(self.raw[-1])

    async def check(self, path: Path, data: bytes, _: Any) -> bytes:
        self.raw.append(data)
        await asyncio.sleep(5 if path in self.hung else self.slow_s)
        return self.first.pop(0) if self.first else self.answer


@asynccontextmanager
async def serving_worker(workers: Workers, path: Path) -> AsyncIterator[grpc.aio.Server]:
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(partial(workers.check, path))
    handler = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": method})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)
