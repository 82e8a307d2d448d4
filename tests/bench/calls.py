"""What callers wait for, over gRPC and TLS. The baseline is a health check on the same channel: nothing but a call."""

import itertools
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.keys.algorithms import AUTHORITIES
from tests.bench.measure import Figure, Work, by_turns, figures
from tests.bench.system import System
from tests.isolation.rpc_requests import signing_request

TENANTS: Final = 20
ISSUES: Final = 100
ISSUES_OF_EACH: Final = 40
READS: Final = 300


def _health_check(channel: grpc.aio.Channel) -> Work:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return lambda: stub.Check(health_pb2.HealthCheckRequest())


async def create_tenant(system: System) -> AsyncIterator[Figure]:
    """From the request until the tenant can be used: schema, role, keys and first administrator."""
    async with system.channel(system.settings.control_plane) as channel:
        taken, compared = await by_turns(lambda: system.create_tenant(channel), _health_check(channel), runs=TENANTS)
    for figure in figures("create_tenant", taken, compared, tail=0.95):
        yield figure


async def certificate(system: System) -> AsyncIterator[Figure]:
    """Issue a certificate, durably, and read it back."""
    parent = f"tenants/{(await system.have_tenants(1))[0]}"
    # Made before: a key is the caller's work.
    requests = itertools.cycle([signing_request(f"bench{number}.example.org") for number in range(ISSUES + 1)])
    async with system.channel(system.settings.certificates) as channel:
        service: Any = certificates_pb2_grpc.CertificateServiceStub(channel)

        async def issue() -> certificates_pb2.Certificate:
            asked = certificates_pb2.IssueCertificateRequest(parent=parent, csr_pem=next(requests))
            issued: certificates_pb2.Certificate = await service.IssueCertificate(asked, metadata=system.metadata)
            return issued

        name = (await issue()).name

        async def read() -> None:
            await service.GetCertificate(certificates_pb2.GetCertificateRequest(name=name), metadata=system.metadata)

        for case, work, runs in (("certificate_issue", issue, ISSUES), ("certificate_read", read, READS)):
            for figure in figures(case, *await by_turns(work, _health_check(channel), runs=runs), tail=0.95):
                yield figure


async def certificate_algorithms(system: System) -> AsyncIterator[Figure]:
    """Issue from an authority of each algorithm: what its signature costs, beside all else. Sent by P-256 each time."""
    async with (
        system.channel(system.settings.control_plane) as control,
        system.channel(system.settings.certificates) as channel,
    ):
        service: Any = certificates_pb2_grpc.CertificateServiceStub(channel)
        for algorithm in sorted(AUTHORITIES):
            parent = f"tenants/{await system.create_tenant(control, authority=algorithm)}"
            asked = certificates_pb2.IssueCertificateRequest(parent=parent, csr_pem=signing_request("a.example.org"))
            issue = partial(service.IssueCertificate, asked, metadata=system.metadata)
            await issue()
            taken = await by_turns(issue, _health_check(channel), runs=ISSUES_OF_EACH)
            for figure in figures(f"certificate_issue.{algorithm.lower()}", *taken, tail=0.95):
                yield figure
