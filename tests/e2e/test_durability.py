"""`kill -9` of each process, and of all of them, under load: whatever was acknowledged is there afterwards."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.longrunning import operations_pb2, operations_pb2_grpc

from bulkhead.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    certificates_pb2,
    certificates_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from tests.fixtures.stack import Stack, empty_stack_dir

_TENANTS: Final = ("org_1", "org_2")
_LOAD_BEFORE_A_KILL_S: Final = 0.7


def _signing_request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service.example")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(slots=True)
class Load:
    """Calls the stack without pause, and remembers what was acknowledged."""

    stack: Stack
    csr: str = field(default_factory=_signing_request)
    certificates: list[certificates_pb2.Certificate] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    unexpected: list[grpc.aio.AioRpcError] = field(default_factory=list)

    @asynccontextmanager
    async def channel(self, endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
        endpoints = self.stack.endpoints
        credentials = grpc.ssl_channel_credentials((self.stack.dir / "ca" / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(endpoints[endpoint], credentials) as channel:
            yield channel

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {(self.stack.dir / 'admin.token').read_text().strip()}"),)

    async def issue_certificates(self, tenant: str) -> None:
        async def once(channel: grpc.aio.Channel) -> None:
            stub = certificates_pb2_grpc.CertificateServiceStub(channel)
            request = certificates_pb2.IssueCertificateRequest(parent=f"tenants/{tenant}", csr_pem=self.csr)
            self.certificates.append(await stub.IssueCertificate(request, metadata=self.metadata, timeout=10))

        await self._repeat("certificates_grpc", once)

    async def issue_tokens(self, tenant: str) -> None:
        async def once(channel: grpc.aio.Channel) -> None:
            stub = tokens_pb2_grpc.TokenServiceStub(channel)
            request = tokens_pb2.IssueTokenRequest(parent=f"tenants/{tenant}", subject="alice")
            answer = await stub.IssueToken(request, metadata=self.metadata, timeout=10)
            self.tokens.append(answer.metadata.name)

        await self._repeat("admin_grpc", once)

    async def create_tenants(self) -> None:
        async def once(channel: grpc.aio.Channel) -> None:
            stub = tenants_pb2_grpc.TenantServiceStub(channel)
            request = tenants_pb2.CreateTenantRequest(tenant_id=f"made_{len(self.operations)}")
            answer = await stub.CreateTenant(request, metadata=self.metadata, timeout=10)
            self.operations.append(answer.name)
            await asyncio.sleep(0.1)

        await self._repeat("admin_grpc", once)

    async def _repeat(self, endpoint: str, once: object) -> None:
        while True:
            try:
                async with self.channel(endpoint) as channel:
                    while True:
                        await once(channel)  # type: ignore[operator]  # a closure of the three above
            except grpc.aio.AioRpcError as error:
                self._judge(error)
                await asyncio.sleep(0.05)
            except FileNotFoundError:
                # The stack is starting again and has not said where.
                await asyncio.sleep(0.05)

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        """Keep errors other than those that a caller must expect of a process that is killed."""
        expected = {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
            # A creation whose answer was lost is repeated here under the same id.
            grpc.StatusCode.ALREADY_EXISTS,
        }
        if error.code() not in expected:
            self.unexpected.append(error)
        elif error.code() is grpc.StatusCode.ALREADY_EXISTS:
            self.operations.append("")


def _faults(stack: Stack) -> str:
    """Return what the processes say of faults of their own."""
    logs = [log.read_text(errors="replace") for log in stack.dir.glob("logs/*")]
    return "\n".join(line for log in logs for line in log.splitlines() if '"level": "error"' in line)


@pytest.fixture(name="own_stack")
def _own_stack() -> Iterator[Stack]:
    with empty_stack_dir() as directory:
        stack = Stack(directory)
        assert stack.bulkhead("up", "--detach").returncode == 0
        yield stack
        assert stack.bulkhead("down").returncode == 0
        assert stack.census() == []


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_to_any_kill(own_stack: Stack) -> None:
    for tenant in _TENANTS:
        created = await asyncio.to_thread(own_stack.bulkhead, "tenants", "create", tenant)
        assert created.returncode == 0, created.stderr
    load = Load(own_stack)
    callers = [
        asyncio.create_task(caller)
        for caller in (
            *(load.issue_certificates(tenant) for tenant in _TENANTS),
            *(load.issue_tokens(tenant) for tenant in _TENANTS),
            load.create_tenants(),
        )
    ]
    for victim in ("certificates", "control-plane", "postgres", "valkey", "supervisor"):
        await asyncio.sleep(_LOAD_BEFORE_A_KILL_S)
        pids = await asyncio.to_thread(own_stack.pids)
        os.kill(pids[victim], signal.SIGKILL)
        if victim == "supervisor":
            up = await asyncio.to_thread(own_stack.bulkhead, "up", "--detach")
            assert up.returncode == 0, up.stderr
        await asyncio.to_thread(own_stack.wait_ready)
    await asyncio.sleep(_LOAD_BEFORE_A_KILL_S)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert load.unexpected == [], _faults(own_stack)
    assert min(len(load.certificates), len(load.tokens), len(load.operations)) > 5
    await _check_certificates(load)
    await _check_tokens_and_audit(load)
    await _check_tenants(load)


async def _check_certificates(load: Load) -> None:
    async with load.channel("certificates_grpc") as channel:
        stub = certificates_pb2_grpc.CertificateServiceStub(channel)
        for issued in load.certificates:
            request = certificates_pb2.GetCertificateRequest(name=issued.name)
            assert await stub.GetCertificate(request, metadata=load.metadata, timeout=10) == issued


async def _check_tokens_and_audit(load: Load) -> None:
    async with load.channel("admin_grpc") as channel:
        tokens, audit = tokens_pb2_grpc.TokenServiceStub(channel), audit_pb2_grpc.AuditServiceStub(channel)
        for name in load.tokens:
            await tokens.GetToken(tokens_pb2.GetTokenRequest(name=name), metadata=load.metadata, timeout=10)
        for tenant in _TENANTS:
            request = audit_pb2.VerifyAuditLogRequest(parent=f"tenants/{tenant}")
            found = await audit.VerifyAuditLog(request, metadata=load.metadata, timeout=30)
            mine = [name for name in (*load.tokens, *(c.name for c in load.certificates)) if f"/{tenant}/" in name]
            assert found.first_broken_sequence == 0
            assert found.sealed_entries + found.unsealed_entries > len(mine)


async def _check_tenants(load: Load) -> None:
    async with load.channel("admin_grpc") as channel:
        stub = operations_pb2_grpc.OperationsStub(channel)  # type: ignore[no-untyped-call]  # no stubs
        for name in filter(None, load.operations):
            request = operations_pb2.WaitOperationRequest(name=name)
            operation = await stub.WaitOperation(request, metadata=load.metadata, timeout=30)
            tenant = tenants_pb2.Tenant()
            assert operation.response.Unpack(tenant), operation
            assert tenant.state == tenants_pb2.Tenant.ACTIVE
