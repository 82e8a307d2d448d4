"""A tenant's own authority as what an operator has the edge take clients by: what its rotation does to them."""

import ssl
from contextlib import suppress

import pytest
from cryptography import x509

from control_plane.certificates.signing import pem
from control_plane.keys.authorities import authority_of
from tests.integration.ext_authz.envoy_edge.edge import Edge, running_edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send
from tests.unit.keys.authority_versions import Signed, private_key_pem, sign, trusted_of, versions_of

CERTIFICATES = "/api/v1/tenants/acme/certificates"


async def _takes(edge: Edge, client: Signed) -> bool:
    context = ssl.create_default_context(cafile=str(edge.folder / "ca.pem"))
    (edge.folder / "client.pem").write_text(client.pem)
    (edge.folder / "client.key").write_bytes(private_key_pem())
    context.load_cert_chain(edge.folder / "client.pem", edge.folder / "client.key")
    edge.workers.raw.clear()
    with suppress(ssl.SSLError, ConnectionError):
        await send(edge.https_port, request(CERTIFICATES), tls=context, sni="localhost")
    return bool(edge.workers.asked)


@pytest.mark.behaviour("S2.5")
async def test_clients_of_both_authorities_are_taken_until_the_old_one_is_not_shown() -> None:
    versions = versions_of(2)
    old, new = (sign(trusted_of(versions, signing=signing)) for signing in (1, 2))
    first, second = (authority_of(each, version=number).certificate for number, each in enumerate(versions, 1))
    async with running_edge() as edge:
        own = (edge.folder / "ca.pem").read_text()

        async def take(*roots: x509.Certificate) -> None:
            (edge.folder / "ca.pem").write_text("".join((own, *map(pem, roots))))
            edge.hub.use_statics()
            await edge.tell()

        for roots, takes in (
            ((first,), (True, True)),
            ((second, first), (True, True)),
            ((second,), (False, True)),
            ((), (False, False)),
        ):
            await take(*roots)
            assert (await _takes(edge, old), await _takes(edge, new)) == takes, len(roots)
