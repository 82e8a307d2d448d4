"""A real server on loopback with the product's interceptors, and an authority of its own."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from typing_extensions import override

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.canary import BreachError
from control_plane.errors import DomainError, UnauthenticatedError
from control_plane.postgres.database import Database
from control_plane.postgres.directory import Directory
from control_plane.serving.call import Call, current_call
from control_plane.serving.interception import Context
from control_plane.serving.interceptors.authentication import BearerAuthentication, ServiceAuthentication, VerifyToken
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.interceptors.outgoing import OutgoingGuard
from control_plane.serving.interceptors.queueing import Queueing
from control_plane.serving.interceptors.reception import Reception
from control_plane.serving.listeners import open_listener
from control_plane.serving.principal import Principal
from control_plane.serving.rules import load_rules
from control_plane.serving.turns import Turns
from tests.fixtures.authority import Identity, new_authority, tls_files

CONTEXT_KEY = b"c" * 32


class ProbeServicer(certificates_pb2_grpc.CertificateServiceServicer):
    """Answers with what the interceptors found out, or fails as it is told."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.served = 0
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.takes_s = 0.0
        self.says = ""

    @override
    async def GetCertificate(
        self, request: certificates_pb2.GetCertificateRequest, context: Context
    ) -> certificates_pb2.Certificate:
        self.served += 1
        self.at_once[request.name] += 1
        self.most_at_once |= self.at_once
        await asyncio.sleep(self.takes_s)
        self.at_once[request.name] -= 1
        if self.failure is not None:
            raise self.failure
        call = current_call()
        assert call.placement is not None
        row = await call.tenant().run(lambda tx: tx.fetch_one("SELECT current_user AS role"))
        return certificates_pb2.Certificate(
            name=request.name, subject=call.actor, serial_number=str(row and row["role"]), pem_chain=self.says
        )


@dataclass(slots=True, kw_only=True)
class Rig:
    """The two listeners, and what they were seen to do."""

    context_key: bytes = CONTEXT_KEY

    servicer: ProbeServicer
    authority: bytes
    token_port: int
    service_port: int
    issue: Callable[[str], Identity]
    principals: dict[str, Principal]
    denied: list[tuple[Call, DomainError]]
    breached: list[tuple[Call, BreachError]]

    def token_channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(f"127.0.0.1:{self.token_port}", grpc.ssl_channel_credentials(self.authority))

    def service_channel(self, identity: Identity | None) -> grpc.aio.Channel:
        key, certificate = (identity.key, identity.certificate) if identity else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority, key, certificate)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.service_port}", credentials)


async def _record_nothing(_tx: object, _effects: object) -> None:
    return None


def _no_recorder(_call: Call) -> Callable[..., object]:
    return _record_nothing


def _verifying(principals: dict[str, Principal]) -> VerifyToken:
    async def verify(token: str) -> Principal:
        if token not in principals:
            raise UnauthenticatedError("unknown token")
        return principals[token]

    return verify


@pytest.fixture
async def rig(database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    issue, authority = new_authority()
    tls = tls_files(tmp_path, issue(""), authority)
    principals: dict[str, Principal] = {}
    denied: list[tuple[Call, DomainError]] = []
    breached: list[tuple[Call, BreachError]] = []
    reception = Reception(
        load_rules(),
        database,
        recorder=_no_recorder,  # type: ignore[arg-type]  # the probe writes nothing that an audit log would keep
        denied=lambda call, error: denied.append((call, error)),
        breached=lambda call, error: breached.append((call, error)),
        deadline=dt.timedelta(milliseconds=200),
    )
    authorization = Authorization(Directory(database))
    services = {"billing": frozenset({"certificates.read"})}
    servicer = ProbeServicer()  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED
    # As long as a call, however slow the machine is.
    queueing = Queueing(Turns(longest_s=60))
    ports, servers = [], []
    for authentication, client_certificates in (
        (BearerAuthentication(_verifying(principals)), False),
        (ServiceAuthentication(services, CONTEXT_KEY), True),
    ):
        server, port = open_listener(
            "127.0.0.1:0",
            tls,
            interceptors=(reception, authentication, authorization, queueing, OutgoingGuard(database.canaries)),
            add_servicers=lambda server: certificates_pb2_grpc.add_CertificateServiceServicer_to_server(
                servicer, server
            ),
            client_certificates=client_certificates,
        )
        await server.start()
        servers.append(server)
        ports.append(port)
    yield Rig(
        servicer=servicer,
        authority=authority,
        token_port=ports[0],
        service_port=ports[1],
        issue=issue,
        principals=principals,
        denied=denied,
        breached=breached,
    )
    for server in servers:
        await server.stop(None)
