"""A script that fails, at whichever line, opens nothing."""

import asyncio
import time
from functools import reduce

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse

from ext_authz.xds.resources import filters
from ext_authz.xds.resources.filters import read_lua
from tests.integration.ext_authz.envoy_edge.decisions import CONTEXT, admitted, denied, headers
from tests.integration.ext_authz.envoy_edge.edge import running_edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send

# With room for one credential, so that two of them are enough to forget one; and whoever has two calls renews them.
OTHERWISE = {
    "MOST = 20000": "MOST = 1",
    "WORTH_RENEWING = 32": "WORTH_RENEWING = 2",
    "RENEWED_AT = 8": "RENEWED_AT = 1",
}
LINES = reduce(lambda text, words: text.replace(*words), OTHERWISE.items(), read_lua()).splitlines()
# Before each statement of what looks at a request, and of what looks at an answer.
_FIRST = LINES.index("local function remember(credential, known)")
_LAST = LINES.index("function envoy_on_request(handle)")
_GO_ON = ("and ", "grants =", "calls =", "since =", "carrier =", "reset =", "key =", "string.match", "}")
_NO_STATEMENTS = ("--", "end", "else", "return", "local function", *_GO_ON)
PLACES = [n for n in range(_FIRST, _LAST) if LINES[n].strip() and not LINES[n].strip().startswith(_NO_STATEMENTS)]
# Which every request meets.
ALWAYS = {LINES.index(line) for line in ("  headers:replace(KEY, key)", "  handle:clearRouteCache()")}
TOKEN, OTHER = ("authorization", "Bearer a"), ("authorization", "Bearer b")
LEASED = "1.leased.signature"
ASKED = [
    *[request("/api/v1/tenants/acme/certificates", token) for token in (TOKEN, TOKEN, TOKEN, OTHER, TOKEN)],
    request("/api/v1/tenants/acme/certificates", TOKEN, method="DELETE"),
    request("/bulkhead.v1.CertificateService/ListCertificates", TOKEN),
    request("/api/v1/tenants/frozen/certificates"),
    request("/healthz", ("x-tenant-id", "acme"), ("x-bulkhead-tenant", "id:acme")),
]
BY_HOST = request("/", host="acme.csm.example.com")
# The second renews what the first was granted; the third is for another host, and so is the refusal that it meets.
RENEWED = [
    request("/api/v1/tenants/acme/certificates", ("authorization", "Bearer c"), host=host)
    for host in ("localhost", "localhost", "acme.csm.example.com", "localhost")
]
# Two are refused at once, the third without asking, and the fourth once that has ended.
REFUSED = request("/api/v1/tenants/acme/certificates", ("authorization", "Bearer d"))
REFUSED_FOR_MS = 400
KEYS = {b"id:acme", b"host:acme.csm.example.com"}


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize("place", PLACES)
async def test_a_script_that_raises_at_any_line_closes(place: int) -> None:
    async with running_edge(lua=_raising(place)) as edge:
        edge.workers.decide(_granted(1))
        edge.workers.slow_s = 0.02
        together = await asyncio.gather(*(send(edge.http_port, ASKED[0]) for _ in range(2)))
        answers = [*together, *[await send(edge.http_port, one) for one in (*ASKED, BY_HOST)]]
        edge.workers.first = [bytes(one) for one in (_granted(2), _granted(2), _held())]
        answers += [await send(edge.http_port, one) for one in RENEWED]
        edge.workers.first = [bytes(_refused()) for _ in range(2)]
        answers += await asyncio.gather(*(send(edge.http_port, REFUSED) for _ in range(2)))
        answers.append(await send(edge.http_port, REFUSED))
        await asyncio.sleep(REFUSED_FOR_MS / 1000)
        answers.append(await send(edge.http_port, REFUSED))
        contexts = [context for one in edge.upstream.seen for context in one.all("x-bulkhead-context")]

        assert {answer.status for answer in answers} <= ({503} if place in ALWAYS else {503, 403, 200, 429})
        assert "at this line" in edge.envoy.log.read_text()
        # A branch that was not taken has not raised: then the agent was asked, about the tenant that is named; or not,
        # since it has granted a lease. What was not kept of a grant is asked about again.
        served = [answer.status for answer in answers].count(200)
        assert len(contexts) == served
        assert len(edge.workers.asked) >= contexts.count(CONTEXT) >= contexts.count(LEASED)
        assert not any(b"grant" in answer.raw for answer in answers)
        assert {edge.workers.header("x-bulkhead-tenant", one)[0] for one in edge.workers.asked} <= KEYS


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize("last_word", ["error('even here')", "local x = nil; x()"])
async def test_a_script_that_fails_altogether_leaves_no_key(last_word: str) -> None:
    broken = f"function envoy_on_request(handle)\n  {last_word}\nend\n"
    async with running_edge(lua=broken) as edge:
        answers = [await send(edge.http_port, one) for one in (*ASKED, BY_HOST)]

        assert {answer.status for answer in answers} == {403}
        assert edge.workers.asked == []


@pytest.mark.behaviour("T-E7")
async def test_the_script_alone_overwrites_what_a_client_says_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "OURS", "x-nobodys-")
    async with running_edge() as edge:
        await send(edge.http_port, request("/api/v1/tenants/acme/certificates", ("x-bulkhead-tenant", "id:globex")))

        assert edge.workers.header("x-bulkhead-tenant") == [b"id:acme"]


def _granted(calls: int) -> CheckResponse:
    answer = admitted()
    assert answer.ok_response is not None
    granted = f"7 {calls} {int(time.time() * 1000) + 60_000} 1.certificates.list.uid.session {LEASED}"
    answer.ok_response.response_headers_to_add += headers({"x-bulkhead-grant": granted})
    return answer


def _held() -> CheckResponse:
    ends_ms = int(time.time() * 1000) + 60_000
    return denied(429, "{}", {"x-bulkhead-grant": f"held 0 {ends_ms} 1.held.uid.session held:{ends_ms}"})


def _refused() -> CheckResponse:
    ends_ms = int(time.time() * 1000) + REFUSED_FOR_MS
    return denied(404, "", {"x-bulkhead-grant": f"refused 0 {ends_ms} - refused"})


def _raising(place: int) -> str:
    return "\n".join([*LINES[:place], "  error('at this line')", *LINES[place:]])
