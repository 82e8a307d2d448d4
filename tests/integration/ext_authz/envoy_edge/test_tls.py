"""TLS: who shows what to whom, and what happens when a certificate is replaced."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from tests.fixtures.authority import Identity, new_authority
from tests.integration.ext_authz.envoy_edge.edge import Edge, running_edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send

pytestmark = pytest.mark.asyncio(loop_scope="module")
CERTIFICATES = "/api/v1/tenants/acme/certificates"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def misdirected_edge() -> AsyncIterator[Edge]:
    async with running_edge(upstream_is="other") as edge:
        yield edge


def _client(edge: Edge, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(edge.folder / "ca.pem"))
    if name:
        context.load_cert_chain(edge.folder / f"{name}.pem", edge.folder / f"{name}.key")
    return context


async def test_a_client_without_a_certificate_is_served(edge: Edge) -> None:
    answer = await send(edge.https_port, request(CERTIFICATES), tls=_client(edge), sni="localhost")

    assert answer.status == 200
    source = edge.workers.source()
    assert (source.certificate, source.principal) == ("", "")
    assert edge.workers.sni() == "localhost"


@pytest.mark.behaviour("T-E12")
async def test_the_agent_is_shown_the_clients_certificate_whole(edge: Edge) -> None:
    answer = await send(edge.https_port, request(CERTIFICATES), tls=_client(edge, "acme"), sni="localhost")

    assert answer.status == 200
    source = edge.workers.source()
    assert source.principal == "spiffe://bulkhead/tenant/acme"
    assert "BEGIN%20CERTIFICATE" in source.certificate
    assert edge.upstream.seen[0].all("x-forwarded-client-cert") == []


@pytest.mark.behaviour("T-E12")
async def test_a_certificate_of_another_authority_ends_the_connection(edge: Edge) -> None:
    issue, _ = new_authority()
    _write(edge, "stranger", issue("spiffe://bulkhead/tenant/acme"))

    with suppress(ssl.SSLError, ConnectionError):
        answer = await send(edge.https_port, request(CERTIFICATES), tls=_client(edge, "stranger"), sni="localhost")
        assert answer.raw == b""
    assert edge.workers.asked == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_is_spoken_from_version_1_2_on(edge: Edge, version: ssl.TLSVersion) -> None:
    context = _client(edge)
    context.minimum_version = context.maximum_version = version

    assert (await send(edge.https_port, request(CERTIFICATES), tls=context, sni="localhost")).status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_older_tls_is_refused(edge: Edge) -> None:
    context = _client(edge)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await send(edge.https_port, request(CERTIFICATES), tls=context, sni="localhost")


@pytest.mark.parametrize("protocols", [["h2", "http/1.1"], ["h2"], ["http/1.1"]])
async def test_the_client_chooses_the_protocol(edge: Edge, protocols: list[str]) -> None:
    context = _client(edge)
    context.set_alpn_protocols(protocols)
    _, writer = await asyncio.open_connection("127.0.0.1", edge.https_port, ssl=context, server_hostname="localhost")
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()

    assert chosen == protocols[0]


async def test_a_new_certificate_is_served_without_a_restart() -> None:
    issue, authority = new_authority()
    async with running_edge() as edge:
        _write(edge, "server", issue(""))
        (edge.folder / "new-ca.pem").write_bytes(authority)
        edge.hub.use_statics()
        await edge.tell()
        context = ssl.create_default_context(cafile=str(edge.folder / "new-ca.pem"))

        assert (await send(edge.https_port, request(CERTIFICATES), tls=context, sni="localhost")).status == 200


async def test_who_is_not_the_service_is_not_given_requests(misdirected_edge: Edge) -> None:
    answer = await send(misdirected_edge.http_port, request(CERTIFICATES))

    assert answer.status == 503
    assert b"UNAVAILABLE" in answer.body
    assert misdirected_edge.upstream.seen == []
    for inside in (b"tls", b"TLS", b"certificate", b"127.0.0.1", b"upstream"):
        assert inside not in answer.raw


async def test_a_service_is_spoken_to_in_the_newest_tls_alone() -> None:
    async with running_edge(upstream_tls=ssl.TLSVersion.TLSv1_2) as edge:
        answer = await send(edge.http_port, request(CERTIFICATES))

        assert answer.status == 503
        assert edge.upstream.seen == []


def _write(edge: Edge, name: str, identity: Identity) -> None:
    (edge.folder / f"{name}.pem").write_bytes(identity.certificate)
    (edge.folder / f"{name}.key").write_bytes(identity.key)
