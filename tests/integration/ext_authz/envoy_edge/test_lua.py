"""A script that fails, at whichever line, opens nothing."""

import pytest

from ext_authz.xds.resources import filters
from ext_authz.xds.resources.filters import read_lua
from tests.integration.ext_authz.envoy_edge.edge import running_edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send

LINES = read_lua().splitlines()
# After each statement of the function that chooses: its first line, and then every one but those that open a branch.
FIRST = LINES.index("local function choose_routes(handle)") + 1
PLACES = [n for n in range(FIRST, LINES.index("end")) if LINES[n].strip() != "else"]
ASKED = [
    request("/api/v1/tenants/acme/certificates"),
    request("/api/v1/tenants/frozen/certificates"),
    request("/healthz", ("x-tenant-id", "acme"), ("x-bulkhead-tenant", "id:acme")),
]
BY_HOST = request("/", host="acme.csm.example.com")
KEYS = {b"id:acme", b"host:acme.csm.example.com"}


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize("place", PLACES)
async def test_a_script_that_raises_at_any_line_closes(place: int) -> None:
    async with running_edge(lua=_raising(place)) as edge:
        answers = [await send(edge.http_port, one) for one in (*ASKED, BY_HOST)]

        assert {answer.status for answer in answers} <= {503, 403, 200}
        assert 503 in {answer.status for answer in answers}
        assert "at this line" in edge.envoy.log.read_text()
        # A branch that was not taken has not raised: then the agent was asked, about the tenant that is named.
        assert len(edge.workers.asked) == [answer.status for answer in answers].count(200)
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


def _raising(place: int) -> str:
    return "\n".join([*LINES[:place], "  error('at this line')", *LINES[place:]])
