"""Every spelling of a path: whose it is for the agent, it is for the service; or it is refused."""

import asyncio
import json
import re

import pytest

from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send

pytestmark = pytest.mark.asyncio(loop_scope="module")
DOTS = ["..", "%2e%2e", "%2E%2e", ".%2e", "%2e.", "..;", "..;/", "%252e%252e", "....//", "%c0%ae%c0%ae", "..%00"]
SLASHES = ["/", "//", "%2f", "%2F", "%5c", "%5C", "\\", "/./", "%252f", "%c0%af", ";/", "/;x=1/", "%2f%2f"]
TEMPLATES = [
    "{s}api{s}v1{s}tenants{s}acme{s}certificates",
    "/api/v1/tenants{s}acme{s}certificates",
    "/api/v1/tenants/acme{s}certificates{s}{d}{s}x",
    "/api/v1/tenants/globex{s}{d}{s}acme{s}certificates",
    "/api/v1/tenants/acme/certificates{s}{d}{s}{d}{s}globex{s}certificates",
    "/public{s}{d}{s}api/v1/tenants/globex/certificates",
    "/api/v1/tenants/frozen{s}{d}{s}acme/certificates",
    "/api/v1/tenants/acme{s}{d}{s}frozen/certificates",
    "/healthz{s}{d}{s}api/v1/tenants/acme/certificates",
    "/bulkhead.v1.CertificateService{s}{d}{s}api/v1/tenants/acme/certificates",
]
CURIOUS = [
    "/API/v1/tenants/acme/certificates",
    "/api/v1/tenants/ACME/certificates",
    "/api/v1/tenants/%61cme/certificates",
    "/api/v1/tenants/acme%20/certificates",
    "/api/v1/tenants/acme,globex/certificates",
    "/api/v1/tenants/acme;globex/certificates",
    "/api/v1/tenants/acme:globex/certificates",
    "/api/v1/tenants/acme%00/certificates",
    "/api/v1/tenants/acme/certificates#/../globex",
    "/api/v1/tenants/acme/certificates?parent=tenants/globex",
    "/api/v1/tenants/acme?x=/api/v1/tenants/globex/certificates",
    "/api/v1/tenants//certificates",
    "/api/v1/tenants/acme/",
    "/api/v1/tenants/acme",
    "/api/v1/tenants/acmeglobex/certificates",
    "http://globex.csm.example.com/api/v1/tenants/acme/certificates",
    "http://api.csm.example.com/api/v1/tenants/acme/certificates",
    "https://user@globex.csm.example.com:1/api/v1/tenants/acme/certificates",
    "*",
    "api/v1/tenants/acme/certificates",
    "/api/v1/tenants/acme/certificates/\xc0\xaf..",
]
PATHS = [*CURIOUS, *(one.format(s=s, d=d) for one in TEMPLATES for s in SLASHES for d in DOTS)]
AT_ONCE = 10
TENANT = re.compile(r"/api/v1/tenants/(acme|globex)(?:/[^?]*)?(?:\?.*)?")


@pytest.mark.behaviour("T-E4")
@pytest.mark.parametrize("tenant", ["", "acme", "globex"])
async def test_the_path_that_is_decided_about_is_the_path_that_is_served(edge: Edge, tenant: str) -> None:
    named = [("x-tenant-id", tenant)] if tenant else []
    paths = list(dict.fromkeys(PATHS))
    for first in range(0, len(paths), AT_ONCE):
        some = enumerate(paths[first : first + AT_ONCE], first)
        answers = await asyncio.gather(
            *(send(edge.http_port, request(path, ("case", str(n)), *named)) for n, path in some)
        )

        # 503 where the machine is too busy for the agent to answer in time: closed too.
        assert {answer.status for answer in answers} <= {200, 400, 403, 503}
    checks = edge.workers.asked
    decided = {edge.workers.header("case", one)[0].decode(): edge.workers.http(one).path for one in checks}
    assert [path for path in decided.values() if not TENANT.fullmatch(path)] == []
    for one in checks:
        tenant_of_path = TENANT.fullmatch(edge.workers.http(one).path)
        assert tenant_of_path
        assert edge.workers.header("x-bulkhead-tenant", one) == [f"id:{tenant_of_path[1]}".encode()]
    served = {seen.all("case")[0]: seen.all("x-envoy-original-path") for seen in edge.upstream.seen}
    assert {case: path for case, path in served.items() if path != [decided.get(case)]} == {}
    assert served


@pytest.mark.behaviour("T-E4")
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/tenants/acme/./certificates",
        "/api/v1/tenants/globex/../acme/certificates",
        "/api//v1/tenants///acme/certificates",
        "//api/v1/tenants/acme/certificates",
    ],
)
async def test_the_agent_is_asked_about_the_plain_path(edge: Edge, path: str) -> None:
    answer = await send(edge.http_port, request(path))

    assert edge.workers.http().path == "/api/v1/tenants/acme/certificates"
    assert answer.status == 200


async def test_the_plain_path_is_served(edge: Edge) -> None:
    assert (await send(edge.http_port, request("/api/v1/tenants/acme/certificates"))).status == 200
    assert (await send(edge.http_port, request("/api/v1/tenants/globex/certificates?page_size=1"))).status == 200


@pytest.mark.behaviour("T-A2")
@pytest.mark.parametrize(
    "path",
    [
        "certificates?parent=tenants/globex",
        "certificates?%70arent=tenants/globex",
        "certificates?par%65nt=tenants/globex",
        "certificates?page_size=1&parent=tenants/globex",
        "certificates?parent",
        "certificates?name=tenants/globex/certificates/x",
        "certificates/x?name=tenants/globex/certificates/x",
        "certificates/x?n%61me=tenants/globex/certificates/x",
        "certificates/x?&&name=tenants/globex/certificates/x&",
        "certificateAuthority?name=tenants/globex/certificateAuthority",
        "certificates?parent.x=tenants/globex",
        "certificates?PARENT=tenants/globex",
        "certificates?unknown=1",
    ],
)
async def test_a_parameter_cannot_name_another_tenant(edge: Edge, path: str) -> None:
    answer = await send(edge.http_port, request(f"/api/v1/tenants/acme/{path}"))

    assert (answer.status, json.loads(answer.body)["code"]) == (400, "REQUEST_MALFORMED")
    assert edge.upstream.seen == []


@pytest.mark.behaviour("T-A2")
@pytest.mark.parametrize("key", ["parent", "p\\u0061rent"])
async def test_a_body_cannot_name_another_tenant(edge: Edge, key: str) -> None:
    body = f'{{"csrPem":"x","{key}":"tenants/globex"}}'
    length = ("content-length", str(len(body)))
    asked = request("/api/v1/tenants/acme/certificates:issue", length, method="POST") + body.encode()

    assert (await send(edge.http_port, asked)).status == 400
    assert edge.upstream.seen == []


async def test_a_rest_path_is_not_passed_on_as_grpc(edge: Edge) -> None:
    asked = request("/api/v1/tenants/acme/certificates", ("content-type", "application/grpc"), method="POST")
    await send(edge.http_port, asked)

    assert edge.upstream.seen == []
