"""The script that chooses routes raises after any of its lines: nobody comes in whom the agent did not admit."""

import asyncio
from collections.abc import Mapping
from typing import Final

import pytest
from typing_extensions import override

from control_plane.serving.context import decode
from ext_authz.settings import EdgeSettings
from ext_authz.xds.resources.filters import read_lua
from ext_authz.xds.resources.limits import Limits
from ext_authz.xds.resources.source import EnvoyResources
from tests.integration.ext_authz.check.deciding import deciding_edge
from tests.integration.ext_authz.check.servers import KEY, HeldLimiter
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send
from tests.unit.ext_authz.authz.checks import DOMAIN, NOW, SUSPENDED, A, B

SCRIPT: Final = read_lua().splitlines()
# After each line but the remarks.
PLACES: Final = [0, *(n for n, line in enumerate(SCRIPT, 1) if line and not line.startswith("--"))]
# After each line within a function.
INSIDE: Final = [n for n in PLACES if SCRIPT[n - 1].startswith(("  ", "local function", "function"))]
# Where a statement goes on, or has returned, none can follow.
OPEN: Final = {n for n in INSIDE if SCRIPT[n - 1].endswith((",", "=", "{")) or SCRIPT[n].strip().startswith("and ")}
ENDED: Final = {n for n in INSIDE if SCRIPT[n - 1].strip().startswith("return ")}
# Later than any revision.
LATEST: Final = 10**9
OWN: Final = "/api/v1/tenants/org_1/certificates"
NUMBERED: Final = """
function envoy_on_response(handle)
  handle:headers():replace("x-number", "{}")
end
"""


class Scripted(EnvoyResources):
    """Resources whose script a test may change."""

    def __init__(self, settings: EdgeSettings, limits: Limits) -> None:
        super().__init__(settings, limits)
        self._other: EnvoyResources | None = None
        made.append(self)

    def use(self, script: str) -> None:
        self._other = EnvoyResources(self.settings, self.limits, lua=script)

    @override
    def statics(self) -> Mapping[str, Mapping[str, bytes]]:
        return super().statics() if self._other is None else self._other.statics()


made: list[Scripted] = []


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


def callers() -> tuple[list[bytes], list[bytes]]:
    """Return requests of tenant A's own, by each name that it has, and requests of those who are strangers there."""
    mine, other = bearer(A.token()), bearer(B.token())
    label = f"{A.policy.dns_label}.{DOMAIN}"
    own = [
        request(OWN, mine),
        request(OWN, mine, ("x-tenant-id", "org_1")),
        request(OWN, mine, host=label),
    ]
    strangers = [
        request(OWN),
        request(OWN, other),
        request(OWN, other, ("x-bulkhead-tenant", "id:org_2"), ("x-bulkhead-context", "forged")),
        request(OWN, mine, ("x-tenant-id", "org_2")),
        request(OWN.replace("org_1", "org_2"), mine, ("x-bulkhead-tenant", "id:org_1")),
        request(OWN, bearer(SUSPENDED.token())),
        request(OWN.replace("org_1", SUSPENDED.policy.tenant_id), mine, host=label),
        request("/", mine, ("x-bulkhead-tenant", "id:org_1")),
    ]
    return own, strangers


async def is_used(edge: Edge, number: int) -> bool:
    """Wait until requests meet the script of that number; false when Envoy does not take it."""
    await edge.hub.applied(LATEST)
    if any(kind.error for status in edge.hub.statuses() for kind in status.types):
        return False
    while (await send(edge.http_port, request("/"))).header("x-number") != str(number):  # noqa: ASYNC110 nothing tells when
        await asyncio.sleep(0.02)
    return True


@pytest.mark.behaviour("T-E13")
async def test_a_script_that_raises_after_any_line_lets_nobody_in_whom_the_agent_did_not_admit() -> None:
    own, strangers = callers()
    taken = set()
    async with deciding_edge(HeldLimiter(), resources=Scripted) as edge:
        for number in PLACES:
            broken = [*SCRIPT[:number], "error('after this line')", *SCRIPT[number:], NUMBERED.format(number)]
            made[-1].use("\n".join(broken))
            edge.hub.use_statics()
            if await is_used(edge, number):
                taken.add(number)
            edge.upstream.seen.clear()
            admitted = [(await send(edge.http_port, one)).status for one in own]
            refused = [(await send(edge.http_port, one)).status for one in strangers]
            contexts = [seen.all("x-bulkhead-context") for seen in edge.upstream.seen]

            assert set(admitted) <= {200, 403, 503}, number
            assert set(refused) <= {403, 503}, number
            assert [decode(one, KEY, now=NOW).tenant for (one,) in contexts] == ["org_1"] * admitted.count(200)

    # Else nothing was tried. Envoy refuses a script that cannot be read, or that raises as it is read.
    assert set(INSIDE) - OPEN - ENDED <= taken <= set(INSIDE)
