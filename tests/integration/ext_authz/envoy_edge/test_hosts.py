"""By which names a tenant is found, and by which it is not."""

import pytest

from tests.integration.ext_authz.envoy_edge.calls import LIST, call, grpc_headers, http2
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import Answer, request, send

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/api/v1/tenants/acme/certificates"
OWN = ["acme.csm.example.com", "certificates.acme.example"]


@pytest.mark.behaviour("T-E6")
@pytest.mark.parametrize("host", [*OWN, "api.csm.example.com", "localhost", "127.0.0.1"])
@pytest.mark.parametrize("spelling", ["{}", "{}:443", "{}:7447", "{}."])
async def test_a_tenant_is_served_under_its_hosts_and_under_shared_ones(edge: Edge, host: str, spelling: str) -> None:
    answer = await send(edge.http_port, request(PATH, host=spelling.format(host)))

    assert answer.status == 200


@pytest.mark.behaviour("T-E6")
@pytest.mark.parametrize("host", ["ACME.csm.example.com", "Api.CSM.Example.Com", "CERTIFICATES.ACME.EXAMPLE"])
async def test_the_case_of_a_host_says_nothing(edge: Edge, host: str) -> None:
    by_path = await send(edge.http_port, request(PATH, host=host))
    over_grpc = await call(edge.http_port, ("x-tenant-id", "acme"), host=host)

    assert by_path.status == 200
    assert over_grpc.code.name == "OK"


@pytest.mark.parametrize("host", [*OWN, *(host.upper() for host in OWN)])
async def test_a_tenants_host_alone_says_whose_a_call_is(edge: Edge, host: str) -> None:
    answer = await call(edge.http_port, host=host)

    assert answer.code.name == "OK"
    assert edge.workers.header("x-bulkhead-tenant") == [f"host:{host.lower()}".encode()]
    assert edge.workers.epoch() == "1"


@pytest.mark.behaviour("T-E6")
@pytest.mark.parametrize(
    "host",
    [
        "globex.csm.example.com",
        "certificates.globex.example",
        "x.acme.csm.example.com",
        "acme.csm.example.com.evil.example",
        "acmeXcsm.example.com",
        "csm.example.com",
        "*.csm.example.com",
        "*",
        "[::1]",
        "10.0.0.1",
        "127.0.0.1.nip.example",
        "xn--acme-",
        "acme.csm.example.com,globex.csm.example.com",
        "acme.csm.example.com/",
        "acme.csm.example.com..",
    ],
)
async def test_under_any_other_host_it_is_not(edge: Edge, host: str) -> None:
    answer = await send(edge.http_port, request(PATH, host=host))

    assert answer.status in {400, 403}
    assert (edge.workers.asked, edge.upstream.seen) == ([], [])


async def _with_hosts(edge: Edge, *hosts: str) -> Answer:
    return await send(edge.http_port, request(PATH, *(("host", host) for host in hosts), host=""))


@pytest.mark.behaviour("T-E6")
async def test_none_and_two_hosts_are_refused(edge: Edge) -> None:
    for hosts in [(), ("",), ("acme.csm.example.com",) * 2, ("acme.csm.example.com", "globex.csm.example.com")]:
        assert (await _with_hosts(edge, *hosts)).status in {400, 403}

    assert (edge.workers.asked, edge.upstream.seen) == ([], [])


@pytest.mark.behaviour("T-E6")
async def test_an_absolute_target_is_the_host_for_everybody(edge: Edge) -> None:
    target = "http://globex.csm.example.com/api/v1/tenants/globex/certificates"
    answer = await send(edge.http_port, request(target, host="acme.csm.example.com"))

    assert answer.status == 200
    assert edge.workers.http().host == "globex.csm.example.com"
    assert edge.upstream.seen[0].all(":authority") == ["globex.csm.example.com"]


@pytest.mark.behaviour("T-E6")
async def test_a_host_beside_the_authority_changes_nothing(edge: Edge) -> None:
    answer = await http2(edge.http_port, grpc_headers(("host", "globex.csm.example.com")))

    assert answer.reset or dict(answer.headers).get("grpc-status", "0") in {"0", "7"}
    assert [edge.workers.http(one).host for one in edge.workers.asked] in ([], ["api.csm.example.com"])
    assert [seen.all("host") for seen in edge.upstream.seen] in ([], [[]])


async def test_the_path_says_more_than_the_header_and_the_header_more_than_the_host(edge: Edge) -> None:
    """Which routes are asked is not who is served: the agent refuses where they differ."""
    await send(edge.http_port, request(PATH, ("x-tenant-id", "globex"), host="acme.csm.example.com"))
    of_path = edge.workers.header("x-bulkhead-tenant")
    answer = await call(edge.http_port, ("x-tenant-id", "globex"), host="acme.csm.example.com")

    assert of_path == [b"id:acme"]
    assert answer.code.name == "PERMISSION_DENIED"


@pytest.mark.behaviour("T-E4")
async def test_what_a_path_holds_beyond_its_beginning_names_nobody(edge: Edge) -> None:
    answer = await call(edge.http_port, ("x-tenant-id", "acme"), path=f"{LIST}?/api/v1/tenants/globex")

    assert answer.code.name == "OK"
    assert edge.workers.header("x-bulkhead-tenant") == [b"id:acme"]
