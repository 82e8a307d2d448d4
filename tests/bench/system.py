"""A stack of its own to measure, and the ways into it."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from bulkhead.v1 import certificate_policies_pb2, tenants_pb2, tenants_pb2_grpc
from control_plane.settings import ListenerSettings, Settings

Metadata = tuple[tuple[str, str], ...]


async def bulkhead(state_dir: Path, *arguments: str) -> None:
    """Run the command line in a process of its own, as a person would."""
    command = [sys.executable, "-m", "control_plane", "--dir", str(state_dir), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode:
        message = f"{' '.join(command)} failed:\n{output.decode(errors='replace')}"
        raise RuntimeError(message)


@dataclass(slots=True, kw_only=True)
class System:
    """A running stack."""

    folder: Path
    """Where the stack keeps its state, and others may."""
    settings: Settings
    """What its processes were told."""
    metadata: Metadata
    """An administrator's credential."""
    tenants: dict[str, list[str]] = field(default_factory=dict)
    """The ids of the tenants that were made, by their level of isolation."""

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator["System"]:
        """Start a stack below `folder`, and stop it."""
        state_dir = folder / "stack"
        await bulkhead(state_dir, "up", "--detach")
        try:
            settings = Settings.from_dir(state_dir)
            token = settings.admin_token_file.read_text().strip()
            yield cls(folder=folder, settings=settings, metadata=(("authorization", f"Bearer {token}"),))
        finally:
            await bulkhead(state_dir, "down")

    @property
    def state_dir(self) -> Path:
        """Where the stack itself keeps its state."""
        return self.folder / "stack"

    def channel(self, listener: ListenerSettings) -> grpc.aio.Channel:
        """Open a channel to one of the processes; the caller closes it."""
        credentials = grpc.ssl_channel_credentials(self.settings.ca_file.read_bytes())
        return grpc.aio.secure_channel(listener.listen, credentials)

    async def create_tenant(
        self,
        channel: grpc.aio.Channel,
        *,
        requests_per_minute: int = 0,
        units_per_second: int = 0,
        isolation: str = "POOLED",
        authority: str = "EC_P256",
    ) -> str:
        """Create a tenant, wait until it can be used, and return its id. Where rates are 0, they are the tier's."""
        tenant = f"bench_{secrets.token_hex(6)}"
        service: Any = tenants_pb2_grpc.TenantServiceStub(channel)
        operations: Any = operations_pb2_grpc.OperationsStub
        level = tenants_pb2.Tenant.IsolationLevel.Value(isolation)
        wished = tenants_pb2.Tenant(requests_per_minute=requests_per_minute, isolation_level=level)
        policy = certificate_policies_pb2.CertificatePolicy
        wished.certificate_policy.authority_algorithm = policy.KeyAlgorithm.Value(authority)
        wished.certificate_policy.post_quantum = policy.HYBRID if authority.startswith("ML_DSA") else policy.OFF
        if units_per_second:
            wished.rate_limits.add(window=tenants_pb2.Tenant.RateLimit.SECOND, units=units_per_second)
        asked = tenants_pb2.CreateTenantRequest(tenant_id=tenant, tenant=wished)
        operation = await service.CreateTenant(asked, metadata=self.metadata)
        while not operation.done:
            waiting = operations_pb2.WaitOperationRequest(name=operation.name)
            operation = await operations(channel).WaitOperation(waiting, metadata=self.metadata)
        if operation.HasField("error"):
            message = f"creating {tenant} failed: {operation.error.message}"
            raise RuntimeError(message)
        self.tenants.setdefault(isolation, []).append(tenant)
        return tenant

    async def have_tenants(self, number: int, *, isolation: str = "POOLED") -> list[str]:
        """Create what is missing to `number` tenants of that level, and return that many."""
        async with self.channel(self.settings.control_plane) as channel:
            while len(self.tenants.get(isolation, [])) < number:
                await self.create_tenant(channel, isolation=isolation)
        return self.tenants[isolation][:number]
