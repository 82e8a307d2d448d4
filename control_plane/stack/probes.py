"""Whether the parts answer: a real call, not an open port."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# gRPC's own lines on stderr are neither progress nor errors of ours; it looks here when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc_health.v1 import health_pb2

from bulkhead.v1 import tenant_requests_pb2, tenants_pb2_grpc

_TIMEOUT_S: Final = 2.0
# No proxy of the web stands between us and what we started.
_OPTIONS: Final = (("grpc.enable_http_proxy", 0),)
_HEALTH: Final = "/grpc.health.v1.Health/Check"
# What Envoy says to somebody of no tenant, or to somebody who asks too often: either way its listeners are there.
_ENVOY_ANSWERS: Final = (b"HTTP/1.1 403 ", b"HTTP/1.1 429 ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Knocks at the endpoints of one stack."""

    endpoints: Mapping[str, str]
    """As in `endpoints.json`."""
    agent_socket: Path
    """Where the agent serves Envoy."""

    async def control_plane(self) -> bool:
        """Whether the administrator can list tenants: listener, token, database and registry are all there."""
        address = self.endpoints["admin_grpc"]
        try:
            token = await asyncio.to_thread(Path(self.endpoints["admin_token_file"]).read_text)
        except FileNotFoundError:
            return False
        if not await _is_open(address):
            return False
        async with self._channel(address) as channel:
            call = tenants_pb2_grpc.TenantServiceStub(channel).ListTenants(
                tenant_requests_pb2.ListTenantsRequest(page_size=1),
                metadata=(("authorization", f"Bearer {token.strip()}"),),
                timeout=_TIMEOUT_S,
            )
            try:
                await call
            except grpc.aio.AioRpcError:
                return False
        return True

    async def certificates(self) -> bool:
        """Whether the certificate service says that it serves."""
        address = self.endpoints["certificates_grpc"]
        if not await _is_open(address):
            return False
        async with self._channel(address) as channel:
            return await _serves(channel)

    async def agent(self) -> bool:
        """Whether the agent says that it serves: it knows the tenants, and its workers decide."""
        if not self.agent_socket.exists():
            return False
        async with grpc.aio.insecure_channel(f"unix:{self.agent_socket}", options=_OPTIONS) as channel:
            return await _serves(channel)

    async def envoy(self) -> bool:
        """Whether Envoy refuses a stranger, which it can only once it has heard from the agent."""
        host, _, port = self.endpoints["edge_http"].rpartition(":")
        asked = f"GET / HTTP/1.1\r\nhost: {self.endpoints['edge_authority']}\r\nconnection: close\r\n\r\n"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    writer.write(asked.encode())
                    answer = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return answer.startswith(_ENVOY_ANSWERS)

    async def everything(self) -> bool:
        """Whether all of these answer."""
        for answers in (self.control_plane, self.certificates, self.agent, self.envoy):
            if not await answers():
                return False
        return True

    def _channel(self, address: str) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(Path(self.endpoints["ca_file"]).read_bytes())
        # A channel of its own for each call: one that failed would wait before it tries again.
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


async def _serves(channel: grpc.aio.Channel) -> bool:
    check = channel.unary_unary(
        _HEALTH,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        answer = await check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
